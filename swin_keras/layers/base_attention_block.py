from keras import ops

from swin_keras.layers.base_swin_block import BaseSwinBlock
from swin_keras.layers.windows import divide_up, pad_to_multiple, shift_mask, window_partition, window_reverse


class BaseAttentionBlock(BaseSwinBlock):
    """What V1 and V2 blocks share: all but where the norms stand and which attention it is.

    A subclass gives `_make_attention(**kwargs)` and `_block(x, dropout_masks)`, which it makes of `_attend` and `mlp`.
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
        relative_position_bias=True,
        return_attention=False,
        **kwargs,
    ):
        super().__init__(num_heads, window_size, shifted, mlp_ratio, drop_rate, drop_path_rate, **kwargs)
        self.qkv_bias = qkv_bias
        self.attention_drop_rate = attention_drop_rate
        self.relative_position_bias = relative_position_bias
        self.return_attention = return_attention

    def _build_mixer(self, input_shape):
        # Where the grid is not known, the mask is made in the graph.
        self.attention_mask = None if None in self.grid else shift_mask(self.padded_grid, self.fitted_window, self.fitted_shift)
        self.attn = self._make_attention(
            window_size=self.fitted_window,
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            attention_drop_rate=self.attention_drop_rate,
            drop_rate=self.drop_rate,
            relative_position_bias=self.relative_position_bias,
            return_attention=self.return_attention,
            name="attn",
            dtype=self.dtype_policy,
        )
        self.attn.build((None, self.attn.tokens, input_shape[-1]))

    def _draw_dropout_masks(self, shape):
        batch, height, width, channels = shape
        down, across = map(divide_up, (height, width), self.fitted_window)
        windows = (batch * down * across, self.attn.tokens, channels)
        return {**super()._draw_dropout_masks(shape), **self.attn.draw_dropout_masks(windows)}

    def _attend(self, x, dropout_masks):
        """Applies attention in windows to `(b, h, w, c)`; also returns its weights if they are asked for, else `None`."""
        _, height, width, _ = ops.shape(x)
        down, across = self.fitted_shift
        # Padding before the shift, as in the official detector: the mask keeps tokens from both ends apart.
        x = pad_to_multiple(x, self.fitted_window)
        grid = ops.shape(x)[1:3]
        mask = shift_mask(grid, self.fitted_window, self.fitted_shift) if None in self.grid else self.attention_mask
        if down or across:
            x = ops.roll(x, (-down, -across), axis=(1, 2))
        x = self.attn(window_partition(x, self.fitted_window), attention_mask=mask, dropout_masks=dropout_masks)
        attention = None
        if self.return_attention:
            x, attention = x
            windows = (grid[0] // self.fitted_window[0]) * (grid[1] // self.fitted_window[1])
            attention = ops.reshape(attention, (-1, windows, *attention.shape[1:]))
        x = window_reverse(x, self.fitted_window, grid)
        if down or across:
            x = ops.roll(x, (down, across), axis=(1, 2))
        padded = None in self.grid or self.grid != self.padded_grid
        return (x[:, :height, :width] if padded else x), attention

    def compute_output_shape(self, input_shape):
        if not self.return_attention:
            return input_shape
        down, across = map(divide_up, input_shape[1:3], self.fitted_window)
        windows = None if None in (down, across) else down * across
        return input_shape, (input_shape[0], windows, self.num_heads, self.attn.tokens, self.attn.tokens)

    def get_config(self):
        return {
            **super().get_config(),
            "qkv_bias": self.qkv_bias,
            "attention_drop_rate": self.attention_drop_rate,
            "relative_position_bias": self.relative_position_bias,
            "return_attention": self.return_attention,
        }
