"""`train --compress` on two workers, as on one."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import free_ports

NANO = "swin_nano_patch4_window4_32"
SMALL = {"embed_dim": 12, "depths": (1, 1), "num_heads": (2, 3)}
# The command line, for a smaller model of the same kind.
PROGRAM = f"""
import dataclasses, sys, swin_keras
from swin_keras.cli import main
swin_keras.VARIANTS[{NANO!r}] = dataclasses.replace(swin_keras.VARIANTS[{NANO!r}], **{SMALL!r})
"""


def start(workdir, weights, **environment):
    what = ["--data", "digits", "--variant", NANO, "--weights", weights, "--compress", "prune:0.5", "--compress", "qat:hybrid_int8"]
    how = ["--epochs", 2, "--batch-size", 256, "--set", "learning_rate=1e-3", "--workdir", workdir]
    command = [sys.executable, "-c", f"{PROGRAM}sys.exit(main())", "train", *map(str, [*what, *how])]
    return subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(*processes):
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)[-4000:]


@pytest.mark.slow
@pytest.mark.alone  # workers that wait too long for one another give up
def test_two_workers_prune_and_round_as_one_does(tmp_path):
    import keras

    import swin_keras
    from swin_keras import compression, export

    swin_keras.create_model(NANO, num_classes=10, **SMALL).save(tmp_path / "model.keras")
    finish(start(tmp_path / "one", tmp_path / "model.keras"))
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    tasks = [json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}) for index in range(2)]
    finish(*(start(tmp_path / "two", tmp_path / "model.keras", TF_CONFIG=task) for task in tasks))

    one, two = (list(csv.DictReader((tmp_path / name / "history.csv").open())) for name in ("one", "two"))
    # Each worker follows the ranges of its own pictures, and a weight between two integers goes one way or the other.
    np.testing.assert_allclose(*([float(row["loss"]) for row in rows] for rows in (one, two)), rtol=0.02)
    model = keras.models.load_model(tmp_path / "two" / "model.keras")
    assert compression.sparsity(model) == pytest.approx(0.5, abs=0.01)
    report = export.export_bundle(model, tmp_path / "bundle")
    assert report["recipes"]["hybrid_int8"]["fidelity"]["snr_db"] >= 35
