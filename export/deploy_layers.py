"""The layers of the deploy graph: batch 1, fixed sizes, folded weights, no tensor above rank 4. Inference only.

Each stands for a trained layer and computes the same function in a form that every accelerator takes: no roll, gather,
strided slice or broadcast, and a normalization without the subtraction from zero that Keras' own lowers to.

A normalization begins by subtracting the mean over the channels. Where a single product is before it, that product is given
weights whose outputs have mean 0, which is called centred here, and the step is left out.

The order of tokens: in the portable layout a layer takes and gives them row by row. In the CPU layout a block keeps them in the
order of its own windows, and the next one gathers them into its order, once; `token_order` says what an order is.
"""

import keras
import numpy as np
from keras import ops

from swin_keras.layers.windows import divide_up, fit_window, pad_to_multiple, padded_grid, window_partition, window_reverse

# How a normalization is computed. `"plain"`: in operators that every accelerator takes. `"short"`: one operator less. `"fp16_safe"`: seven more,
# and no sum of squares that half precision cannot hold, however large the activations.
NORMS = ("plain", "short", "fp16_safe")

# Mean squares below count as this, so that the zero keys of padding stay zero, in half precision too.
_SMALLEST = 1e-6


def standardize(x, epsilon, norm="plain", centred=False, scale=1.0):
    """Normalizes the last axis to mean 0 and variance 1.

    Args:
        x: Tensor.
        epsilon: Float. Added to the variance.
        norm: One of `NORMS`.
        centred: Boolean. Whether the mean is 0 already.
        scale: What each channel is multiplied by. It goes to the inverse deviation, for the converter would fold a product with a constant into
            the matrix product that follows.
    """
    root = float(np.sqrt(epsilon))
    if norm == "fp16_safe":
        x, inverse = _divide_by_largest(x)
        root = root * inverse  # What divides the token divides epsilon too, so that it changes nothing else.
    if not centred:
        x = x - ops.mean(x, axis=-1, keepdims=True)
    if norm == "short":
        # As x has mean 0, the mean of (x + root)^2 is the variance plus epsilon; TFLite has one operator for the square of a difference.
        variance = ops.mean(ops.square(x - -root), axis=-1, keepdims=True)
    else:
        variance = ops.mean(x * x, axis=-1, keepdims=True) + (root * root if norm == "fp16_safe" else epsilon)
    inverse = ops.rsqrt(variance)
    return x * (inverse if isinstance(scale, float) else inverse * scale)


def _divide_by_largest(x):
    """Divides by the largest magnitude along the last axis: sums over it are then at most the number of channels, and half precision holds 65,504.

    Returns:
        The quotient, and the inverse of what it was divided by. A small number keeps zeros finite.
    """
    inverse = 1.0 / (ops.max(ops.abs(x), axis=-1, keepdims=True) + 1e-4)
    return x * inverse, inverse


