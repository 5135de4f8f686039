"""The official optimizer and its schedules: what decays, how fast each layer learns, and what does not learn at all."""

import math
import re
import warnings

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from swin_keras.layers.checks import is_count

_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-8
# As the kernel of the update rounds them.
_LOG_BETA_1, _LOG_BETA_2 = (math.log(np.float32(beta)) for beta in (_BETA_1, _BETA_2))

_STAGE = re.compile(r"^layers_(\d+)_(?:blocks_(\d+)|downsample)$")
_NOT_DECAYED = re.compile(r"(^|/)(bias$|relative_position_bias_table$|logit_scale$|absolute_pos_embed/|mask_token/|cpb_mlp_\d/)")


def make_optimizer(recipe, model, steps_per_epoch):
    """Returns the optimizer of a recipe for a model. What is to be frozen is frozen before.

    Args:
        recipe: `Recipe`.
        model: `keras.Model`.
        steps_per_epoch: Integer. Steps of `fit`, of which `accumulation_steps` make one update of the weights.

    Returns:
        An `AdamW`; in mixed_float16 inside a `LossScaleOptimizer`.

    Raises:
        ValueError: If an epoch holds no update.
    """
    optimizer = AdamW(
        learning_rate_schedule(recipe, steps_per_epoch),
        weight_decay=recipe.weight_decay,
        layer_decay=recipe.layer_decay,
        depths=stage_depths(model),
        clip_norm=recipe.clip_norm,
        ema_momentum=recipe.ema_momentum,
        accumulation_steps=recipe.accumulation_steps,
    )
    # `compile` would wrap it too, but in Keras' own, and unbuilt.
    return LossScaleOptimizer(optimizer) if recipe.precision == "mixed_float16" else optimizer


def learning_rate_schedule(recipe, steps_per_epoch):
    """Returns a recipe's learning rate over the updates of the weights.

    Args:
        recipe: `Recipe`.
        steps_per_epoch: Integer. Steps of `fit`, of which `accumulation_steps` make one update.

    Raises:
        ValueError: If an epoch holds no update.
    """
    updates = steps_per_epoch // recipe.accumulation_steps
    if updates < 1:
        raise ValueError(
            f"`accumulation_steps` must be at most the {steps_per_epoch} steps of an epoch. Received: "
            f"accumulation_steps={recipe.accumulation_steps}. Lower it, or the batch size."
        )
    scale = 1.0
    if recipe.learning_rate_batch is not None:
        scale = recipe.batch_size * recipe.accumulation_steps / recipe.learning_rate_batch
    start, peak, end = (scale * rate for rate in (recipe.warmup_learning_rate, recipe.learning_rate, recipe.min_learning_rate))
    warmup = recipe.warmup_epochs * updates
    # Update k, from 0, takes the value at k. The official code sets the value at k after update k, for the next one: its first
    # two updates take the value at 0, and each later one that at k - 1.
    if recipe.schedule == "multistep":
        milestones = [epoch * updates for epoch in recipe.milestones]
        return WarmupMultiStep(peak, milestones, recipe.milestone_factor, start, warmup)
    return keras.optimizers.schedules.CosineDecay(
        start if warmup else peak,
        decay_steps=max(1, recipe.epochs * updates - warmup),
        alpha=end / peak if peak else 0.0,
        warmup_target=peak if warmup else None,
        warmup_steps=warmup,
    )


