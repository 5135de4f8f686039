import keras
from keras import ops

from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.layers.windows import divide_up, pad_to_multiple


class BasePatchMerging(keras.layers.Layer):
    """What both mergings share. A subclass gives `build` and `call`."""

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.norm = LayerNormalization(epsilon=epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        merged = self.compute_output_shape(input_shape)
        self.reduction = keras.layers.Dense(
            merged[-1], use_bias=False, kernel_initializer=linear_initializer(), name="reduction", dtype=self.dtype_policy
        )
        self.reduction.build((*merged[:-1], 2 * merged[-1]))

    def _gather(self, x):
        """Brings each 2x2 group together: `(b, h, w, c)` to `(b, ceil(h / 2), ceil(w / 2), 4 c)`."""
        x = pad_to_multiple(x, (2, 2))
        _, height, width, _ = ops.shape(x)
        channels = x.shape[-1]
        # Down, then across: the neighbour order of the released weights.
        x = ops.transpose(ops.reshape(x, (-1, 2, width, channels)), (0, 2, 1, 3))
        return ops.reshape(x, (-1, height // 2, width // 2, 4 * channels))

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, divide_up(height, 2), divide_up(width, 2), 2 * channels

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="swin_keras")
class PatchMerging(BasePatchMerging):
    """Merges each 2x2 group of tokens, halving the grid and doubling the channels. An odd side is padded with zeros.

    Args:
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input shape: `(batch, height, width, channels)`, height and width may be `None`.
    Output shape: `(batch, ceil(height / 2), ceil(width / 2), 2 * channels)`.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.norm.build((None, None, None, 4 * input_shape[-1]))

    def call(self, x):
        return self.reduction(self.norm(self._gather(x)))


@keras.saving.register_keras_serializable(package="swin_keras")
class PatchMergingV2(BasePatchMerging):
    """`PatchMerging` of Swin V2: the norm follows the reduction.

    Args:
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input and output shape: those of `PatchMerging`.

    Reference: https://github.com/microsoft/Swin-Transformer, models/swin_transformer_v2.py.
    """

    def build(self, input_shape):
        super().build(input_shape)
        self.norm.build((None, None, None, 2 * input_shape[-1]))

    def call(self, x):
        return self.norm(self.reduction(self._gather(x)))
