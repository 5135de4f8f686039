"""Runs the Python of every guide, and its commands in blocks of `sh`, block after block, as a reader would."""

import re
import shlex

import pytest
from conftest import ROOT

from swin_keras.cli import main

GUIDES = sorted((ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_the_code_of_a_guide_runs(guide, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```(python|sh)\n(.*?)```", guide.read_text(encoding="utf-8"), re.DOTALL)
    assert blocks
    names = {}
    for language, block in blocks:
        if language == "python":
            exec(compile(block, guide.name, "exec"), names)
            continue
        for line in block.splitlines():
            command, *arguments = shlex.split(line)
            assert command == "swin-keras" and main(arguments) == 0, line