@keras.saving.register_keras_serializable(package="swin_keras")
class WarmupMultiStep(keras.optimizers.schedules.LearningRateSchedule):
    """A straight line up to the learning rate, which each milestone multiplies by a factor.

    Args:
        learning_rate: Float.
        milestones: Integers. The first steps of a lower rate.
        factor: Float.
        warmup_learning_rate: Float. Where the line begins.
        warmup_steps: Integer.
    """

    def __init__(self, learning_rate, milestones, factor=0.1, warmup_learning_rate=0.0, warmup_steps=0):
        self.learning_rate = learning_rate
        self.milestones = list(milestones)
        self.factor = factor
        self.warmup_learning_rate = warmup_learning_rate
        self.warmup_steps = warmup_steps

    def __call__(self, step):
        step = ops.cast(step, "float32")
        rising = self.warmup_learning_rate + (self.learning_rate - self.warmup_learning_rate) * step / max(1, self.warmup_steps)
        passed = sum(ops.cast(step >= milestone, "float32") for milestone in self.milestones)
        return ops.where(step < self.warmup_steps, rising, self.learning_rate * ops.power(self.factor, passed))

    def get_config(self):
        return dict(vars(self))


def decayed(model):
    """Returns the variables of a model that learn and have weight decay."""
    return [variable for variable in model.trainable_variables if is_decayed(variable)]


def is_decayed(variable):
    """Returns whether a variable has weight decay, by its path.

    As in the official code, vectors, biases, position embeddings and tables, the mask token and V2's `cpb_mlp` and `logit_scale`
    have none. In SimMIM's pre-training the official code excludes tables, `cpb_mlp` and `logit_scale` by names that match nothing,
    and so decays them; here they are as everywhere.
    """
    return len(variable.shape) > 1 and not _NOT_DECAYED.search(variable.path)


def stage_depths(model):
    """Returns the number of blocks in each stage of a model, by the paths of its variables."""
    blocks = {(int(m[1]), int(m[2])) for v in model.weights for part in v.path.split("/") if (m := _STAGE.match(part)) and m[2]}
    return tuple(sum(stage == s for s, _ in blocks) for stage in range(1 + max((s for s, _ in blocks), default=-1)))


def layers_above(path, depths):
    """Returns how many layers lie above a variable, as layer decay counts: each block is one, and so is the head with all that is no
    part of a stage or the patch embedding. A patch merging belongs to the block before it.

    Args:
        path: String. The variable's.
        depths: Integers. Blocks in each stage.
    """
    for part in path.split("/"):
        if part in ("patch_embed", "mask_token"):
            return 1 + sum(depths)
        if match := _STAGE.match(part):
            stage = int(match[1])
            block = int(match[2]) if match[2] else depths[stage] - 1
            return sum(depths[stage:]) - block
    return 0


