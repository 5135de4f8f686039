"""Draws the pictures of architecture.md with the library's own functions: `.venv/bin/python docs/draw.py --run demo-out/run`.

What is learned comes from the model of `make demo`; without `--run` the other pictures alone are drawn. Reading the pictures back needs nothing.
"""

import argparse
import itertools
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "pictures"
GRID, WINDOW, SHIFT = (8, 8), (4, 4), (2, 2)  # the first stage of swin_nano_patch4_window4_32
WINDOWS = ["#9ecbff", "#ffd8a8", "#b2f2bb", "#eebefa"]
# Where a token was before the shift: the rest, and what wraps in columns, in rows, and in both.
REGIONS = {"": "#e9ecef", "B": "#ffd8a8", "C": "#9ecbff", "A": "#ffa8a8"}
INK, PAPER, LINE = "#1f2328", "#ffffff", "#868e96"


class Drawing:
    """An SVG file, grown piece by piece. Sizes are in pixels; numbers are rounded, so that two runs write the same bytes."""

    def __init__(self, width, height):
        self._size, self._parts = (width, height), []

    def rectangle(self, x, y, width, height, fill="none", stroke="none", thickness=1):
        edge = "" if stroke == "none" else f' stroke="{stroke}" stroke-width="{thickness:g}"'
        self._parts.append(f'<rect x="{x:.4g}" y="{y:.4g}" width="{width:.4g}" height="{height:.4g}" fill="{fill}"{edge}/>')

    def text(self, x, y, words, size=13, anchor="middle", weight="normal"):
        style = f'font-size="{size:g}" text-anchor="{anchor}" font-weight="{weight}" fill="{INK}"'
        self._parts.append(f'<text x="{x:.4g}" y="{y:.4g}" {style}>{words}</text>')

    def cells(self, x, y, side, fills, words=None, stroke=LINE):
        """A grid of squares, each with its colour and a word."""
        places, before = {}, len(self._parts)
        for (row, column), fill in np.ndenumerate(np.asarray(fills, object)):
            places.setdefault(fill, []).append(f"M{x + column * side:.4g} {y + row * side:.4g}h{side:g}v{side:g}h-{side:g}z")
            if words is not None and str(words[row][column]):
                self.text(x + (column + 0.5) * side, y + (row + 0.5) * side + 0.13 * side + 2, words[row][column], max(9, 0.4 * side))
        edge = "" if stroke == "none" else f' stroke="{stroke}" stroke-width="0.5"'
        # Below the words.
        squares = [f'<path fill="{fill}"{edge} d="{"".join(paths)}"/>' for fill, paths in places.items()]
        self._parts[before:before] = squares

    def windows(self, x, y, side, grid, window, offset=(0, 0)):
        """The borders of windows, which an offset cuts off at the edge of the grid."""
        rows, columns = (sorted({0, size, *range(start or step, size, step)}) for size, step, start in zip(grid, window, offset, strict=True))
        for top, bottom in itertools.pairwise(rows):
            for left, right in itertools.pairwise(columns):
                self.rectangle(x + left * side, y + top * side, (right - left) * side, (bottom - top) * side, stroke=INK, thickness=2.5)

    def line(self, points, colour, dashed=False):
        """A line through points, with a dot at each."""
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        self._parts.append(
            f'<polyline points="{" ".join(f"{x:.4g},{y:.4g}" for x, y in points)}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>'
        )
        self._parts += [f'<circle cx="{x:.4g}" cy="{y:.4g}" r="3" fill="{colour}"/>' for x, y in points]

    def save(self, path):
        width, height = self._size
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" font-family="sans-serif">'
        background = f'<rect width="{width}" height="{height}" fill="{PAPER}"/>'
        path.write_text("\n".join([head, background, *self._parts, "</svg>\n"]), encoding="utf-8")


