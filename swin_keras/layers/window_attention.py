import keras
from keras import ops

from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.relative_position import relative_position_index
from swin_keras.layers.windows import to_pair


@keras.saving.register_keras_serializable(package="swin_keras")
class WindowAttention(keras.layers.Layer):
    """Multi-head self-attention inside a window, with a relative position bias: W-MSA and SW-MSA.

    `softmax(q k^T / sqrt(d) + bias + attention_mask) v` for each head, where `d = channels / num_heads`.

    Args:
        window_size: Integer or pair of integers. Height and width of the window in tokens.
        num_heads: Integer. Must divide the channels.
        qkv_bias: Boolean. Whether query, key and value have a bias. Defaults to `True`.
        attention_drop_rate: Float. Dropout on the attention weights. Defaults to `0.0`.
        drop_rate: Float. Dropout on the output. Defaults to `0.0`.

    Call arguments:
        x: Tensor `(batch * windows, tokens, channels)`, the windows of an image in row-major order.
        attention_mask: Optional tensor `(windows, tokens, tokens)`, added to the logits.

    Output shape: that of `x`.

    Raises:
        ValueError: If `num_heads` does not divide the channels.

    Reference: equation 4 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, window_size, num_heads, qkv_bias=True, attention_drop_rate=0.0, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.window_size = window_size
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.attention_drop_rate = attention_drop_rate
        self.drop_rate = drop_rate
        self._window = to_pair(window_size, "window_size")
        self.attention_drop = keras.layers.Dropout(attention_drop_rate, name="attn_drop", dtype=self.dtype_policy)
        self.proj_drop = keras.layers.Dropout(drop_rate, name="proj_drop", dtype=self.dtype_policy)

    def build(self, x_shape):
        channels = x_shape[-1]
        if channels % self.num_heads:
            raise ValueError(
                f"`num_heads` must divide the channels. Received: num_heads={self.num_heads} for {channels} channels. "
                "Choose `embed_dim` and `num_heads` so that each stage's width is a multiple of its heads."
            )
        height, width = self._window
        self.qkv = keras.layers.Dense(
            3 * channels, use_bias=self.qkv_bias, kernel_initializer=linear_initializer(), name="qkv", dtype=self.dtype_policy
        )
        self.qkv.build(x_shape)
        self.proj = keras.layers.Dense(channels, kernel_initializer=linear_initializer(), name="proj", dtype=self.dtype_policy)
        self.proj.build(x_shape)
        self.relative_position_bias_table = self.add_weight(
            name="relative_position_bias_table",
            shape=((2 * height - 1) * (2 * width - 1), self.num_heads),
            initializer=linear_initializer(),
        )
        self._index = relative_position_index(self._window).reshape(-1)

    def call(self, x, attention_mask=None, training=None):
        tokens, channels = self._window[0] * self._window[1], x.shape[-1]
        qkv = ops.reshape(self.qkv(x), (-1, tokens, 3, self.num_heads, channels // self.num_heads))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # each (b * windows, heads, tokens, d)
        q = q * (channels // self.num_heads) ** -0.5
        logits = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2)))  # (b * windows, heads, tokens, tokens)

        bias = ops.take(self.relative_position_bias_table, self._index, axis=0)
        bias = ops.transpose(ops.reshape(bias, (tokens, tokens, self.num_heads)), (2, 0, 1))
        if attention_mask is not None:
            # Bias and mask first, so that the large tensor of logits is passed over once.
            windows = attention_mask.shape[0]
            bias = bias + ops.expand_dims(ops.cast(attention_mask, bias.dtype), 1)  # (windows, heads, tokens, tokens)
            logits = ops.reshape(logits, (-1, windows, self.num_heads, tokens, tokens)) + bias
            logits = ops.reshape(logits, (-1, self.num_heads, tokens, tokens))
        else:
            logits = logits + bias

        attention = self.attention_drop(ops.softmax(logits, axis=-1), training=training)
        x = ops.transpose(ops.matmul(attention, v), (0, 2, 1, 3))
        x = self.proj(ops.reshape(x, (-1, tokens, channels)))
        return self.proj_drop(x, training=training)

    def compute_output_shape(self, x_shape, attention_mask_shape=None):
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "window_size": self.window_size,
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "attention_drop_rate": self.attention_drop_rate,
            "drop_rate": self.drop_rate,
        }
