import keras
from keras import ops

from swin_keras.layers.checks import is_count, is_number
from swin_keras.layers.dropout import apply_mask, dropout_mask
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.layers.mlp import MLP
from swin_keras.layers.windows import fit_window, padded_grid, to_pair


class BaseSwinBlock(keras.layers.Layer):
    """What all blocks share: two norms, an MLP, a window fitted to the grid, dropout that a replay repeats.

    A subclass gives `_build_mixer(input_shape)`, which makes what mixes the tokens of a window, and
    `_block(x, dropout_masks)`, the block itself.
    """

    norm_initializer = "ones"

    def __init__(
        self,
        num_heads,
        window_size=7,
        shifted=False,
        mlp_ratio=4.0,
        drop_rate=0.0,
        drop_path_rate=0.0,
        epsilon=1e-5,
        window_fit="clamp",
        gradient_checkpointing=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not is_count(num_heads):
            raise ValueError(f"`num_heads` must be a positive integer. Received: num_heads={num_heads!r}.")
        if not is_number(mlp_ratio) or mlp_ratio <= 0:
            raise ValueError(f"`mlp_ratio` must be a positive number. Received: mlp_ratio={mlp_ratio!r}.")
        self.num_heads = num_heads
        self.window_size = window_size
        self.shifted = shifted
        self.mlp_ratio = mlp_ratio
        self.drop_rate = drop_rate
        self.drop_path_rate = drop_path_rate
        self.epsilon = epsilon
        self.window_fit = window_fit
        self.gradient_checkpointing = gradient_checkpointing
        window = to_pair(window_size, "window_size")
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.requested_window = window, tuple(side // 2 if shifted else 0 for side in window)
        self.norm1, self.norm2 = (
            LayerNormalization(epsilon=epsilon, gamma_initializer=self.norm_initializer, name=name, dtype=self.dtype_policy)
            for name in ("norm1", "norm2")
        )
        # One draw per sample: stochastic depth.
        self.drop_path = keras.layers.Dropout(drop_path_rate, name="drop_path", dtype=self.dtype_policy)

    def build(self, input_shape):
        _, height, width, channels = input_shape
        self.grid = (height, width)
        self.input_spec = keras.layers.InputSpec(shape=(None, height, width, channels))
        self.fitted_window, self.fitted_shift = fit_window(self.grid, *self.requested_window, self.window_fit)
        self.padded_grid = padded_grid(self.grid, self.fitted_window)
        self.norm1.build(input_shape)
        self._build_mixer(input_shape)
        self.norm2.build(input_shape)
        self.mlp = MLP(int(channels * self.mlp_ratio), drop_rate=self.drop_rate, name="mlp", dtype=self.dtype_policy)
        self.mlp.build(input_shape)

    def call(self, x, training=None):
        # All that is random is drawn here and handed on by position: `keras.remat` would draw anew in its replay.
        masks = self._draw_dropout_masks(ops.shape(x)) if training else {}

        def block(x, *drawn):
            return self._block(x, dict(zip(masks, drawn, strict=True)))

        if training and self.gradient_checkpointing:
            block = keras.remat(block)
        return block(x, *masks.values())

    def _draw_dropout_masks(self, shape):
        masks = {}
        if self.drop_path_rate:
            sample = (shape[0], 1, 1, 1)
            masks = {name: dropout_mask(self.drop_path, sample, self.compute_dtype) for name in ("mixer_branch", "mlp_branch")}
        return {**masks, **self.mlp.draw_dropout_masks(shape)}

    def _mlp_branch(self, x, dropout_masks):
        y = self.mlp(self.norm2(x), dropout_masks=dropout_masks)
        return x + apply_mask(y, dropout_masks, "mlp_branch")

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "num_heads": self.num_heads,
            "window_size": self.window_size,
            "shifted": self.shifted,
            "mlp_ratio": self.mlp_ratio,
            "drop_rate": self.drop_rate,
            "drop_path_rate": self.drop_path_rate,
            "epsilon": self.epsilon,
            "window_fit": self.window_fit,
            "gradient_checkpointing": self.gradient_checkpointing,
        }
