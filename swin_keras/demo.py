"""The whole line on the built-in data set: train, export, run on the device runtime. The one module above the rooms."""

import pathlib
import shutil
import sys

from PIL import Image, ImageDraw, ImageFont

from swin_keras import training
from swin_keras.edge_demo import Classifier
from swin_keras.export import export_bundle, report

VARIANT = "swin_nano_patch4_window4_32"
RECIPES = ("float32", "float16", "dynamic_int8")
SAMPLES_PER_CLASS = 3
# The int8 file may lose this fraction of the test pictures.
MAX_ACCURACY_LOSS = 0.005


def demo(out, seed=0, log=lambda line: print(line, flush=True)):
    """Trains on handwritten digits, exports a bundle and writes test scans to classify with it.

    `out` then holds run/ (a workdir), bundle/, samples/LABEL_INDEX.png (scans as they are, 8x8; the index is that in the
    test split) and predictions.png (what the device runtime says of them). What is finished is not done again.

    Args:
        out: Path of a folder.
        seed: Integer.
        log: Function that is called with each line of progress.

    Raises:
        ValueError: If `out` holds something else, or a run with another seed.
        VerificationError: If a file differs too much from Keras, or int8 loses more than 0.5 points.
    """
    out = pathlib.Path(out)
    if out.exists() and not out.is_dir():
        raise ValueError(f"Expected a folder. Received: {str(out)!r}, which is a file.")
    if not (out / "run" / "final.keras").is_file():
        log(f"training {VARIANT} on 1,078 handwritten digits")
    model = training.train("digits", VARIANT, out / "run", seed=seed, log=log)
    images = training.load_data("digits", model.input_shape[1:])
    if not (out / "bundle" / "model.json").is_file():
        export_bundle(
            model,
            out / "bundle",
            recipes=RECIPES,
            calibration=images.inputs("validation")[0],
            labels=images.labels,
            preprocessing=images.preprocessing,
            data=[images.inputs("test")],
            weights="run/model.keras",
            max_accuracy_loss=MAX_ACCURACY_LOSS,
            log=log,
        )
    if not any((out / "samples").glob("*.png")):
        _write_samples(images, out / "samples")
    samples = sorted((out / "samples").glob("*.png"))
    if not (out / "predictions.png").is_file():
        _draw_predictions(samples, Classifier(out / "bundle"), out / "predictions.png")
    log("")
    for line in report.table(report.read(out / "bundle")):
        log(line)
    log("")
    # As it was called, so that the line can be pasted.
    program = sys.argv[0] if pathlib.Path(sys.argv[0]).name == "swin-keras" else "swin-keras"
    log(f"classify a scan:  {program} classify {samples[0]} --bundle {out / 'bundle'}")


def _write_samples(images, folder):
    scans, classes = images.splits["test"]
    partial = folder.with_name(f"{folder.name}.partial")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder for the samples. Received: {str(folder)!r}, which is a file. Remove it.")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for label in range(len(images.labels)):
        for index in (classes == label).nonzero()[0][:SAMPLES_PER_CLASS]:
            Image.fromarray(scans[index, :, :, 0]).save(partial / f"{images.labels[label]}_{index}.png")
    partial.rename(folder)


def _draw_predictions(samples, classifier, path):
    """Draws each sample with what the device runtime says of it, as one picture."""
    side, caption, margin, columns = 112, 26, 12, 10
    cell_width, cell_height = side + margin, side + caption + margin
    rows = -(-len(samples) // columns)
    sheet = Image.new("RGB", (columns * cell_width + margin, rows * cell_height + margin), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=17)
    # Down the columns: a class in each.
    for number, sample in enumerate(samples):
        best = classifier.classify(sample, top_k=1)["top"][0]
        left, top = margin + number // rows * cell_width, margin + number % rows * cell_height
        sheet.paste(Image.open(sample).resize((side, side), Image.Resampling.NEAREST), (left, top))
        colour = "#1a7f37" if best["label"] == sample.stem.split("_")[0] else "#cf222e"
        text = f"{best['label']}  {100 * best['probability']:.0f} %"
        draw.text((left + side / 2, top + side + 4), text, fill=colour, font=font, anchor="ma")
    partial = path.with_name(f"partial.{path.name}")
    sheet.save(partial)
    partial.replace(path)
