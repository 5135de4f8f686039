"""The runtime's GPU accelerator, on a GPU in software, takes every operator and computes what the CPU does: gpu_gate.py of benchmarks/runtimes."""

import json
import shutil
import subprocess

import keras
import numpy as np
import pytest
from conftest import ROOT, randomize
from swin_keras.export import recipes, tflite, to_deploy

import swin_keras

pytestmark = pytest.mark.slow

RUNTIMES = ROOT / "benchmarks" / "runtimes"
RECIPES = ("float32", "float16", "dynamic_int8", "hybrid_int8")
# Seconds. On an idle machine a run takes some 2, the download of 32 MB some 5.
TO_RUN, TO_INSTALL = 120, 120

V1, V2 = "swin_nano_patch4_window4_32", "swinv2_tiny_patch4_window8_256"
SMALL = {"embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3)}
MODELS = {
    "V1": (V1, {}),
    "V1, padded": (V1, {**SMALL, "input_shape": (33, 47, 3), "window_size": (3, 5), "window_fit": "pad"}),
    "V2, not square": (V2, {**SMALL, "input_shape": (32, 48, 3), "window_size": 4}),
    "V2, padded": (V2, {**SMALL, "input_shape": (33, 47, 3), "window_size": (3, 5), "window_fit": "pad"}),
    "Swin-MLP": ("swin_mlp_tiny_c24_patch4_window8_256", {**SMALL, "input_shape": (40, 64, 3), "window_size": 4}),
}


@pytest.fixture(scope="module")
def gate():
    """The module `gpu_gate`, with a driver at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(RUNTIMES)
        import gpu_gate
    try:
        gpu_gate.gpu_environment()
    except FileNotFoundError:
        if not shutil.which("apt-get") or not shutil.which("dpkg"):
            pytest.skip("SwiftShader comes from Debian packages, and this machine has no apt-get or dpkg")
        # `timeout` ends the download with the script.
        command = ["timeout", str(TO_INSTALL), RUNTIMES / "install.sh", "vulkan"]
        child = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if child.returncode == 124:
            pytest.skip(f"SwiftShader cannot be downloaded within {TO_INSTALL} s")
        # The script's own words for an archive out of reach. Whatever else goes wrong is a failure.
        if child.returncode == 2 and "error: expected " in child.stderr:
            pytest.skip(f"SwiftShader cannot be downloaded: {child.stderr.splitlines()[-1]}")
        assert child.returncode == 0, child.stderr
    return gpu_gate


def judge_all(gate, model, names, folder, rng):
    """Lets the gate judge the files of all recipes of a model; returns what it says of those that fail."""
    failed = {}
    float32 = tflite.convert(to_deploy(model), names)
    pictures = rng.standard_normal((2, *model.input_shape[1:])).astype("float32")
    for recipe in RECIPES:
        ranges = recipes.find_ranges(float32, recipe, pictures) if recipes.RECIPES[recipe].calibrated else None
        file = folder / f"{recipe}.tflite"
        file.write_bytes(recipes.quantize(float32, recipe, ranges))
        passes, line = gate.judge(recipe, file, pictures, gate.gpu_environment(), TO_RUN)
        if not passes:
            failed[recipe] = line
    return failed


@pytest.mark.parametrize("name", MODELS)
def test_the_gpu_takes_every_operator_and_computes_what_the_cpu_does(name, gate, tmp_path, rng):
    row, overrides = MODELS[name]
    assert not judge_all(gate, randomize(swin_keras.create_model(row, **overrides)), ["logits"], tmp_path, rng)


def test_the_gpu_takes_every_operator_of_a_backbone(gate, tmp_path, rng):
    backbone = randomize(swin_keras.create_backbone(V1, **SMALL, input_shape=(40, 72, 3), window_size=3))
    assert not judge_all(gate, backbone, ["stage1", "stage2"], tmp_path, rng)


@pytest.fixture(scope="module")
def suspects(tmp_path_factory):
    """A folder that the gate takes for a bundle: a file that it lets pass and three that it must not."""
    folder = tmp_path_factory.mktemp("suspects")
    image = keras.Input((8, 6, 3), batch_size=1)
    x = keras.layers.Conv2D(5, 1)(image)
    windows = keras.ops.reshape(x, (4, 12, 5))
    graphs = {
        "good": windows,
        "rank 6": keras.ops.transpose(keras.ops.reshape(x, (1, 4, 2, 3, 2, 5)), (0, 1, 3, 2, 4, 5)),
        "gather": keras.ops.take(x, np.array([3, 1, 2, 5, 0], "int64"), axis=1),
        # LiteRT 2.3 accepts this and computes something else: why the products of Swin-MLP are of rank 4.
        "sum of rank 3": keras.ops.add(windows, np.linspace(-1, 1, 240, dtype="float32").reshape(4, 12, 5)),
    }
    for name, output in graphs.items():
        (folder / f"{name}.tflite").write_bytes(tflite.convert(keras.Model(image, output), ["y"]))
    files = [{"recipe": name, "file": f"{name}.tflite"} for name in graphs]
    (folder / "model.json").write_text(json.dumps({"input": {"shape": [1, 8, 6, 3]}, "files": files}))
    return folder


def test_the_gate_fails_on_operators_that_the_gpu_refuses_and_on_wrong_outputs(gate, suspects, run_command):
    finished = run_command(gate.__file__, "--bundle", suspects)
    verdicts = dict(line.split(": ", 1) for line in finished.stdout.splitlines())
    assert finished.returncode == 1, finished.stderr
    assert verdicts["good"].startswith("every operator is accepted")
    assert verdicts["rank 6"].startswith("FAILED. Rejected operators: ") and "TRANSPOSE" in verdicts["rank 6"]
    assert verdicts["gather"].startswith("FAILED. Rejected operators: GATHER")
    assert verdicts["sum of rank 3"].startswith("FAILED. Every operator is accepted, the outputs are wrong")


def test_the_gate_fails_when_the_accelerator_takes_too_long(gate, suspects, rng):
    pictures = rng.standard_normal((1, 8, 6, 3)).astype("float32")
    passes, line = gate.judge("float32", suspects / "good.tflite", pictures, gate.gpu_environment(), timeout=0.01)
    assert not passes and line == "FAILED. The accelerator did not end within 0.01 s"
