"""The one place that imports tensorflow-model-optimization, which is made for Keras 2."""

import contextlib
import functools
import os


@functools.cache
def pruning_parts():
    """Returns its modules of schedules and of the pruning itself, which work on any TensorFlow variables.

    They are private: its public functions refuse models of Keras 3 (tensorflow/model-optimization issue 1119). `tf.keras` and the environment
    stay as they are, for this process and those that it starts.
    """
    import tensorflow as tf

    _ = tf.keras.layers  # Whichever Keras is looked at first is `tf.keras` from then on.
    with _environment_kept():
        from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl, pruning_schedule

    return pruning_schedule, pruning_impl


@contextlib.contextmanager
def _environment_kept():
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)
