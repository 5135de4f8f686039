"""From a picture file to the input of a model, as a bundle's model.json asks for."""

import contextlib
import importlib
import os
import struct
import typing
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from .errors import InputError
from .quiet import quietly

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# What photos come in. Pillow reads more, and for some, such as EPS, it starts another program. Told of a format it has not loaded, it loads all.
Image.preinit()
for _plugin in ("WebP", "Tiff", "Jpeg2K", "Avif"):  # The last came with Pillow 11.3.
    with contextlib.suppress(ImportError):
        importlib.import_module(f"PIL.{_plugin}ImagePlugin")
_FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF") if name in Image.OPEN)
# A JPEG file is decoded at a half, a quarter or an eighth of its size as long as that is so many times what it is resized to. The 12 megapixels of
# a phone, 4032x3024, come down to a quarter for 256 pixels; at 2, sharp edges would differ by 17 of 256 levels.
_REDUCED_AT_LEAST = 2.75
# Pillow's decoders raise all of these on damaged files.
_DAMAGE = (OSError, ValueError, SyntaxError, EOFError, TypeError, LookupError, OverflowError, MemoryError, AttributeError, RuntimeError, struct.error)
# What turns a picture upright, for each orientation of EXIF.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Opened(typing.NamedTuple):
    """A picture that may have been decoded smaller than it is.

    Attributes:
        picture: `PIL.Image.Image` in mode RGB, upright.
        size: Width and height of the whole, upright, in pixels of the file.
        factor: How many of these pixels, on a side, one pixel of `picture` stands for.
        left, top: Where the whole starts in `picture`, whose last pixels a factor may fill in part only.
    """

    picture: Image.Image
    size: tuple
    factor: int = 1
    left: float = 0.0
    top: float = 0.0


def open_picture(path):
    """Opens a picture as a person sees it: turned as its EXIF says, in 8-bit RGB.

    Sixteen-bit grey is scaled to eight. Transparency is ignored, as the loaders of the usual training code do.

    Args:
        path: Path of a regular file, or an open file.

    Returns:
        A `PIL.Image.Image` in mode RGB.

    Raises:
        InputError: If the file is missing, is no picture, or is damaged.
    """
    return _open(path).picture


def open_reduced(path, preprocessing):
    """As `open_picture`, but decodes a large JPEG file at a fraction of its size, from which `prepare` makes nearly the same input.

    Args:
        path: Path of a regular file, or an open file.
        preprocessing: Dictionary as in `preprocess`.

    Returns:
        `Opened`.

    Raises:
        InputError: As `open_picture`, and where more than Pillow's 89 megapixels would have to be decoded: this guards a small device's memory.
    """
    return _open(path, preprocessing)


def _open(path, preprocessing=None):
    try:
        if isinstance(path, (str, bytes, os.PathLike)) and os.path.exists(path) and not os.path.isfile(path):
            raise IsADirectoryError if os.path.isdir(path) else OSError("it is no regular file")  # A pipe would never end.
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and of pictures above 89 megapixels, which phones take; it refuses those above 179.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=_FORMATS) as picture:
                return _load(picture, preprocessing)
    except FileNotFoundError:
        problem = "there is no such file"
    except IsADirectoryError:
        problem = "this is a folder"
    except PermissionError:
        problem = "it may not be read"
    except UnidentifiedImageError:
        problem = "this is not a picture that Pillow can read"
    except Image.DecompressionBombError as error:
        problem = f"this picture is too large ({error})"
    except _DAMAGE as error:
        problem = f"this picture is damaged ({error})"
    raise InputError(f"expected a picture file, received {str(path)!r}: {problem}. Give the path of a PNG, JPEG or WebP file.")


