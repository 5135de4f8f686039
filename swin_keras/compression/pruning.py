"""Pruning: the smallest weights become zeros, and stay so while the others learn to do without them."""

import keras
import numpy as np
import tensorflow as tf

from swin_keras.compression.kernels import kernels
from swin_keras.compression.model_optimization import pruning_parts
from swin_keras.compression.steps import StepCallback
from swin_keras.layers.checks import is_count, is_number


class Pruning(StepCallback):
    """Prunes the kernels of dense layers during `fit`, by magnitude, with the schedules and masks of tensorflow-model-optimization.

    Masks are applied after each step, so that what is validated and saved is pruned. Zeros in the weights say what was pruned, and stay zeros: a run
    that is interrupted and resumed needs nothing else, nor does one that begins with a pruned model.

    Args:
        sparsity: Float from 0 to 1, the fraction of zeros in each kernel; or `"2:4"`, two zeros among every four inputs of an output.
        begin_step: Integer. The step of `fit`, over all epochs, after which the first weights become zeros.
        end_step: Integer. The step after which there are as many as `sparsity` says: until then it grows by a polynomial. `"2:4"` is complete at
            once.
        frequency: Integer. How many steps lie between two changes of the masks.

    Reference: [Zhu and Gupta, 2017](https://arxiv.org/abs/1710.01878); [Mishra et al., 2021](https://arxiv.org/abs/2104.08378) for 2:4.
    """

    def __init__(self, sparsity, begin_step=0, end_step=None, frequency=100):
        super().__init__()
        self._structured = sparsity == "2:4"
        if not self._structured and not (is_number(sparsity) and 0 < sparsity < 1):
            raise ValueError(f"`sparsity` must be above 0 and below 1, or '2:4'. Received: sparsity={sparsity!r}.")
        end_step = begin_step if end_step is None else end_step
        if not all(step == 0 or is_count(step) for step in (begin_step, end_step)) or end_step < begin_step or not is_count(frequency):
            raise ValueError(
                "`begin_step` and `end_step` must be steps, one not after the other, and `frequency` at least 1. "
                f"Received: begin_step={begin_step!r}, end_step={end_step!r}, frequency={frequency!r}."
            )
        self._sparsity, self._begin, self._end, self._frequency = sparsity, begin_step, end_step, frequency

    def on_train_begin(self, logs=None):
        super().on_train_begin(logs)
        schedules, implementation = pruning_parts()
        found = kernels(self.model)
        if self._structured and (unfit := [kernel.path for kernel in found if kernel.shape[0] % 4]):
            raise ValueError(f"2:4 takes kernels whose inputs are a multiple of 4. Received: {', '.join(unfit)}. Give a fraction, such as 0.5.")
        schedule = None
        if not self._structured and self._end > self._begin:
            schedule = schedules.PolynomialDecay(0.0, self._sparsity, self._begin, self._end, frequency=1)
        elif not self._structured:
            schedule = schedules.ConstantSparsity(self._sparsity, self._begin, self._begin, frequency=1)
        with self.model.distribute_strategy.scope():
            self._scheduled = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._masks = [tf.Variable(tf.cast(_nonzero(kernel), kernel.dtype), trainable=False) for kernel in found]
            variables = [(kernel.value, mask, tf.Variable(tf.zeros((), kernel.dtype))) for kernel, mask in zip(found, self._masks, strict=True)]
            self._pruning = implementation.Pruning(lambda: self._scheduled, variables, schedule, (1, 1), "AVG", (2, 4) if self._structured else None)
        self._changed = None
        self._apply, self._change = tf.function(self._apply_masks), tf.function(self._change_masks)

    def _apply_masks(self):
        self._pruning.weight_mask_op()

    def _change_masks(self):
        before = [tf.identity(mask) for mask in self._masks]
        self._pruning.conditional_mask_update()
        # Where the schedule has less of them than there are, zeros stay.
        for mask, old in zip(self._masks, before, strict=True):
            mask.assign(mask * old)

    def _last_change(self, step):
        """Returns the last step, up to this one, at which masks change, or `None` before the first."""
        if step < self._begin:
            return None
        return self._end if step >= self._end else self._begin + (step - self._begin) // self._frequency * self._frequency

    def on_train_batch_end(self, batch, logs=None):
        change = self._last_change(self.step(batch))
        with self.model.distribute_strategy.scope():
            self._apply()
            # The first time also where a run goes on: of as many zeros as the schedule has, it makes the same mask.
            if change != self._changed:
                # The class makes masks of 2:4 at its step 1 only.
                self._scheduled.assign(1 if self._structured else change)
                self._change()
                self._apply()
                self._changed = change

    def on_train_end(self, logs=None):
        # An optimizer that averages weights has just put its averages into the model.
        with self.model.distribute_strategy.scope():
            self._apply()


def _nonzero(kernel):
    array = keras.ops.convert_to_numpy(kernel)
    # Pruning leaves something of each kernel. One of zeros alone is to learn yet.
    return array != 0 if np.any(array) else np.ones(array.shape, bool)
