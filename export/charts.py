"""Pictures of a report, drawn with Pillow."""

from PIL import Image, ImageDraw, ImageFont

# Of Okabe and Ito, which people who do not see red or green tell apart.
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0))
_INK, _GREY, _GRID, _WHITE = (36, 41, 47), (101, 109, 118), (225, 228, 232), (255, 255, 255)


def draw_products(series, path):
    """Draws how far each matrix product's output is from float32, in order of execution: one line for each recipe.

    Args:
        series: Dictionary from recipe to a dictionary from the name of a product to its SNR in decibels.
        path: Path of the PNG.
    """
    names = list(dict.fromkeys(name for values in series.values() for name in values))
    highest = 10 * (1 + int(max((value for values in series.values() for value in values.values()), default=10) // 10))
    step = 13
    left, top, height = 70, 84, 360
    width = max(500, step * len(names))
    longest = max((_font(11).getlength(name) for name in names), default=0)
    canvas = Image.new("RGB", (left + width + 30, int(top + height + longest + 24)), _WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.text((left, 12), "Output of each matrix product against float32, dB (higher is nearer)", _INK, _font(17))
    for value in range(0, highest + 1, 10):
        y = top + height - value / highest * height
        draw.line((left, y, left + width, y), _GRID)
        draw.text((left - 8, y), str(value), _GREY, _font(12), anchor="rm")
    for place, name in enumerate(names):
        _draw_upwards(canvas, (left + step * (place + 0.5), top + height + 8), name)
    across = left
    for (recipe, values), colour in zip(series.items(), _COLOURS, strict=False):
        points = [
            (left + step * (place + 0.5), top + height - max(0.0, values[name]) / highest * height)
            for place, name in enumerate(names)
            if name in values
        ]
        draw.line(points, colour, 2)
        for x, y in points:
            draw.circle((x, y), 3, colour)
        draw.line((across, 52, across + 24, 52), colour, 4)
        draw.text((across + 32, 52), recipe, _INK, _font(14), anchor="lm")
        across += 60 + _font(14).getlength(recipe)
    canvas.save(path, "PNG")


def draw_recipes(rows, path):
    """Draws size, latency and peak memory of each recipe as bars.

    Args:
        rows: Dictionary from recipe to a dictionary from what was measured, unit included, to a number or `None`.
        path: Path of the PNG.
    """
    measures = list(next(iter(rows.values())))
    panel, left, bar = 330, 120, 26
    canvas = Image.new("RGB", (left + panel * len(measures), 70 + bar * len(rows) + 16), _WHITE)
    draw = ImageDraw.Draw(canvas)
    for place, recipe in enumerate(rows):
        draw.text((left - 10, 70 + bar * (place + 0.5)), recipe, _INK, _font(14), anchor="rm")
    for number, measure in enumerate(measures):
        start = left + panel * number
        draw.text((start, 30), measure, _INK, _font(16))
        largest = max((row[measure] or 0 for row in rows.values()), default=0) or 1
        for place, row in enumerate(rows.values()):
            y, value = 70 + bar * place, row[measure]
            length = (panel - 90) * (value or 0) / largest
            draw.rectangle((start, y + 4, start + length, y + bar - 4), _COLOURS[number % len(_COLOURS)])
            draw.text((start + length + 8, y + bar / 2), "not measured" if value is None else f"{value:.4g}", _GREY, _font(12), anchor="lm")
    canvas.save(path, "PNG")


def _draw_upwards(canvas, place, text):
    """Writes upwards; `place` is the middle of the text's end."""
    font = _font(11)
    ascent, descent = font.getmetrics()
    tile = Image.new("L", (round(font.getlength(text)) + 2, ascent + descent), 0)
    ImageDraw.Draw(tile).text((1, 0), text, 255, font)
    tile = tile.rotate(90, expand=True)
    canvas.paste(_INK, (round(place[0] - tile.width / 2), round(place[1])), tile)


def _font(size):
    return ImageFont.load_default(size=size)
