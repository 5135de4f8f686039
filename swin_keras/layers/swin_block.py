import keras

from swin_keras.layers.base_attention_block import BaseAttentionBlock
from swin_keras.layers.dropout import apply_mask
from swin_keras.layers.window_attention import WindowAttention


@keras.saving.register_keras_serializable(package="swin_keras")
class SwinBlock(BaseAttentionBlock):
    """A Swin Transformer block: attention in (shifted) windows, then an MLP, each behind a norm and on a residual branch.

    Args:
        num_heads: Integer. Must divide the channels.
        window_size: Integer or pair of integers. Defaults to `7`.
        shifted: Boolean. Whether windows are shifted by half their size (SW-MSA). Defaults to `False`.
        mlp_ratio: Float. Hidden width of the MLP over the channels. Defaults to `4.0`.
        qkv_bias: Boolean. Whether query, key and value have a bias. Defaults to `True`.
        drop_rate: Float. Dropout in the MLP and after attention. Defaults to `0.0`.
        attention_drop_rate: Float. Dropout on the attention weights. Defaults to `0.0`.
        drop_path_rate: Float. Probability that a sample skips a residual branch in training. Defaults to `0.0`.
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.
        window_fit: `"clamp"`: on an axis whose grid is not larger than the window, the window becomes the grid and does
            not shift. `"pad"`: window and shift stay. Either way a grid that the window does not divide is padded at the
            right and the bottom. Defaults to `"clamp"`.
        relative_position_bias: Boolean. `False` leaves the bias out. Defaults to `True`.
        return_attention: Boolean. Whether the attention weights are returned too. Defaults to `False`.
        gradient_checkpointing: Boolean. Whether training computes the block twice rather than keep what lies inside.
            Defaults to `False`.

    Input shape: `(batch, height, width, channels)`; with `window_fit="pad"`, height and width may be `None`.

    Returns:
        A tensor of the input's shape. With `return_attention`, also the attention weights
        `(batch, windows, num_heads, tokens, tokens)`: windows in row-major order of the padded, shifted grid.

    Raises:
        ValueError: If the heads do not divide the channels, or `window_fit` does not fit the grid.

    Reference: equation 3 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def _make_attention(self, **kwargs):
        return WindowAttention(**kwargs)

    def _block(self, x, dropout_masks):
        y, attention = self._attend(self.norm1(x), dropout_masks)
        x = x + apply_mask(y, dropout_masks, "mixer_branch")
        x = self._mlp_branch(x, dropout_masks)
        return (x, attention) if self.return_attention else x
