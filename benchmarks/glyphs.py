"""Makes pictures of letters, digits and signs in many fonts, and trains a Swin of three stages on them from nothing.

Nothing is downloaded but fonts, free ones that Debian packages. Those of the training, validation and test pictures are
of different families: the model is tested on letters in fonts that it has never seen.

.venv/bin/python benchmarks/glyphs.py make --out glyphs/data
.venv/bin/python benchmarks/glyphs.py train --data glyphs/data --workdir glyphs/run
.venv/bin/python benchmarks/glyphs.py show --data glyphs/data --out glyphs.png
"""

import argparse
import dataclasses
import functools
import multiprocessing
import os
import pathlib
import subprocess
import tempfile
import time

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

# Where two look alike once size and case are hidden, as O and 0 do, only one is here.
CLASSES = "ABCDEFGHJKLMNOPQRSTUVWXYZabdefghijmnrt23456789ΓΔΘΛΞΠΣΦΨΩ&?@#%$§"
# Names of Debian packages without their `fonts-`. Kin, such as Lato and Carlito or DejaVu and Hack, are on the same side.
FONTS = {
    "train": "agave anonymous-pro arapey averia-serif-gwf b612 breip cabin cmu comfortaa comic-neue courier-prime crosextra-carlito "
    "dejavu-core ebgaramond essays1743 fanwood firacode freefont-ttf gfs-didot gfs-neohellenic go goudybookletter hack inconsolata "
    "junction jura karla lato league-mono liberation manrope monofur oldstandard opendyslexic oxygen prociono quicksand "
    "roboto-slab roboto-unhinted sil-charis sil-gentium tuffy urw-base35 vollkorn yanone-kaffeesatz",
    "validation": "cantarell dosis lindenhill mononoki quattrocento sil-andika",
    "test": "cardo clear-sans crosextra-caladea fantasque-sans gfs-artemisia inter jetbrains-mono linuxlibertine open-sans paratype play "
    "sora yrsa-rasa",
}
# Signs and drawings of keys in the places of letters.
NO_ALPHABETS = {"D050000L", "StandardSymbolsPS", "LinBiolinum_K"}
COUNTS = {"train": 40_000, "validation": 2_000, "test": 6_000}
# What the official preparation for an input of 64 takes as it is: 256/224 of it, of which the centre becomes the input.
SIDE = 73
FACES_OF_A_FAMILY = 6
VARIANT = "swin_glyphs_patch4_window4_64"


def unpack_fonts(folder):
    """Downloads and unpacks the fonts of each split, where that was not done."""
    for split, names in FONTS.items():
        partial = folder / f"{split}.partial"
        if (folder / split).is_dir():
            continue
        partial.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as downloads:
            subprocess.run(["apt-get", "download", "-q", *(f"fonts-{name}" for name in names.split())], cwd=downloads, check=True)
            for package in sorted(pathlib.Path(downloads).glob("*.deb")):
                subprocess.run(["dpkg", "-x", package, partial], check=True)
        partial.rename(folder / split)


@functools.cache
def font(path):
    return ImageFont.truetype(path, 56, layout_engine=ImageFont.Layout.BASIC)


@functools.cache
def mask(path, character):
    """Returns a character as white on black with a margin, or `None` if the font lacks it."""
    drawn, missing = (font(path).getmask(text) for text in (character, "\U0010fffe"))
    # A font draws something, often a box, for what it lacks.
    if 0 in drawn.size or (drawn.size == missing.size and bytes(drawn) == bytes(missing)):
        return None
    margin = 2
    canvas = Image.new("L", (drawn.size[0] + 2 * margin, drawn.size[1] + 2 * margin))
    canvas.paste(Image.frombytes("L", drawn.size, bytes(drawn)), (margin, margin))
    return canvas


def is_alphabet(path):
    """Returns whether a font has letters of both cases, unlike symbols and small capitals."""
    masks = [mask(path, character) for character in "EeRrAaGg25"]
    if None in masks:
        return False
    shapes = [np.asarray(glyph.resize((16, 16)), float).ravel() for glyph in masks[:8]]
    return all(np.corrcoef(shapes[i], shapes[i + 1])[0, 1] < 0.9 for i in range(0, 8, 2))


