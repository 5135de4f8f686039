"""Pruning: the smallest weights become zeros, and stay so while the others learn to do without them."""

import keras
import numpy as np
import tensorflow as tf

from swin_keras.compression.kernels import kernels
from swin_keras.compression.model_optimization import pruning_parts
from swin_keras.layers.checks import is_count, is_number


class Pruning(keras.callbacks.Callback):
    """Prunes the kernels of dense layers during `fit`, by magnitude, with the schedules and masks of tensorflow-model-optimization.

    Masks are applied after each step, so that what is validated and saved is pruned. Zeros in the weights say what was pruned: a run that
    is interrupted and resumed needs nothing else.

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
        schedules, implementation = pruning_parts()
        found = kernels(self.model)
        if self._structured and (unfit := [kernel.path for kernel in found if kernel.shape[0] % 4]):
            raise ValueError(f"2:4 takes kernels whose inputs are a multiple of 4. Received: {', '.join(unfit)}. Give a fraction, such as 0.5.")
        schedule = None
        if not self._structured and self._end > self._begin:
            # The last change of the masks is at the end itself.
            end = self._begin + (self._end - self._begin) // self._frequency * self._frequency
            schedule = schedules.PolynomialDecay(0.0, self._sparsity, self._begin, max(end, self._begin + 1), frequency=self._frequency)
        elif not self._structured:
            schedule = schedules.ConstantSparsity(self._sparsity, self._begin, self._begin, frequency=self._frequency)
        with self.model.distribute_strategy.scope():
            self._step = tf.Variable(0, dtype=tf.int64, trainable=False)
            variables = [(kernel.value, tf.Variable(_nonzero(kernel), trainable=False), tf.Variable(0.0, trainable=False)) for kernel in found]
            self._pruning = implementation.Pruning(self._count, variables, schedule, (1, 1), "AVG", (2, 4) if self._structured else None)
        self._apply = tf.function(self._apply_masks)

    def _count(self):
        # It makes masks of 2:4 at its step 1 only.
        return self._step - self._begin + 1 if self._structured else self._step

    def _apply_masks(self):
        self._pruning.conditional_mask_update()
        self._pruning.weight_mask_op()

    def on_epoch_begin(self, epoch, logs=None):
        with self.model.distribute_strategy.scope():
            self._step.assign(epoch * self.params["steps"])

    def on_train_batch_end(self, batch, logs=None):
        with self.model.distribute_strategy.scope():
            self._apply()
            self._step.assign_add(1)


def _nonzero(kernel):
    array = keras.ops.convert_to_numpy(kernel)
    # Of a model that is not pruned yet, zeros are chance, and may grow.
    return np.asarray(array != 0, "float32") if np.mean(array == 0) > 0.01 else np.ones(array.shape, "float32")
