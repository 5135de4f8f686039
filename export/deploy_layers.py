"""The layers of the deploy graph: batch 1, fixed sizes, folded weights, no tensor above rank 4. Inference only.

Each stands for a trained layer and computes the same function in a form that every accelerator takes: no roll, gather,
strided slice or broadcast, and a normalization without the subtraction from zero that Keras' own lowers to.

A normalization begins by subtracting the mean over the channels. Where a single product is before it, that product is given
weights whose outputs have mean 0, which is called centred here, and the step is left out.
"""

import keras
from keras import ops

from swin_keras.layers.windows import fit_window, pad_to_multiple, padded_grid, window_partition, window_reverse

# Mean squares below count as this, so that the zero keys of padding stay zero, in half precision too.
_SMALLEST = 1e-6


def standardize(x, epsilon, centred=False):
    """Normalizes the last axis to mean 0 and variance 1. `centred`: its mean is 0 already."""
    if not centred:
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
        return standardize(x, self.epsilon, centred=True) * self.gamma + self.beta if self.patch_norm else x

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
    """`PatchMerging` and `PatchMergingV2`: reshapes and one transposition bring a 2x2 group together, in place of strided slices.

    Args:
        epsilon: Float.
        post_norm: Boolean. Whether the norm follows the reduction, as in V2.

    Input shape: `(1, height, width, channels)`. Output shape: `(1, ceil(height / 2), ceil(width / 2), 2 * channels)`.
    """

    def __init__(self, epsilon, post_norm, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.post_norm = post_norm

    def build(self, input_shape):
        channels = input_shape[-1]
        self.reduction = self.add_weight(name="reduction", shape=(4 * channels, 2 * channels))
        for name in ("gamma", "beta") if self.post_norm else ("reduction_bias",):
            setattr(self, name, self.add_weight(name=name, shape=(2 * channels,)))

    def call(self, x):
        x = pad_to_multiple(x, (2, 2))
        _, height, width, channels = x.shape
        x = ops.reshape(window_partition(x, (2, 2)), (-1, 4 * channels))  # a group goes across, then down
        if self.post_norm:
            x = standardize(ops.matmul(x, self.reduction), self.epsilon, centred=True) * self.gamma + self.beta
        else:
            x = ops.matmul(standardize(x, self.epsilon), self.reduction) + self.reduction_bias
        return ops.reshape(x, (1, height // 2, width // 2, 2 * channels))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "post_norm": self.post_norm}


class _DeployBlock(keras.layers.Layer):
    """What the deploy forms of all blocks share: windows, MLP and the residual branches, on tokens `(height * width, channels)`.

    A subclass gives `_weight_shapes(channels)` and `_block(x)`.

    Args:
        num_heads: Integer.
        window_size: Pair of integers, fitted to the grid as in the trained block.
        shift_size: Pair of integers, likewise.
        window_fit: `"clamp"` or `"pad"`.
        hidden_dim: Integer. Width inside the MLP.
        epsilon: Float.

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
        self._place()
        self.padded = self.padded_grid != self.grid
        self.tokens = self.fitted_window[0] * self.fitted_window[1]
        self.windows = self.padded_grid[0] * self.padded_grid[1] // self.tokens
        mlp = {"fc1": (channels, self.hidden_dim), "fc1_bias": (self.hidden_dim,), "fc2": (self.hidden_dim, channels), "fc2_bias": (channels,)}
        for name, shape in {**self._weight_shapes(channels), **mlp}.items():
            setattr(self, name, self.add_weight(name=name, shape=shape))

    def _place(self):
        """Says how large the grid is with padding, where in it the tokens stand, and how far it rolls."""
        self.padded_grid, self.origin, self.roll = padded_grid(self.grid, self.fitted_window), (0, 0), self.fitted_shift

    def call(self, x):
        return ops.reshape(self._block(ops.reshape(x, (-1, x.shape[-1]))), x.shape)

    def _mlp(self, x):
        return ops.matmul(ops.gelu(ops.matmul(x, self.fc1) + self.fc1_bias, approximate=False), self.fc2) + self.fc2_bias

    def _to_windows(self, x):
        """Cuts `(height * width, channels)` into (shifted) windows, `(windows * tokens, channels)`."""
        channels = x.shape[-1]
        (height, width), (top, left), (down, across) = self.padded_grid, self.origin, self.roll
        if self.padded:
            padding = (top, height - self.grid[0] - top), (left, width - self.grid[1] - left)
            x = ops.pad(ops.reshape(x, (1, *self.grid, channels)), ((0, 0), *padding, (0, 0)))
        if down or across:
            # As rows of pixels and channels: both axes then roll without a reshape between them.
            x = _roll(_roll(ops.reshape(x, (height, width * channels)), down, axis=0), across * channels, axis=1)
        x = window_partition(ops.reshape(x, (1, height, width, channels)), self.fitted_window)
        return ops.reshape(x, (-1, channels))

    def _from_windows(self, x):
        """The inverse of `_to_windows`."""
        channels = x.shape[-1]
        (height, width), (top, left), (down, across) = self.padded_grid, self.origin, self.roll
        x = window_reverse(x, self.fitted_window, self.padded_grid)
        if down or across:
            x = _roll(_roll(ops.reshape(x, (height, width * channels)), -across * channels, axis=1), -down, axis=0)
        if self.padded:
            x = ops.slice(ops.reshape(x, (1, height, width, channels)), (0, top, left, 0), (1, *self.grid, channels))
        return ops.reshape(x, (-1, channels))

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


class _DeployAttentionBlock(_DeployBlock):
    """What V1 and V2 share: bias and mask one constant, the softmax scale and the value's bias folded away."""

    def _weight_shapes(self, channels):
        return {
            "qkv": (channels, 3 * channels),
            "qkv_bias": (3 * channels,),
            "bias_and_mask": (self.windows if any(self.fitted_shift) else 1, self.num_heads, self.tokens, self.tokens),
            "projection": (channels, channels),
            "projection_bias": (channels,),
        }

    def _attend(self, x):
        """Attention in windows, `(windows * tokens, channels)`."""
        channels = x.shape[-1]
        heads = (self.windows, self.tokens, 3 * self.num_heads, channels // self.num_heads)
        x = ops.transpose(ops.reshape(ops.matmul(x, self.qkv) + self.qkv_bias, heads), (0, 2, 1, 3))
        query, key, value = ops.split(x, 3, axis=1)  # each (windows, heads, tokens, channels of a head)
        attention = ops.softmax(self._similarity(query, key) + self.bias_and_mask, axis=-1)
        x = ops.transpose(ops.matmul(attention, value), (0, 2, 1, 3))
        return ops.matmul(ops.reshape(x, (-1, channels)), self.projection) + self.projection_bias


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinBlock(_DeployAttentionBlock):
    """`SwinBlock`: norms without scale and shift, which the products hold that follow.

    Where windows do not divide the grid, padding stands between the first norm and the products, and keeps them apart.
    """

    def _weight_shapes(self, channels):
        norm = {"norm1_gamma": (channels,), "norm1_beta": (channels,)} if self.padded else {}
        return {**super()._weight_shapes(channels), **norm}

    def _block(self, x):
        y = standardize(x, self.epsilon)
        if self.padded:
            y = y * self.norm1_gamma + self.norm1_beta
        x = x + self._from_windows(self._attend(self._to_windows(y)))
        return x + self._mlp(standardize(x, self.epsilon))

    def _similarity(self, query, key):
        return ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinBlockV2(_DeployAttentionBlock):
    """`SwinBlockV2`: what the norms read comes centred out of the products before them; cosines with their scale in the query."""

    def _weight_shapes(self, channels):
        norms = {f"norm{number}_{name}": (channels,) for number in (1, 2) for name in ("gamma", "beta")}
        return {**super()._weight_shapes(channels), "scale": (1, self.num_heads, 1, 1), **norms}

    def _block(self, x):
        y = standardize(self._attend(self._to_windows(x)), self.epsilon, centred=True)
        x = x + self._from_windows(y * self.norm1_gamma + self.norm1_beta)
        return x + standardize(self._mlp(x), self.epsilon, centred=True) * self.norm2_gamma + self.norm2_beta

    def _similarity(self, query, key):
        # Of lengths the root of a head's width, which the scale makes good.
        query, key = query * (_inverse_length(query) * self.scale), key * _inverse_length(key)
        return ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))


def _inverse_length(x):
    # The keys of padding are zero, and stay so.
    return ops.rsqrt(ops.maximum(ops.mean(x * x, axis=-1, keepdims=True), _SMALLEST))


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinMLPBlock(_DeployBlock):
    """`SwinMLPBlock`: one matrix for each head over the tokens of a window. Windows shift by padding on both sides."""

    def _place(self):
        self.origin = tuple(window - shift if shift else 0 for window, shift in zip(self.fitted_window, self.fitted_shift, strict=True))
        sides = zip(self.grid, self.fitted_window, self.fitted_shift, strict=True)
        self.padded_grid = padded_grid([side + (window if shift else 0) for side, window, shift in sides], self.fitted_window)
        self.roll = (0, 0)

    def _weight_shapes(self, channels):
        return {
            "spatial": (self.num_heads, self.tokens, self.tokens),
            "spatial_bias": (self.num_heads, 1, self.tokens),
            "norm1_gamma": (channels,),
            "norm1_beta": (channels,),
        }

    def _block(self, x):
        y = standardize(x, self.epsilon) * self.norm1_gamma + self.norm1_beta
        x = x + self._from_windows(self._mix(self._to_windows(y)))
        return x + self._mlp(standardize(x, self.epsilon))

    def _mix(self, x):
        channels, width = x.shape[-1], x.shape[-1] // self.num_heads
        x = ops.transpose(ops.reshape(x, (self.windows, self.tokens, self.num_heads, width)), (2, 0, 3, 1))
        x = ops.matmul(ops.reshape(x, (self.num_heads, -1, self.tokens)), self.spatial) + self.spatial_bias
        x = ops.transpose(ops.reshape(x, (self.num_heads, self.windows, width, self.tokens)), (1, 3, 0, 2))
        return ops.reshape(x, (-1, channels))
