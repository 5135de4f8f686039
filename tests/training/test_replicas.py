"""`train` on two devices and on two workers takes the steps of one device."""

import csv
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from conftest import free_ports, stored

SCRIPT = pathlib.Path(__file__).parent / "replicas.py"


def start(*arguments, **environment):
    command = [sys.executable, SCRIPT, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **environment}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_workers(*arguments):
    cluster = {"cluster": {"worker": [f"localhost:{port}" for port in free_ports(2)]}}
    return [start(*arguments, TF_CONFIG=json.dumps({**cluster, "task": {"type": "worker", "index": index}})) for index in range(2)]


def finish(*processes):
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)[-4000:]
    return outputs


def weights(path):
    return {name: array for name, array in stored(path).items() if "seed" not in name}


def assert_same_run(one, other):
    first, second = weights(one / "final.keras"), weights(other / "final.keras")
    assert first.keys() == second.keys() and len(first) > 50
    for name in first:
        np.testing.assert_allclose(second[name], first[name], rtol=0, atol=1e-4, err_msg=name)
    rows, others = (list(csv.DictReader((run / "history.csv").open())) for run in (one, other))
    for a, b in zip(rows, others, strict=True):
        np.testing.assert_allclose([float(value) for value in b.values()], [float(value) for value in a.values()], atol=2e-3)


@pytest.mark.slow
@pytest.mark.alone  # workers that wait too long for one another give up
@pytest.mark.parametrize("mixed", ["plain", "mixed"])
def test_two_devices_and_two_workers_end_with_the_weights_of_one_device(tmp_path, mixed):
    finish(start(1, tmp_path / "one", "one", mixed), start(2, tmp_path / "mirrored", "mirrored", mixed))
    assert_same_run(tmp_path / "one", tmp_path / "mirrored")
    first, second = finish(*start_workers(1, tmp_path / "workers", "auto", mixed))
    assert_same_run(tmp_path / "one", tmp_path / "workers")
    config = json.loads((tmp_path / "workers" / "config.json").read_text())
    assert config["strategy"] == "multiworker" and config["replicas"] == 2
    assert "best epoch 1" in first and "epoch" not in second.split("XLA")[-1]  # the chief alone reports
