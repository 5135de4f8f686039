"""The layers of the deploy graph: batch 1, fixed sizes, folded weights, no tensor above rank 4. Inference only.

Each stands for a trained layer and computes the same function in a form that every accelerator takes: no roll, gather,
strided slice or broadcast, and a normalization without the subtraction from zero that Keras' own lowers to.
"""

import keras
from keras import ops

from swin_keras.layers.windows import fit_window, pad_to_multiple, padded_grid, window_partition, window_reverse


def standardize(x, epsilon):
    """Normalizes the last axis to mean 0 and variance 1."""
    x = x - ops.mean(x, axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.mean(x * x, axis=-1, keepdims=True) + epsilon)


def _roll(x, shift, axis):
    """Moves the first `shift` rows of an axis to its end, by two slices and a concatenation."""
    size = x.shape[axis]
    shift %= size
    if not shift:
        return x

    def rows(start, count):
        starts, counts = [0] * len(x.shape), list(x.shape)
        starts[axis], counts[axis] = start, count
        return ops.slice(x, starts, counts)

    return ops.concatenate([rows(shift, size - shift), rows(0, shift)], axis=axis)


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployLayerNormalization(keras.layers.Layer):
    """Layer normalization over the last axis.

    Args:
        epsilon: Float. Added to the variance.
        affine: Boolean. Whether scale and shift follow; `False` where the next layer holds them.

    Input and output shape: `(1, ..., channels)`.
    """

    def __init__(self, epsilon, affine=True, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.affine = affine

    def build(self, input_shape):
        if self.affine:
            self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
            self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        x = standardize(x, self.epsilon)
        return x * self.gamma + self.beta if self.affine else x

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "affine": self.affine}


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployPatchEmbedding(keras.layers.Layer):
    """`PatchEmbedding`: one strided convolution, then the norm.

    Args:
        embed_dim: Integer.
        patch_size: Pair of integers.
        patch_norm: Boolean.
        epsilon: Float.

    Input shape: `(1, height, width, channels)`. Output shape: `(1, ceil(height / patch), ceil(width / patch), embed_dim)`.
    """

    def __init__(self, embed_dim, patch_size, patch_norm, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = tuple(patch_size)
        self.patch_norm = patch_norm
        self.epsilon = epsilon

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(*self.patch_size, input_shape[-1], self.embed_dim))
        self.bias = self.add_weight(name="bias", shape=(self.embed_dim,))
        if self.patch_norm:
            self.gamma = self.add_weight(name="gamma", shape=(self.embed_dim,))
            self.beta = self.add_weight(name="beta", shape=(self.embed_dim,))

    def call(self, x):
        x = pad_to_multiple(x, self.patch_size)
        x = ops.conv(x, self.kernel, strides=self.patch_size, padding="valid", data_format="channels_last") + self.bias
        return standardize(x, self.epsilon) * self.gamma + self.beta if self.patch_norm else x

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "patch_norm": self.patch_norm,
            "epsilon": self.epsilon,
        }


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployPatchMerging(keras.layers.Layer):
    """`PatchMerging`: reshapes and one transposition bring a 2x2 group together, in place of strided slices.

    Args:
        epsilon: Float.

    Input shape: `(1, height, width, channels)`. Output shape: `(1, ceil(height / 2), ceil(width / 2), 2 * channels)`.
    """

    def __init__(self, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape):
        channels = input_shape[-1]
        self.reduction = self.add_weight(name="reduction", shape=(4 * channels, 2 * channels))
        self.reduction_bias = self.add_weight(name="reduction_bias", shape=(2 * channels,))

    def call(self, x):
        x = pad_to_multiple(x, (2, 2))
        _, height, width, channels = x.shape
        x = window_partition(x, (2, 2))  # (h / 2 * w / 2, 4, c): each window is a group, across then down
        x = standardize(ops.reshape(x, (-1, 4 * channels)), self.epsilon)
        x = ops.matmul(x, self.reduction) + self.reduction_bias
        return ops.reshape(x, (1, height // 2, width // 2, 2 * channels))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinBlock(keras.layers.Layer):
    """`SwinBlock`: query, key and value apart, bias and mask one constant, norms without scale and shift.

    Args:
        num_heads: Integer.
        window_size: Pair of integers, fitted to the grid as in `SwinBlock`.
        shift_size: Pair of integers, likewise.
        window_fit: `"clamp"` or `"pad"`.
        hidden_dim: Integer. Width inside the MLP.
        epsilon: Float.

    A grid that the window divides has the scale and shift of its first norm folded too; padding stands between that norm
    and the products, and keeps them apart.

    Input and output shape: `(1, height, width, channels)`.
    """

    def __init__(self, num_heads, window_size, shift_size, window_fit, hidden_dim, epsilon, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = tuple(window_size)
        self.shift_size = tuple(shift_size)
        self.window_fit = window_fit
        self.hidden_dim = hidden_dim
        self.epsilon = epsilon

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.grid = (height, width)
        self.fitted_window, self.fitted_shift = fit_window(self.grid, self.window_size, self.shift_size, self.window_fit)
        self.padded_grid = padded_grid(self.grid, self.fitted_window)
        self.padded = self.padded_grid != self.grid
        tokens = self.fitted_window[0] * self.fitted_window[1]
        windows = self.padded_grid[0] * self.padded_grid[1] // tokens if any(self.fitted_shift) else 1
        shapes = {
            "query": (channels, channels),
            "query_bias": (channels,),
            "key": (channels, channels),
            "value": (channels, channels),
            "bias_and_mask": (windows, self.num_heads, tokens, tokens),
            "projection": (channels, channels),
            "projection_bias": (channels,),
            "fc1": (channels, self.hidden_dim),
            "fc1_bias": (self.hidden_dim,),
            "fc2": (self.hidden_dim, channels),
            "fc2_bias": (channels,),
        }
        if self.padded:
            shapes.update(norm1_gamma=(channels,), norm1_beta=(channels,))
        for name, shape in shapes.items():
            setattr(self, name, self.add_weight(name=name, shape=shape))

    def call(self, x):
        _, height, width, channels = x.shape
        down, across = self.fitted_shift
        y = standardize(x, self.epsilon)
        if self.padded:
            y = pad_to_multiple(y * self.norm1_gamma + self.norm1_beta, self.fitted_window)
        y = _roll(_roll(y, down, axis=1), across, axis=2)
        y = window_partition(y, self.fitted_window)
        y = self._attend(y)
        y = window_reverse(y, self.fitted_window, self.padded_grid)
        y = _roll(_roll(y, -across, axis=2), -down, axis=1)
        x = x + (ops.slice(y, (0, 0, 0, 0), x.shape) if self.padded else y)

        y = ops.reshape(standardize(x, self.epsilon), (height * width, channels))
        y = ops.gelu(ops.matmul(y, self.fc1) + self.fc1_bias, approximate=False)
        y = ops.matmul(y, self.fc2) + self.fc2_bias
        return x + ops.reshape(y, (1, height, width, channels))

    def _attend(self, x):
        windows, tokens, channels = x.shape
        x = ops.reshape(x, (windows * tokens, channels))
        heads = (windows, tokens, self.num_heads, channels // self.num_heads)
        query = ops.transpose(ops.reshape(ops.matmul(x, self.query) + self.query_bias, heads), (0, 2, 1, 3))
        key = ops.transpose(ops.reshape(ops.matmul(x, self.key), heads), (0, 2, 3, 1))
        value = ops.transpose(ops.reshape(ops.matmul(x, self.value), heads), (0, 2, 1, 3))
        attention = ops.softmax(ops.matmul(query, key) + self.bias_and_mask, axis=-1)
        x = ops.transpose(ops.matmul(attention, value), (0, 2, 1, 3))
        x = ops.matmul(ops.reshape(x, (windows * tokens, channels)), self.projection) + self.projection_bias
        return ops.reshape(x, (windows, tokens, channels))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shift_size": self.shift_size,
            "window_fit": self.window_fit,
            "hidden_dim": self.hidden_dim,
            "epsilon": self.epsilon,
        }
