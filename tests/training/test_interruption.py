"""Whatever ends a run, the same command goes on, and nothing that was kept is lost."""

import json
import os
import pathlib

import numpy as np
import pytest
from conftest import stored

from swin_keras import training
from swin_keras.cli import main

NANO = "swin_nano_patch4_window4_32"
SCRIPT = pathlib.Path(__file__).parent / "killed_run.py"


def bytes_of(path):
    return {name: array.tobytes() for name, array in stored(path).items()}


@pytest.mark.slow
def test_a_run_killed_ten_times_ends_with_the_weights_of_an_uninterrupted_one_bit_for_bit(run_command, tmp_path):
    ended = run_command(SCRIPT, tmp_path, os.environ.get("KILL_SEED", 0), timeout=1200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    print(ended.stdout)
    # One whose moment never comes ends by itself; of ten moments only the last few can be such.
    assert int(ended.stdout.split()[-2]) >= 8
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for name in ("final.keras", "model.keras"):
        assert bytes_of(cut / name) == bytes_of(whole / name) and len(stored(whole / name)) > 30
    assert (cut / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()
    newest = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert sorted(path.name for path in (cut / "checkpoints").iterdir()) == newest == ["epoch_00011.weights.h5", "epoch_00012.weights.h5"]
    for name in newest:
        assert bytes_of(cut / "checkpoints" / name) == bytes_of(whole / "checkpoints" / name)


def train(workdir, **arguments):
    lines = []
    training.train("digits", NANO, workdir, **{"epochs": 3, "seed": 5, "log": lines.append, **arguments})
    return lines


def start_again(run):
    """Makes a finished run one that was interrupted before its end was written."""
    (run / "final.keras").unlink()


@pytest.mark.slow
def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_which_a_line_says(quick_digits, tmp_path):
    train(tmp_path / "run")
    final = stored(tmp_path / "run" / "final.keras")
    start_again(tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / "epoch_00003.weights.h5"
    os.truncate(newest, newest.stat().st_size * 2 // 3)
    lines = train(tmp_path / "run")
    assert any("epoch_00003.weights.h5' is damaged" in line and line.endswith("going back to epoch_00002.weights.h5") for line in lines)
    assert "resumed from epoch 2 of 3" in lines
    assert stored(tmp_path / "run" / "final.keras").keys() == final.keys() and len(stored(newest)) > 30


@pytest.mark.parametrize("file", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("model.keras", "history.csv")), "epoch_00002"])
def test_a_full_disk_ends_with_one_line_and_the_last_checkpoint_intact(quick_digits, tmp_path, monkeypatch, capsys, file):
    command = ["train", "--data", "digits", "--variant", NANO, "--workdir", str(tmp_path / "run"), "--epochs", "2", "--seed", "5"]
    rename = os.replace

    def full(partial, path):
        # model.keras is written in the first epoch too.
        if file in str(path) and (tmp_path / "run" / "checkpoints" / "epoch_00001.weights.h5").exists():
            raise OSError(28, "No space left on device")
        rename(partial, path)

    monkeypatch.setattr(os, "replace", full)
    code = main(command)
    error = capsys.readouterr().err
    if code == 0:  # the second epoch was not the best one: model.keras is not written again
        assert file == "model.keras"
        return
    assert code == 2 and error.count("\n") == 1
    assert "No space left on device" in error and "the same command resumes after the last finished epoch" in error
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["epoch_00001.weights.h5"]
    monkeypatch.setattr(os, "replace", rename)
    assert main(command) == 0
    assert "resumed from epoch 1 of 2" in capsys.readouterr().out


def test_a_file_that_cannot_grow_is_told_of_as_a_full_disk(quick_digits, tmp_path):
    """The limit on the size of files acts in the system, as a full disk does, below h5py."""
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"Expected to write into '.*run'. Received: .*make room, and the same command resumes"):
            train(tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not list((tmp_path / "run").rglob("epoch_*")) and not list((tmp_path / "run").rglob("partial*"))
    train(tmp_path / "run")
    assert json.loads((tmp_path / "run" / "config.json").read_text())["seed"] == 5
    assert np.isfinite(np.loadtxt(tmp_path / "run" / "history.csv", delimiter=",", skiprows=1)).all()
