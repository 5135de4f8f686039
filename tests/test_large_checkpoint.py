"""The largest model's checkpoint loads fast and in little memory."""

import json
import subprocess
import sys

import pytest
import torch_files
from conftest import ROOT
from safetensors.numpy import load_file

LARGE = "swin_large_patch4_window7_224"


@pytest.mark.slow
@pytest.mark.alone
def test_swin_large_loads_in_seconds_and_within_the_memory_of_half_of_its_file(tmp_path):
    script = ROOT / "benchmarks" / "load_weights.py"

    def run(*arguments):
        finished = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True, timeout=900, check=False)
        assert finished.returncode == 0, finished.stderr
        return finished.stdout.splitlines()[-1]

    path = tmp_path / "large.safetensors"
    run("write", LARGE, path)
    torch_files.write(tmp_path / "large.pth", load_file(path))
    rows = json.loads(run("load", LARGE, path, tmp_path / "large.pth"))["rows"]
    print(rows)  # `pytest -rP` shows it
    for row, seconds in zip(rows, (10, 20), strict=True):
        # Beyond the built model, which comes on top.
        assert row["file_mb"] > 780 and row["peak_over_file"] < 0.5
        assert row["load_seconds"] < seconds
