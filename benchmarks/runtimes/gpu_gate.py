"""Runs each .tflite file of a bundle on the runtime's GPU accelerator, on a GPU in software: is every operator accepted, are the outputs right?

benchmarks/runtimes/install.sh vulkan
.venv/bin/python benchmarks/runtimes/gpu_gate.py --bundle DIR [--recipe NAME ...]

Exit code 0 if so for every file; 1 if not; 2 if the bundle or the driver is missing. It is ML Drift on WebGPU, what LiteRT
runs in browsers; phones have it on other interfaces. SwiftShader has no float16: the outputs say nothing of a GPU that computes in it.
"""

import argparse
import json
import os
import pathlib
import sys

import numpy as np
from run_file import RuntimeFailed, run_in_child

# Put there by install.sh, or by Debian's package chromium-common.
DRIVERS = [pathlib.Path(__file__).parent / ".vulkan", pathlib.Path("/usr/lib/chromium")]
PICTURES = 2


def gpu_environment():
    """Returns the environment in which the accelerator finds a GPU in software.

    Raises:
        FileNotFoundError: If there is none.
    """
    for folder in DRIVERS:
        if (folder / "libvk_swiftshader.so").is_file():
            paths = filter(None, [str(folder), os.environ.get("LD_LIBRARY_PATH")])
            return {**os.environ, "LD_LIBRARY_PATH": ":".join(paths), "VK_ICD_FILENAMES": str(folder / "vk_swiftshader_icd.json")}
    raise FileNotFoundError(
        f"expected SwiftShader in {' or '.join(map(str, DRIVERS))}. Run benchmarks/runtimes/install.sh vulkan, or install Debian's chromium-common."
    )


def read_model(bundle, recipes):
    """Returns the shape of a bundle's pictures and the path of the .tflite file of each recipe, all of them if none is named.

    Raises:
        ValueError: If there is no bundle, or it lacks a recipe.
    """
    try:
        description = json.loads((bundle / "model.json").read_text())
        files = {file["recipe"]: bundle / file["file"] for file in description["files"] if file["file"].endswith(".tflite")}
        shape = description["input"]["shape"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"expected a bundle, received {str(bundle)!r} ({error!r}). Give the folder that `swin-keras export` wrote.") from error
    if lacking := [recipe for recipe in recipes or [] if recipe not in files]:
        raise ValueError(f"expected recipes of the bundle, {', '.join(files)}; received {', '.join(lacking)}.")
    return shape, {recipe: files[recipe] for recipe in recipes or files}


def judge(recipe, file, pictures, environment, timeout=None):
    """Runs a file on the CPU and on the accelerator, which may take `timeout` seconds.

    Returns:
        Whether the accelerator accepts all of the file and computes what the CPU does, and a line that says so or why not.
    """
    from swin_keras.export import verify

    expected, _ = run_in_child(file, pictures)
    try:
        received, details = run_in_child(file, pictures, "gpu", environment=environment, timeout=timeout)
    except RuntimeFailed as error:
        return False, "FAILED. " + (f"Rejected operators: {error}" if error.rejected else f"The accelerator {error}")
    reference, outputs = list(expected.values()), [received[name] for name in expected]
    measured = verify.fidelity(reference, outputs)
    verdict = "every operator is accepted" if details["fully_accelerated"] else "FAILED. Not fully accelerated"
    try:
        # Of float16 the weights alone are in half precision, and both compute with the same. The GPU multiplies the weights of dynamic_int8 in
        # float, and rounds the activations of integer recipes elsewhere.
        verify.check("float32" if recipe == "float16" else recipe, measured, reference)
    except verify.VerificationError:
        verdict = "FAILED. Every operator is accepted, the outputs are wrong"
    line = f"{verdict}; differs from the CPU by at most {measured['max_abs_diff']:.2g}, an SNR of {measured['snr_db']:.0f} dB"
    return "FAILED" not in verdict, line


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--recipe", action="append", metavar="NAME")
    arguments = parser.parse_args()
    try:
        shape, files = read_model(arguments.bundle, arguments.recipe)
        environment = gpu_environment()
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    pictures = np.random.default_rng(0).standard_normal((PICTURES, *shape[1:])).astype("float32")
    passed = True
    for recipe, file in files.items():
        passes, line = judge(recipe, file, pictures, environment)
        print(f"{recipe}: {line}", flush=True)
        passed &= passes
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
