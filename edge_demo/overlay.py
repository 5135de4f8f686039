"""Draws what a model says of a picture: classes under it, boxes and masks on it."""

import contextlib
import functools
import itertools
import os
import pathlib
import unicodedata

import numpy as np
from PIL import Image, ImageColor, ImageDraw, ImageFont

from .dense import unpack
from .errors import InputError, printable
from .folder import amount

_SIDE, _ROW, _MARGIN = 640, 26, 6  # pixels
_PAPER, _BAR, _INK = "#ffffff", "#9ecbff", "#1f2328"
# Pillow's own font has ASCII alone. Those of Linux, macOS and Windows that have the most, wherever the system keeps them.
_FONTS = ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "NotoSansCJK-Regular.ttc", "Arial Unicode.ttf", "segoeui.ttf", "msyh.ttc")
_STRENGTH = 150  # of 255, of a mask's colours
_MARK = b"drawn by edge_demo"  # a comment of the JPEG file


def draw(picture, result):
    """Returns a picture, 640 pixels wide or high, with boxes or a mask on it, or above a bar for each class, as long as its probability.

    Args:
        picture: `PIL.Image.Image` in mode RGB.
        result: Dictionary, as `BundleModel.classify` returns it. A label for which no font has the letters is drawn as "class 17".
    """
    top = result["top"]
    factor = _SIDE / max(picture.size)
    # Large pixels stay pixels: blurred, a small picture tells less.
    how = Image.Resampling.NEAREST if factor > 1 else Image.Resampling.BICUBIC
    picture = picture.resize(tuple(max(1, round(factor * side)) for side in picture.size), how)
    if "mask" in result:
        picture = _with_mask(picture, result)
    elif "size" in result:
        return _with_boxes(picture, result)
    sheet = Image.new("RGB", (_SIDE, picture.height + _ROW * len(top)), _PAPER)
    sheet.paste(picture, ((_SIDE - picture.width) // 2, 0))
    drawing = ImageDraw.Draw(sheet)
    for row, entry in enumerate(top):
        y = picture.height + row * _ROW
        length = round(_SIDE * min(max(amount(entry), 0.0), 1.0))
        if length:
            drawing.rectangle((0, y + 2, length - 1, y + _ROW - 3), fill=_colour(entry["index"]) if "mask" in result else _BAR)
        label, font = _legible(entry)
        drawing.text((_MARGIN, y + _ROW / 2), f"{100 * amount(entry):5.1f} %  {label}", fill=_INK, font=font, anchor="lm")
    return sheet


def _with_boxes(picture, result):
    drawing, scale = ImageDraw.Draw(picture), picture.width / result["size"][0]
    for entry in reversed(result["top"]):  # the most likely last, over the others
        left, top, right, bottom = (scale * side for side in entry["box"])
        drawing.rectangle((left, top, max(left, right), max(top, bottom)), outline=_colour(entry["index"]), width=3)
        label, font = _legible(entry)
        text = f"{label} {100 * entry['probability']:.0f} %"
        below = drawing.textbbox((left, max(top, _ROW)), text, font=font, anchor="lb")
        drawing.rectangle(below, fill=_colour(entry["index"]))
        drawing.text((left, max(top, _ROW)), text, fill=_INK, font=font, anchor="lb")
    return picture


def _with_mask(picture, result):
    """Colours the pixels of each class but the background."""
    mask, scale = result["mask"], picture.width / result["size"][0]
    background = [entry["index"] for entry in result["top"] if entry["label"].casefold() == "background"]
    classes = unpack(mask)
    colours = np.array([ImageColor.getrgb(_colour(index)) for index in range(classes.max() + 1)], "uint8")[classes]
    box = [round(scale * side) for side in mask["box"]]
    size = max(1, box[2] - box[0]), max(1, box[3] - box[1])
    strength = Image.fromarray(np.where(np.isin(classes, background), 0, _STRENGTH).astype("uint8"))
    drawn = picture.copy()
    nearest = Image.Resampling.NEAREST
    drawn.paste(Image.fromarray(colours).resize(size, nearest), tuple(box[:2]), strength.resize(size, nearest))
    return drawn


def _colour(index):
    """Returns the colour of a class: light enough for dark letters. The hues of neighbours are far apart."""
    return f"hsl({index * 137.508 % 360:.0f}, 80%, 65%)"


def _legible(entry):
    """Returns the label of an answer and a font for it; where none has the letters, "class 17"."""
    label = printable(entry["label"])[:80]
    font = _find_font(label)
    return (label, font) if font is not None else (f"class {entry['index']}", _load_font(None))


def _find_font(text):
    """Returns a font that has all letters of a text, or `None`."""
    for name in (None, *_FONTS):
        font = _load_font(name)
        if font is not None and all(_drawn(name, letter) != _drawn(name, "\uffff") for letter in set(text)):
            return font
    return None


@functools.cache
def _load_font(name):
    try:
        return ImageFont.load_default(size=16) if name is None else ImageFont.truetype(name, 16)
    except OSError:
        return None


@functools.lru_cache(maxsize=10_000)
def _drawn(name, letter):
    # What a font lacks is drawn as U+FFFF, which none has.
    mask = _load_font(name).getmask(letter)
    return mask.size, bytes(mask)


class Overlays:
    """Writes drawings into a folder under the names of the pictures, `NAME-overlay.jpg`, and never over what this program did not draw.

    Args:
        folder: Path. Made if missing.
        pictures: List of the paths of all pictures.

    Raises:
        InputError: If a file has that name, or the folder cannot be made.
    """

    def __init__(self, folder, pictures):
        self._folder, self._taken = pathlib.Path(folder), {_on_any_disk(path) for path in pictures}
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            problem = "which is a file" if isinstance(error, FileExistsError) else f"which cannot be made: {error.strerror}"
            raise InputError(f"expected a folder for --save-overlay, received {str(folder)!r}, {problem}. Name another one.") from None

    def write(self, name, picture, result, again=False):
        """Draws and writes one, and returns its path.

        Args:
            name: String or path of the picture. Where that name is taken the drawing gets a number.
            picture, result: As in `draw`.
            again: Boolean. Whether it takes the place of the one before.

        Raises:
            InputError: If it cannot be written.
        """
        stem = pathlib.Path(name).stem[:50]
        numbers = itertools.count(2)
        path = self._folder / f"{stem}-overlay.jpg"
        while (_on_any_disk(path) in self._taken and not again) or not _may_be_replaced(path):
            path = self._folder / f"{stem}-{next(numbers)}-overlay.jpg"
        self._taken.add(_on_any_disk(path))
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        try:
            partial.touch(exist_ok=False)  # What has that name is somebody's.
            try:
                draw(picture, result).save(partial, format="JPEG", quality=90, comment=_MARK)
                partial.replace(path)
            except BaseException:
                with contextlib.suppress(OSError):
                    partial.unlink()
                raise
        except OSError as error:
            raise InputError(
                f"expected to write {str(path)!r}: {error.strerror or error}. Make room or give permission there, or name another folder."
            ) from error
        return path


def _may_be_replaced(path):
    """Whether nothing has this name, or a drawing of this program."""
    if not os.path.lexists(path):
        return True
    try:
        if path.is_symlink() or not path.is_file():
            return False
        with path.open("rb") as file:
            return _MARK in file.read(256)
    except OSError:
        return False


def _on_any_disk(path):
    # Macs and Windows take A.jpg and a.jpg for one file, and the two ways to write an accent too.
    return unicodedata.normalize("NFC", os.path.realpath(path)).casefold()
