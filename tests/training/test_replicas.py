"""`train` on two devices and on two workers takes the steps of one device."""

import csv
import json
import os
import pathlib
import re
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import free_ports, stored

SCRIPT = pathlib.Path(__file__).parent / "replicas.py"


def start(*arguments, script=SCRIPT, **environment):
    command = [sys.executable, script, *map(str, arguments)]
    return subprocess.Popen(command, env={**os.environ, **environment}, cwd="/", stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def start_workers(*arguments, **kwargs):
    cluster = {"cluster": {"worker": [f"localhost:{port}" for port in free_ports(2)]}}
    return [start(*arguments, **kwargs, TF_CONFIG=json.dumps({**cluster, "task": {"type": "worker", "index": index}})) for index in range(2)]


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


@pytest.mark.slow
@pytest.mark.alone
def test_a_killed_worker_stops_the_command_and_a_restart_of_all_ends_as_if_nothing_had_happened(tmp_path):
    command = pathlib.Path(sys.executable).parent / "swin-keras"

    def launch(workdir):
        settings = ["--epochs", 4, "--batch-size", 128, "--set", "jit_compile=false"]
        return start_workers("train", "--data", "digits", "--variant", "swin_nano_patch4_window4_32", "--workdir", workdir, *settings, script=command)

    finish(*launch(tmp_path / "whole"))
    history = tmp_path / "broken" / "history.csv"
    chief, other = launch(tmp_path / "broken")
    while not history.is_file() or history.read_text().count("\n") < 3:  # until the second epoch is in it
        assert chief.poll() is other.poll() is None
        time.sleep(0.05)
    other.kill()
    output = chief.communicate(timeout=60)[0]
    assert chief.returncode == 1 and re.search(r"^error: .*worker.*same command.*$", output.splitlines()[-1]), output[-4000:]
    assert not (tmp_path / "broken" / "final.keras").exists()

    first, _ = finish(*launch(tmp_path / "broken"))
    assert re.search("resumed from epoch [23] of 4", first)
    whole, broken = (weights(tmp_path / name / "final.keras") for name in ("whole", "broken"))
    for name in whole:
        np.testing.assert_array_equal(broken[name], whole[name], err_msg=name)
