"""Times one picture through Swin-T on a CPU: our files beside litert-torch, ONNX Runtime, PyTorch, and the matrix products alone.

.venv/bin/python benchmarks/inference.py --torch PYTHON --large > benchmarks/results/inference.md

PYTHON is an interpreter with torch 2.13.0, transformers, safetensors, onnx, onnxscript, onnxruntime and litert-torch 0.10.0; without it the
rows of the peers are left out. All candidates hold the same random weights, live in one process, and take turns, one run untimed and one
timed, in a new order each time, so that what slows the machine slows all. Conversions and peak memory are measured in processes of their
own. `--work DIR` keeps the files for the next run, which makes only those of ours again that are older than the sources. It takes 6 minutes
on 2 cores, half of that with the files there; --large takes 2 more for each layout.
"""

import argparse
import importlib.metadata
import json
import os
import pathlib
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

MODEL, LARGE = "swin_tiny_patch4_window7_224", "swin_large_patch4_window7_224"
SIZE, CLASSES, THREADS, CALIBRATION_PICTURES = 224, 1000, 2, 6
RECIPES = {"portable": ("float32", "float16", "dynamic_int8", "hybrid_int8", "full_int8"), "cpu": ("float32", "dynamic_int8", "hybrid_int8")}
WEIGHTS = "huggingface/model.safetensors"  # the name that transformers looks for
FLOOR, LITERT_TORCH, ONNX, EAGER, COMPILED = "matrix products alone", "litert-torch", "ONNX Runtime", "PyTorch", "PyTorch, compiled"
PEERS = {LITERT_TORCH: "litert_torch.tflite", ONNX: "peer.onnx", EAGER: WEIGHTS, COMPILED: WEIGHTS}
# The highest ratios of time, for the faster layout: of float32 to others, and of integers to float32, on a CPU without VNNI.
FLOAT32_GOALS = {LITERT_TORCH: 0.8, ONNX: 0.75, FLOOR: 1.15}
INTEGER_GOALS = {"hybrid_int8": 0.85, "dynamic_int8": 1.0, "full_int8": 1.3}
# The most seconds and megabytes.
CONVERSION_GOALS = {MODEL: (30, 2000), LARGE: (240, 8000)}


def make_model(name):
    """Builds the model with random values everywhere, norm scales around 1: zeros and ones would hide a wrong fold."""
    import numpy as np

    import swin_keras

    model, rng = swin_keras.create_model(name), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(float(weight.path.endswith("gamma")) + 0.1 * rng.standard_normal(weight.shape, dtype="float32"))
    return model


def make_reference(folder):
    """Writes what all candidates share: the weights, one picture, and what Keras says of it."""
    import numpy as np

    import swin_keras

    model = make_model(MODEL)
    (folder / WEIGHTS).parent.mkdir(exist_ok=True)
    swin_keras.save_weights(model, folder / WEIGHTS, layout="huggingface")
    picture = np.random.default_rng(1).standard_normal((1, SIZE, SIZE, 3)).astype("float32")
    np.save(folder / "picture.npy", picture)
    np.save(folder / "expected.npy", model.predict(picture, verbose=0))


def convert_ours(folder, name, layout):
    """Writes the float32 file, and how long it took from the model to the file."""
    from swin_keras.export import tflite, to_deploy

    model = make_model(name)
    started = time.perf_counter()
    (folder / f"{name}-{layout}-float32.tflite").write_bytes(tflite.convert(to_deploy(model, layout=layout), ["logits"]))
    record = {"seconds": time.perf_counter() - started, "megabytes": peak_megabytes()}
    (folder / f"{name}-{layout}.json").write_text(json.dumps(record))


def quantize_ours(folder, layout):
    import numpy as np
    from swin_keras.export import recipes

    pictures = np.random.default_rng(2).standard_normal((CALIBRATION_PICTURES, SIZE, SIZE, 3)).astype("float32")
    float32 = (folder / f"{MODEL}-{layout}-float32.tflite").read_bytes()
    for recipe in RECIPES[layout][1:]:
        ranges = recipes.find_ranges(float32, recipe, pictures) if recipes.RECIPES[recipe].calibrated else None
        (folder / f"{MODEL}-{layout}-{recipe}.tflite").write_bytes(recipes.quantize(float32, recipe, ranges))


