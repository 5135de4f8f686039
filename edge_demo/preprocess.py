"""From a picture file to the input of a model, as a bundle's model.json asks for."""

import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import InputError

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def open_picture(path):
    """Opens a picture as a person sees it: turned as its EXIF says, in 8-bit RGB.

    Sixteen-bit grey is scaled to eight. Transparency is ignored, as the loaders of the usual training code do.

    Returns:
        A `PIL.Image.Image` in mode RGB.

    Raises:
        InputError: If the file is missing, is no picture, or is damaged.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata, and of pictures above 89 megapixels, which phones take; it refuses those above 179.
            warnings.simplefilter("ignore")
            with Image.open(path) as picture:
                picture.load()
                picture = ImageOps.exif_transpose(picture)
                if picture.mode == "F":
                    raise ValueError("its values are floating-point numbers, whose range is not known")
                if picture.mode.startswith("I"):
                    picture = _to_eight_bits(picture)
                return picture.convert("RGB")
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
    except (OSError, ValueError, SyntaxError, EOFError, TypeError, IndexError, KeyError, OverflowError, MemoryError) as error:
        # Pillow's decoders raise all of these on damaged files.
        problem = f"this picture is damaged ({error})"
    raise InputError(f"expected a picture file, received {str(path)!r}: {problem}. Give the path of a PNG, JPEG or WebP file.")


def _to_eight_bits(picture):
    # Pillow hands some files of 16 bits out as 32-bit integers in the same range.
    values = np.asarray(picture).astype("int64")
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its values do not fit into 16 bits")
    return Image.fromarray((values // 257).astype("uint8"))


def preprocess(picture, preprocessing):
    """Resizes, crops and normalizes a picture.

    Args:
        picture: `PIL.Image.Image` in mode RGB.
        preprocessing: Dictionary with `mode`, `resize`, `crop`, `interpolation`, `mean`, `std`, from model.json.

    Returns:
        float32 array `(1, height, width, 3)`.
    """
    height, width = preprocessing["crop"]
    down, across = preprocessing["resize"]
    if preprocessing["mode"] == "cover":
        # As much of the picture's shape as covers `resize`; the other side is truncated, as torchvision does.
        if down * picture.width >= across * picture.height:
            across = down * picture.width // picture.height
        else:
            down = across * picture.height // picture.width
    top, left = round((down - height) / 2), round((across - width) / 2)
    # Resizing straight to the crop gives the same pixels, and never a huge picture when one side is extreme.
    scale_x, scale_y = picture.width / across, picture.height / down
    box = (left * scale_x, top * scale_y, min((left + width) * scale_x, picture.width), min((top + height) * scale_y, picture.height))
    picture = picture.resize((width, height), _FILTERS[preprocessing["interpolation"]], box=box)
    pixels = np.asarray(picture, dtype="float32")[None]
    return (pixels / np.float32(255) - np.float32(preprocessing["mean"])) / np.float32(preprocessing["std"])
