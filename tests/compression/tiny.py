"""A model of the smallest size, trained for a few steps: what the tests of pruning and of clustering share."""

import keras
import numpy as np
from conftest import randomize

import swin_keras


def build(name="swin_tiny_patch4_window7_224", **overrides):
    keras.utils.set_random_seed(0)
    own = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 3), "window_size": 2, "num_classes": 5, "input_shape": (16, 24, 3)}
    model = randomize(swin_keras.create_model(name, **{**own, **overrides}))
    model.compile(keras.optimizers.Adam(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)  # Else TensorFlow traces the step twice.
    return model


def fit(model, callbacks, epochs=2, initial_epoch=0):
    pictures = np.random.default_rng(1).standard_normal((16, 16, 24, 3)).astype("float32")
    model.fit(pictures, np.arange(16) % 5, batch_size=4, epochs=epochs, initial_epoch=initial_epoch, shuffle=False, verbose=0, callbacks=callbacks)


def arrays(model):
    """Returns the kernels of dense layers."""
    from swin_keras.compression.kernels import kernels

    return [np.array(kernel) for kernel in kernels(model)]