def convert_floor(folder):
    """Writes a file that holds only the matrix products of Swin-T, of the same shapes.

    They are a chain: each takes the output of the one before, at most reshaped. The exception is query, key and value: cutting them out of
    their product's output would cost a copy, so that output is one of the graph's; the query is that product's input, and key and value are
    inputs of the graph, the same for all blocks of a stage, since a constant would be packed once and not at every run. The head, which
    stands behind an average, reads an input of its own.
    """
    import numpy as np
    import tensorflow as tf

    rng, stages = np.random.default_rng(0), tuple(zip((2, 2, 6, 2), (3, 6, 12, 24), (64, 16, 4, 1), strict=True))  # blocks, heads, windows
    shapes = [(1, SIZE, SIZE, 3), (1, 768), *[(windows, heads, 49, 32) for _, heads, windows in stages for _ in ("key", "value")]]

    def product(x, width):
        # Without a bias, which XNNPACK adds at no cost: of a chain without nonlinearities the converter moves biases about, and leaves sums.
        return tf.matmul(x, rng.standard_normal((x.shape[-1], width), "float32") / x.shape[-1] ** 0.5)

    @tf.function(input_signature=[tf.TensorSpec(shape) for shape in shapes])
    def products(picture, average, *keys_and_values):
        x = tf.nn.conv2d(picture, rng.standard_normal((4, 4, 3, 96), "float32"), 4, "VALID")
        x, outputs = tf.reshape(x, (-1, 96)), []
        for stage, (blocks, _, _) in enumerate(stages):
            key, value = keys_and_values[2 * stage : 2 * stage + 2]
            if stage:
                x = product(tf.reshape(x, (-1, 4 * x.shape[-1])), 2 * x.shape[-1])
            for _ in range(blocks):
                tokens, channels = x.shape
                outputs.append(product(x, 3 * channels))
                x = tf.matmul(tf.matmul(tf.reshape(x, key.shape), key, transpose_b=True), value)
                x = product(tf.reshape(x, (tokens, channels)), channels)
                x = product(product(x, 4 * channels), channels)
        return *outputs, x, product(average, CLASSES)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([products.get_concrete_function()], tf.Module())
    (folder / "floor.tflite").write_bytes(converter.convert())


def hugging_face(folder):
    """Returns the model of transformers with our weights, as a module from pictures to logits."""
    import torch
    import transformers

    torch.set_num_threads(THREADS)
    config = transformers.SwinConfig(num_labels=CLASSES)  # Swin-T is its default

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = transformers.SwinForImageClassification.from_pretrained((folder / WEIGHTS).parent, config=config)

        def forward(self, picture):
            return self.model(picture).logits

    return Logits().eval()


def convert_peers(folder):
    import litert_torch
    import torch

    model, pictures = hugging_face(folder), (torch.randn(1, 3, SIZE, SIZE),)
    litert_torch.convert(model, pictures).export(str(folder / PEERS[LITERT_TORCH]))
    # The new exporter fails on a view in this model. This one leaves traced tensors in the model, which the conversion above could not read.
    torch.onnx.export(model, pictures, folder / PEERS[ONNX], dynamo=False, opset_version=17, input_names=["image"], output_names=["logits"])


def make_runner(folder, row, file):
    """Returns a function that runs one picture, and one that then gives the logits."""
    import numpy as np

    picture = np.load(folder / "picture.npy")
    if file.endswith(".tflite"):
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(folder / file), num_threads=THREADS)
        interpreter.allocate_tensors()
        # The peer's channels come first; the floor has inputs that are no picture.
        known = {picture.shape: picture, (1, 3, SIZE, SIZE): picture.transpose(0, 3, 1, 2)}
        for details in interpreter.get_input_details():
            shape = tuple(details["shape"])
            interpreter.set_tensor(details["index"], known[shape] if shape in known else np.full(shape, 0.1, "float32"))
        return interpreter.invoke, lambda: interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    picture = np.ascontiguousarray(picture.transpose(0, 3, 1, 2))
    if file.endswith(".onnx"):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(folder / file, options, providers=["CPUExecutionProvider"])
        return (lambda: session.run(None, {"image": picture})), (lambda: session.run(None, {"image": picture})[0])
    import torch

    model, picture = hugging_face(folder), torch.from_numpy(picture)
    if row == COMPILED:
        model.compile()

    def run():
        with torch.inference_mode():
            return model(picture).numpy()

    return run, run