def token_order(grid, order):
    """Says which token stands where.

    Args:
        grid: Pair of integers.
        order: `None` for row by row, or a window and a shift, two pairs: that of the (shifted) windows, each row by row.

    Returns:
        Array `(tokens,)`: the row-by-row index of the token at each place.
    """
    index = np.arange(grid[0] * grid[1]).reshape(grid)
    if order is not None:
        (down, across), shift = order
        index = np.roll(index, [-step for step in shift], axis=(0, 1))
        index = index.reshape(grid[0] // down, down, grid[1] // across, across).transpose(0, 2, 1, 3)
    return index.reshape(-1)


def _gather(x, grid, order, tokens):
    """Takes `tokens`, row-by-row indices, out of `(height * width, channels)` that stand in `order`."""
    places = np.argsort(token_order(grid, order))[tokens]
    return x if np.array_equal(places, np.arange(x.shape[0])) else ops.take(x, places.astype("int32"), axis=0)


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


def repeat_pixels(x, size):
    """Makes each pixel of `(1, h, w, c)` an area of `size`, a height and a width. Keras' own is a tile of rank 5, which XNNPACK leaves."""
    _, height, width, channels = x.shape
    x = ops.concatenate([ops.reshape(x, (1, height * width, 1, channels))] * size[1], axis=2)
    width *= size[1]
    x = ops.concatenate([ops.reshape(x, (1, height, 1, width * channels))] * size[0], axis=2)
    return ops.reshape(x, (1, height * size[0], width, channels))


class _DeployLayer(keras.layers.Layer):
    """What all share: a normalization and products.

    Args:
        epsilon: Float. Added to the variance.
        norm: One of `NORMS`.
        scaled: Boolean. Whether what a norm gives to a product is multiplied for each channel: see `migration`.
    """

    # A function of a product's name, input and output, which sees what an eager call computes.
    observer = None

    def __init__(self, epsilon, norm="plain", scaled=False, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.norm = norm
        self.scaled = scaled

    def _standardize(self, x, before=None, centred=False):
        """`before`: the name of the product that follows, if what goes into it can be scaled."""
        scale = getattr(self, f"{before}_scale") if before and self.scaled else 1.0
        return standardize(x, self.epsilon, self.norm, centred, scale)

    def _product(self, x, name):
        """Multiplies by the weight of this name, and adds its bias if it has one. The operator in the file bears the name."""
        with keras.name_scope(name):
            y = ops.matmul(x, getattr(self, name))
            y = y + getattr(self, f"{name}_bias") if hasattr(self, f"{name}_bias") else y
        if self.observer is not None:
            self.observer(name, x, y)
        return y

    def _add_scale(self, name, channels):
        if self.scaled:
            setattr(self, f"{name}_scale", self.add_weight(name=f"{name}_scale", shape=(channels,), initializer="ones"))

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon, "norm": self.norm, "scaled": self.scaled}


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployLayerNormalization(_DeployLayer):
    """Layer normalization over the last axis.

    Args:
        epsilon: Float. Added to the variance.
        affine: Boolean. Whether scale and shift follow; `False` where the next layer holds them.

    Input and output shape: `(1, ..., channels)`.
    """

    def __init__(self, epsilon, affine=True, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.affine = affine

    def build(self, input_shape):
        if self.affine:
            self.gamma = self.add_weight(name="gamma", shape=(input_shape[-1],), initializer="ones")
            self.beta = self.add_weight(name="beta", shape=(input_shape[-1],), initializer="zeros")

    def call(self, x):
        x = self._standardize(x)
        return x * self.gamma + self.beta if self.affine else x

    def get_config(self):
        return {**super().get_config(), "affine": self.affine}


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployPatchEmbedding(_DeployLayer):
    """`PatchEmbedding`: one strided convolution, then the norm.

    Args:
        embed_dim: Integer.
        patch_size: Pair of integers.
        patch_norm: Boolean.
        epsilon: Float.

    Input shape: `(1, height, width, channels)`. Output shape: `(1, ceil(height / patch), ceil(width / patch), embed_dim)`.
    """

    def __init__(self, embed_dim, patch_size, patch_norm, epsilon, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.embed_dim = embed_dim
        self.patch_size = tuple(patch_size)
        self.patch_norm = patch_norm

    def build(self, input_shape):
        self.kernel = self.add_weight(name="kernel", shape=(*self.patch_size, input_shape[-1], self.embed_dim))
        self.bias = self.add_weight(name="bias", shape=(self.embed_dim,))
        if self.patch_norm:
            self.gamma = self.add_weight(name="gamma", shape=(self.embed_dim,))
            self.beta = self.add_weight(name="beta", shape=(self.embed_dim,))

    def call(self, x):
        x = pad_to_multiple(x, self.patch_size)
        x = ops.conv(x, self.kernel, strides=self.patch_size, padding="valid", data_format="channels_last") + self.bias
        return self._standardize(x, centred=True) * self.gamma + self.beta if self.patch_norm else x

    def get_config(self):
        return {**super().get_config(), "embed_dim": self.embed_dim, "patch_size": self.patch_size, "patch_norm": self.patch_norm}


@keras.saving.register_keras_serializable(package="swin_keras")
class DeployPatchMerging(_DeployLayer):
    """`PatchMerging` and `PatchMergingV2`: reshapes and one transposition bring a 2x2 group together, in place of strided slices.

    Args:
        epsilon: Float.
        post_norm: Boolean. Whether the norm follows the reduction, as in V2.
        centred: Boolean. Whether what it reads then has mean 0.
        orders: `None` for the portable layout; in that for a CPU the orders of the tokens it takes and of those it gives,
            where one gather brings the groups together.

    Input shape: `(1, height, width, channels)`. Output shape: `(1, ceil(height / 2), ceil(width / 2), 2 * channels)`.
    """

    def __init__(self, epsilon, post_norm, centred=True, orders=None, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.post_norm = post_norm
        self.centred = centred
        self.orders = orders

    def build(self, input_shape):
        channels = input_shape[-1]
        self.grid = input_shape[1:3]
        self.padded = any(side % 2 for side in self.grid)
        self.reduction = self.add_weight(name="reduction", shape=(4 * channels, 2 * channels))
        if not self.post_norm:
            self._add_scale("reduction", 4 * channels)
        for name in ("gamma", "beta") if self.post_norm else ("reduction_bias",):
            setattr(self, name, self.add_weight(name=name, shape=(2 * channels,)))

    def call(self, x):
        height, width, channels = divide_up(self.grid[0], 2), divide_up(self.grid[1], 2), x.shape[-1]
        # A group goes across, then down.
        if self.orders is None:
            x = window_partition(pad_to_multiple(x, (2, 2)), (2, 2))
        else:
            incoming, outgoing = self.orders
            groups = token_order(self.grid, ((2, 2), (0, 0))).reshape(-1, 4)[token_order((height, width), outgoing)]
            x = _gather(ops.reshape(x, (-1, channels)), self.grid, incoming, groups.reshape(-1))
        x = ops.reshape(x, (-1, 4 * channels))
        if self.post_norm:
            x = self._standardize(self._product(x, "reduction"), centred=self.centred) * self.gamma + self.beta
        else:
            x = self._product(self._standardize(x, "reduction"), "reduction")
        return ops.reshape(x, (1, height, width, 2 * channels))

    def get_config(self):
        return {**super().get_config(), "post_norm": self.post_norm, "centred": self.centred, "orders": self.orders}


class _DeployBlock(_DeployLayer):
    """What the deploy forms of all blocks share: windows, MLP and the residual branches, on tokens `(height * width, channels)`.

    A subclass gives `_weight_shapes(channels)` and `_block(x)`, which also returns the attention weights, if it has any.

    Args:
        num_heads: Integer.
        window_size: Pair of integers, fitted to the grid as in the trained block.
        shift_size: Pair of integers, likewise.
        window_fit: `"clamp"` or `"pad"`.
        hidden_dim: Integer. Width inside the MLP.
        epsilon: Float.
        approximate_gelu: Boolean. Whether the activation is the one by the hyperbolic tangent.
        orders: `None` for the portable layout; in that for a CPU the orders of the tokens it takes and of those it gives.

    Input and output shape: `(1, height, width, channels)`.
    """

    # Products behind a norm, whose input can be scaled.
    scaled_products = ()
    return_attention = False

    def __init__(self, num_heads, window_size, shift_size, window_fit, hidden_dim, epsilon, approximate_gelu=False, orders=None, **kwargs):
        super().__init__(epsilon, **kwargs)
        self.num_heads = num_heads
        self.window_size = tuple(window_size)
        self.shift_size = tuple(shift_size)
        self.window_fit = window_fit
        self.hidden_dim = hidden_dim
        self.approximate_gelu = approximate_gelu
        self.orders = orders

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
        for name in self.scaled_products:
            self._add_scale(name, channels)

    def _place(self):
        """Says how large the grid is with padding, where in it the tokens stand, and how far it rolls."""
        self.padded_grid, self.origin, self.roll = padded_grid(self.grid, self.fitted_window), (0, 0), self.fitted_shift

    @property
    def own_order(self):
        """The order of the tokens in this block's windows, as `token_order` takes it."""
        return self.fitted_window, self.fitted_shift

    def call(self, x):
        shape = x.shape
        x = ops.reshape(x, (-1, shape[-1]))
        if self.orders is not None:
            x = _gather(x, self.grid, self.orders[0], token_order(self.grid, self.own_order))
        x, attention = self._block(x)
        if self.orders is not None:
            x = _gather(x, self.grid, self.own_order, token_order(self.grid, self.orders[1]))
        x = ops.reshape(x, shape)
        return (x, attention) if self.return_attention else x

    def _mlp(self, x):
        return self._product(ops.gelu(self._product(x, "fc1"), approximate=self.approximate_gelu), "fc2")

    def _to_windows(self, x):
        """Cuts `(height * width, channels)` into (shifted) windows, `(windows * tokens, channels)`."""
        if self.orders is not None:
            return x
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
        if self.orders is not None:
            return x
        channels = x.shape[-1]
        (height, width), (top, left), (down, across) = self.padded_grid, self.origin, self.roll
        x = window_reverse(x, self.fitted_window, self.padded_grid)
        if down or across:
            x = _roll(_roll(ops.reshape(x, (height, width * channels)), -across * channels, axis=1), -down, axis=0)
        if self.padded:
            # As rows too: in rank 4 the converter would add V2's residual before the reshape, and the product behind take rank 4, where LiteRT 2.3's
            # GPU accelerator does not start with integer weights.
            x = ops.slice(ops.reshape(x, (height, width * channels)), (top, left * channels), (self.grid[0], self.grid[1] * channels))
        return ops.reshape(x, (-1, channels))

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shift_size": self.shift_size,
            "window_fit": self.window_fit,
            "hidden_dim": self.hidden_dim,
            "approximate_gelu": self.approximate_gelu,
            "orders": self.orders,
        }


class _DeployAttentionBlock(_DeployBlock):
    """What V1 and V2 share: bias and mask one constant, the softmax scale and the value's bias folded away.

    Args:
        return_attention: Boolean. Whether the attention weights, `(windows, heads, tokens, tokens)`, are a second output.
        Others: As in `_DeployBlock`.
    """

    def __init__(self, *args, return_attention=False, **kwargs):
        super().__init__(*args, **kwargs)
        self.return_attention = return_attention

    def get_config(self):
        return {**super().get_config(), "return_attention": self.return_attention}

    def _weight_shapes(self, channels):
        return {
            "qkv": (channels, 3 * channels),
            "qkv_bias": (3 * channels,),
            "bias_and_mask": (self.windows if any(self.fitted_shift) else 1, self.num_heads, self.tokens, self.tokens),
            "projection": (channels, channels),
            "projection_bias": (channels,),
        }

    def _attend(self, x):
        """Attention in windows, `(windows * tokens, channels)`. Also returns its weights."""
        channels = x.shape[-1]
        heads = (self.windows, self.tokens, 3 * self.num_heads, channels // self.num_heads)
        x = ops.transpose(ops.reshape(self._product(x, "qkv"), heads), (0, 2, 1, 3))
        query, key, value = ops.split(x, 3, axis=1)  # each (windows, heads, tokens, channels of a head)
        attention = ops.softmax(self._similarity(query, key) + self.bias_and_mask, axis=-1)
        with keras.name_scope("values"):
            x = ops.matmul(attention, value)
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, channels))
        return self._product(x, "projection"), attention


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinBlock(_DeployAttentionBlock):
    """`SwinBlock`: norms without scale and shift, which the products hold that follow.

    Where windows do not divide the grid, padding stands between the first norm and the products, and keeps them apart.
    """

    @property
    def scaled_products(self):
        return ("fc1",) if self.padded else ("qkv", "fc1")

    def _weight_shapes(self, channels):
        norm = {"norm1_gamma": (channels,), "norm1_beta": (channels,)} if self.padded else {}
        return {**super()._weight_shapes(channels), **norm}

    def _block(self, x):
        y = self._standardize(x, None if self.padded else "qkv")
        if self.padded:
            y = y * self.norm1_gamma + self.norm1_beta
        y, attention = self._attend(self._to_windows(y))
        x = x + self._from_windows(y)
        return x + self._mlp(self._standardize(x, "fc1")), attention

    def _similarity(self, query, key):
        return _scores(query, key)


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinBlockV2(_DeployAttentionBlock):
    """`SwinBlockV2`: what the norms read comes centred out of the products before them; cosines with their scale in the query.

    Args:
        centred: Boolean. Whether it does. Not where kernels are pruned or clustered.
        Others: As in `_DeployAttentionBlock`.
    """

    def __init__(self, *args, centred=True, **kwargs):
        super().__init__(*args, **kwargs)
        self.centred = centred

    def get_config(self):
        return {**super().get_config(), "centred": self.centred}

    def _weight_shapes(self, channels):
        norms = {f"norm{number}_{name}": (channels,) for number in (1, 2) for name in ("gamma", "beta")}
        return {**super()._weight_shapes(channels), "scale": (1, self.num_heads, 1, 1), **norms}

    def _block(self, x):
        y, attention = self._attend(self._to_windows(x))
        x = x + self._from_windows(self._standardize(y, centred=self.centred) * self.norm1_gamma + self.norm1_beta)
        return x + self._standardize(self._mlp(x), centred=self.centred) * self.norm2_gamma + self.norm2_beta, attention

    def _similarity(self, query, key):
        # Of lengths the root of a head's width, which the scale makes good.
        if self.norm == "fp16_safe":
            query, key = _divide_by_largest(query)[0], _divide_by_largest(key)[0]
        query, key = query * (_inverse_length(query) * self.scale), key * _inverse_length(key)
        return _scores(query, key)


def _scores(query, key):
    with keras.name_scope("scores"):
        return ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))


