"""Ctrl-C at any time of a program's life, also while it still imports."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from conftest import ROOT
from swin_keras.edge_demo import interrupt
from swin_keras.edge_demo.__main__ import main as edge_main

from swin_keras import interrupt as library

# A library that is being imported when Ctrl-C comes, and makes another error of it, as numpy does.
INTERRUPTED = (
    "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\n    print()\nexcept KeyboardInterrupt:\n    raise ImportError from None\n"
)


def run(*arguments, cwd):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, env={**os.environ, "PYTHONPATH": f"{cwd}{os.pathsep}{ROOT}"}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("module", "library"), [("edge_demo", "numpy"), ("edge_demo.bench", "ai_edge_litert"), ("edge_demo.serve", "numpy"), ("swin_keras.cli", "keras")]
)
def test_while_a_program_imports_it_is_one_word_and_code_130(tmp_path, module, library):
    shutil.copytree(ROOT / "edge_demo", tmp_path / "edge_demo", ignore=shutil.ignore_patterns("__pycache__", "web"))
    (tmp_path / f"{library}.py").write_text(INTERRUPTED)
    finished = run("-m", module, "classify", "a.png", cwd=tmp_path)
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "interrupted\n")


def test_who_imports_the_package_keeps_ctrl_c_as_it_was():
    code = "import signal; from swin_keras import edge_demo; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    assert run("-c", code, "edge_demo", cwd=ROOT).returncode == 0


def test_in_main_it_is_an_exception_again_and_ignored_where_it_was(monkeypatch):
    before = signal.getsignal(signal.SIGINT)
    try:
        for module, package in ((interrupt, ["edge_demo"]), (library, [])):
            monkeypatch.setattr(sys, "argv", ["-m"])
            monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "edge_demo.serve", "swin_keras.cli"])
            for handler, after in ((signal.SIG_IGN, signal.SIG_IGN), (signal.default_int_handler, signal.default_int_handler)):
                signal.signal(signal.SIGINT, handler)
                module.end_at_once(*package)
                assert (signal.getsignal(signal.SIGINT) is handler) == (handler is signal.SIG_IGN)
                module.raise_again()
                assert signal.getsignal(signal.SIGINT) is after
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_path_to_the_folder_starts_the_program_too(tmp_path):
    finished = run(str(ROOT / "edge_demo"), "--colour", cwd=tmp_path)
    assert (finished.returncode, finished.stderr.count("\n")) == (2, 1) and "unrecognized arguments: --colour" in finished.stderr


def test_main_takes_the_first_handler_away(capsys):
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, interrupt._end)
    try:
        assert edge_main([], add_arguments=lambda parser: None, run=lambda arguments: os.kill(os.getpid(), signal.SIGINT)) == 130
        assert capsys.readouterr().err == "interrupted\n"
    finally:
        signal.signal(signal.SIGINT, before)