def gray(values):
    """Colours from white for 0 to black for 1."""
    levels = np.rint(255 * (1 - np.clip(values, 0, 1))).astype(int)
    return np.vectorize(lambda level: f"#{level:02x}{level:02x}{level:02x}", otypes=[object])(levels)


def signed(values):
    """Colours from blue for -1 over white to red for 1."""

    def colour(value):
        fade = round(255 * (1 - min(abs(value), 1)))
        return f"#ff{fade:02x}{fade:02x}" if value > 0 else f"#{fade:02x}{fade:02x}ff"

    return np.vectorize(colour, otypes=[object])(values)


def scan():
    """Returns the scan that `make demo` writes as samples/3_12.png at 32 x 32, with ink from 0 to 1, and as the model takes it."""
    from swin_keras.training import load_data

    images = load_data("digits", (32, 32, 3))
    with images.reading():
        taken = np.asarray(images.inputs("test")[0][12:13])
    ink = taken[0, :, :, 0]
    return (ink - ink.min()) / np.ptp(ink), taken


def draw_patches(folder):
    """A picture, and the patches that become tokens."""
    drawing, side = Drawing(640, 330), 8
    ink, _ = scan()
    for x, title in ((24, "32 × 32 pixels"), (360, "8 × 8 patches of 4 × 4 pixels")):
        drawing.text(x + 16 * side, 24, title)
        drawing.cells(x, 40, side, gray(ink), stroke="none")
    for row in range(8):
        for column in range(8):
            drawing.rectangle(360 + column * 4 * side, 40 + row * 4 * side, 4 * side, 4 * side, stroke="#e03131", thickness=1.5)
    drawing.rectangle(24, 40, 32 * side, 32 * side, stroke=LINE)
    drawing.save(folder / "patches.svg")


def regions():
    """Returns the letter of each token of the grid, in its place before the shift."""
    rows, columns = (np.arange(size) < shift for size, shift in zip(GRID, SHIFT, strict=True))
    letters = np.full(GRID, "", object)
    letters[:, columns], letters[rows, :] = "B", "C"
    letters[np.ix_(rows, columns)] = "A"
    return letters