def measure_memory(folder, row, file):
    """Writes the peak memory of a process that loads one file and runs five pictures."""
    run, _ = make_runner(folder, row, file)
    for _ in range(5):
        run()
    (folder / "memory.json").write_text(json.dumps(peak_megabytes()))


def measure_times(folder, rows, runs):
    """Writes the milliseconds of each turn, and what each row says of the picture."""
    runners = {row: make_runner(folder, row, file) for row, file in rows.items()}
    times, order = {row: [] for row in rows}, random.Random(0)
    for _ in range(runs):
        for row in order.sample(list(rows), len(rows)):
            run, _ = runners[row]
            run()  # Threads of the one before may still spin, and its data fills the caches.
            started = time.perf_counter()
            run()
            times[row].append(1000 * (time.perf_counter() - started))
    outputs = {row: result().ravel().tolist() for row, (_, result) in runners.items() if row != FLOOR}
    peers = versions("litert-torch", "onnxruntime", "torch", "transformers") if LITERT_TORCH in rows else []
    (folder / "times.json").write_text(json.dumps({"times": times, "outputs": outputs, "versions": peers}))


def peak_megabytes():
    # Not ru_maxrss, which counts what the parent held when it started this process.
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def versions(*packages):
    return [f"{package} {importlib.metadata.version(package)}" for package in packages]


def in_process(python, folder, step, *arguments):
    """Runs a step in a process of its own. What libraries print goes to standard error."""
    command = [python, __file__, "--work", folder, "--step", step.__name__, json.dumps(arguments)]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"})


def make_files(folder, torch_python, large):
    """Makes what `folder` lacks and returns the conversions, and the rows with their files."""
    import swin_keras.export
    from swin_keras.export.deploy import LAYOUTS

    def missing(file, made_from=()):
        path = folder / file
        return not path.exists() or any(source.stat().st_mtime > path.stat().st_mtime for source in made_from)

    package = pathlib.Path(swin_keras.export.__file__).parent
    sources = [package / f"{module}.py" for module in ("deploy", "deploy_layers", "folding", "recipes", "tflite")]
    if missing(WEIGHTS):
        in_process(sys.executable, folder, make_reference)
    conversions, rows = {}, {}
    for name in (MODEL, LARGE) if large else (MODEL,):
        for layout in LAYOUTS:
            if missing(record := f"{name}-{layout}.json", sources):
                in_process(sys.executable, folder, convert_ours, name, layout)
            conversions[name, layout] = json.loads((folder / record).read_text())
    for layout in LAYOUTS:
        ours = {recipe: f"{MODEL}-{layout}-{recipe}.tflite" for recipe in RECIPES[layout]}
        if any(missing(file, [*sources, folder / ours["float32"]]) for file in ours.values()):
            in_process(sys.executable, folder, quantize_ours, layout)
        rows |= {f"{layout} {recipe}": file for recipe, file in ours.items()}
    rows[FLOOR] = "floor.tflite"
    if missing(rows[FLOOR]):
        in_process(sys.executable, folder, convert_floor)
    if torch_python:
        rows |= {row: file for row, file in PEERS.items() if row != COMPILED or shutil.which("g++")}
        if any(missing(file, [folder / WEIGHTS]) for file in PEERS.values()):
            in_process(torch_python, folder, convert_peers)
    return conversions, rows


def describe(path):
    """Returns cells: size, and of a .tflite file the highest rank and what XNNPACK runs."""
    from swin_keras.edge_demo.bench import coverage_in_words, delegate_coverage
    from swin_keras.export.tflite import count_operators

    size = f"{path.stat().st_size / 1e6:.1f} MB"
    if path.suffix != ".tflite":
        return [size, "", ""]
    content = path.read_bytes()
    return [size, str(count_operators(content)[1]), coverage_in_words(delegate_coverage(content))]


def compare(row, output, expected):
    """Says how far a row is from Keras, and ends the program if it computes something else."""
    import numpy as np

    difference = np.asarray(output) - expected
    if "int8" in row:
        return f"{10 * np.log10(np.square(expected).sum() / np.square(difference).sum()):.0f} dB"
    relative = np.abs(difference).max() / np.abs(expected).max()
    if not relative <= (1e-2 if "float16" in row else 1e-4):
        raise SystemExit(f"{row} differs from Keras by {relative:.2g} of the largest output: it is not the same function.")
    return f"{relative:.0e}"


