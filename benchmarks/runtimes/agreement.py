"""Runs the files of a bundle on the same pictures in Python, a browser, an emulated arm64 and a GPU in software, and compares the classes.

for runtime in vulkan arm64 browser; do benchmarks/runtimes/install.sh $runtime; done; apt-get install chromium
.venv/bin/python benchmarks/runtimes/agreement.py --bundle DIR --pictures FILE.npy --browser --arm64 --gpu > benchmarks/results/runtimes.md

FILE.npy is float32 (n, height, width, 3), normalized. Exit code 0 if every runtime finds the classes that Python finds; 1 if not; 2 if an argument or
a runtime is missing.
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np
from gpu_gate import gpu_environment, read_model
from run_file import RuntimeFailed, run_in_child

HERE = pathlib.Path(__file__).parent
# A Raspberry Pi 5. The wheel's compiled model does not start on a Raspberry Pi 4, a cortex-a72 (illegal instruction in its WebGPU library); its
# interpreter does. "max", the default, has SME, whose integer products come out wrong in qemu 7.2.
CPU = "cortex-a76"


def read_pictures(path, shape):
    try:
        pictures = np.load(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"expected an array that numpy.save wrote, received {str(path)!r} ({error}).") from error
    if pictures.dtype != "float32" or list(pictures.shape[1:]) != shape[1:] or not len(pictures):
        expected = ", ".join(map(str, shape[1:]))
        raise ValueError(f"expected float32 pictures (n, {expected}), as the bundle's; received {pictures.dtype} {pictures.shape}.")
    return pictures


def in_python(file, pictures, accelerator="cpu", **how):
    """Returns the scores of each picture, or what went wrong, and what the runtime says of itself."""
    try:
        outputs, details = run_in_child(file, pictures, accelerator, **how)
    except RuntimeFailed as error:
        return str(error), {"fully_accelerated": False}
    return next(iter(outputs.values())), details


def in_browser(files, pictures):
    """Runs all files, on wasm and on WebGPU; returns the versions, and by runtime and recipe what `in_python` returns."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        pictures.astype("<f4").tofile(folder / "inputs.f32")
        (folder / "inputs.json").write_text(json.dumps({"shape": pictures.shape}))
        command = [shutil.which("node") or "false", HERE / "browser.mjs", "--inputs", folder, "--out", folder / "outputs.json", *files.values()]
        child = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        if child.returncode:
            problem = next((line for line in child.stderr.splitlines() if line.startswith(("Error:", "browser"))), "no Node.js")
            raise FileNotFoundError(
                f"expected Node.js 20, Debian's chromium (or CHROMIUM, its path) and what install.sh browser installs; received {problem[:200]!r}."
            )
        answer = json.loads((folder / "outputs.json").read_text())
    recipes = {str(file): recipe for recipe, file in files.items()}
    results = {"wasm": {}, "webgpu": {}}
    for run in answer["runs"]:
        scores = run.get("error") or np.array(run["outputs"], "float32")
        results[run["accelerator"]][recipes[run["file"]]] = scores, {"fully_accelerated": run.get("fully_accelerated", False)}
    return answer["versions"], {"browser, wasm": results["wasm"], "browser, WebGPU": results["webgpu"]}


def run_everywhere(arguments, files, pictures):
    """Returns the versions, and by runtime and recipe what `in_python` returns."""
    runs = {"Python": {recipe: in_python(file, pictures) for recipe, file in files.items()}}
    versions = {"ai-edge-litert": next(iter(runs["Python"].values()))[1].get("version", "that fails")}
    if arguments.browser:
        added, results = in_browser(files, pictures)
        versions.update(added)
        runs.update(results)
    if arguments.arm64:
        qemu = arguments.arm64 / "qemu-aarch64-static"
        if not qemu.is_file():
            raise FileNotFoundError(f"expected an arm64 machine in {arguments.arm64}. Run benchmarks/runtimes/install.sh arm64.")
        versions["qemu"] = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout.split()[2]
        command = [qemu, "-cpu", CPU, "-L", arguments.arm64, arguments.arm64 / "usr/bin/python3.11", "-I"]
        runs[f"Python, arm64 ({CPU})"] = {recipe: in_python(file, pictures, command=command) for recipe, file in files.items()}
    if arguments.gpu:
        environment = gpu_environment()
        runs["Python, GPU"] = {recipe: in_python(file, pictures, "gpu", environment=environment) for recipe, file in files.items()}
    return versions, runs


def report(runs, count):
    """Prints the table; returns whether every runtime finds Python's classes."""
    print("| recipe | runtime | same top-1 | largest difference | fully accelerated |\n|---|---|---|---|---|")
    right = True
    for recipe, (expected, _) in runs["Python"].items():
        for runtime, results in runs.items():
            scores, details = results[recipe]
            if isinstance(scores, str) or isinstance(expected, str):
                same, difference = 0, f"FAILED: {scores if isinstance(scores, str) else 'nothing to compare with'}"
            else:
                same, difference = int((scores.argmax(-1) == expected.argmax(-1)).sum()), f"{np.abs(scores - expected).max():.2g}"
            right &= same == count
            print(f"| {recipe} | {runtime} | {same} of {count} | {difference} | {'yes' if details['fully_accelerated'] else 'no'} |")
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", required=True, type=pathlib.Path, metavar="DIR")
    parser.add_argument("--pictures", required=True, type=pathlib.Path, metavar="FILE")
    parser.add_argument("--recipe", action="append", metavar="NAME")
    parser.add_argument("--browser", action="store_true")
    parser.add_argument("--arm64", nargs="?", type=pathlib.Path, const=HERE / ".arm64", metavar="FOLDER")
    parser.add_argument("--gpu", action="store_true")
    arguments = parser.parse_args()
    try:
        shape, files = read_model(arguments.bundle, arguments.recipe)
        pictures = read_pictures(arguments.pictures, shape)
        versions, runs = run_everywhere(arguments, files, pictures)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    flags = [flag for flag in sys.argv[1:] if flag in ("--browser", "--arm64", "--gpu")]
    print("# One bundle in several runtimes\n")
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, ", end="")
    print(", ".join(f"{name} {version}" for name, version in versions.items()), end=". ")
    print(f"`benchmarks/runtimes/agreement.py --bundle DIR --pictures FILE {' '.join(flags)}`: ", end="")
    print(f"{json.loads((arguments.bundle / 'model.json').read_text())['model']}, {len(pictures)} pictures, compared with Python here.\n")
    return 0 if report(runs, len(pictures)) else 1


if __name__ == "__main__":
    sys.exit(main())
