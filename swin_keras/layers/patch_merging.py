import keras
from keras import ops

from swin_keras.layers.initializers import linear_initializer


@keras.saving.register_keras_serializable(package="swin_keras")
class PatchMerging(keras.layers.Layer):
    """Merges each 2x2 group of tokens, halving the grid and doubling the channels.

    Args:
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input shape: `(batch, height, width, channels)`, height and width even.
    Output shape: `(batch, height / 2, width / 2, 2 * channels)`.

    Raises:
        ValueError: If a side of the grid is odd.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape):
        batch, height, width, channels = input_shape
        if height % 2 or width % 2:
            raise ValueError(
                f"`PatchMerging` needs an even grid of tokens. Received: input_shape={tuple(input_shape)}. "
                "Choose an image side that is a multiple of patch_size * 2 ** (number of stages - 1)."
            )
        merged = (batch, height // 2, width // 2, 4 * channels)
        self.norm.build(merged)
        self.reduction = keras.layers.Dense(
            2 * channels, use_bias=False, kernel_initializer=linear_initializer(), name="reduction", dtype=self.dtype_policy
        )
        self.reduction.build(merged)

    def call(self, x):
        # Down, then across: the neighbour order of the released weights.
        x = ops.concatenate([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], axis=-1)
        return self.reduction(self.norm(x))  # (b, h / 2, w / 2, 2 c)

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        return batch, height // 2, width // 2, 2 * channels

    def get_config(self):
        return {**super().get_config(), "epsilon": self.epsilon}
