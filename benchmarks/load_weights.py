"""Time and peak memory of loading a checkpoint into a model that is built already, in a process of its own.

    python benchmarks/load_weights.py write swin_large_patch4_window7_224 large.safetensors
    python -c "import torch, safetensors.torch as s; torch.save({'model': s.load_file('large.safetensors')}, 'large.pth')"  # with torch
    python benchmarks/load_weights.py load swin_large_patch4_window7_224 large.safetensors large.pth

Peak memory is the highest resident size while loading, less what the process had before it: the built model and TensorFlow.
Each file is read once before, so that it is in the system's cache. The result to expect: benchmarks/results/load_weights.md.
The last line is the same as JSON.
"""

import argparse
import json
import pathlib
import platform
import resource
import subprocess
import sys
import time

import numpy as np


def write(name, path):
    import keras

    import swin_keras

    model = swin_keras.create_model(name)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape, dtype="float32") * 0.02)
    swin_keras.save_weights(model, path)
    print(f"{path}: {pathlib.Path(path).stat().st_size / 1e6:.0f} MB, Keras {keras.__version__}")


def resident(kind):
    line = next(line for line in pathlib.Path("/proc/self/status").read_text().splitlines() if line.startswith(kind))
    return int(line.split()[1]) * 1024


def load(name, path):
    """Loads one file and prints one line of JSON."""
    import swin_keras

    started = time.perf_counter()
    model = swin_keras.create_model(name)
    build = time.perf_counter() - started
    pathlib.Path(path).read_bytes()
    before = resident("VmRSS:")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    started = time.perf_counter()
    swin_keras.load_weights(model, path)
    seconds = time.perf_counter() - started
    size = pathlib.Path(path).stat().st_size
    parameters = 4 * model.count_params()
    print(
        json.dumps(
            {
                "file": pathlib.Path(path).name,
                "file_mb": round(size / 1e6),
                "model_mb": round(parameters / 1e6),
                "load_seconds": round(seconds, 2),
                "build_seconds": round(build, 2),
                "peak_beyond_model_mb": round((resident("VmHWM:") - before) / 1e6),
                "peak_process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6),
                "peak_over_file": round((resident("VmHWM:") - before) / size, 2),
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=["write", "load", "load-here"])
    parser.add_argument("name")
    parser.add_argument("files", nargs="+")
    arguments = parser.parse_args()
    if arguments.command != "load":
        for path in arguments.files:
            {"write": write, "load-here": load}[arguments.command](arguments.name, path)
        return
    rows = []
    for path in arguments.files:
        run = subprocess.run([sys.executable, __file__, "load-here", arguments.name, path], check=True, capture_output=True, text=True)
        rows.append(json.loads(run.stdout.splitlines()[-1]))
    print(f"{arguments.name} on {platform.machine()}, Python {platform.python_version()}\n")
    print("| file | size | model | load | peak beyond the built model | of the file |\n|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row['file_mb']} MB", f"{row['model_mb']} MB", f"{row['load_seconds']} s", f"{row['peak_beyond_model_mb']} MB"]
        print(" | ".join(["| " + row["file"], *cells, f"{row['peak_over_file']} |"]))
    print(json.dumps({"model": arguments.name, "rows": rows}))


if __name__ == "__main__":
    main()
