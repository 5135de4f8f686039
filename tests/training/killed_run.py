"""Trains once without interruption and once killed ten times: `python killed_run.py FOLDER SEED`. Prints at which moments.

Each run is a fork of this process, which has imported TensorFlow but not started it: the import would take most of the time.
"""

import csv
import dataclasses
import os
import pathlib
import random
import signal
import sys
import time

import keras

import swin_keras
from swin_keras import training

NANO = "swin_nano_patch4_window4_32"
EPOCHS = 12


def train(workdir, kill):
    """Trains in a fork, in which `kill` may place a SIGKILL; returns whether it came to its end."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        small = dataclasses.replace(swin_keras.VARIANTS[NANO], embed_dim=12, depths=(2, 1), num_heads=(2, 3), drop_path_rate=0.2)
        swin_keras.VARIANTS[NANO] = small
        own = kill(os.getpid()) if kill else []
        settings = {"jit_compile": False, "ema_momentum": 0.9, "accumulation_steps": 2}
        training.train("digits", NANO, workdir, epochs=EPOCHS, batch_size=256, seed=3, settings=settings, callbacks=own, log=lambda line: None)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(f"{time.monotonic() - started:.1f} s, {'finished' if status == 0 else 'killed'} after epoch {finished(workdir)}", flush=True)
    if status not in (0, signal.SIGKILL):
        sys.exit(f"the run ended with status {status}")
    return status == 0


def finished(workdir):
    path = workdir / "history.csv"
    return len(list(csv.DictReader(path.open()))) if path.exists() else 0


def at_step(count):
    """Kills in a step: after so many of them in this process."""

    class Kill(keras.callbacks.Callback):
        steps = 0

        def on_train_batch_begin(self, batch, logs=None):
            self.steps += 1
            if self.steps == count:
                # Out of the blue, while the step runs.
                signal.setitimer(signal.ITIMER_REAL, 0.003)

    def kill(pid):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
        return [Kill()]

    return kill


def at_write(name, before):
    """Kills when a file is about to get its name, or has got it."""

    def kill(pid):
        rename = os.replace

        def replace(partial, path):
            if name in str(path) and before:
                with open(partial, "r+b") as file:  # as a write that was cut off leaves it
                    file.truncate(os.path.getsize(partial) // 2)
                os.kill(pid, signal.SIGKILL)
            rename(partial, path)
            if name in str(path):
                os.kill(pid, signal.SIGKILL)

        os.replace = replace
        return []

    return kill


def after_seconds(seconds):
    def kill(pid):
        signal.signal(signal.SIGALRM, lambda *_: os.kill(pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, seconds)
        return []

    return kill


def main(folder, seed):
    rng = random.Random(seed)
    assert train(folder / "whole", None)
    moments = [at_step(rng.randint(1, 9)), at_step(rng.randint(1, 9)), after_seconds(rng.uniform(3, 9)), after_seconds(rng.uniform(3, 9))]
    moments += [at_write(name, before) for name in ("model.keras", "history.csv", ".weights.h5") for before in (True, False)]
    rng.shuffle(moments)
    kills = sum(not train(folder / "cut", moment) for moment in moments)
    if not (folder / "cut" / "final.keras").exists():
        train(folder / "cut", None)
    print(f"killed {kills} times")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), int(sys.argv[2]))
