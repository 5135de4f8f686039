"""Pictures of a run: its curves, and which classes a model takes for which. Drawn with Pillow."""

import itertools
import math
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from swin_keras.training.files import written

# Blue and vermilion of Okabe and Ito, which people who do not see red or green tell apart.
_BLUE, _VERMILION = (0, 114, 178), (213, 94, 0)
_INK, _GREY, _GRID, _WHITE = (36, 41, 47), (101, 109, 118), (225, 228, 232), (255, 255, 255)
# Curves are drawn so many times larger and then reduced, which smooths them.
_SCALE = 4
_CURVES = [("loss", 1), ("accuracy", 100), ("learning_rate", 1)]
# Epochs up to which each has a dot.
_MAX_DOTS = 30
# Of the matrix: classes up to which cells hold their counts, the most cells across, its side in pixels, and the longest label.
_MAX_COUNTS, _MAX_CELLS, _SIDE, _MAX_LABEL = 25, 350, 700, 22


def draw_curves(rows, path):
    """Draws loss and accuracy, or else the learning rate, of each epoch in training and validation: PNG, 1200x600.

    Args:
        rows: The history: for each epoch a dictionary with `epoch` and any of `loss`, `val_loss`, `accuracy`, `val_accuracy`
            and `learning_rate`. Where one is no finite number, its curve has a gap.
        path: Path of the picture. It is written beside it, then renamed.
    """
    panels = [(key, factor) for key, factor in _CURVES if any(key in row or f"val_{key}" in row for row in rows)][:2]
    canvas = Image.new("RGB", (1200 * _SCALE, 600 * _SCALE), _WHITE)
    draw = ImageDraw.Draw(canvas)
    width = 1200 // max(1, len(panels))
    for number, (key, factor) in enumerate(panels):
        curves = {}
        for name, column, colour in [("training", key, _BLUE), ("validation", f"val_{key}", _VERMILION)]:
            points = [(row["epoch"], factor * float(row.get(column, "nan"))) for row in rows]
            pieces = [list(group) for finite, group in itertools.groupby(points, lambda point: math.isfinite(point[1])) if finite]
            if pieces:
                curves[name] = pieces, colour
        title = key.replace("_", " ") + (", percent" if factor == 100 else "")
        left = number * width
        _draw_panel(draw, (left + 80, 70, left + width - 40, 530), title, curves, [row["epoch"] for row in rows], best=max if factor == 100 else min)
    _save(canvas.resize((1200, 600), Image.Resampling.BOX), path)


