"""Times Swin-T on a GPU, alternating with timm's on PyTorch: a training step, predict, the first of each, and memory.

python benchmarks/gpu.py > benchmarks/results/gpu.md

Needs JAX and PyTorch with a GPU, timm and Keras in one environment. Each row and batch size is a process of its own; those of one
precision live at once and take turns. Inputs lie on the GPU; float32 is with TF32 in matrix products everywhere.
"""

import argparse
import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
import time

CLASSES, DROP_PATH, CLIP_NORM = 1000, 0.2, 5.0
OURS_JAX, OURS_TORCH, EAGER, COMPILED = ROWS = ["swin-keras, JAX", "swin-keras, PyTorch", "timm, PyTorch", "timm, torch.compile"]
PRECISIONS = ["float32", "mixed_bfloat16"]
# Timed at each turn, by batch size.
STEPS = {128: 6, 1: 20}


def inputs(batch, size):
    import numpy as np

    random = np.random.default_rng(0)
    return random.standard_normal((batch, size, size, 3)).astype("float32"), random.integers(0, CLASSES, batch)


def make_keras(name, precision, batch):
    """Returns functions that train and predict a number of times, one that frees and returns the peak of memory, and the number of weights."""
    import keras
    import numpy as np

    import swin_keras

    keras.config.set_dtype_policy(precision)
    model = swin_keras.create_model(name, drop_path_rate=DROP_PATH)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=0.05, global_clipnorm=CLIP_NORM)
    on_jax = keras.backend.backend() == "jax"
    model.compile(optimizer, keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1), jit_compile=on_jax)
    pictures, classes = inputs(batch, model.input_shape[1])
    target = np.eye(CLASSES, dtype="float32")[classes]
    if on_jax:
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32")
        pictures, target = jax.device_put((pictures, target))

        def train(steps):
            model.fit(((pictures, target) for _ in range(steps)), steps_per_epoch=steps, shuffle=False, verbose=0)

        def memory():
            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    else:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = True
        pictures, target = keras.ops.convert_to_tensor(pictures), keras.ops.convert_to_tensor(target)
        memory = torch_memory

        def train(steps):
            for _ in range(steps):
                model.train_on_batch(pictures, target)

    def predict(steps):
        for _ in range(steps):
            model.predict_on_batch(pictures)

    return train, predict, memory, model.count_params()


def torch_memory():
    import torch

    if not torch.cuda.is_available():
        return 0
    # What the others need: all live at once.
    torch.cuda.empty_cache()
    return torch.cuda.max_memory_allocated()


def make_timm(name, precision, batch, compiled):
    """As `make_keras`."""
    import timm
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = timm.create_model(name, drop_path_rate=DROP_PATH, num_classes=CLASSES).to(device)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, 1e-4, weight_decay=0.05)
    pictures, classes = (torch.from_numpy(array).to(device) for array in inputs(batch, 224))
    pictures = pictures.permute(0, 3, 1, 2).contiguous()
    run = torch.compile(model, dynamic=False) if compiled else model
    half = precision != "float32"
    mixed = (lambda: torch.autocast(device, torch.bfloat16)) if half else contextlib.nullcontext

    def synchronize():
        if device == "cuda":
            torch.cuda.synchronize()

    def train(steps):
        model.train()
        for _ in range(steps):
            with mixed():
                loss = torch.nn.functional.cross_entropy(run(pictures), classes, label_smoothing=0.1)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            optimizer.zero_grad()
        synchronize()

    def predict(steps):
        model.eval()
        for _ in range(steps):
            with torch.inference_mode(), mixed():
                run(pictures).float().cpu()

    return train, predict, torch_memory, sum(parameter.numel() for parameter in parameters)


