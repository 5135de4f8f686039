"""Times Swin-T against its peers, alternating: a training step, predict, building plus the first step, and peak memory.

.venv/bin/python benchmarks/peers.py --torch PYTHON --tfswin CLONE > benchmarks/results/peers.md

KerasHub is among the test dependencies. PYTHON is an interpreter with torch 2.13.0 and transformers 5.24.0; CLONE a checkout of
https://github.com/shkarupa-alex/tfswin at 4.1.1. Without them their rows are left out. Each row is a process of its own; all live at
once, which takes 20 GB, and take turns, a step each, so that what slows the machine slows all.
"""

import argparse
import dataclasses
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

BATCH, SIZE, CLASSES, DROP_PATH = 8, 224, 1000, 0.2
OURS = "swin-keras"
HUGGING_FACE = "Hugging Face (PyTorch)"
# TensorFlow with oneDNN's kernels, as swin_keras sets it, and as it comes on this machine; XLA is what Keras takes if nothing is said.
ROWS = [
    OURS,
    f"{OURS}, XLA",
    "KerasHub",
    "KerasHub, oneDNN",
    "KerasHub, oneDNN, XLA",
    "tfswin",
    "tfswin, oneDNN",
    "tfswin, oneDNN, XLA",
    HUGGING_FACE,
]


def make_keras(row):
    """Returns a training step and a prediction of a Keras library, functions without arguments, and the model's number of weights."""
    if row.startswith(OURS):
        import swin_keras
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05, global_clipnorm=5.0)
    if row.startswith(OURS):
        from swin_keras.training.optimizer import make_optimizer
        from swin_keras.training.recipes import RECIPES

        model = swin_keras.create_model("swin_tiny_patch4_window7_224", drop_path_rate=DROP_PATH)
        optimizer = make_optimizer(dataclasses.replace(RECIPES["imagenet_300"], batch_size=BATCH), model, steps_per_epoch=1000)
        optimizer.build(model.trainable_variables)
    elif row.startswith("KerasHub"):
        import keras_hub

        backbone = keras_hub.models.SwinTransformerBackbone(
            (SIZE, SIZE, 3), embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24), window_size=7, drop_path=DROP_PATH
        )
        task = keras_hub.models.SwinTransformerImageClassifier(backbone, CLASSES, preprocessor=None)
        model = keras.Model(task.inputs, task.outputs)  # without the metrics that the task chooses
    else:
        from tfswin import SwinTransformerTiny224

        model = SwinTransformerTiny224(
            weights=None, classes=CLASSES, classifier_activation=None, include_preprocessing=False, path_drop=DROP_PATH, input_shape=(SIZE, SIZE, 3)
        )
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    model.compile(optimizer, loss, jit_compile=row.endswith("XLA"))
    random = np.random.default_rng(0)
    pictures = random.standard_normal((BATCH, SIZE, SIZE, 3)).astype("float32")
    classes = np.eye(CLASSES, dtype="float32")[random.integers(0, CLASSES, BATCH)]
    return (lambda: model.train_on_batch(pictures, classes)), (lambda: model.predict_on_batch(pictures)), model.count_params()


def make_torch():
    import torch
    import transformers

    torch.manual_seed(0)
    model = transformers.SwinForImageClassification(transformers.SwinConfig(drop_path_rate=DROP_PATH, num_labels=CLASSES))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4, weight_decay=0.05)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    pictures = torch.randn(BATCH, 3, SIZE, SIZE)
    classes = torch.randint(0, CLASSES, (BATCH,))

    def step():
        model.train()
        optimizer.zero_grad()
        loss(model(pictures).logits, classes).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimizer.step()

    def predict():
        model.eval()
        with torch.inference_mode():
            return model(pictures).logits.numpy()

    return step, predict, sum(parameter.numel() for parameter in model.parameters())


def serve(row):
    """Builds a model, takes a step, then takes orders from standard input. Answers each with two numbers, first of all how long that took."""
    # Imports are left out: what they take depends on the disk.
    if row == HUGGING_FACE:
        import transformers  # noqa: F401
    elif row.startswith(OURS):
        import swin_keras  # noqa: F401
    else:
        import keras  # noqa: F401
    started = time.perf_counter(), time.process_time()
    step, predict, weights = make_torch() if row == HUGGING_FACE else make_keras(row)
    step()
    answer(time.perf_counter() - started[0], time.process_time() - started[1])
    for line in sys.stdin:
        order = line.strip()
        if order == "memory":
            answer(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, weights)
            continue
        started = time.perf_counter(), time.process_time()
        {"step": step, "predict": predict}[order]()
        answer(time.perf_counter() - started[0], time.process_time() - started[1])


def answer(*numbers):
    print(*numbers, flush=True)


class Worker:
    """A process that serves a row."""

    def __init__(self, row, python, environment):
        command, environment = [python, __file__, "--serve", row], {**os.environ, **environment}
        environment["TF_ENABLE_ONEDNN_OPTS"] = str(int(row.startswith(OURS) or "oneDNN" in row))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
        self.first = self.read()
        self.times = {"step": [], "predict": []}

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(self.process.args)} ended with code {self.process.wait()}")
        return tuple(map(float, line.split()))

    def ask(self, order):
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return self.read()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--torch", metavar="PYTHON")
    parser.add_argument("--tfswin", metavar="CLONE")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--rows", nargs="*", default=ROWS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    needed = {"tfswin": arguments.tfswin, HUGGING_FACE: arguments.torch}
    workers = {}
    for row in arguments.rows:
        if needed.get(row.split(",")[0], True) is None:
            continue
        python = arguments.torch if row == HUGGING_FACE else sys.executable
        workers[row] = Worker(row, python, {"PYTHONPATH": arguments.tfswin} if row.startswith("tfswin") else {})
    for order in ("step", "predict"):
        for turn in range(arguments.rounds + 1):
            for worker in workers.values():
                seconds = worker.ask(order)
                if turn:  # The first of each is warm-up.
                    worker.times[order].append(seconds)
    report(workers, arguments.rounds)


def report(workers, rounds):
    import keras
    import tensorflow as tf

    print("# Swin-T beside its peers on a CPU\n")
    print(
        f"{time.strftime('%Y-%m-%d')}, {platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, Keras {keras.__version__}. ", end=""
    )
    print(f"Swin-T, float32, batch {BATCH}, {SIZE}x{SIZE}, AdamW, clipping at norm 5, drop path {DROP_PATH}. Medians of {rounds} rounds ", end="")
    print("in which each takes one step; in brackets processor seconds. The first step includes building the model, not imports.\n")
    print("| | training step | predict | build and first step | peak memory | weights |\n|---|---|---|---|---|---|")
    medians = {}
    for row, worker in workers.items():
        times = {order: [statistics.median(seconds) for seconds in zip(*worker.times[order], strict=True)] for order in worker.times}
        memory, weights = worker.ask("memory")
        medians[row] = {**{order: clock for order, (clock, _) in times.items()}, "first": worker.first[0], "memory": memory}
        cells = [f"{clock:.2f} s ({used:.2f})" for clock, used in (*times.values(), worker.first)]
        print(f"| {row} | {' | '.join(cells)} | {memory:,.0f} MB | {weights:,.0f} |")
    print(f"\n{OURS} over each:\n\n| | training step | predict | build and first step | peak memory |\n|---|---|---|---|---|")
    for row, numbers in medians.items():
        if not row.startswith(OURS):
            print(f"| {row} | {' | '.join(f'{medians[OURS][key] / number:.2f}' for key, number in numbers.items())} |")


if __name__ == "__main__":
    main()