def _inverse_length(x):
    # The keys of padding are zero, and stay so.
    return ops.rsqrt(ops.maximum(ops.mean(x * x, axis=-1, keepdims=True), _SMALLEST))


@keras.saving.register_keras_serializable(package="swin_keras")
class DeploySwinMLPBlock(_DeployBlock):
    """`SwinMLPBlock`: one matrix for each head over the tokens of a window. Windows shift by padding on both sides."""

    scaled_products = ("fc1",)

    def _place(self):
        self.origin = tuple(window - shift if shift else 0 for window, shift in zip(self.fitted_window, self.fitted_shift, strict=True))
        sides = zip(self.grid, self.fitted_window, self.fitted_shift, strict=True)
        self.padded_grid = padded_grid([side + (window if shift else 0) for side, window, shift in sides], self.fitted_window)
        self.roll = (0, 0)

    def _weight_shapes(self, channels):
        return {
            # Of rank 4: LiteRT's GPU delegate takes sums with constants of rank 3, and computes something else.
            "spatial": (1, self.num_heads, self.tokens, self.tokens),
            "spatial_bias": (1, self.num_heads, 1, self.tokens),
            "norm1_gamma": (channels,),
            "norm1_beta": (channels,),
        }

    def _block(self, x):
        y = self._standardize(x) * self.norm1_gamma + self.norm1_beta
        x = x + self._from_windows(self._mix(self._to_windows(y)))
        return x + self._mlp(self._standardize(x, "fc1")), None

    def _mix(self, x):
        channels, width = x.shape[-1], x.shape[-1] // self.num_heads
        x = ops.transpose(ops.reshape(x, (self.windows, self.tokens, self.num_heads, width)), (2, 0, 3, 1))
        x = self._product(ops.reshape(x, (1, self.num_heads, -1, self.tokens)), "spatial")
        x = ops.transpose(ops.reshape(x, (self.num_heads, self.windows, width, self.tokens)), (1, 3, 0, 2))
        return ops.reshape(x, (-1, channels))
