"""Shows what each measure against the loss of quantization brings, on trained models: top-1 and SNR of every recipe, measure by measure.

.venv/bin/python benchmarks/quantization.py --digits RUN --glyphs RUN DATA > benchmarks/results/quantization.md

A RUN is a workdir: of `swin-keras demo` (its run/), and of `benchmarks/glyphs.py train`, whose `make` wrote DATA. Ranges are found on 128 training
pictures, all else is measured on the test pictures, which nothing was chosen by.
"""

import argparse
import contextlib
import functools
import pathlib
import platform
import sys
import time

import glyphs
import numpy as np
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import load_source, migration, recipes, sensitivity, tflite, to_deploy
from swin_keras.export.bundle import MIGRATED_SAMPLES, versions

CALIBRATION = 128
# The most points of top-1 that a recipe may lose, and the decibels that it should keep: issue goals, of which float16 has none.
GOALS = {"dynamic_int8": (0.3, 30), "hybrid_int8": (0.3, 30), "full_int8": (1.0, None), "int16x8": (1.0, None)}


def digits(source):
    """Returns calibration pictures, test pictures and their classes."""
    from swin_keras.training import load_data

    images = load_data("digits", source.model.input_shape[1:], preprocessing=source.preprocessing)
    with images.reading():
        return images.sample("train", CALIBRATION), *images.inputs("test")


