"""Exports full-size models with random weights and says what XNNPACK and the GPU accelerator, on a GPU in software, make of each file.

benchmarks/runtimes/install.sh vulkan
.venv/bin/python benchmarks/runtimes/full_size.py [--model NAME ...] [--gpu RECIPE ...] >> benchmarks/results/runtimes.md

The accelerator runs the files of --gpu, float32 if none is named, each for 20 minutes at most. Exit code 0 if XNNPACK runs every file in one
partition and the accelerator passes; 1 if not; 2 if an argument or the driver is missing. Swin-Base takes 11 GB of memory.
"""

import argparse
import gc
import importlib.metadata
import pathlib
import sys
import tempfile
import time

import numpy as np
from gpu_gate import gpu_environment, judge
from run_file import run_in_child

TINY, TINY_V2, BASE = "swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256", "swin_base_patch4_window12_384"
MODELS = {
    "Swin-V2 Tiny, 256": (TINY_V2, "create_model", {}),
    "Swin-T, 192x320": (TINY, "create_model", {"input_shape": (192, 320, 3)}),
    "Swin-T, pyramid": (TINY, "create_backbone", {"input_shape": (224, 224, 3)}),
    "Swin-Base, 384": (BASE, "create_model", {}),
}
RECIPES = ("float32", "float16", "dynamic_int8", "hybrid_int8")
SECONDS, PICTURES = 1200, 2


def make_model(name):
    """Builds a model with random values everywhere, norm scales around 1: zeros and ones would hide a wrong fold."""
    import swin_keras

    row, make, overrides = MODELS[name]
    model, rng = getattr(swin_keras, make)(row, **overrides), np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(float(weight.path.endswith("gamma")) + 0.05 * rng.standard_normal(weight.shape, dtype="float32"))
    return model


def write_files(name, folder):
    """Writes the file of each recipe; returns pictures, which the ranges of activations come from too, and the outputs of Keras by name."""
    import keras
    from swin_keras.export import recipes, tflite, to_deploy

    model = make_model(name)
    pictures = np.random.default_rng(1).standard_normal((PICTURES, *model.input_shape[1:])).astype("float32")
    expected = [model.predict_on_batch(picture[None]) for picture in pictures]
    expected = [outputs if isinstance(outputs, dict) else {"logits": outputs} for outputs in expected]
    expected = {output: np.concatenate([outputs[output] for outputs in expected]) for output in sorted(expected[0])}
    float32 = tflite.convert(to_deploy(model), list(expected))
    del model
    keras.utils.clear_session()
    gc.collect()
    for recipe in RECIPES:
        ranges = recipes.find_ranges(float32, recipe, pictures) if recipes.RECIPES[recipe].calibrated else None
        (folder / f"{recipe}.tflite").write_bytes(recipes.quantize(float32, recipe, ranges))
    return pictures, expected


def report(name, on_gpu, environment):
    """Prints the rows of a model; returns whether all is as it must be."""
    from swin_keras.edge_demo.bench import coverage_in_words, delegate_coverage
    from swin_keras.export import tflite, verify

    passed = True
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        pictures, expected = write_files(name, folder)
        for recipe in RECIPES:
            file = folder / f"{recipe}.tflite"
            content = file.read_bytes()
            coverage, rank = delegate_coverage(content), tflite.count_operators(content)[1]
            outputs, _ = run_in_child(file, pictures)
            snr = verify.fidelity(list(expected.values()), [outputs[output] for output in expected])["snr_db"]
            passes, line = judge(recipe, file, pictures, environment, SECONDS) if recipe in on_gpu else (True, "not run")
            passed &= passes and coverage["partitions"] == 1 and not coverage["left"]
            words = [f"{len(content) / 1e6:.1f} MB", str(rank), coverage_in_words(coverage), f"{snr:.0f} dB", line]
            print(f"| {name} | {recipe} | {' | '.join(words)} |", flush=True)
    return passed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--gpu", action="append", choices=RECIPES)
    arguments = parser.parse_args()
    try:
        environment = gpu_environment()
    except FileNotFoundError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from swin_keras.edge_demo.bench import describe_machine

    machine = describe_machine()
    versions = [f"{package} {importlib.metadata.version(package)}" for package in ("tensorflow", "keras", "litert-quantizer", "ai-edge-litert")]
    print(f"\n## Full-size models\n\n{time.strftime('%Y-%m-%d')}, {machine['processor']}, {machine['cores']} cores, {', '.join(versions)}.")
    print(f"`benchmarks/runtimes/full_size.py`: random weights, {PICTURES} pictures of noise, on which hybrid_int8 was calibrated too.\n")
    print("| model | recipe | size | highest rank | XNNPACK runs | SNR against Keras | GPU |\n|---|---|---|---|---|---|---|", flush=True)
    passed = [report(name, arguments.gpu or ["float32"], environment) for name in arguments.model or MODELS]
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
