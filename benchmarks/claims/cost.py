"""Cost against the size of the picture: Swin-T beside a ViT-S/16 with global attention, in Keras and in .tflite files.

.venv/bin/python benchmarks/claims/cost.py --work DIR > benchmarks/claims/results/cost.md

It also draws benchmarks/claims/results/cost.svg. Each measurement has a process of its own: the model is built with random weights, run once, and
then timed for some seconds; the two models take turns, size by size. Memory is what the process holds at most, less what it held before: in Keras
with the model built; of a file before it is loaded, since the runtime packs weights and takes memory for all tensors at once. Measurements
are kept in DIR, and a second run makes those that are missing. The ViT is KerasHub's.
"""

import argparse
import ctypes
import dataclasses
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import time

import numpy as np

SIZES = (112, 168, 224, 336, 448, 672, 896)
SWIN, VIT = "Swin-T", "ViT-S/16"
RUNTIMES = {"keras": "Keras, a compiled graph", "tflite": ".tflite, 2 threads"}
MEASURES = {"flops": "multiply-adds", "latency_ms": "latency, ms", "megabytes": "memory, MB"}
# From here on the sizes that windows of 7 and patches of 16 divide say how cost grows; below, padding does.
FITTED_FROM = 224
SECONDS, LEAST_RUNS = 5.0, 3
WIDTH, LAYERS, HEADS, PATCH = 384, 12, 6, 16  # of ViT-S/16: Steiner et al., 2021, table 2, https://arxiv.org/abs/2106.10270


def build(model, size):
    if model == SWIN:
        import swin_keras

        return swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=(size, size, 3))
    import keras
    import keras_hub

    shape = {"image_shape": (size, size, 3), "patch_size": PATCH}
    body = keras_hub.models.ViTBackbone(**shape, num_layers=LAYERS, num_heads=HEADS, hidden_dim=WIDTH, mlp_dim=4 * WIDTH)
    return keras.Model(body.input, keras.layers.Dense(1000)(body.output[:, 0]))


def flops(model, size):
    """Returns the multiply-adds of all products for one picture, counted."""
    if model == SWIN:
        import swin_keras

        return dataclasses.replace(swin_keras.VARIANTS["swin_tiny_patch4_window7_224"], image_size=size).flops
    patches = (size // PATCH) ** 2
    tokens = patches + 1  # that of the class
    layer = 12 * tokens * WIDTH**2 + 2 * tokens**2 * WIDTH
    return patches * 3 * PATCH**2 * WIDTH + LAYERS * layer + 1000 * WIDTH


def convert(model, size, path):
    """Writes the model as a .tflite file: Swin through its deploy graph, both with operators that are built in."""
    from swin_keras.export import tflite, to_deploy

    built = build(model, size)
    partial = path.with_suffix(".partial")
    partial.write_bytes(tflite.convert(to_deploy(built) if model == SWIN else built, ["logits"]))
    partial.rename(path)


def make_runner(model, size, runtime, path):
    """Returns a function that runs one picture, and the memory before."""
    picture = np.random.default_rng(0).standard_normal((1, size, size, 3)).astype("float32")
    if runtime == "tflite":
        from ai_edge_litert.interpreter import Interpreter

        before = begin_peak()
        interpreter = Interpreter(str(path), num_threads=2)
        interpreter.allocate_tensors()
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], picture)
        return interpreter.invoke, before
    import tensorflow as tf

    built = build(model, size)
    # Its shape is known when it is compiled, as that of the file is.
    compiled = tf.function(lambda x: built(x, training=False)).get_concrete_function(tf.TensorSpec(picture.shape))
    picture = tf.constant(picture)
    return lambda: compiled(picture), begin_peak()


def begin_peak():
    """Begins to note the peak of memory, and returns what this process holds now, in MB."""
    ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    return megabytes("VmRSS")


def megabytes(key):
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1000


def measure(model, size, runtime, path):
    """Measures one model at one size in this process."""
    run, before = make_runner(model, size, runtime, path)
    run()
    peak = megabytes("VmHWM") - before
    times, ends = [], time.perf_counter() + SECONDS
    while len(times) < LEAST_RUNS or time.perf_counter() < ends:
        started = time.perf_counter()
        run()
        times.append(1000 * (time.perf_counter() - started))
    return {"flops": flops(model, size), "latency_ms": statistics.median(times), "megabytes": peak, "runs": len(times)}


def exponent(sizes, values):
    """Returns the power of the number of pixels by which values grow: the slope of a straight line through their logarithms."""
    fitted = [(2 * np.log(size), np.log(value)) for size, value in zip(sizes, values, strict=True) if size >= FITTED_FROM]
    return float(np.polyfit(*zip(*fitted, strict=True), 1)[0])


