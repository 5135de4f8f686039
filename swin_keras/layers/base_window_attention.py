import keras
from keras import ops

from swin_keras.layers.checks import check_heads
from swin_keras.layers.dropout import apply_mask, dropout_mask
from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.relative_position import relative_position_index
from swin_keras.layers.windows import to_pair


class BaseWindowAttention(keras.layers.Layer):
    """What V1 and V2 attention share: heads, bias and mask, softmax, projection.

    A subclass gives `_build_attention(x_shape)`, `_qkv(x)`, `_similarity(q, k)` and `position_bias_table()`.
    """

    def __init__(
        self,
        window_size,
        num_heads,
        qkv_bias=True,
        attention_drop_rate=0.0,
        drop_rate=0.0,
        relative_position_bias=True,
        return_attention=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.window_size = window_size
        self.num_heads = num_heads
        self.qkv_bias = qkv_bias
        self.attention_drop_rate = attention_drop_rate
        self.drop_rate = drop_rate
        self.relative_position_bias = relative_position_bias
        self.return_attention = return_attention
        self.window = to_pair(window_size, "window_size")
        self.tokens = self.window[0] * self.window[1]
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={1: self.tokens})
        # Half precision has too few digits for logits, of which V2's reach 116, and for sums of many probabilities.
        self.softmax_dtype = keras.backend.result_type(self.compute_dtype, "float32")
        self.attention_drop = keras.layers.Dropout(attention_drop_rate, name="attn_drop", dtype=self.dtype_policy)
        self.proj_drop = keras.layers.Dropout(drop_rate, name="proj_drop", dtype=self.dtype_policy)

    def build(self, x_shape):
        channels = x_shape[-1]
        check_heads(self.num_heads, channels)
        self.input_spec = keras.layers.InputSpec(shape=(None, self.tokens, channels))
        self._build_attention(x_shape)
        self.proj = keras.layers.Dense(channels, kernel_initializer=linear_initializer(), name="proj", dtype=self.dtype_policy)
        self.proj.build(x_shape)
        self.relative_position_index = relative_position_index(self.window)

    def draw_dropout_masks(self, shape):
        """Draws the dropout of one call on `(batch * windows, tokens, channels)`."""
        masks = {}
        if self.attention_drop_rate:
            weights = (shape[0], self.num_heads, self.tokens, self.tokens)
            masks["attention"] = dropout_mask(self.attention_drop, weights, self.compute_dtype)
        if self.drop_rate:
            masks["projection"] = dropout_mask(self.proj_drop, shape, self.compute_dtype)
        return masks

    def call(self, x, attention_mask=None, dropout_masks=None, training=None):
        if dropout_masks is None:
            dropout_masks = self.draw_dropout_masks(ops.shape(x)) if training else {}
        channels = x.shape[-1]
        # As matrices: TensorFlow then adds the bias in the kernel that multiplies.
        qkv = ops.reshape(self._qkv(ops.reshape(x, (-1, channels))), (-1, self.tokens, 3, self.num_heads, channels // self.num_heads))
        q, k, v = ops.unstack(ops.transpose(qkv, (2, 0, 3, 1, 4)), 3)  # each (b * windows, heads, tokens, d)
        logits = self._add_bias_and_mask(self._similarity(q, k), attention_mask)
        # Of one token, which a stage of a small picture may come to, the softmax is 1 with gradient 0; Keras warns of it.
        attention = ops.softmax(logits, axis=-1) if self.tokens > 1 else 0 * logits + 1
        attention = ops.cast(attention, self.compute_dtype)

        x = ops.transpose(ops.matmul(apply_mask(attention, dropout_masks, "attention"), v), (0, 2, 1, 3))
        x = apply_mask(ops.reshape(self.proj(ops.reshape(x, (-1, channels))), (-1, self.tokens, channels)), dropout_masks, "projection")
        return (x, attention) if self.return_attention else x

    def _add_bias_and_mask(self, logits, attention_mask):
        bias = None
        if self.relative_position_bias:
            bias = ops.take(self.position_bias_table(), self.relative_position_index.reshape(-1), axis=0)
            bias = ops.transpose(ops.reshape(bias, (self.tokens, self.tokens, self.num_heads)), (2, 0, 1))
        if attention_mask is None:
            return logits if bias is None else logits + bias
        # Bias and mask first, so that the large tensor of logits is passed over once.
        attention_mask = ops.expand_dims(ops.cast(attention_mask, self.softmax_dtype), 1)
        bias = attention_mask if bias is None else bias + attention_mask  # (windows, heads, tokens, tokens)
        logits = ops.reshape(logits, (-1, ops.shape(bias)[0], self.num_heads, self.tokens, self.tokens)) + bias
        return ops.reshape(logits, (-1, self.num_heads, self.tokens, self.tokens))

    def compute_output_shape(self, x_shape, attention_mask_shape=None):
        if self.return_attention:
            return x_shape, (x_shape[0], self.num_heads, self.tokens, self.tokens)
        return x_shape

    def get_config(self):
        return {
            **super().get_config(),
            "window_size": self.window_size,
            "num_heads": self.num_heads,
            "qkv_bias": self.qkv_bias,
            "attention_drop_rate": self.attention_drop_rate,
            "drop_rate": self.drop_rate,
            "relative_position_bias": self.relative_position_bias,
            "return_attention": self.return_attention,
        }