@keras.saving.register_keras_serializable(package="swin_keras")
class AdamW(keras.optimizers.Optimizer):
    """PyTorch's AdamW as the official code runs it: with layer decay, clipping, accumulation of gradients and a moving average.

    Keras' AdamW differs in what matters here: it clips the gradient of each replica instead of their sum; with accumulation it fails
    under MirroredStrategy, asks the schedule by steps and averages the weights at every step, not by and at updates; it adds epsilon
    before the correction of the bias; and a saved model forgets which variables were excluded from weight decay. On a CPU its update
    takes more than twice the time of this one.

    Args:
        learning_rate: Float or `LearningRateSchedule`, of the number of updates.
        weight_decay: Float. Of the variables for which `is_decayed`; as in PyTorch, times the learning rate.
        layer_decay: Float. Each layer learns and decays at this times the rate of the layer above. `None`: all alike.
        depths: Integers. Blocks in each stage, for `layer_decay`.
        clip_norm: Float. Largest global norm of the gradients of an update. `None`: any.
        ema_momentum: Float. Momentum of a moving average of the weights, which `fit` leaves in the model at its end. `None`: no average.
        accumulation_steps: Integer. Steps whose gradients are averaged for one update.
        name: String.
    """

    def __init__(
        self,
        learning_rate=0.001,
        weight_decay=0.05,
        layer_decay=None,
        depths=(),
        clip_norm=None,
        ema_momentum=None,
        accumulation_steps=1,
        name="adamw",
    ):
        super().__init__(learning_rate, weight_decay=weight_decay, name=name)
        if layer_decay is not None and not depths:
            raise ValueError(f"`depths` must be the blocks of each stage. Received: depths={depths!r}, with layer_decay={layer_decay}.")
        self.layer_decay = layer_decay
        self.depths = tuple(depths)
        self.clip_norm = clip_norm
        self.ema_momentum = ema_momentum
        self.accumulation_steps = accumulation_steps
        self.averages = []

    def build(self, variables):
        if self.built:
            return
        if other := [v.path for v in variables if v.dtype != "float32"]:
            raise ValueError(f"Expected variables in float32. Received: {other[0]} in another type. Build the model under a mixed policy.")
        super().build(variables)
        momentums, velocities = self.add_optimizer_variables(variables, ["momentum", "velocity"])
        self.averages = [] if self.ema_momentum is None else self.add_optimizer_variables(variables, "average")
        sums = self.add_optimizer_variables(variables, "sum") if self.accumulation_steps > 1 else []
        self._slots = [momentums, velocities, self.averages, sums]
        if sums:
            self._steps = self.add_variable((), dtype="int", aggregation="only_first_replica", name="steps")

    def apply(self, grads, trainable_variables=None):
        """Takes one step: an update of the variables, or with accumulation a part of one.

        Args:
            grads: Tensors, of the loss of this replica alone; `None` leaves a variable as it is.
            trainable_variables: Variables that the optimizer was or will be built with. Defaults to all.

        Raises:
            ValueError: If there are no gradients, or others than those of the variables it was built with.
        """
        variables = self._trainable_variables if trainable_variables is None else list(trainable_variables)
        self.build(variables)
        numbers = {id(variable): number for number, variable in enumerate(self._trainable_variables)}
        if unknown := [v.path for v in variables if id(v) not in numbers]:
            raise ValueError(f"Expected the variables that the optimizer was built with. Received: {unknown[0]}. Make a new optimizer.")
        if idle := [v.path for v, gradient in zip(variables, grads, strict=True) if gradient is None]:
            if len(idle) == len(variables):
                raise ValueError("Expected a loss that depends on some variable. Received: no gradient at all.")
            warnings.warn(f"The loss does not depend on {', '.join(idle)}.", stacklevel=2)
        variables, grads = zip(*((v, tf.convert_to_tensor(g)) for v, g in zip(variables, grads, strict=True) if g is not None), strict=True)
        slots = [[own[numbers[id(v)]].value if own else None for own in self._slots] for v in variables]

        grads = tf.distribute.get_replica_context().all_reduce("SUM", list(grads))
        factor, is_update = 1.0, None
        if self.accumulation_steps > 1:
            grads = [gradient + own[-1] for gradient, own in zip(grads, slots, strict=True)]
            is_update = tf.equal(self._steps % self.accumulation_steps, self.accumulation_steps - 1)
            factor = 1 / self.accumulation_steps
        if self.clip_norm is not None:
            factor *= self.clip_norm / tf.maximum(factor * tf.linalg.global_norm(grads), self.clip_norm)
        if is_update is not None:
            factor = tf.where(is_update, factor, 1.0)
            self._steps.assign_add(1)

        update = tf.cast(self.iterations, "float32") + 1
        rate = tf.cast(self.learning_rate, "float32")
        root = tf.sqrt(-tf.math.expm1(update * _LOG_BETA_2))
        step, shrinkage = rate * root / -tf.math.expm1(update * _LOG_BETA_1), rate * self.weight_decay
        share = 1 - (self.ema_momentum or 0.0) * tf.cast(update > 1, "float32")
        for variable, gradient, own in zip(variables, grads, slots, strict=True):
            scale = 1.0 if self.layer_decay is None else self.layer_decay ** layers_above(variable.path, self.depths)
            rates = scale * step, scale * shrinkage if is_decayed(variable) else None, _EPSILON * root, share, is_update
            tf.distribute.get_strategy().extended.update(variable.value, _update, (gradient * factor, own, rates), group=False)
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        self.iterations.assign_add(1 if is_update is None else tf.cast(is_update, self.iterations.dtype))

    def finalize_variable_values(self, var_list):
        if self.averages and ops.convert_to_numpy(self.iterations):
            for variable, average in zip(self._trainable_variables, self.averages, strict=True):
                variable.assign(average)

    def get_config(self):
        inherited = super().get_config()
        own = ("layer_decay", "depths", "clip_norm", "ema_momentum", "accumulation_steps")
        return {**{key: inherited[key] for key in ("name", "learning_rate", "weight_decay")}, **{key: getattr(self, key) for key in own}}