def describe_machine():
    from swin_keras.edge_demo.bench import describe_machine

    machine, text = describe_machine(), pathlib.Path("/proc/cpuinfo").read_text()
    features = [f"{'' if feature in text else 'no '}{feature}" for feature in ("avx2", "avx512f", "avx_vnni", "avx512_vnni")]
    return f"{machine['processor']} ({', '.join(features)}), {machine['cores']} cores"


def print_table(titles, rows):
    print(f"\n| {' | '.join(titles)} |\n|{'---|' * len(titles)}")
    for cells in rows:
        print(f"| {' | '.join(cells)} |")


def report(folder, rows, conversions, memory, runs):
    import numpy as np

    measured = json.loads((folder / "times.json").read_text())
    times, outputs, expected = measured["times"], measured["outputs"], np.load(folder / "expected.npy").ravel()

    def ratio(row, other):
        # Of the same turn, for the machine's speed drifts.
        return statistics.median(a / b for a, b in zip(times[row], times[other], strict=True))

    print("# One picture through Swin-T on a CPU\n")
    print(f"{describe_machine()}; {THREADS} threads, {runs} runs, {time.strftime('%Y-%m-%d')}, `benchmarks/inference.py --runs {runs}`.")
    print(", ".join(versions("tensorflow", "keras", "litert-quantizer", "ai-edge-litert") + measured["versions"]) + ".")
    print("Milliseconds; a ratio is the median over the turns. Against Keras: largest difference over largest output, or signal over noise.")
    others = [other for other in (LITERT_TORCH, "portable float32", FLOOR) if other in times]
    table = []
    for row, taken in times.items():
        numbers = [f"{number:.1f}" for number in (statistics.median(taken), np.percentile(taken, 90), min(taken))]
        ratios = [f"{ratio(row, other):.2f}" for other in others]
        peak = f"{memory[row]:,.0f} MB" if row in memory else ""
        agreement = compare(row, outputs[row], expected) if row in outputs else ""
        table.append([row, *describe(folder / rows[row]), *numbers, *ratios, peak, agreement])
    titles = ["", "size", "highest rank", "XNNPACK runs", "median", "p90", "fastest", *(f"/ {other}" for other in others)]
    print_table([*titles, "peak memory", "against Keras"], table)
    table = [[*key, f"{record['seconds']:.1f} s", f"{record['megabytes']:,.0f} MB"] for key, record in conversions.items()]
    print_table(["conversion to float32", "layout", "time", "peak memory"], table)

    def faster(recipe):
        return min((row for row in times if row.endswith(f" {recipe}")), key=lambda row: ratio(row, "portable float32"))

    float32 = faster("float32")
    pairs = [(float32, other, limit) for other, limit in FLOAT32_GOALS.items() if other in times]
    pairs += [(faster(recipe), float32, limit) for recipe, limit in INTEGER_GOALS.items()]
    goals = [(f"{row} / {other}", ratio(row, other), limit) for row, other, limit in pairs]
    if LITERT_TORCH in memory:
        goals.append((f"peak memory, {float32} / {LITERT_TORCH}", memory[float32] / memory[LITERT_TORCH], 1.0))
    for (name, layout), record in conversions.items():
        for unit, limit in zip(("seconds", "megabytes"), CONVERSION_GOALS[name], strict=True):
            goals.append((f"{unit} of conversion, {name}, {layout}", record[unit], limit))
    verdicts = [[title, f"{limit:,}", f"{number:,.2f}", "met" if number <= limit else "missed"] for title, number, limit in goals]
    print_table(["goal", "at most", "measured", ""], verdicts)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--work", metavar="DIR", type=pathlib.Path)
    parser.add_argument("--runs", type=int, default=60)
    parser.add_argument("--large", action="store_true", help="convert Swin-L, too")
    arguments = parser.parse_args()
    if arguments.step:
        globals()[arguments.step[0]](arguments.work, *json.loads(arguments.step[1]))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.work or pathlib.Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        conversions, rows = make_files(folder, arguments.torch, arguments.large)
        memory = {}
        for row, file in rows.items():
            if row in (FLOOR, COMPILED):  # no model, and the compiler's memory rather than the model's
                continue
            in_process(sys.executable if file.endswith(".tflite") else arguments.torch, folder, measure_memory, row, file)
            memory[row] = json.loads((folder / "memory.json").read_text())
        in_process(arguments.torch or sys.executable, folder, measure_times, rows, arguments.runs)
        report(folder, rows, conversions, memory, arguments.runs)


if __name__ == "__main__":
    main()
