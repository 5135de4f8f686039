"""How the official code starts its weights, where Keras' own defaults differ."""

import keras


def linear_initializer():
    """Normal with standard deviation 0.02, for every linear layer and bias table.

    The official `trunc_normal_(std=.02)` cuts at +-2, a hundred deviations away; Keras' `TruncatedNormal` cuts at two.
    """
    return keras.initializers.RandomNormal(stddev=0.02)


def convolution_initializer(fan_in):
    """Uniform within `1 / sqrt(fan_in)`, for kernel and bias: the default of PyTorch's convolution, which the official code keeps."""
    return keras.initializers.RandomUniform(-(fan_in**-0.5), fan_in**-0.5)
