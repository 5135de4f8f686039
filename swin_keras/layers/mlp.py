import math

import keras
from keras import ops

from swin_keras.layers.dropout import apply_mask, dropout_mask
from swin_keras.layers.initializers import linear_initializer


@keras.saving.register_keras_serializable(package="swin_keras")
class MLP(keras.layers.Layer):
    """Two dense layers with an exact GELU between them, applied to each token.

    Args:
        hidden_dim: Integer. Width between the two layers.
        drop_rate: Float. Dropout after each layer. Defaults to `0.0`.

    Call arguments:
        x: Tensor `(..., channels)`.
        dropout_masks: What `draw_dropout_masks` returned, to be used instead of a draw of the layer's own.

    Output shape: that of `x`.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, hidden_dim, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.drop_rate = drop_rate
        self.fc1 = keras.layers.Dense(hidden_dim, kernel_initializer=linear_initializer(), name="fc1", dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(drop_rate, name="drop", dtype=self.dtype_policy)
        self.input_spec = keras.layers.InputSpec(min_ndim=2)

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})
        self.fc1.build(input_shape)
        self.fc2 = keras.layers.Dense(input_shape[-1], kernel_initializer=linear_initializer(), name="fc2", dtype=self.dtype_policy)
        self.fc2.build((*input_shape[:-1], self.hidden_dim))

    def draw_dropout_masks(self, shape):
        """Draws the dropout of one call on a tensor of this shape."""
        if not self.drop_rate:
            return {}
        shapes = {"hidden": (math.prod(shape[:-1]), self.hidden_dim), "output": shape}
        return {name: dropout_mask(self.drop, shape, self.compute_dtype) for name, shape in shapes.items()}

    def call(self, x, dropout_masks=None, training=None):
        if dropout_masks is None:
            dropout_masks = self.draw_dropout_masks(ops.shape(x)) if training else {}
        shape = ops.shape(x)
        # As a matrix: TensorFlow then adds the bias in the kernel that multiplies.
        x = self.fc1(ops.reshape(x, (-1, shape[-1])))
        # JAX and PyTorch keep no more than this for the gradient; and the graph optimizer knows the plain one.
        x = _lean_gelu(x) if training and keras.backend.backend() == "tensorflow" else ops.gelu(x, approximate=False)
        x = apply_mask(x, dropout_masks, "hidden")
        return apply_mask(ops.reshape(self.fc2(x), shape), dropout_masks, "output")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "drop_rate": self.drop_rate}


def _lean_gelu(x):
    """An exact GELU whose gradient needs its input and output alone, which the dense layers around it keep anyway."""

    @ops.custom_gradient
    def gelu(x):
        y = ops.gelu(x, approximate=False)

        def gradient(upstream):
            # d/dx x F(x) = F(x) + x f(x), of the normal distribution; F(x) is y / x.
            cumulative = ops.where(x == 0, ops.cast(0.5, x.dtype), y / x)
            density = ops.exp(ops.square(x) * -0.5) * (2 * math.pi) ** -0.5
            return upstream * (cumulative + x * density)

        return y, gradient

    return gelu(x)