def drawn(source, data):
    """The same, of `benchmarks/glyphs.py`."""

    def prepared(split, step=1):
        rows = glyphs.read(data, split).shard(step, 0).map(lambda picture, label: (source.preprocessing.pixels(picture), label)).batch(500)
        pictures, classes = zip(*rows.as_numpy_iterator(), strict=True)
        return source.preprocessing.normalize(np.concatenate(pictures)).numpy(), np.concatenate(classes)

    train, _ = prepared("train", glyphs.COUNTS["train"] // CALIBRATION)
    return train[:CALIBRATION], *prepared("test")


def moving_average(model, recipe, pictures):
    """The ranges that the quantizer itself finds."""
    from litert_quantizer.quantizer import Quantizer

    quantizer = Quantizer(model, recipes.RECIPES[recipe].quantization(model, (), False).get_quantization_recipe())
    return quantizer.calibrate({"serving_default": [{"image": picture[None]} for picture in pictures]}, num_threads=2)


@contextlib.contextmanager
def silence():
    """Keeps the quantizer's own statistics out of the result."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def plain(model, recipe, pictures):
    """A file by the quantizer as it comes: its own calibration, masks as they are."""
    from litert_quantizer.quantizer import Quantizer

    quantizer = Quantizer(model, recipes.RECIPES[recipe].quantization(model, (), False).get_quantization_recipe())
    with silence():
        return bytes(quantizer.quantize(moving_average(model, recipe, pictures)).quantized_model)


def without_clip(model, recipe, pictures):
    from litert_quantizer.quantizer import Quantizer
    from litert_quantizer.utils.qsv_utils import min_max_update

    ranges = {}
    for picture in pictures:
        for name, limits in moving_average(model, recipe, [picture]).items():
            ranges[name] = min_max_update(ranges.get(name), limits) if limits else limits
    quantizer = Quantizer(model, recipes.RECIPES[recipe].quantization(model, (), False).get_quantization_recipe())
    with silence():
        return bytes(quantizer.quantize(ranges).quantized_model)


def ours(model, recipe, pictures, percentile=100.0):
    ranges = recipes.find_ranges(model, recipe, pictures, percentile) if recipes.RECIPES[recipe].calibrated else None
    return recipes.quantize(model, recipe, ranges)


def convert(model, pictures, scaled):
    deploy = to_deploy(model, scaled=scaled)
    migration.migrate([deploy], pictures[:MIGRATED_SAMPLES])
    return tflite.convert(deploy, ["logits"])


def measure(title, run, read):
    source = load_source(run)
    calibration, pictures, classes = read(source)
    expected = source.model.predict(pictures, batch_size=64, verbose=0)
    right = np.mean(expected.argmax(-1) == classes)
    float32 = tflite.convert(to_deploy(source.model), ["logits"])
    attention, everywhere = (convert(source.model, calibration, scaled) for scaled in (False, True))

    def outputs(content, x):
        model = TFLiteModel(content)
        return np.concatenate([model(picture[None]) for picture in x])

    def points_lost(content):
        return 100 * float(np.mean(outputs(content, calibration).argmax(-1) != reference.argmax(-1)))

    reference = outputs(float32, calibration)
    print(f"\n## {title}\n\n{source.model.count_params():,} parameters, input {source.model.input_shape[1:]}, {len(pictures):,} test pictures.\n")
    print("| recipe | measure | top-1 | points lost | agreement with Keras | SNR | |\n|---|---|---|---|---|---|---|")
    print(f"| Keras | | {100 * right:.2f} % | | | | |", flush=True)

    def row(recipe, measure, content, final=False):
        received = outputs(content, pictures)
        lost, agreement = 100 * (right - np.mean(received.argmax(-1) == classes)), np.mean(received.argmax(-1) == expected.argmax(-1))
        snr = 10 * np.log10(np.square(expected, dtype="float64").sum() / np.square(expected - received, dtype="float64").sum())
        verdict = ""
        if final and recipe in GOALS:
            points, decibels = GOALS[recipe]
            verdict = "goal met" if lost <= points + 1e-9 and (decibels is None or snr >= decibels) else "goal missed"
        print(
            f"| {recipe} | {measure} | {100 * (right - lost / 100):.2f} % | {lost:.2f} | {100 * agreement:.2f} % | {snr:.1f} dB | {verdict} |",
            flush=True,
        )

    row("float32", "", float32)
    row("float16", "", recipes.quantize(float32, "float16"))
    for recipe, (points, _) in GOALS.items():
        calibrated = recipes.RECIPES[recipe].calibrated
        ranges = recipes.find_ranges(attention, recipe, calibration) if calibrated else None
        if calibrated:
            row(recipe, "the quantizer as it comes: moving average of ranges", plain(float32, recipe, calibration))
            row(recipe, "true minima and maxima", without_clip(float32, recipe, calibration))
        if recipes.RECIPES[recipe].clips_masks:
            row(recipe, "+ masks 32 below the rest", ours(float32, recipe, calibration))
        words, source = ("+ migration in attention", attention) if calibrated else ("as it comes", float32)
        row(recipe, f"**{words}: the default**", ours(source, recipe, calibration), final=True)
        if calibrated:
            row(recipe, "+ percentile 99.99 (`--percentile 99.99`)", ours(attention, recipe, calibration, 99.99))
        row(recipe, "+ migration everywhere (`--migrate`)", ours(everywhere, recipe, calibration))
        for budget in (points, points / 3):
            content, kept = sensitivity.choose(attention, recipe, ranges, calibration, points_lost, budget)
            names = f": {', '.join(kept[:4])}{', ...' * (len(kept) > 4)}" if kept else ""
            row(recipe, f"+ sensitivity (`--accuracy-budget {budget:.2g}`): {len(kept)} in float32{names}", content)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", metavar="RUN", type=pathlib.Path)
    parser.add_argument("--glyphs", metavar=("RUN", "DATA"), nargs=2, type=pathlib.Path)
    arguments = parser.parse_args()

    print("# What quantization loses, and what each measure against it brings\n")
    print(f"{platform.machine()}, {time.strftime('%Y-%m-%d')}, " + ", ".join(f"{name} {version}" for name, version in versions().items()) + ".")
    print("`benchmarks/quantization.py --digits RUN --glyphs RUN DATA`.")
    if arguments.digits:
        measure("Handwritten digits (8x8 scans, 32x32 input)", arguments.digits, digits)
    if arguments.glyphs:
        run, data = arguments.glyphs
        measure("Glyphs in fonts never seen (64x64)", run, functools.partial(drawn, data=data))


if __name__ == "__main__":
    main()
