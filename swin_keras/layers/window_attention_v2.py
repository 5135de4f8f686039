import math

import keras
from keras import ops

from swin_keras.layers.base_window_attention import BaseWindowAttention
from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.relative_position import log_spaced_coordinates
from swin_keras.layers.windows import to_pair

# Up to this length, the official one, a query or key counts as zero, which the keys of padding are.
_SHORTEST = 1e-12


@keras.saving.register_keras_serializable(package="swin_keras")
class WindowAttentionV2(BaseWindowAttention):
    """Window attention of Swin V2: cosine similarity, and a position bias computed from log-spaced offsets.

    `softmax(cos(q, k) * scale + bias + attention_mask) v` for each head, where `scale` is learned and at most 100, and
    `bias = 16 * sigmoid(MLP(offset))`.

    Args:
        window_size: Integer or pair of integers. Height and width of the window in tokens.
        num_heads: Integer. Must divide the channels.
        qkv_bias: Boolean. Whether query and value have a bias; the key has none. Defaults to `True`.
        attention_drop_rate: Float. Dropout on the attention weights. Defaults to `0.0`.
        drop_rate: Float. Dropout on the output. Defaults to `0.0`.
        relative_position_bias: Boolean. `False` leaves the bias out. Defaults to `True`.
        return_attention: Boolean. Whether the attention weights are returned too. Defaults to `False`.
        pretrained_window_size: Integer or pair of integers. The window that the weights were trained with, where it was
            another. Defaults to `None`: this window.

    Call arguments, returns and errors: those of `WindowAttention`.

    Reference: section 3.3 of [Liu et al., 2022](https://arxiv.org/abs/2111.09883).
    """

    def __init__(self, window_size, num_heads, *args, pretrained_window_size=None, **kwargs):
        super().__init__(window_size, num_heads, *args, **kwargs)
        self.pretrained_window_size = pretrained_window_size
        # By this one offsets are divided.
        self.scaling_window = self.window if pretrained_window_size is None else to_pair(pretrained_window_size, "pretrained_window_size")

    def _build_attention(self, x_shape):
        channels = x_shape[-1]
        self.qkv = keras.layers.Dense(3 * channels, use_bias=False, kernel_initializer=linear_initializer(), name="qkv", dtype=self.dtype_policy)
        self.qkv.build(x_shape)
        if self.qkv_bias:
            self.q_bias = self.add_weight(name="q_bias", shape=(channels,), initializer="zeros")
            self.v_bias = self.add_weight(name="v_bias", shape=(channels,), initializer="zeros")
        self.logit_scale = self.add_weight(
            name="logit_scale", shape=(self.num_heads, 1, 1), initializer=keras.initializers.Constant(math.log(10)), autocast=False
        )
        if self.relative_position_bias:
            self.cpb_mlp_0 = keras.layers.Dense(
                512, activation="relu", kernel_initializer=linear_initializer(), name="cpb_mlp_0", dtype=self.softmax_dtype
            )
            self.cpb_mlp_2 = keras.layers.Dense(
                self.num_heads, use_bias=False, kernel_initializer=linear_initializer(), name="cpb_mlp_2", dtype=self.softmax_dtype
            )
            self.cpb_mlp_0.build((None, 2))
            self.cpb_mlp_2.build((None, 512))
            self.relative_coordinates = log_spaced_coordinates(self.window, self.scaling_window)

    def _qkv(self, x):
        qkv = self.qkv(x)
        if not self.qkv_bias:
            return qkv
        q_bias = ops.convert_to_tensor(self.q_bias)
        return qkv + ops.concatenate([q_bias, ops.zeros_like(q_bias), self.v_bias])

    def _similarity(self, q, k):
        # All in float32: times a scale of 100, a cosine rounded to bfloat16 would be wrong by 0.2.
        cosine = ops.matmul(self._normalize(q), ops.transpose(self._normalize(k), (0, 1, 3, 2)))
        return cosine * ops.exp(ops.minimum(ops.cast(self.logit_scale, self.softmax_dtype), math.log(100)))

    def _normalize(self, x):
        x = ops.cast(x, self.softmax_dtype)
        square = ops.sum(ops.square(x), axis=-1, keepdims=True)
        # At zero the gradient is taken as zero; that of the official division is 1e12, which half precision does not hold.
        scale = ops.where(square > _SHORTEST**2, ops.rsqrt(ops.maximum(square, _SHORTEST**2)), 0.0)
        return x * scale

    def position_bias_table(self):
        return 16 * ops.sigmoid(self.cpb_mlp_2(self.cpb_mlp_0(self.relative_coordinates)))

    def get_config(self):
        return {**super().get_config(), "pretrained_window_size": self.pretrained_window_size}
