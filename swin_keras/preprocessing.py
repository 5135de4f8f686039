"""How a picture becomes the input of a model, as data: the one owner, applied in training and written into every bundle."""

import dataclasses
import numbers

# What `edge_demo` accepts in a bundle, too.
MAX_SIDE = 2**14
INTERPOLATIONS = ("bilinear", "bicubic")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, crop the centre, scale to [0, 1], subtract the mean, divide by the standard deviation.

    Attributes:
        mode: `"exact"` resizes to `resize` whatever the shape of the picture; `"cover"` keeps its shape and makes it
            just cover `resize`, which for a square means that the shorter side gets that length.
        resize: Height and width in pixels.
        crop: Height and width in pixels of the centre that is kept: the model's input.
        interpolation: `"bilinear"` or `"bicubic"` (A = -0.5), both with antialiasing, rounded to 8 bits: Pillow's.
        mean: Per channel, of values in [0, 1].
        std: Per channel, of values in [0, 1].

    Raises:
        ValueError: If a value is out of its range.
    """

    mode: str
    resize: tuple
    crop: tuple
    interpolation: str = "bicubic"
    mean: tuple = IMAGENET_MEAN
    std: tuple = IMAGENET_STD

    def __post_init__(self):
        if self.mode not in ("exact", "cover"):
            raise ValueError(f"`mode` must be 'exact' or 'cover'. Received: mode={self.mode!r}.")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"`interpolation` must be one of {INTERPOLATIONS}. Received: interpolation={self.interpolation!r}.")
        for field, length, kind, low, high in [
            ("resize", 2, numbers.Integral, 1, MAX_SIDE),
            ("crop", 2, numbers.Integral, 1, MAX_SIDE),
            ("mean", 3, numbers.Real, -1e3, 1e3),
            ("std", 3, numbers.Real, 1e-3, 1e3),
        ]:
            value = getattr(self, field)
            values = list(value) if hasattr(value, "__iter__") else [value]
            if len(values) != length or not all(isinstance(v, kind) and not isinstance(v, bool) and low <= v <= high for v in values):
                what = "whole numbers" if kind is numbers.Integral else "numbers"
                raise ValueError(f"`{field}` must be {length} {what} from {low:g} to {high:g}. Received: {field}={value!r}.")
            object.__setattr__(self, field, tuple(int(v) if kind is numbers.Integral else float(v) for v in values))
        if not all(c <= r for c, r in zip(self.crop, self.resize, strict=True)):
            raise ValueError(f"`crop` must fit into `resize`. Received: crop={self.crop}, resize={self.resize}.")

    @classmethod
    def official(cls, height, width):
        """The evaluation protocol of the official code for an input of this size.

        Below 384 pixels the picture is resized to 256/224 of the input, bicubic, and the centre is kept; from 384 on it
        is resized to the input without a crop.
        """
        if min(height, width) >= 384:
            return cls("exact", (height, width), (height, width))
        return cls("cover", (int(256 / 224 * height), int(256 / 224 * width)), (height, width))

    def at_size(self, height, width):
        """Returns the same for another input: what is resized keeps its ratio to what is kept."""
        crop = (height, width)
        resize = tuple(max(new, round(old * new / kept)) for old, new, kept in zip(self.resize, crop, self.crop, strict=True))
        return dataclasses.replace(self, resize=resize, crop=crop)

    def to_dict(self):
        """Returns the values as JSON holds them."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values):
        """The inverse of `to_dict`; a missing or unknown key is a `ValueError` too."""
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f"Preprocessing must be a dictionary with the keys {', '.join(sorted(names))}. Received: {values!r:.200}.")
        return cls(**values)

    def pixels(self, image):
        """Resizes and crops one picture.

        Args:
            image: uint8 tensor `(height, width, 3)`.

        Returns:
            float32 tensor `(*crop, 3)` of whole numbers in [0, 255].
        """
        import tensorflow as tf

        shape = tf.shape(image)
        height, width = shape[0], shape[1]
        down, across = self.resize
        if self.mode == "cover":
            # The other side is truncated, as torchvision does.
            fits_height = down * width >= across * height
            down, across = tf.where(fits_height, down, across * height // width), tf.where(fits_height, down * width // height, across)
        # Pillow goes across, rounds to 8 bits, then goes down.
        for size in ((height, across), (down, across)):
            image = tf.clip_by_value(tf.round(tf.image.resize(image, size, self.interpolation, antialias=True)), 0.0, 255.0)
        top, left = self._margin(down, self.crop[0]), self._margin(across, self.crop[1])
        image = image[top : top + self.crop[0], left : left + self.crop[1]]
        return tf.ensure_shape(image, (*self.crop, 3))

    def normalize(self, pixels):
        """Scales, shifts and divides: `(..., 3)` in [0, 255] becomes the model's input."""
        import tensorflow as tf

        return (pixels / 255.0 - tf.constant(self.mean, tf.float32)) / tf.constant(self.std, tf.float32)

    @staticmethod
    def _margin(size, kept):
        import tensorflow as tf

        # `tf.round` rounds half to even, as Python and so torchvision do.
        return tf.cast(tf.round(tf.cast(size - kept, tf.float32) / 2), tf.int32)
