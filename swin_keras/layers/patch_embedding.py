import keras

from swin_keras.layers.initializers import convolution_initializer
from swin_keras.layers.windows import to_pair


@keras.saving.register_keras_serializable(package="swin_keras")
class PatchEmbedding(keras.layers.Layer):
    """Patch partition and linear embedding: an image becomes a grid of tokens, by one strided convolution.

    Args:
        embed_dim: Integer. Channels of a token.
        patch_size: Integer or pair of integers. Side of a patch in pixels. Defaults to `4`.
        patch_norm: Boolean. Whether a layer normalization follows. Defaults to `True`.
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input shape: `(batch, height, width, channels)`, height and width multiples of the patch.
    Output shape: `(batch, height / patch, width / patch, embed_dim)`.

    Raises:
        ValueError: If the patch does not divide the image.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, embed_dim, patch_size=4, patch_norm=True, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.patch_norm = patch_norm
        self.epsilon = epsilon
        self._patch = to_pair(patch_size, "patch_size")
        self.norm = keras.layers.LayerNormalization(epsilon=epsilon, name="norm", dtype=self.dtype_policy) if patch_norm else None

    def build(self, input_shape):
        height, width = self._patch
        if input_shape[1] % height or input_shape[2] % width:
            raise ValueError(
                f"The sides of the image must be multiples of the patch. Received: an image of "
                f"{input_shape[1]}x{input_shape[2]} for patch_size={self.patch_size}. Resize or pad the image."
            )
        initializer = convolution_initializer(fan_in=height * width * input_shape[3])
        self.proj = keras.layers.Conv2D(
            self.embed_dim,
            self._patch,
            strides=self._patch,
            data_format="channels_last",
            kernel_initializer=initializer,
            bias_initializer=initializer,
            name="proj",
            dtype=self.dtype_policy,
        )
        self.proj.build(input_shape)
        if self.norm:
            self.norm.build(self.compute_output_shape(input_shape))

    def call(self, x):
        x = self.proj(x)
        return self.norm(x) if self.norm else x

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape
        return batch, height // self._patch[0], width // self._patch[1], self.embed_dim

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "patch_norm": self.patch_norm,
            "epsilon": self.epsilon,
        }
