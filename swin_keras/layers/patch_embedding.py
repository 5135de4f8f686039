import keras
from keras import ops

from swin_keras.layers.initializers import convolution_initializer
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.layers.windows import divide_up, pad_to_multiple, to_pair


@keras.saving.register_keras_serializable(package="swin_keras")
class PatchEmbedding(keras.layers.Layer):
    """Patch partition and linear embedding: an image becomes a grid of tokens, by one strided convolution.

    Args:
        embed_dim: Integer. Channels of a token.
        patch_size: Integer or pair of integers. Side of a patch in pixels. Defaults to `4`.
        patch_norm: Boolean. Whether a layer normalization follows. Defaults to `True`.
        epsilon: Float. Added to the variance when normalizing. Defaults to `1e-5`.

    Input shape: `(batch, height, width, channels)`, height and width may be `None`. A side that the patch does not divide
    is padded with zeros at the right or the bottom; so is, where a graph knows no size, an image smaller than one patch.
    Output shape: `(batch, ceil(height / patch), ceil(width / patch), embed_dim)`.

    Raises:
        ValueError: If the image is smaller than one patch.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, embed_dim, patch_size=4, patch_norm=True, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.patch_norm = patch_norm
        self.epsilon = epsilon
        self._patch = to_pair(patch_size, "patch_size")
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.norm = LayerNormalization(epsilon=epsilon, name="norm", dtype=self.dtype_policy) if patch_norm else None

    def build(self, input_shape):
        self._check_size(input_shape)
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})
        height, width = self._patch
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
        self._check_size(x.shape)
        if x.shape[-1] is None:
            # Keras forgets the channels where `predict` has seen several sizes; a convolution of TensorFlow then takes any multiple.
            x = ops.reshape(x, (*ops.shape(x)[:3], self.input_spec.axes[-1]))
        x = self.proj(pad_to_multiple(x, self._patch))
        return self.norm(x) if self.norm else x

    def _check_size(self, shape):
        for side, patch in zip(shape[1:3], self._patch, strict=True):
            if side is not None and side < patch:
                raise ValueError(
                    f"The image must be at least as large as one patch. Received: an image of {shape[1]}x{shape[2]} for "
                    f"patch_size={self.patch_size}. Use a larger image or a smaller `patch_size`."
                )

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape
        height, width = map(divide_up, sides, self._patch)
        return batch, height, width, self.embed_dim

    def get_config(self):
        return {
            **super().get_config(),
            "embed_dim": self.embed_dim,
            "patch_size": self.patch_size,
            "patch_norm": self.patch_norm,
            "epsilon": self.epsilon,
        }
