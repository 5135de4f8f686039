"""Compresses trained models while they train on, and shows what comes of it: accuracy, bytes, zipped bytes and latency of each file.

.venv/bin/python benchmarks/compression.py --digits RUN --out compressed > benchmarks/results/compression.md
.venv/bin/python benchmarks/compression.py --glyphs RUN DATA --out compressed

A RUN is a workdir: of `swin-keras demo` (its run/), and of `benchmarks/glyphs.py train`, whose `make` wrote DATA. Trained models and bundles are
kept in the folder given as `--out`; what is there is not made again. Nothing was chosen by the test pictures, on which accuracy is measured.
"""

import argparse
import json
import pathlib
import platform
import sys

import numpy as np

# What is done while training, and which files are made of it. `None`: there is none, and `()`: as much of it, with nothing else.
PLAIN = ("float32", "dynamic_int8")
RUNS = [
    (None, ("float32", "dynamic_int8", "dynamic_int4", "hybrid_int8", "full_int8")),
    ((), ("float32",)),
    (("prune:0.5",), PLAIN),
    (("prune:0.8",), PLAIN),
    (("prune:2:4",), PLAIN),
    (("cluster:16",), PLAIN),
    (("cluster:8",), PLAIN),
    (("prune:0.5", "cluster:16"), PLAIN),
    (("qat:hybrid_int8",), ("hybrid_int8",)),
    (("qat:full_int8",), ("full_int8",)),
    (("qat:dynamic_int4",), ("dynamic_int4",)),
    (("prune:0.5", "qat:hybrid_int8"), ("hybrid_int8",)),
]
# A tenth of the learning rate that trained the model.
SETTINGS = {"learning_rate": 1e-4, "min_learning_rate": 1e-6, "warmup_epochs": 0, "weight_decay": 0.05, "jit_compile": False}


def log(line):
    print(line, file=sys.stderr, flush=True)


def digits(run):
    """Returns the arguments of training, test pictures and their classes, and the calibration pictures."""
    from swin_keras.training import load_data

    images = load_data("digits", (32, 32, 3))
    with images.reading():
        return {"data": "digits", "variant": "swin_nano_patch4_window4_32", "epochs": 10}, *images.inputs("test"), images.sample("train", 128)


def drawn(run, data):
    """The same, of `benchmarks/glyphs.py`."""
    import glyphs
    import quantization
    from swin_keras.export import load_source

    glyphs.add_variant()
    calibration, pictures, classes = quantization.drawn(load_source(run), data)
    own = {"data": glyphs.read(data, "train"), "validation": glyphs.read(data, "validation"), "labels": list(glyphs.CLASSES)}
    return {**own, "variant": glyphs.VARIANT, "epochs": 1}, pictures, classes, calibration


def compress(name, run, out, arguments, pictures, classes, calibration):
    """Trains and exports, and yields `(what was done, recipe, path of the file, accuracy)`."""
    import keras
    from swin_keras.export import export_bundle

    from swin_keras.training import train

    for words, recipes in RUNS:
        done = "none" if words is None else ", ".join(words) or "trained on"
        folder = out / name / done.replace(", ", "_").replace(":", "-").replace(" ", "_")
        bundle = folder / "bundle"
        if not (bundle / "report.json").is_file():
            model = keras.models.load_model(run / "model.keras")
            if words is not None:
                log(f"{name}: {done}")
                model = train(
                    workdir=folder / "run", weights=run / "model.keras", compress=words, settings=SETTINGS, recipe="small", log=log, **arguments
                )
            export_bundle(model, bundle, recipes, calibration=[calibration], data=[(pictures, classes)])
        report = json.loads((bundle / "report.json").read_text())
        for recipe in recipes:
            yield done, recipe, bundle / f"{recipe}.tflite", report["recipes"][recipe]


def between_kernels(path, pictures):
    """Returns how far XNNPACK and TensorFlow Lite's own kernels are from each other on one file, in decibels."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType
    from swin_keras.export.verify import fidelity

    def run(resolver):
        interpreter = Interpreter(str(path), experimental_op_resolver_type=resolver, num_threads=2)
        interpreter.allocate_tensors()
        (given,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
        rows = []
        for picture in pictures:
            interpreter.set_tensor(given["index"], picture[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(output["index"])[0])
        return [np.stack(rows)]

    return fidelity(run(OpResolverType.BUILTIN), run(OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES))["snr_db"]


def table(name, rows, pictures):
    """Prints a table, with latencies measured in turns."""
    from swin_keras.edge_demo.bench import measure_latencies
    from swin_keras.edge_demo.classifier import TFLiteModel

    runs = {index: TFLiteModel(path.read_bytes(), 2).outputs for index, (_, _, path, _) in enumerate(rows)}
    latencies = measure_latencies(runs, pictures[:1], 2)
    whole = rows[0][2].stat().st_size
    sizes = "top-1 | .tflite | zipped | zipped / float32 | latency / float32"
    head = f"while training | file | {sizes} | file to its model | same top-1 as its model | XNNPACK to other kernels"
    print(f"\n## {name}\n\n| {head} |\n{10 * '|---'}|")
    for index, (words, recipe, path, measured) in enumerate(rows):
        size = measured["zipped_bytes"]
        ratio = latencies[index]["median"] / latencies[0]["median"]
        print(
            f"| {words} | {recipe} | {100 * measured['top1']:.2f} % | {path.stat().st_size:,} | {size:,} | {size / whole:.3f} | {ratio:.2f} "
            f"| {measured['fidelity']['snr_db']:.1f} dB | {100 * measured['fidelity']['top1_agreement']:.2f} % "
            f"| {between_kernels(path, pictures[:128]):.1f} dB |",
            flush=True,
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--digits", type=pathlib.Path, metavar="RUN")
    parser.add_argument("--glyphs", type=pathlib.Path, nargs=2, metavar=("RUN", "DATA"))
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    from swin_keras.export.bundle import versions

    print(
        "# Compression while training\n\n`benchmarks/compression.py`, 2 threads,",
        platform.machine(),
        ", ".join(f"{k} {v}" for k, v in versions().items()),
    )
    for name, make, given in [("glyphs", drawn, arguments.glyphs), ("digits", digits, arguments.digits)]:
        if given is None:
            continue
        given = given if isinstance(given, list) else [given]
        prepared, pictures, classes, calibration = make(*given)
        rows = list(compress(name, given[0], arguments.out, prepared, pictures, classes, calibration))
        table(f"{name}, {len(classes):,} test pictures", rows, np.asarray(pictures, "float32"))


if __name__ == "__main__":
    main()
