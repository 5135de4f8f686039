import keras
from keras import ops

from swin_keras.layers.windows import to_pair


@keras.saving.register_keras_serializable(package="swin_keras")
class PixelShuffle(keras.layers.Layer):
    """Lays the channels of each token out as a patch of pixels: the inverse of cutting an image into patches.

    Args:
        scale: Integer or pair of integers. Height and width of the patch.

    Input shape: `(batch, height, width, channels * scale ** 2)`, for each channel its pixels row by row, as PyTorch's
    `PixelShuffle` reads them. Height and width may be `None`.
    Output shape: `(batch, height * scale, width * scale, channels)`.

    Raises:
        ValueError: If the patch does not divide the channels.

    Reference: [Shi et al., 2016](https://arxiv.org/abs/1609.05158).
    """

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.scale = scale
        self._patch = to_pair(scale, "scale")
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        if input_shape[-1] % (self._patch[0] * self._patch[1]):
            raise ValueError(
                f"The pixels of a patch must divide the channels. Received: scale={self.scale} for {input_shape[-1]} channels. "
                "Give the layer before channels * scale ** 2 units."
            )
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: input_shape[-1]})

    def call(self, x):
        down, across = self._patch
        channels = x.shape[-1] // (down * across)
        _, height, width, _ = ops.shape(x)
        x = ops.reshape(x, (-1, height, width, channels, down, across))
        return ops.reshape(ops.transpose(x, (0, 1, 4, 2, 5, 3)), (-1, height * down, width * across, channels))

    def compute_output_shape(self, input_shape):
        batch, *sides, channels = input_shape
        height, width = (None if side is None else side * scale for side, scale in zip(sides, self._patch, strict=True))
        return batch, height, width, channels // (self._patch[0] * self._patch[1])

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