def draw_windows(folder):
    """Windows, shifted windows, and the cyclic shift that makes as few of them as before."""
    drawing, side, top = Drawing(960, 330), 34, 40
    own = np.add.outer(2 * (np.arange(GRID[0]) // WINDOW[0]), np.arange(GRID[1]) // WINDOW[1])
    letters = regions()
    moved = np.roll(letters, (-SHIFT[0], -SHIFT[1]), axis=(0, 1))
    for index, (title, fills, words, offset) in enumerate(
        [
            ("W-MSA: 4 windows", np.array(WINDOWS, object)[own], None, (0, 0)),
            ("SW-MSA: shifted by 2, 9 windows", np.vectorize(REGIONS.get)(letters), letters, SHIFT),
            ("after the cyclic shift: 4 again", np.vectorize(REGIONS.get)(moved), moved, (0, 0)),
        ]
    ):
        x = 20 + index * 320
        drawing.text(x + 4 * side, 24, title)
        drawing.cells(x, top, side, fills, words)
        drawing.windows(x, top, side, GRID, WINDOW, offset)
    drawing.save(folder / "windows.svg")


def draw_mask(folder):
    """Which tokens of the four windows after the shift attend to each other, by the mask that the model holds."""
    from swin_keras.layers.windows import shift_mask

    drawing, side = Drawing(960, 270), 13
    for index, mask in enumerate(shift_mask(GRID, WINDOW, SHIFT)):
        x = 20 + index * 238
        drawing.text(x + 8 * side, 24, f"window {index + 1}")
        drawing.cells(x, 40, side, np.where(mask == 0, "#b2f2bb", "#495057"))
    drawing.save(folder / "mask.svg")


def draw_index(folder):
    """The row of the bias table for each pair of tokens of a window of 3 x 3."""
    from swin_keras.layers.relative_position import relative_position_index

    drawing, side = Drawing(560, 400), 38
    index = relative_position_index((3, 3))
    drawing.text(20 + 4.5 * side, 24, "rows: token i, columns: token j")
    drawing.cells(20, 36, side, gray(index / 48), index)
    drawing.text(470, 24, "the table, 5 × 5 offsets")
    rows = np.arange(25).reshape(5, 5)
    drawing.cells(400, 36, 28, gray(rows / 48), rows)
    drawing.save(folder / "relative_position_index.svg")


def draw_tables(folder, model):
    """What a trained model adds to the logits of two tokens, by their offset: a square for each head of each block."""
    tables = {
        layer.name: np.asarray(layer.attn.relative_position_bias_table).reshape(7, 7, -1)
        for layer in model.layers
        if layer.name.startswith("layers_0_blocks")
    }
    heads = next(iter(tables.values())).shape[-1]
    drawing, side, largest = Drawing(90 + heads * 170, 20 + 190 * len(tables)), 21, max(np.abs(table).max() for table in tables.values())
    for row, (name, table) in enumerate(tables.items()):
        y = 30 + row * 190
        drawing.text(10, y + 3.5 * side, f"block {name[-1]}", anchor="start")
        for head in range(heads):
            x = 80 + head * 170
            drawing.text(x + 3.5 * side, y - 8, f"head {head}")
            drawing.cells(x, y, side, signed(table[..., head] / largest))
    drawing.save(folder / "bias_tables.svg")


def draw_attention(folder, model):
    """What two tokens look at in a block without and with a shift: the mean over the heads."""
    import keras

    import swin_keras
    from swin_keras.layers.windows import window_partition

    backbone = swin_keras.create_backbone("swin_nano_patch4_window4_32", input_shape=(32, 32, 3), window_fit="clamp", return_attention=True)
    for layer in backbone.layers:
        if layer.name.startswith(("patch_embed", "layers_")) and layer.weights:
            layer.set_weights(model.get_layer(layer.name).get_weights())
    ink, taken = scan()
    maps = backbone(taken)
    drawing, side, scale = Drawing(850, 580), 32, 4
    for row, (down, across) in enumerate([(3, 3), (4, 1)]):
        for column, shift in enumerate([None, (0, 0), SHIFT]):
            x, y = 20 + column * 280, 40 + row * 280
            if row == 0:
                drawing.text(x + 128, y - 10, ["the scan and the token that asks", "block 0, W-MSA", "block 1, SW-MSA"][column])
            if shift is None:
                drawing.cells(x, y, side / scale, gray(ink), stroke="none")
            else:
                weights = keras.ops.convert_to_numpy(maps[f"layers_0_blocks_{column - 1}_attention"])[0].mean(1)
                places = np.roll(np.arange(64).reshape(1, 8, 8, 1), (-shift[0], -shift[1]), axis=(1, 2))
                places = keras.ops.convert_to_numpy(window_partition(places, WINDOW))[..., 0]
                window, token = np.argwhere(places == 8 * down + across)[0]
                seen = np.zeros(64)
                seen[places[window]] = weights[window, token]
                drawing.cells(x, y, side, gray((seen / seen.max()).reshape(8, 8)))
                drawing.windows(x, y, side, GRID, WINDOW, shift)
            drawing.rectangle(x + across * side, y + down * side, side, side, stroke="#e03131", thickness=3)
    drawing.save(folder / "attention.svg")


# Those that need no trained model.
FIXED = (draw_patches, draw_windows, draw_mask, draw_index)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=pathlib.Path, metavar="DIR", help="a workdir of the digits")
    arguments = parser.parse_args()
    for draw in FIXED:
        draw(FOLDER)
    if arguments.run:
        import keras

        import swin_keras  # noqa: F401  registers the layers

        model = keras.models.load_model(arguments.run / "model.keras")
        draw_tables(FOLDER, model)
        draw_attention(FOLDER, model)


if __name__ == "__main__":
    main()
