import keras
from keras import ops

from swin_keras.layers.base_swin_block import BaseSwinBlock
from swin_keras.layers.checks import check_heads
from swin_keras.layers.dropout import apply_mask
from swin_keras.layers.initializers import convolution_initializer
from swin_keras.layers.windows import pad_to_multiple, window_partition, window_reverse


@keras.saving.register_keras_serializable(package="swin_keras")
class SpatialMLP(keras.layers.Layer):
    """Mixes the tokens of a window by one matrix for each head: a 1-D convolution of size 1 in groups.

    Args:
        num_heads: Integer. Must divide the channels.

    Input and output shape: `(batch * windows, tokens, channels)`.

    Raises:
        ValueError: If `num_heads` does not divide the channels.

    Reference: https://github.com/microsoft/Swin-Transformer, models/swin_mlp.py.
    """

    def __init__(self, num_heads, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.input_spec = keras.layers.InputSpec(ndim=3)

    def build(self, x_shape):
        _, tokens, channels = x_shape
        check_heads(self.num_heads, channels)
        self.input_spec = keras.layers.InputSpec(shape=(None, tokens, channels))
        initializer = convolution_initializer(fan_in=tokens)
        # From token, to token.
        self.kernel = self.add_weight(name="kernel", shape=(self.num_heads, tokens, tokens), initializer=initializer)
        self.bias = self.add_weight(name="bias", shape=(self.num_heads, tokens), initializer=initializer)

    def call(self, x):
        _, tokens, channels = x.shape
        width = channels // self.num_heads
        heads = ops.transpose(ops.reshape(x, (-1, tokens, self.num_heads, width)), (2, 0, 3, 1))
        # One product a head. With windows as a further axis the kernel would be broadcast, which TensorFlow 2.21 with
        # oneDNN computes wrongly for one head.
        heads = ops.matmul(ops.reshape(heads, (self.num_heads, -1, tokens)), self.kernel) + ops.expand_dims(self.bias, 1)
        heads = ops.transpose(ops.reshape(heads, (self.num_heads, -1, width, tokens)), (1, 3, 0, 2))
        return ops.reshape(heads, (-1, tokens, channels))

    def compute_output_shape(self, x_shape):
        return x_shape

    def get_config(self):
        return {**super().get_config(), "num_heads": self.num_heads}


@keras.saving.register_keras_serializable(package="swin_keras")
class SwinMLPBlock(BaseSwinBlock):
    """A Swin-MLP block: in place of attention, one matrix for each head over the tokens of a (shifted) window.

    Windows shift by padding on both sides, not by a roll: nothing is masked.

    Args:
        num_heads, window_size, shifted, mlp_ratio, drop_path_rate, epsilon, window_fit, gradient_checkpointing: Those of
            `SwinBlock`.
        drop_rate: Float. Dropout in the MLP. Defaults to `0.0`.

    Input and output shape: `(batch, height, width, channels)`; with `window_fit="pad"`, height and width may be `None`.

    Raises:
        ValueError: If the heads do not divide the channels, or `window_fit` does not fit the grid.

    Reference: https://github.com/microsoft/Swin-Transformer, models/swin_mlp.py.
    """

    def _build_mixer(self, input_shape):
        self.spatial_mlp = SpatialMLP(self.num_heads, name="spatial_mlp", dtype=self.dtype_policy)
        self.spatial_mlp.build((None, self.fitted_window[0] * self.fitted_window[1], input_shape[-1]))

    def _block(self, x, dropout_masks):
        x = x + apply_mask(self._mix(self.norm1(x)), dropout_masks, "mixer_branch")
        return self._mlp_branch(x, dropout_masks)

    def _mix(self, x):
        _, height, width, _ = ops.shape(x)
        # A window above and to the left of the grid, of which the shift leaves the rest for below and to the right.
        (top, bottom), (left, right) = (
            (window - shift, shift) if shift else (0, 0) for window, shift in zip(self.fitted_window, self.fitted_shift, strict=True)
        )
        if top or left:
            x = ops.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        x = pad_to_multiple(x, self.fitted_window)
        grid = ops.shape(x)[1:3]
        x = self.spatial_mlp(window_partition(x, self.fitted_window))
        return window_reverse(x, self.fitted_window, grid)[:, top : top + height, left : left + width]
