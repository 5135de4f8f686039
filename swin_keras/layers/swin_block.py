import keras
from keras import ops

from swin_keras.layers.mlp import MLP
from swin_keras.layers.window_attention import WindowAttention
from swin_keras.layers.windows import fit_window, shift_mask, to_pair, window_partition, window_reverse


@keras.saving.register_keras_serializable(package="swin_keras")
class SwinBlock(keras.layers.Layer):
    """A Swin Transformer block: attention in (shifted) windows, then an MLP, each behind a norm and on a residual branch.

    Args:
        num_heads: Integer. Must divide the channels.
        window_size: Integer or pair of integers. Becomes the grid on an axis whose grid is not larger. Defaults to `7`.
        shifted: Boolean. Whether windows are shifted by half their size (SW-MSA). An axis that is one window never
            shifts. Defaults to `False`.
        mlp_ratio: Float. Hidden width of the MLP over the channels. Defaults to `4.0`.
        qkv_bias: Boolean. Whether query, key and value have a bias. Defaults to `True`.
        drop_rate: Float. Dropout in the MLP and after attention. Defaults to `0.0`.
        attention_drop_rate: Float. Dropout on the attention weights. Defaults to `0.0`.
        drop_path_rate: Float. Probability that a sample skips a residual branch in training. Defaults to `0.0`.
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input and output shape: `(batch, height, width, channels)`, height and width fixed.

    Raises:
        ValueError: If the window neither divides nor covers the grid, or the heads do not divide the channels.

    Reference: equation 3 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(
        self,
        num_heads,
        window_size=7,
        shifted=False,
        mlp_ratio=4.0,
        qkv_bias=True,
        drop_rate=0.0,
        attention_drop_rate=0.0,
        drop_path_rate=0.0,
        epsilon=1e-5,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        self.mlp_ratio = mlp_ratio
        self.qkv_bias = qkv_bias
        self.drop_rate = drop_rate
        self.attention_drop_rate = attention_drop_rate
        self.drop_path_rate = drop_path_rate
        self.epsilon = epsilon
        window = to_pair(window_size, "window_size")
        self.requested_window = window, tuple(side // 2 if shifted else 0 for side in window)
        self.norm1 = keras.layers.LayerNormalization(epsilon=epsilon, name="norm1", dtype=self.dtype_policy)
        self.norm2 = keras.layers.LayerNormalization(epsilon=epsilon, name="norm2", dtype=self.dtype_policy)
        # One draw per sample: stochastic depth.
        self.drop_path = keras.layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1), name="drop_path", dtype=self.dtype_policy)

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.grid = (height, width)
        self.fitted_window, self.fitted_shift = fit_window(self.grid, *self.requested_window)
        self._mask = shift_mask(self.grid, self.fitted_window, self.fitted_shift)

        self.norm1.build(input_shape)
        self.attn = WindowAttention(
            self.fitted_window,
            self.num_heads,
            qkv_bias=self.qkv_bias,
            attention_drop_rate=self.attention_drop_rate,
            drop_rate=self.drop_rate,
            name="attn",
            dtype=self.dtype_policy,
        )
        self.attn.build((None, self.fitted_window[0] * self.fitted_window[1], channels))
        self.norm2.build(input_shape)
        self.mlp = MLP(int(channels * self.mlp_ratio), drop_rate=self.drop_rate, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(input_shape)

    def call(self, x, training=None):
        down, across = self.fitted_shift
        y = self.norm1(x)
        if down or across:
            y = ops.roll(y, (-down, -across), axis=(1, 2))
        y = window_partition(y, self.fitted_window)
        y = self.attn(y, attention_mask=self._mask, training=training)
        y = window_reverse(y, self.fitted_window, self.grid)
        if down or across:
            y = ops.roll(y, (down, across), axis=(1, 2))
        x = x + self.drop_path(y, training=training)
        return x + self.drop_path(self.mlp(self.norm2(x), training=training), training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shifted": self.shifted,
            "mlp_ratio": self.mlp_ratio,
            "qkv_bias": self.qkv_bias,
            "drop_rate": self.drop_rate,
            "attention_drop_rate": self.attention_drop_rate,
            "drop_path_rate": self.drop_path_rate,
            "epsilon": self.epsilon,
        }