def work(row, name, precision, batch):
    """Reads `train N` and `predict N` from the standard input, and answers each with seconds."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(value):
        print(json.dumps(value), file=answers, flush=True)

    started = time.perf_counter()
    made = make_keras(name, precision, batch) if row in (OURS_JAX, OURS_TORCH) else make_timm(name, precision, batch, row == COMPILED)
    train, predict, memory, weights = made
    answer(time.perf_counter() - started)
    for line in sys.stdin:
        what, count = line.split()
        if what == "memory":
            answer([memory(), weights])
            continue
        run = train if what == "train" else predict
        started = time.perf_counter()
        run(int(count))
        answer(time.perf_counter() - started)


class Worker:
    def __init__(self, row, name, precision, batch):
        self.row, self.batch = row, batch
        backend = "jax" if row == OURS_JAX else "torch"
        environment = {**os.environ, "KERAS_BACKEND": backend, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
        command = [sys.executable, __file__, "--work", row, name, precision, str(batch)]
        self.process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first, self.times = {}, {"train": [], "predict": []}

    def send(self, what, count=0):
        print(what, count, file=self.process.stdin, flush=True)

    def receive(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, what, count=0):
        self.send(what, count)
        return self.receive()

    def turn(self, what, steps):
        """Times so many steps, after two that are not timed: memory was given back, and the GPU idle."""
        self.ask(what, 2)
        self.times[what].append(self.ask(what, steps) / steps)
        self.ask("memory")

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure(rows, name, precision, batches, rounds):
    """Returns workers of a precision with what they measured."""
    workers = [Worker(row, name, precision, batch) for batch in batches for row in rows]
    alive = []
    for worker in workers:
        try:
            worker.receive()
            alive.append(worker)
        except ValueError:
            print(f"{worker.row}, {precision}, batch {worker.batch}: failed", file=sys.stderr)
    # What compiles, at once; what does not, one after the other, since it needs the most memory.
    compiled = [worker for worker in alive if worker.row in (OURS_JAX, COMPILED)]
    for group in [compiled, *([worker] for worker in alive if worker not in compiled)]:
        for what in ("train", "predict"):
            running = [worker for worker in group if what == "train" or worker.first]
            for worker in running:
                worker.send(what, 1)
            for worker in running:
                try:
                    worker.first[what] = worker.receive()
                    print(f"{worker.row}, {precision}, batch {worker.batch}: first {what} {worker.first[what]:.1f} s", file=sys.stderr, flush=True)
                except ValueError:
                    print(f"{worker.row}, {precision}, batch {worker.batch}: {what} failed", file=sys.stderr)
        for worker in group:
            if len(worker.first) == 2:
                worker.memory, worker.weights = worker.ask("memory")
    alive = [worker for worker in alive if len(worker.first) == 2]
    for _, batch, what in itertools.product(range(rounds), batches, ("train", "predict")):
        for worker in alive:
            if worker.batch == batch:
                worker.turn(what, STEPS.get(batch, 1))
    for worker in workers:
        worker.close()
    return alive


def head(name, rounds):
    import importlib.metadata

    import torch

    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in ("jax", "torch", "timm", "keras"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    print(f"# Swin-T beside timm's on a GPU\n\n{time.strftime('%Y-%m-%d')}, one {device}, {os.cpu_count()} cores, {versions}.")
    print(f"{name}, AdamW, clipping at norm {CLIP_NORM:.0f}, drop path {DROP_PATH}. Medians of {rounds} rounds in which all take turns.", flush=True)


def report(precision, batch, workers):
    print(f"\n## {precision}, batch {batch}\n")
    print("| | training step | predict | pictures/s, training | pictures/s, predict | first training step | first predict | peak memory | weights |")
    print("|---|---|---|---|---|---|---|---|---|")
    medians = {}
    for worker in workers:
        train, predict = (statistics.median(worker.times[what]) for what in ("train", "predict"))
        medians[worker.row] = train, predict
        spread = [f"{1e3 * min(worker.times[what]):.1f} to {1e3 * max(worker.times[what]):.1f}" for what in ("train", "predict")]
        print(f"| {worker.row} | {1e3 * train:.1f} ms ({spread[0]}) | {1e3 * predict:.1f} ms ({spread[1]}) | {batch / train:,.0f} | ", end="")
        print(f"{batch / predict:,.0f} | {worker.first['train']:.1f} s | {worker.first['predict']:.1f} s | ", end="")
        print(f"{worker.memory / 1e6:,.0f} MB | {worker.weights:,} |")
    print("\n| | training step | predict |\n|---|---|---|")
    for ours, other in itertools.product(ROWS[:2], ROWS[2:]):
        if ours in medians and other in medians:
            ratios = [mine / theirs for mine, theirs in zip(medians[ours], medians[other], strict=True)]
            print(f"| {ours} over {other} | {ratios[0]:.2f} | {ratios[1]:.2f} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=ROWS)
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS)
    parser.add_argument("--batches", nargs="+", type=int, default=list(STEPS))
    parser.add_argument("--model", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        row, name, precision, batch = given.work
        work(row, name, precision, int(batch))
        return
    head(given.model, given.rounds)
    for precision in given.precisions:
        workers = measure(given.rows, given.model, precision, given.batches, given.rounds)
        for batch in given.batches:
            report(precision, batch, [worker for worker in workers if worker.batch == batch])


if __name__ == "__main__":
    main()
