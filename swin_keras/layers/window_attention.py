import keras
from keras import ops

from swin_keras.layers.base_window_attention import BaseWindowAttention
from swin_keras.layers.initializers import linear_initializer


@keras.saving.register_keras_serializable(package="swin_keras")
class WindowAttention(BaseWindowAttention):
    """Multi-head self-attention inside a window, with a relative position bias: W-MSA and SW-MSA.

    `softmax(q k^T / sqrt(d) + bias + attention_mask) v` for each head, where `d = channels / num_heads`.

    Args:
        window_size: Integer or pair of integers. Height and width of the window in tokens.
        num_heads: Integer. Must divide the channels.
        qkv_bias: Boolean. Whether query, key and value have a bias. Defaults to `True`.
        attention_drop_rate: Float. Dropout on the attention weights. Defaults to `0.0`.
        drop_rate: Float. Dropout on the output. Defaults to `0.0`.
        relative_position_bias: Boolean. `False` leaves the bias out. Defaults to `True`.
        return_attention: Boolean. Whether the attention weights are returned too. Defaults to `False`.

    Call arguments:
        x: Tensor `(batch * windows, tokens, channels)`, the windows of an image in row-major order.
        attention_mask: Optional tensor `(windows, tokens, tokens)`, added to the logits.
        dropout_masks: What `draw_dropout_masks` returned, to be used instead of a draw of the layer's own.

    Returns:
        A tensor of the shape of `x`. With `return_attention`, also the attention weights before dropout,
        `(batch * windows, num_heads, tokens, tokens)`.

    Raises:
        ValueError: If `num_heads` does not divide the channels.

    Reference: equation 4 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def _build_attention(self, x_shape):
        channels = x_shape[-1]
        self.qkv = keras.layers.Dense(
            3 * channels, use_bias=self.qkv_bias, kernel_initializer=linear_initializer(), name="qkv", dtype=self.dtype_policy
        )
        self.qkv.build(x_shape)
        if self.relative_position_bias:
            height, width = self.window
            self.relative_position_bias_table = self.add_weight(
                name="relative_position_bias_table",
                shape=((2 * height - 1) * (2 * width - 1), self.num_heads),
                initializer=linear_initializer(),
                autocast=False,
            )

    def _qkv(self, x):
        return self.qkv(x)

    def _similarity(self, q, k):
        logits = ops.matmul(q * q.shape[-1] ** -0.5, ops.transpose(k, (0, 1, 3, 2)))
        return ops.cast(logits, self.softmax_dtype)

    def position_bias_table(self):
        return ops.cast(self.relative_position_bias_table, self.softmax_dtype)
