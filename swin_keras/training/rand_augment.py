"""RandAugment (Cubuk et al., 2020) as timm defines it, on Pillow's pictures: what the official recipes train with."""

import dataclasses
import re

from PIL import Image, ImageEnhance, ImageOps

OPERATIONS = (
    *("AutoContrast", "Equalize", "Invert", "Rotate", "Posterize", "Solarize", "SolarizeAdd"),
    *("Color", "Contrast", "Brightness", "Sharpness", "ShearX", "ShearY", "TranslateX", "TranslateY"),
)
# The mean of ImageNet: what comes in from outside of the picture.
_FILL = (124, 116, 104)
_FORM = re.compile(r"rand(-m\d+|-n[1-9]\d?|-mstd\d+(\.\d+)?|-mmax[1-9]\d*|-inc[01])*")


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """How strongly, and how often, pictures are changed.

    Attributes:
        m: Integer. Mean of the magnitude, which says how strong a change is: 10 is all that was foreseen.
        n: Integer. Operations drawn for a picture. Each is then applied or not, with equal chances.
        mstd: Float. Standard deviation of the magnitude. Above 100 it is uniform, from 0 to `m`.
        mmax: Integer. Largest magnitude.
        inc: Boolean. Whether a larger magnitude is always a stronger change; else, in some operations, the opposite.
    """

    m: int = 10
    n: int = 2
    mstd: float = 0.0
    mmax: int = 10
    inc: bool = False

    def draw(self, rng):
        """Returns what happens to one picture: a list of names of operations, magnitudes and signs."""
        drawn = []
        for _ in range(self.n):
            name = OPERATIONS[rng.integers(len(OPERATIONS))]
            magnitude = rng.uniform(0, self.m) if self.mstd > 100 else rng.normal(self.m, self.mstd)
            sign, applied = rng.integers(2, size=2)
            if applied:
                drawn.append((name, min(max(magnitude, 0.0), self.mmax), 2 * int(sign) - 1))
        return drawn

    def apply(self, picture, name, magnitude, sign, resample=Image.Resampling.BICUBIC):
        """Applies one operation to an RGB `PIL.Image.Image`; `sign`, 1 or -1, is the direction in those that have one."""
        level = magnitude / 10

        def move(*coefficients):
            return picture.transform(picture.size, Image.Transform.AFFINE, coefficients, resample, fillcolor=_FILL)

        match name:
            case "AutoContrast":
                return ImageOps.autocontrast(picture)
            case "Equalize":
                return ImageOps.equalize(picture)
            case "Invert":
                return ImageOps.invert(picture)
            case "Rotate":
                return picture.rotate(sign * (level * 30.0), resample, fillcolor=_FILL)
            case "Posterize":
                bits = 4 - int(level * 4) if self.inc else int(level * 4)
                # Pillow 13 refuses to keep no bit, which is one picture in fifty here; before, as here, the picture was black.
                return picture.point([value & -(1 << 8 - max(bits, 0)) & 255 for value in range(256)] * 3) if bits < 8 else picture
            case "Solarize":
                threshold = min(256, int(level * 256))
                return ImageOps.solarize(picture, 256 - threshold if self.inc else threshold)
            case "SolarizeAdd":
                added = min(128, int(level * 110))
                return picture.point([min(255, value + added) if value < 128 else value for value in range(256)] * 3)
            case "Color" | "Contrast" | "Brightness" | "Sharpness":
                factor = max(0.1, 1.0 + sign * (level * 0.9)) if self.inc else level * 1.8 + 0.1
                return getattr(ImageEnhance, name)(picture).enhance(factor)
            case "ShearX":
                return move(1, sign * (level * 0.3), 0, 0, 1, 0)
            case "ShearY":
                return move(1, 0, 0, sign * (level * 0.3), 1, 0)
            case "TranslateX":
                return move(1, 0, sign * (level * 0.45) * picture.width, 0, 1, 0)
            case "TranslateY":
                return move(1, 0, 0, 0, 1, sign * (level * 0.45) * picture.height)


def parse_rand_augment(text):
    """Reads timm's way to write a RandAugment, such as `"rand-m9-mstd0.5-inc1"`.

    Args:
        text: String: `rand`, then any of `-m`, `-n`, `-mstd`, `-mmax` and `-inc` (0 or 1) with their numbers.

    Returns:
        A `RandAugment`.

    Raises:
        ValueError: If `text` is not of this form. timm's `-p`, `-t` and `-w` are not known here.
    """
    values = dict(re.findall(r"-([a-z]+)([\d.]+)", text)) if isinstance(text, str) and _FORM.fullmatch(text) else None
    if values is None or len(values) < text.count("-"):
        form = "'rand' and then each of -m, -n, -mstd, -mmax and -inc with its number at most once, such as 'rand-m9-mstd0.5-inc1'"
        raise ValueError(f"`rand_augment` must be {form}. Received: rand_augment={text!r}.")
    return RandAugment(**{key: float(value) if key == "mstd" else bool(int(value)) if key == "inc" else int(value) for key, value in values.items()})
