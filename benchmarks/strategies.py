"""Trains the digits model by the recipe `small` on one device, on two devices, and by two workers, and evaluates each.

.venv/bin/python benchmarks/strategies.py > benchmarks/results/strategies.md
"""

import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time

VARIANT = "swin_nano_patch4_window4_32"
STRATEGIES = {"one": ("one device", 1, 1), "mirrored": ("two logical CPUs, mirrored", 2, 1), "multiworker": ("two workers", 1, 2)}


def train(strategy, devices, workdir):
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    from swin_keras import training

    training.train("digits", VARIANT, workdir, strategy=strategy)


def start(strategy, devices, workers, workdir):
    """Starts the processes of a run, which end together."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers)]
    addresses = [f"localhost:{server.getsockname()[1]}" for server in sockets]
    for server in sockets:
        server.close()
    for index in range(workers):
        environment = dict(os.environ)
        if workers > 1:
            environment["TF_CONFIG"] = json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}})
        command = [sys.executable, __file__, strategy, str(devices), workdir]
        yield subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=sys.stderr)


def main():
    import tensorflow as tf

    from swin_keras.training import RECIPES, evaluate

    print("# The digits model under each strategy\n")
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}. `benchmarks/strategies.py`: ",
        end="",
    )
    print(f"{VARIANT}, the recipe `small` as it is ({RECIPES['small'].epochs} epochs, batch {RECIPES['small'].batch_size} ", end="")
    print("of all devices together, drop path and augmentation on), evaluated on the test pictures, which no training sees.\n")
    print("| strategy | top-1 | time |\n|---|---|---|")
    for strategy, (text, devices, workers) in STRATEGIES.items():
        with tempfile.TemporaryDirectory() as folder:
            workdir = os.path.join(folder, "run")
            started = time.perf_counter()
            codes = [process.wait() for process in list(start(strategy, devices, workers, workdir))]
            if any(codes):
                raise SystemExit(f"{strategy} ended with {codes}")
            seconds = time.perf_counter() - started
            top1 = evaluate(workdir, "digits", log=lambda line: None)["top1"]
        print(f"| {text} | {100 * top1:.2f} % | {seconds / 60:.1f} min |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        train(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    else:
        main()