def collect(work, sizes):
    """Yields `(runtime, model, size, what was measured)`."""
    for size in sizes:
        for runtime in RUNTIMES:
            for model in (SWIN, VIT):
                stem = f"{model.replace('/', '-')}_{size}"
                kept, path = work / f"{stem}_{runtime}.json", work / f"{stem}.tflite"
                if not kept.exists():
                    for step in ["convert"] * (runtime == "tflite" and not path.exists()) + ["measure"]:
                        command = [sys.executable, __file__, "--step", step, model, str(size), runtime, str(path)]
                        finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                    partial = kept.with_suffix(".partial")
                    partial.write_text(finished.stdout.splitlines()[-1])
                    partial.rename(kept)
                yield runtime, model, size, json.loads(kept.read_text())


def report(rows, sizes):
    """Returns the tables as lines of markdown."""
    lines = []
    for runtime, title in RUNTIMES.items():
        lines += [f"\n## {title}\n", "| pixels | " + " | ".join(f"{model}: {words}" for words in MEASURES.values() for model in (SWIN, VIT)) + " |"]
        lines.append("|---" * (1 + 2 * len(MEASURES)) + "|")
        for size in sizes:
            cells = []
            for measure_ in MEASURES:
                for model in (SWIN, VIT):
                    value = rows[runtime, model, size][measure_]
                    cells.append(f"{value / 1e9:.2f} G" if measure_ == "flops" else f"{value:,.0f}")
            lines.append(f"| {size} × {size} | {' | '.join(cells)} |")
        powers = [
            # The weights of a file, which are the same at all sizes, are in its memory.
            "" if (runtime, key) == ("tflite", "megabytes") else f"{exponent(sizes, [rows[runtime, model, size][key] for size in sizes]):.2f}"
            for key in MEASURES
            for model in (SWIN, VIT)
        ]
        lines.append(f"| **exponent in pixels** | {' | '.join(powers)} |")
    return lines


def draw(rows, sizes, path):
    """Draws what was measured on axes of logarithms: a panel for each measure, a line for each model and runtime."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs"))
    from draw import Drawing

    drawing, side, colours = Drawing(1080, 420), 280, {SWIN: "#0072b2", VIT: "#d55e00"}
    for place, (key, words) in enumerate(MEASURES.items()):
        left, top = 60 + place * 350, 50
        drawing.text(left + side / 2, 30, words)
        values = np.log10([row[key] for row in rows.values()])
        low, high = np.floor(values.min()), np.ceil(values.max())
        drawing.rectangle(left, top, side, side, stroke="#868e96")

        def across(size, left=left):
            return left + side * np.log(size / sizes[0]) / np.log(sizes[-1] / sizes[0])

        def up(value, top=top, low=low, high=high):
            return top + side * (high - np.log10(value)) / (high - low)

        for power in range(int(low), int(high) + 1):
            drawing.text(left - 6, up(10.0**power) + 4, f"10{''.join('⁰¹²³⁴⁵⁶⁷⁸⁹'[int(digit)] for digit in str(power))}", 11, "end")
        for size in sizes:
            drawing.text(across(size), top + side + 18, size, 10)
        for (runtime, model), dash in ((pair, pair[0] == "tflite") for pair in [(r, m) for r in RUNTIMES for m in (SWIN, VIT)]):
            if key == "flops" and dash:
                continue
            drawing.line([(across(size), up(rows[runtime, model, size][key])) for size in sizes], colours[model], dash)
    for place, (model, colour) in enumerate(colours.items()):
        drawing.line([(60 + place * 160, 390), (90 + place * 160, 390)], colour, False)
        drawing.text(98 + place * 160, 394, model, anchor="start")
    drawing.text(400, 394, "whole lines: Keras; dashed: .tflite. Below: pixels along a side.", anchor="start")
    drawing.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=pathlib.Path, metavar="DIR")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--step", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step, model, size, runtime, path = arguments.step
        path = pathlib.Path(path)
        if step == "convert":
            convert(model, int(size), path)
        else:
            print(json.dumps(measure(model, int(size), runtime, path)))
        return
    if arguments.work is None:
        parser.error("--work is missing: a folder for what is measured.")
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = {}
    for runtime, model, size, row in collect(arguments.work, arguments.sizes):
        print(runtime, model, size, row, file=sys.stderr, flush=True)
        rows[runtime, model, size] = row
    draw(rows, arguments.sizes, pathlib.Path(__file__).parent / "results" / "cost.svg")
    print(
        f"# Cost against the size of the picture\n\n`benchmarks/claims/cost.py`, one picture, {platform.machine()}\n\n![The same as lines](cost.svg)"
    )
    print("\n".join(report(rows, arguments.sizes)))
    print(f"\nExponents are fitted from {FITTED_FROM} pixels on. Memory in Keras is beside the model; that of a file has its weights in it.")


if __name__ == "__main__":
    main()
