"""A small run of benchmarks/fuzz_edge.py: no broken picture or bundle ends in a traceback, a crash, a hang or a file where it has no business."""

import importlib.util
import shutil

import pytest
from conftest import ROOT, randomize


@pytest.fixture(scope="module")
def fuzz():
    spec = importlib.util.spec_from_file_location("fuzz_edge", ROOT / "benchmarks" / "fuzz_edge.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("fuzz") / "bundle"
    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3))
    export_bundle(model, folder, recipes=["dynamic_int8"], labels=["a", "b", "c"])
    return folder.resolve()


def test_broken_pictures_are_answered_or_refused(fuzz, bundle):
    result = fuzz.fuzz_pictures(bundle, 120, seed=1)
    assert result["problems"] == []
    assert result["classified"] + result["refused"] == 120 and result["refused"] > 40 and len(result["damages"]) == 11


def test_broken_bundles_are_answered_or_refused(fuzz, bundle):
    result = fuzz.fuzz_bundles(bundle, 20, seed=2)
    assert result["problems"] == []
    assert result["classified"] + result["refused"] == 20 and result["refused"] > 10


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("raise ValueError('broken')", "exit code 1"),
        ("import sys; print('error: a', file=sys.stderr); print('more', file=sys.stderr); sys.exit(2)", "standard error 'error: a"),
        ("import os; os.abort()", "exit code -6"),
        ("import time; time.sleep(60)", "it did not end"),
        ("import sys; open('/etc/hostname').close()", "it opened ['open /etc/hostname']"),
        ("import sys; open(sys.argv[1], 'ab').close()", "it opened ['open "),
        ("import os; os.listdir('/etc')", "it opened ['os.listdir /etc']"),
        # A folder beside one that may be read, whose name begins with the same letters.
        ("import sys; open(sys.argv[3] + '2/model.json').close()", "/bundle2/model.json']"),
        ("import contextlib, os\nwith contextlib.suppress(OSError): os.rename('../nothing', 'stolen')", "it opened ['os.rename "),
        ("import subprocess; subprocess.run(['true'])", "it opened ['subprocess.Popen true']"),
        (
            "import subprocess, sys; subprocess.run([sys.executable, '-P', '-c', 'open(chr(47) + \"etc/hostname\")'])",
            "it opened ['open /etc/hostname']",
        ),
        ("import socket; socket.socket().connect(('127.0.0.1', 9))", "exit code 1"),
        ("import contextlib, socket\nwith contextlib.suppress(OSError): socket.socket().connect(('127.0.0.1', 9))", "socket.connect ("),
    ],
)
def test_the_run_sees_what_would_be_wrong(fuzz, bundle, monkeypatch, program, problem):
    monkeypatch.setattr(fuzz, "_COMMAND", ["-P", "-c", program])
    monkeypatch.setattr(fuzz, "BUNDLE_LIMIT", 3)
    monkeypatch.setattr(fuzz, "break_bundle", lambda rng, folder, secret: shutil.copytree(folder, f"{folder}2", dirs_exist_ok=True) and "none")
    result = fuzz.fuzz_bundles(bundle, 1, seed=0)
    assert len(result["problems"]) == 1 and problem in result["problems"][0], result