def _update(variable, gradient, slots, rates):
    """Updates one copy of a variable and of what belongs to it. Between updates, the gradient is the sum so far."""
    momentum, velocity, average, total = slots
    step, shrinkage, epsilon, share, is_update = rates

    def update():
        if shrinkage is not None:
            variable.assign_sub(variable * shrinkage)
        # One pass over the memory where single operations take several. The powers are 0: `step` and `epsilon` correct the bias.
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=momentum.handle,
            v=velocity.handle,
            beta1_power=0.0,
            beta2_power=0.0,
            lr=step,
            beta1=_BETA_1,
            beta2=_BETA_2,
            epsilon=epsilon,
            grad=gradient,
        )
        if average is not None:
            average.assign_sub((average - variable) * share)
        if total is not None:
            total.assign(tf.zeros_like(total))

    def keep():
        total.assign(gradient)

    if is_update is None:
        update()
    else:
        tf.cond(is_update, update, keep)


def moving_averages(optimizer, model):
    """Returns pairs of a weight and its moving average; none, if the optimizer keeps no averages."""
    averages = getattr(optimizer, "inner_optimizer", optimizer).averages
    return list(zip(model.trainable_variables, averages, strict=True)) if averages else []


@keras.saving.register_keras_serializable(package="swin_keras")
class LossScaleOptimizer(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling, with all replicas of one mind.

    Keras asks the first replica alone, or each for itself, whether its gradients are finite, as if they were added up already.
    """

    def check_finite(self, grads):
        overflows = 1.0 - tf.cast(super().check_finite(grads), "float32")
        return tf.distribute.get_replica_context().all_reduce("SUM", overflows) == 0


def freeze(model, frozen_stages):
    """Keeps the first layers of a Swin Transformer as they are, as mmdet does: neither weights learn, nor is anything dropped.

    A model that is saved and loaded again has its frozen weights frozen, but drops again.

    Args:
        model: `keras.Model`, not compiled yet, with a Swin Transformer in it.
        frozen_stages: Integer. The patch embedding, the position embedding and so many stages, each with the patch merging after it
            and, in a backbone, the norm of its output.

    Raises:
        ValueError: If there are not so many stages.
    """
    count = len(stage_depths(model))
    if not (is_count(frozen_stages) or frozen_stages == 0) or frozen_stages > count:
        raise ValueError(f"`frozen_stages` must be an integer from 0 to {count}, the stages. Received: frozen_stages={frozen_stages!r}.")
    _freeze(model, frozen_stages)


def _freeze(model, frozen_stages):
    for layer in model.layers:
        stage = re.match(r"(?:layers_|norm)(\d+)", layer.name)
        if isinstance(layer, keras.Model):
            _freeze(layer, frozen_stages)
        elif layer.name in ("patch_embed", "absolute_pos_embed", "pos_drop") or (stage and int(stage[1]) < frozen_stages):
            layer.trainable = False
            for dropout in _dropouts(layer):
                dropout.rate = 0.0


def _dropouts(layer):
    if isinstance(layer, keras.layers.Dropout):
        yield layer
    for part in vars(layer).values():
        if isinstance(part, keras.layers.Layer):
            yield from _dropouts(part)