def _load(picture, preprocessing):
    (width, height), factor = picture.size, 1
    if preprocessing is not None and picture.format not in ("JPEG", "MPO"):
        _check_pixels(width * height, picture.size)  # before the EXIF of a PNG file is looked for, which may stand behind its pixels
    orientation = _orientation(picture)
    if preprocessing is not None:
        turned = orientation in (5, 6, 7, 8)
        down, across = _resized((height, width) if turned else (width, height), preprocessing)
        smallest = (down, across) if turned else (across, down)
        drafted = picture.draft(None, tuple(int(_REDUCED_AT_LEAST * side) for side in smallest))
        factor = round(width / drafted[1][2]) if drafted else 1
        # Of a progressive JPEG file all coefficients have to be in memory, whatever becomes of them.
        _check_pixels(width * height if picture.info.get("progressive") else picture.width * picture.height, (width, height))
    # Their libraries tell a terminal what is wrong with a file.
    (quietly if picture.format in ("TIFF", "JPEG2000", "AVIF") else lambda function: function())(picture.load)
    right, below = picture.width - width / factor, picture.height - height / factor
    if orientation in _TURNS:
        picture = picture.transpose(_TURNS[orientation])
    if picture.mode == "F":
        raise ValueError("its values are floating-point numbers, whose range is not known")
    if picture.mode.startswith("I"):
        picture = _to_eight_bits(picture)
    # A copy of 12 megapixels takes 10 ms and 48 MB.
    picture = picture.convert("RGB") if picture.mode != "RGB" else picture
    if factor == 1:
        return Opened(picture, picture.size)
    if orientation in (5, 6, 7, 8):
        width, height, right, below = height, width, below, right
    left = right if orientation in (2, 3, 6, 7) else 0.0
    top = below if orientation in (3, 4, 7, 8) else 0.0
    return Opened(picture, (width, height), factor, left, top)


def _orientation(picture):
    """Returns what EXIF says, or 1 where it says nothing or is damaged: the pixels may be whole."""
    if picture.format == "TIFF":
        return 1  # Pillow turns these itself.
    try:
        return picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # Pillow raises what it likes.
        return 1


def _check_pixels(decoded, size):
    if decoded > Image.MAX_IMAGE_PIXELS:
        raise Image.DecompressionBombError(f"{size[0]}x{size[1]} pixels")


def _to_eight_bits(picture):
    # Pillow hands some files of 16 bits out as 32-bit integers in the same range.
    values = np.asarray(picture)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values do not fit into 16 bits")
    return Image.fromarray((values.astype("uint16") // 257).astype("uint8"))


def preprocess(picture, preprocessing):
    """Resizes, crops and normalizes a picture.

    Args:
        picture: `PIL.Image.Image` in mode RGB.
        preprocessing: Dictionary with `mode`, `resize`, `crop`, `interpolation`, `mean`, `std`, from model.json.

    Returns:
        float32 array `(1, height, width, 3)`.
    """
    return prepare(Opened(picture, picture.size), preprocessing)


def prepare(opened, preprocessing):
    """As `preprocess`, of what `open_reduced` returns."""
    height, width = preprocessing["crop"]
    # Resizing straight to the crop gives the same pixels, and never a huge picture when one side is extreme.
    box = _decoded_box(opened, preprocessing)
    picture = opened.picture.resize((width, height), _FILTERS[preprocessing["interpolation"]], box=box)
    pixels = np.asarray(picture, dtype="float32")[None]
    return (pixels / np.float32(255) - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])


def visible_box(opened, preprocessing):
    """Returns which part of a picture the model sees: left, top, right and bottom in pixels of the file, upright."""
    left, top, right, bottom = _decoded_box(opened, preprocessing)
    columns, rows = ((opened.factor * (at - opened.left) for at in (left, right)), (opened.factor * (at - opened.top) for at in (top, bottom)))
    (left, right), (top, bottom) = columns, rows
    return left, top, right, bottom


def _decoded_box(opened, preprocessing):
    """As `visible_box`, in pixels of what was decoded."""
    picture, (full_width, full_height), factor, first_column, first_row = opened
    height, width = preprocessing["crop"]
    down, across = _resized(opened.size, preprocessing)
    top, left = round((down - height) / 2), round((across - width) / 2)
    scale_x, scale_y = full_width / factor / across, full_height / factor / down
    return (
        first_column + left * scale_x,
        first_row + top * scale_y,
        min(first_column + (left + width) * scale_x, picture.width),
        min(first_row + (top + height) * scale_y, picture.height),
    )


def _resized(size, preprocessing):
    """Returns the height and width to which a picture of this width and height is resized, before the crop."""
    down, across = preprocessing["resize"]
    if preprocessing["mode"] == "cover":
        # As much of the picture's shape as covers `resize`; the other side is truncated, as torchvision does.
        width, height = size
        if down * width >= across * height:
            return down, down * width // height
        return across * height // width, across
    return down, across
