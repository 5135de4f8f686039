"""SimMIM: a Swin Transformer learns to paint what a mask hides.

Reference: [Xie et al., 2022](https://arxiv.org/abs/2111.09886), and models/simmim.py of
https://github.com/microsoft/Swin-Transformer.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from swin_keras.layers import PixelShuffle
from swin_keras.layers.checks import is_count, is_number
from swin_keras.layers.initializers import convolution_initializer
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.layers.windows import divide_up, to_pair
from swin_keras.models.architecture import Architecture, input_image
from swin_keras.models.configured import ConfiguredModel, policy_of


@keras.saving.register_keras_serializable(package="swin_keras")
class SimMIM(ConfiguredModel):
    """A Swin Transformer without a head that reconstructs pictures, and its loss: what `create_simmim` makes.

    Inputs: `{"image": (batch, height, width, channels), "mask": (batch, rows, columns)}`, the picture normalized, the mask
    1 for each patch that is hidden. Output: the picture, `(batch, height, width, channels)` in float32; if its size is unknown,
    with padding at the right and the bottom.

    `fit` takes such dictionaries and no targets; `compile` takes no loss. The loss is the mean absolute difference over the
    hidden pixels.

    Args:
        input_shape: Height, width and channels; height and width may be `None`.
        target_norm_size: Odd integer. Side of the neighbourhood by whose mean and deviation each pixel of the target is
            normalized, 47 for the official V2; `None` to take the picture as it is.
        dtype: Policy of all layers but the decoder. Defaults to the global one.
        name: String.
        **architecture: The arguments of `Architecture`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, input_shape=(192, 192, 3), target_norm_size=None, dtype=None, name=None, **architecture):
        if target_norm_size is not None and not (is_count(target_norm_size) and target_norm_size > 1 and target_norm_size % 2):
            raise ValueError(f"`target_norm_size` must be an odd integer above 1, or None. Received: target_norm_size={target_norm_size!r}.")
        specification = Architecture(**architecture)
        image = input_image(input_shape)
        patch = to_pair(specification.patch_size, "patch_size")
        grid = tuple(map(divide_up, image.shape[1:3], patch))
        mask = keras.Input(grid, name="mask")
        policy = policy_of(dtype)
        x = specification.stages(image, len(specification.depths), dtype=policy, mask=mask)[0][-1]
        x = LayerNormalization(epsilon=1e-5, name="norm", dtype=policy)(x)
        stride = tuple(side * 2 ** (len(specification.depths) - 1) for side in patch)
        initializer = convolution_initializer(fan_in=x.shape[-1])
        x = keras.layers.Dense(
            math.prod(stride) * image.shape[-1], kernel_initializer=initializer, bias_initializer=initializer, name="decoder_0", dtype="float32"
        )(x)
        x = PixelShuffle(stride, name="decoder_1", dtype="float32")(x)
        _, height, width, _ = image.shape
        if None not in (height, width):
            x = x[:, :height, :width]
        arguments = {"input_shape": image.shape[1:], "target_norm_size": target_norm_size, **dataclasses.asdict(specification)}
        super().__init__({"image": image, "mask": mask}, x, arguments, policy, name)
        self._patch = patch
        self.target_norm_size = target_norm_size

    def compile(self, *args, loss=None, **kwargs):
        if loss is not None:
            raise ValueError(f"SimMIM has a loss of its own. Received: loss={loss!r}. Leave it out.")
        super().compile(*args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(x, dict) or y is not None or sample_weight is not None:
            raise ValueError('SimMIM learns from dictionaries {"image", "mask"} alone. Received: another input, or targets, or weights.')
        image, mask = ops.cast(x["image"], "float32"), ops.cast(x["mask"], "float32")
        if self.target_norm_size is not None:
            image = normalize_neighbourhoods(image, self.target_norm_size)
        _, height, width, channels = ops.shape(image)
        mask = ops.repeat(ops.repeat(mask, self._patch[0], axis=1), self._patch[1], axis=2)[:, :height, :width, None]
        return ops.sum(ops.abs(image - y_pred[:, :height, :width]) * mask) / (ops.sum(mask) + 1e-5) / channels


def normalize_neighbourhoods(image, size):
    """Normalizes each pixel of `(b, h, w, c)` by mean and deviation of the pixels within `size // 2` of it."""

    def total(x):
        # Padded by hand: backends differ in whether a pool's padding counts.
        margin = (size // 2, size // 2)
        return ops.average_pool(ops.pad(x, ((0, 0), margin, margin, (0, 0))), size, strides=1, padding="valid", data_format="channels_last") * size**2

    count = total(ops.ones_like(image))
    mean = total(image) / count
    variance = ops.maximum(total(ops.square(image)) / count - ops.square(mean), 0.0) * count / (count - 1)
    return (image - mean) / ops.sqrt(variance + 1e-6)


def random_mask(rng, image_size, mask_patch_size=32, mask_ratio=0.6, patch_size=4):
    """Draws which patches of a picture are hidden, in squares larger than a patch.

    Args:
        rng: `numpy.random.Generator`. For runs that repeat, make it from seed, epoch and index: `default_rng((seed, epoch, index))`.
        image_size: Integer or pair of integers. Height and width in pixels.
        mask_patch_size: Integer or pair of integers. Size of a square in pixels; a multiple of the patch.
        mask_ratio: Float. Fraction of the squares that is hidden, rounded up.
        patch_size: Integer or pair of integers.

    Returns:
        float32 array `(rows, columns)`, 1 for each patch that is hidden.

    Raises:
        ValueError: If squares do not divide the picture, patches the squares, or the ratio is no fraction.
    """
    if not isinstance(rng, np.random.Generator):
        raise ValueError(
            f"`rng` must be a `numpy.random.Generator`. Received: {rng!r}. Make it with `numpy.random.default_rng((seed, epoch, index))`."
        )
    image, square, patch = (
        to_pair(value, name) for name, value in [("image_size", image_size), ("mask_patch_size", mask_patch_size), ("patch_size", patch_size)]
    )
    divided = not any(i % s or s % p for i, s, p in zip(image, square, patch, strict=True))
    if not divided or not is_number(mask_ratio) or not 0 < mask_ratio < 1:
        raise ValueError(
            "Expected a picture that `mask_patch_size` divides, a multiple of `patch_size` as `mask_patch_size`, and a `mask_ratio` between "
            f"0 and 1. Received: image_size={image_size}, mask_patch_size={mask_patch_size}, patch_size={patch_size}, mask_ratio={mask_ratio}."
        )
    rows, columns = (i // s for i, s in zip(image, square, strict=True))
    hidden = np.zeros(rows * columns, "float32")
    hidden[rng.permutation(hidden.size)[: math.ceil(hidden.size * mask_ratio)]] = 1
    down, across = (s // p for s, p in zip(square, patch, strict=True))
    return hidden.reshape(rows, columns).repeat(down, axis=0).repeat(across, axis=1)
