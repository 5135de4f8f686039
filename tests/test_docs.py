"""Runs the Python of every guide, and its commands in blocks of `sh`, block after block, as a reader would."""

import re
import shlex

import pytest
from conftest import ROOT, load_script

from swin_keras.cli import main

GUIDES = sorted((ROOT / "docs").glob("*.md"))
LONG = ("compression.md", "export.md", "models.md", "tasks.md")
TRANSLATIONS = {ROOT / "README.ko.md": ROOT / "README.md", ROOT / "docs" / "ko" / "architecture.md": ROOT / "docs" / "architecture.md"}


@pytest.mark.parametrize("guide", [pytest.param(path, id=path.name, marks=[pytest.mark.slow] if path.name in LONG else []) for path in GUIDES])
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


@pytest.mark.parametrize("guide", ["architecture.md", "ko/architecture.md"])
def test_the_shapes_of_every_step_are_those_of_the_models(guide):
    import swin_keras

    rows = re.findall(r"^\| `(\w+)(\*?)` \|[^|]*\| ([^|]*) \|([^|]*)\|$", (ROOT / "docs" / guide).read_text(encoding="utf-8"), re.MULTILINE)
    for column, (name, classes) in enumerate([("swin_tiny_patch4_window7_224", 1000), ("swin_nano_patch4_window4_32", 10)]):
        model = swin_keras.create_model(name, num_classes=classes)
        stated = {}
        for start, several, *shapes in rows:
            for layer in model.layers:
                if shapes[column].strip() and (layer.name.startswith(start) if several else layer.name == start):
                    stated[layer.name] = tuple(map(int, shapes[column].split(" × ")))
        # Of what the table leaves out, dropout changes no shape.
        assert stated == {layer.name: tuple(layer.output.shape[1:]) for layer in model.layers if layer.name != "pos_drop"}


def test_the_pictures_of_the_architecture_are_those_that_the_code_draws(tmp_path):
    draw = load_script(ROOT / "docs" / "draw.py")
    for one in draw.FIXED:
        one(tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert len(drawn) == 4
    for path in drawn:
        assert path.read_bytes() == (draw.FOLDER / path.name).read_bytes(), f"{path.name}: run docs/draw.py"


@pytest.mark.parametrize("translation", TRANSLATIONS, ids=lambda path: path.parent.name + "-" + path.name)
def test_a_translation_has_the_code_and_the_pictures_of_its_original(translation):
    text, original = (path.read_text(encoding="utf-8") for path in (translation, TRANSLATIONS[translation]))
    code = re.compile(r"```.*?```|^ {4}\S.*?$", re.DOTALL | re.MULTILINE)
    # Comments are translated.
    own, theirs = ([re.sub(r" +# .*", "", block) for block in code.findall(each)] for each in (text, original))
    assert own and own == theirs[: len(own)] and (translation.name.startswith("README") or len(own) == len(theirs))
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert targets and all(target.startswith("http") or (translation.parent / target).exists() for target in targets)
