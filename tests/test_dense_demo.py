"""The line for boxes and masks, on few scenes: what is tried here is that it holds together, not how well it finds."""

import csv
import dataclasses
import json

import pytest


@pytest.fixture
def short(monkeypatch):
    from swin_keras import dense_demo, training

    monkeypatch.setitem(training.RECIPES, "small", dataclasses.replace(training.RECIPES["small"], epochs=1, jit_compile=False))
    for name, value in {
        "STEPS": {"detect": 4, "segment": 4},
        "EPOCHS": 2,
        "BATCH": 4,
        "WARM_UP": 1,
        "TEST_SCENES": 8,
        "CALIBRATION_SCENES": 4,
    }.items():
        monkeypatch.setattr(dense_demo, name, value)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["detect", "segment"])
def test_the_line_writes_what_it_says_and_a_second_run_only_prints(task, short, tmp_path, capsys, monkeypatch):
    from swin_keras.cli import main

    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--task", task, "--out", "out"]) == 0
    first = capsys.readouterr().out
    folder = tmp_path / "out" / task
    assert {path.name for path in folder.iterdir()} == {"model.keras", "results.json", "bundle", "samples", "predictions.png"}
    results = json.loads((folder / "results.json").read_text())
    assert set(results) == {"keras", "float32", "float16", "dynamic_int8"}
    measures = {"detect": {"mAP", "mAP50", "mAP75"}, "segment": {"mean IoU"}}[task]
    assert all(set(measured) == measures and all(0 <= value <= 1 for value in measured.values()) for measured in results.values())
    assert results["float32"] == pytest.approx(results["keras"], abs=0.02)
    description = json.loads((folder / "bundle" / "model.json").read_text())
    assert (description["output_kind"], len(description["labels"])) == {"detect": ("boxes", 10), "segment": ("masks", 11)}[task]

    # The printed command works, and finds the same in all samples.
    command = first.strip().splitlines()[-1].split("swin-keras ")[1].split()
    assert main(command) == 0
    assert (folder / "scene_00-overlay.jpg").is_file()
    assert main(["classify", "--folder", f"out/{task}/samples", "--bundle", f"out/{task}/bundle", "--threshold", "0"]) == 0
    assert len(list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))) == 12

    capsys.readouterr()
    stamps = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert main(["demo", "--task", task, "--out", "out"]) == 0
    assert capsys.readouterr().out.strip().splitlines()[-1] == first.strip().splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == stamps
    assert main(["demo", "--task", task, "--out", "out", "--seed", "4"]) == 2