def draw_confusion(matrix, labels, path):
    """Draws which classes are taken for which: right answers blue, wrong ones vermilion, by their share of the true class.

    Up to 25 classes have their counts written in. Of several hundred, neighbours share a cell.

    Args:
        matrix: Integers `(classes, classes)`, a row for each true class, a column for each predicted one.
        labels: Class names. Those that the built-in font cannot write become numbers.
        path: Path of the picture. It is written beside it, then renamed.
    """
    counts = np.asarray(matrix, "int64")
    classes = len(counts)
    group = -(-classes // _MAX_CELLS)
    cells = -(-classes // group)
    starts = np.arange(0, classes, group)
    side = max(1, _SIDE // cells) if classes > _MAX_COUNTS else min(64, _SIDE // max(8, classes))
    totals = np.add.reduceat(counts.sum(1), starts)[:, None]
    pixels, scales = np.full((cells, cells, 3), 255.0), []
    hit = np.diag(np.diag(counts))
    for name, colour, part in [("right", _BLUE, hit), ("wrong", _VERMILION, counts - hit)]:
        share = np.add.reduceat(np.add.reduceat(part, starts, 0), starts, 1) / np.maximum(totals, 1)
        full = 1.0 if colour == _BLUE else max(0.1, share.max())
        pixels -= _strength(share / full)[..., None] * np.subtract(_WHITE, colour)
        scales.append((name, colour, full))
    pixels[totals[:, 0] == 0] = (240, 240, 240)
    heat = Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype("uint8")).resize((cells * side,) * 2, Image.Resampling.NEAREST)

    font = _font(min(15, max(11, side - 3)))
    every = -(-(font.size + 3) // side)  # as many labels as there is room for
    names = [_writable(label, index) for index, label in enumerate(labels)][::group]
    margin = 14 + round(max(font.getlength(name) for name in names[::every]))
    left, top, extent = margin + 40, 64, cells * side
    canvas = Image.new("RGB", (left + max(extent, 400) + 30, top + extent + margin + 96), _WHITE)
    canvas.paste(heat, (left, top))
    draw = ImageDraw.Draw(canvas)
    total, right = int(counts.sum()), int(np.trace(counts))
    accuracy = f", {100 * right / total:.2f} % right" if total else ""
    cell = f" Each cell: {group} classes." if group > 1 else ""
    draw.text((left, 14), f"{total:,} pictures of {classes:,} classes{accuracy}", _INK, _font(19))
    draw.text((left, 40), f"Colour: share of the true class.{cell}", _GREY, _font(13))
    draw.rectangle((left - 1, top - 1, left + extent, top + extent), outline=_GREY)
    if side >= 8:
        for place in range(1, cells):
            draw.line((left + place * side, top, left + place * side, top + extent - 1), _GRID)
            draw.line((left, top + place * side, left + extent - 1, top + place * side), _GRID)
    for place in range(0, cells, every):
        middle = place * side + side / 2
        draw.text((left - 8, top + middle), names[place], _INK, font, anchor="rm")
        _draw_upwards(canvas, (left + middle, top + extent + 8), names[place], font, "top")
    _draw_upwards(canvas, (16, top + extent / 2), "true", _font(15), "middle")
    draw.text((left + extent / 2, top + extent + margin + 4), "predicted", _INK, _font(15), anchor="mt")
    if classes <= _MAX_COUNTS:
        _draw_counts(draw, counts, pixels, (left, top), side)
    for number, (name, colour, full) in enumerate(scales):
        start, bottom = left + 210 * number, top + extent + margin + 44
        strip = _WHITE - _strength(np.linspace(0, 1, 100))[None, :, None] * np.subtract(_WHITE, colour)
        canvas.paste(Image.fromarray(np.rint(strip).astype("uint8").repeat(12, 0)), (start, bottom))
        draw.rectangle((start - 1, bottom - 1, start + 100, bottom + 12), outline=_GREY)
        draw.text((start + 108, bottom + 6), name, _INK, _font(13), anchor="lm")
        draw.text((start, bottom + 18), "0 %", _GREY, _font(12), anchor="lt")
        draw.text((start + 100, bottom + 18), f"{100 * full:.0f} %", _GREY, _font(12), anchor="rt")
    _save(canvas, path)


def _draw_panel(draw, box, title, curves, epochs, best):
    """Draws axes, curves and legend into a box `(left, top, right, bottom)`, all in pixels of the finished picture."""
    left, top, right, bottom = box
    values = [value for pieces, _ in curves.values() for _, value in itertools.chain(*pieces)] or [0.0]
    low, high = min(values), max(values)
    room = 0.06 * (high - low) or 0.06 * abs(high) or 1.0
    low, high = low - room, high + room
    first, last = (min(epochs), max(epochs)) if epochs else (1, 1)
    space = max(0.5, 0.02 * (last - first))

    def place(epoch, value):
        across = left + (epoch - first + space) / (last - first + 2 * space) * (right - left)
        return across, bottom - (value - low) / (high - low) * (bottom - top)

    _text(draw, (left, top - 44), title, 20, _INK, "lt")
    for value, text in _ticks(low, high, 8) if curves else []:
        _, y = place(first, value)
        _line(draw, [(left, y), (right, y)], _GRID)
        _text(draw, (left - 9, y), text, 14, _GREY, "rm")
    for epoch, text in _ticks(first, last, 8, whole=True):
        x, _ = place(epoch, low)
        _line(draw, [(x, bottom), (x, bottom + 5)], _GREY)
        _text(draw, (x, bottom + 11), text, 14, _GREY, "mt")
    _line(draw, [(left, top), (left, bottom), (right, bottom)], _GREY)
    _text(draw, ((left + right) / 2, bottom + 40), "epoch", 15, _INK, "mt")
    if not curves:
        _text(draw, ((left + right) / 2, (top + bottom) / 2), "no finite value", 16, _GREY, "mm")

    x = left + 8
    for name, (pieces, colour) in curves.items():
        for piece in pieces:
            places = [place(*point) for point in piece]
            _line(draw, places, colour, 2.5)
            for dot in places if len(epochs) <= _MAX_DOTS or len(places) == 1 else []:
                _dot(draw, dot, 4, colour)
        if name == "validation":
            epoch, value = best(itertools.chain(*pieces), key=lambda point: point[1])
            _dot(draw, place(epoch, value), 7, _WHITE, colour)
            name += f", best {value:.4g} (epoch {epoch})"
        _line(draw, [(x, top - 10), (x + 26, top - 10)], colour, 4)
        _text(draw, (x + 34, top - 10), name, 14, _INK, "lm")
        x += 60 + _font(14).getlength(name)


def _ticks(low, high, most, whole=False):
    """Returns at most so many round numbers from `low` to `high`, evenly spaced, and how they are written."""
    span = (high - low) or 1.0
    magnitude = 10.0 ** math.floor(math.log10(span / most))
    step = next(m * magnitude for m in (1, 2, 5, 10, 20) if span / (m * magnitude) <= most - 1)
    step = max(1, round(step)) if whole else step
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    numbers = [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
    return [(number, f"{number:.{decimals}f}" if decimals < 4 and abs(number) < 1e7 else f"{number:.4g}") for number in numbers]


def _strength(share):
    return np.sqrt(share)  # makes rare errors visible


def _draw_counts(draw, counts, pixels, corner, side):
    for row, column in np.argwhere(counts):
        text, size = str(counts[row, column]), min(16, side // 2)
        while size > 6 and _font(size).getlength(text) > side - 2:
            size -= 1
        light = pixels[row, column] @ (0.299, 0.587, 0.114) > 140
        middle = corner[0] + (column + 0.5) * side, corner[1] + (row + 0.5) * side
        draw.text(middle, text, _INK if light else _WHITE, _font(size), anchor="mm")


def _draw_upwards(canvas, place, text, font, edge):
    """Writes upwards; `place` is the middle of the text's top or of the text."""
    ascent, descent = font.getmetrics()
    tile = Image.new("L", (round(font.getlength(text)) + 2, ascent + descent), 0)
    ImageDraw.Draw(tile).text((1, 0), text, 255, font)
    tile = tile.rotate(90, expand=True)
    x, y = round(place[0] - tile.width / 2), round(place[1] - (tile.height / 2 if edge == "middle" else 0))
    canvas.paste(_INK, (x, y), tile)


def _writable(label, index):
    """Returns a label as the built-in font, which knows ASCII alone, can write it: without accents, else as a number."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", str(label)) if not unicodedata.combining(c))
    if not plain.isascii() or not plain.isprintable():
        return f"class {index}"
    return plain if len(plain) <= _MAX_LABEL else plain[: _MAX_LABEL - 1] + "…"


def _line(draw, places, colour, width=1.0):
    draw.line([(x * _SCALE, y * _SCALE) for x, y in places], colour, round(width * _SCALE), joint="curve")


def _dot(draw, place, radius, fill, outline=None):
    draw.circle((place[0] * _SCALE, place[1] * _SCALE), radius * _SCALE, fill, outline, 2 * _SCALE)


def _text(draw, place, text, size, colour, anchor):
    draw.text((place[0] * _SCALE, place[1] * _SCALE), text, colour, _font(size * _SCALE), anchor=anchor)


def _font(size):
    return ImageFont.load_default(size=size)


def _save(image, path):
    with written(path) as partial:
        image.save(partial, "PNG")
