import keras

from swin_keras.layers.base_attention_block import BaseAttentionBlock
from swin_keras.layers.dropout import apply_mask
from swin_keras.layers.window_attention_v2 import WindowAttentionV2


@keras.saving.register_keras_serializable(package="swin_keras")
class SwinBlockV2(BaseAttentionBlock):
    """A Swin Transformer V2 block: each residual branch ends in its norm, which starts at zero.

    Args:
        num_heads, window_size, shifted, mlp_ratio, qkv_bias, drop_rate, attention_drop_rate, drop_path_rate, epsilon,
        window_fit, relative_position_bias, return_attention, gradient_checkpointing: Those of `SwinBlock`.
        pretrained_window_size: Integer or pair of integers. The window that the weights were trained with, where it was
            another. Defaults to `None`.

    Input shape, returns and errors: those of `SwinBlock`.

    Reference: section 3.2 of [Liu et al., 2022](https://arxiv.org/abs/2111.09883).
    """

    norm_initializer = "zeros"

    def __init__(self, num_heads, *args, pretrained_window_size=None, **kwargs):
        super().__init__(num_heads, *args, **kwargs)
        self.pretrained_window_size = pretrained_window_size

    def _make_attention(self, **kwargs):
        return WindowAttentionV2(pretrained_window_size=self.pretrained_window_size, **kwargs)

    def _block(self, x, dropout_masks):
        y, attention = self._attend(x, dropout_masks)
        x = x + apply_mask(self.norm1(y), dropout_masks, "mixer_branch")
        x = x + apply_mask(self.norm2(self.mlp(x, dropout_masks=dropout_masks)), dropout_masks, "mlp_branch")
        return (x, attention) if self.return_attention else x

    def get_config(self):
        return {**super().get_config(), "pretrained_window_size": self.pretrained_window_size}
