"""Measures what gradient checkpointing saves: peak memory of a process and time of a step, with and without.

.venv/bin/python benchmarks/gradient_checkpointing.py > benchmarks/results/gradient_checkpointing.md
"""

import os
import platform
import resource
import subprocess
import sys
import time

MODELS = {"swin_tiny_patch4_window7_224": 16, "swinv2_tiny_patch4_window8_256": 8}


def measure(name, batch, checkpointing):
    """Prints peak memory in MB before the first and after the last step, and the fastest of three steps in seconds."""
    import keras
    import numpy as np

    import swin_keras

    model = swin_keras.create_model(name, gradient_checkpointing=checkpointing)
    model.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    pictures = np.random.default_rng(0).standard_normal((batch, *model.input_shape[1:])).astype("float32")
    classes = np.arange(batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    model.train_on_batch(pictures, classes)
    steps = []
    for _ in range(3):
        started = time.perf_counter()
        model.train_on_batch(pictures, classes)
        steps.append(time.perf_counter() - started)
    print(before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, min(steps))


def main():
    import keras
    import tensorflow as tf

    print("# Gradient checkpointing\n")
    print(f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, ", end="")
    print(f"Keras {keras.__version__}, float32, no XLA. Each row is a process of its own: `benchmarks/gradient_checkpointing.py`.\n")
    print("| model | batch | checkpointing | peak memory | of it before training | step |\n|---|---|---|---|---|---|")
    for name, batch in MODELS.items():
        for checkpointing in (False, True):
            command = [sys.executable, __file__, name, str(batch), str(int(checkpointing))]
            output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            before, peak, step = map(float, output.split()[-3:])
            print(f"| {name} | {batch} | {'yes' if checkpointing else 'no'} | {peak:,.0f} MB | {before:,.0f} MB | {step:.2f} s |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        measure(sys.argv[1], int(sys.argv[2]), sys.argv[3] == "1")
    else:
        main()