def find_faces(folder):
    """Returns `{character: [[path of a face, ...] of each family, ...]}`."""
    families = {}
    for path in sorted(map(str, folder.rglob("*.[ot]tf"))):
        if pathlib.Path(path).stem not in NO_ALPHABETS and is_alphabet(path):
            families.setdefault(font(path).getname()[0], []).append(path)
    # Else the weights of one family, of which some have twenty, would be most of the pictures.
    spread = [paths[:: -(-len(paths) // FACES_OF_A_FAMILY)] for _, paths in sorted(families.items())]
    print(f"{folder.name}: {len(spread)} families, {sum(map(len, spread))} faces", flush=True)
    faces = {}
    for character in CLASSES:
        having = [[path for path in paths if mask(path, character)] for paths in spread]
        faces[character] = [paths for paths in having if paths]
    return faces


def place(rng, faces, character, size, centre):
    """Returns a character as a mask of the picture, turned, slanted and stretched."""
    families = faces[character]
    family = families[rng.integers(len(families))]
    glyph = mask(family[rng.integers(len(family))], character)
    angle, slant, stretch = rng.normal(0, 0.12), rng.normal(0, 0.12), np.exp(rng.normal(0, 0.1))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[stretch, slant], [0, 1 / stretch]]) * (size / max(glyph.size))
    inverse = np.linalg.inv(matrix)
    offset = np.array(glyph.size) / 2 - inverse @ centre
    coefficients = (*inverse[0], offset[0], *inverse[1], offset[1])
    return glyph.transform((SIDE, SIDE), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)


def paint(rng, color, strength):
    """Returns a picture of about one colour: with a gradient, and coarse or fine spots."""
    cells = int(rng.integers(2, 12))
    spots = Image.fromarray(np.uint8(rng.integers(0, 256, (cells, cells, 3)))).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    ramp = np.linspace(-1, 1, SIDE)
    gradient = (ramp[:, None] * rng.normal() + ramp * rng.normal())[..., None] * rng.normal(0, 1, 3)
    return color + strength * (gradient * 0.5 + np.asarray(spots, np.float32) / 128 - 1)


def draw(seed, split, number, faces):
    """Returns a picture, uint8 `(SIDE, SIDE, 3)`, and its class. They follow from the seed, the split and the number alone."""
    rng = np.random.default_rng((seed, list(FONTS).index(split), number))
    label = number % len(CLASSES)
    ground, ink = rng.integers(0, 256, (2, 3))
    # Ink is the darker, as in print, by what blur and noise leave legible. Were it either, few epochs would not do.
    while (ground - ink) @ (0.3, 0.59, 0.11) < 60:
        ground, ink = rng.integers(0, 256, (2, 3))
    pixels, inked = paint(rng, ground, rng.uniform(0, 30)), paint(rng, ink, rng.uniform(0, 20))

    def cover(shape, paint):
        nonlocal pixels
        share = np.asarray(shape, np.float32)[..., None] / 255
        pixels = pixels * (1 - share) + paint * share

    for _ in range(rng.integers(0, 2)):  # Neighbours, as in a line of text, which reach into the picture.
        direction, distance = rng.uniform(0, 2 * np.pi), rng.uniform(38, 46)
        centre = SIDE / 2 + distance * np.array([np.cos(direction), np.sin(direction)])
        neighbour = place(rng, faces, CLASSES[rng.integers(len(CLASSES))], rng.uniform(24, 40), centre)
        cover(neighbour, inked if rng.random() < 0.5 else rng.integers(0, 256, 3))
    cover(place(rng, faces, CLASSES[label], rng.uniform(34, 50), SIDE / 2 + rng.uniform(-4, 4, 2)), inked)
    if rng.random() < 0.25:  # Something thin before it.
        line = Image.new("L", (SIDE, SIDE))
        ImageDraw.Draw(line).line([(0, rng.uniform(0, SIDE)), (SIDE, rng.uniform(0, SIDE))], 255, int(rng.integers(1, 5)))
        cover(line.rotate(90) if rng.random() < 0.5 else line, rng.integers(0, 256, 3))
    blurred = Image.fromarray(np.uint8(pixels.clip(0, 255))).filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    noisy = np.asarray(blurred, np.float32) + rng.normal(0, rng.uniform(0, 12), (SIDE, SIDE, 3))
    return np.uint8(noisy.clip(0, 255)), label


def make(out, seed=0):
    """Writes train.npz, validation.npz and test.npz, each with `pictures` and `classes`."""
    out.mkdir(parents=True, exist_ok=True)
    unpack_fonts(out / "fonts")
    for split, count in COUNTS.items():
        faces = find_faces(out / "fonts" / split)
        with multiprocessing.Pool() as pool:
            drawn = pool.map(functools.partial(draw, seed, split, faces=faces), range(count), chunksize=500)
        pictures, classes = zip(*drawn, strict=True)
        np.savez(out / f"{split}.npz", pictures=np.stack(pictures), classes=np.array(classes))


def read(data, split):
    """Returns a split as a `tf.data.Dataset` of pictures and classes."""
    import tensorflow as tf

    with np.load(data / f"{split}.npz") as file:
        return tf.data.Dataset.from_tensor_slices((file["pictures"], file["classes"]))


def add_variant():
    """Enters the architecture into the table."""
    import swin_keras

    nano = swin_keras.VARIANTS["swin_nano_patch4_window4_32"]
    changes = {"embed_dim": 32, "depths": (2, 2, 4), "num_heads": (2, 4, 8), "image_size": 64, "num_classes": len(CLASSES), "data": "glyphs"}
    swin_keras.VARIANTS[VARIANT] = dataclasses.replace(nano, **changes)


def train(data, workdir):
    """Trains, or goes on, and prints the accuracy on the test pictures."""
    from swin_keras import training

    add_variant()
    settings = {"learning_rate": 1e-3, "min_learning_rate": 1e-5, "warmup_epochs": 1, "weight_decay": 0.1}
    training.train(
        read(data, "train"), VARIANT, workdir, epochs=7, batch_size=64, settings=settings, validation=read(data, "validation"), labels=list(CLASSES)
    )
    result = training.evaluate(workdir, read(data, "test"))
    print(f"test: {100 * result['top1']:.2f} % of {result['samples']:,} pictures")


def show(data, out, rows=6, columns=10):
    """Draws test pictures with their classes, as the model sees them."""
    with np.load(data / "test.npz") as file:
        chosen = np.random.default_rng(0).choice(len(file["classes"]), rows * columns, replace=False)
        pictures, classes = file["pictures"][chosen], file["classes"][chosen]
    sheet = Image.new("RGB", (columns * 80, rows * 100), "white")
    letters = ImageFont.truetype(next((data / "fonts/train").rglob("DejaVuSans.ttf")), 16)
    for index, (picture, label) in enumerate(zip(pictures, classes, strict=True)):
        left, top = index % columns * 80, index // columns * 100
        sheet.paste(Image.fromarray(picture[4:68, 4:68]), (left + 8, top + 4))
        ImageDraw.Draw(sheet).text((left + 34, top + 74), CLASSES[label], "black", letters)
    sheet.resize((sheet.width * 2, sheet.height * 2)).save(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for function, arguments in [(make, ["out"]), (train, ["data", "workdir"]), (show, ["data", "out"])]:
        command = commands.add_parser(function.__name__)
        command.set_defaults(function=function)
        for argument in arguments:
            command.add_argument(f"--{argument}", type=pathlib.Path, required=True)
    given = vars(parser.parse_args())
    name, function = given.pop("command"), given.pop("function")
    started = time.perf_counter()
    function(**given)
    used = sum(os.times()[:4])  # of this process and its children
    print(f"{name}: {time.perf_counter() - started:.0f} s, {used:.0f} s of processor time")


if __name__ == "__main__":
    main()
