"""The command line: what it prints, and that every mistake ends in one line and code 2."""

import json
import zipfile

import numpy as np
import pytest
from conftest import GOLDENS
from safetensors.numpy import load_file, save_file

from swin_keras.cli import main

NANO = "swin_nano_patch4_window4_32"


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    """A small model with the config.json of a workdir beside it."""
    from conftest import randomize

    import swin_keras
    from swin_keras.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("run")
    randomize(swin_keras.create_model(NANO, num_classes=3)).save(folder / "model.keras")
    settings = Preprocessing("exact", (32, 32), (32, 32), mean=(0.5,) * 3, std=(0.25,) * 3)
    (folder / "config.json").write_text(json.dumps({"labels": ["ant", "bee", "cat"], "preprocessing": settings.to_dict()}))
    return folder / "model.keras"


def test_models_prints_the_table(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    line = next(line for line in out.splitlines() if line.startswith("swin_tiny_patch4_window7_224 "))
    assert line.split() == ["swin_tiny_patch4_window7_224", "224", "7", "0.2", "28,288,354", "4.49G", "81.2", "ImageNet-1K"]
    assert "7,7,14,7" in out and "https://github.com/microsoft/Swin-Transformer" in out
    assert main(["models", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[NANO]["depths"] == [2, 2] and rows["swin_tiny_patch4_window7_224"]["flops"] == 4_490_566_656


def test_export_takes_labels_and_preprocessing_from_the_workdir(nano, tmp_path, capsys):
    assert main(["export", str(nano), "--out", str(tmp_path / "bundle"), "--recipe", "float32", "--recipe", "float16"]) == 0
    out = capsys.readouterr().out
    assert f"labels: {nano.parent / 'config.json'}; preprocessing: {nano.parent / 'config.json'}" in out and "| float16 |" in out
    description = json.loads((tmp_path / "bundle" / "model.json").read_text())
    assert description["labels"] == ["ant", "bee", "cat"] and description["preprocessing"]["mean"] == [0.5] * 3
    assert [file["recipe"] for file in description["files"]] == ["float32", "float16"]


def test_export_labels_file_goes_before_the_workdir(nano, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("Ameise\nBiene\nKätzchen\n", encoding="utf-8")
    arguments = ["export", nano, "--out", tmp_path / "bundle", "--recipe", "float32", "--labels", tmp_path / "labels.txt", "--json"]
    assert main([str(a) for a in arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report["recipes"]) == {"float32"}
    assert json.loads((tmp_path / "bundle" / "model.json").read_text())["labels"] == ["Ameise", "Biene", "Kätzchen"]


@pytest.fixture(scope="module")
def tiny_checkpoint(tmp_path_factory):
    """The shapes of Swin-T with 3 classes, in random numbers, under official names."""
    import swin_keras
    from swin_keras.weights.assign import official_name

    rng = np.random.default_rng(0)
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", num_classes=3)
    shapes = {official_name(w.path): tuple(w.shape) for w in model.weights}
    tensors = {}
    for weight in model.weights:
        name, shape = official_name(weight.path), shapes[official_name(weight.path)]
        if weight.path.endswith("kernel"):
            shape = (shape[3], shape[2], shape[0], shape[1]) if len(shape) == 4 else shape[::-1]
        centre = 1.0 if weight.path.endswith("gamma") else 0.0
        tensors[name] = (centre + 0.05 * rng.standard_normal(shape)).astype("float16")
    path = tmp_path_factory.mktemp("checkpoint") / "tiny.safetensors"
    save_file(tensors, path)
    return path


def test_export_tells_the_variant_of_a_checkpoint_from_its_shapes(tiny_checkpoint, tmp_path, capsys):
    assert main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "bundle"), "--recipe", "float32"]) == 0
    assert "labels: none; preprocessing: the official protocol" in capsys.readouterr().out
    description = json.loads((tmp_path / "bundle" / "model.json").read_text())
    assert description["model"] == "swin_tiny_patch4_window7_224" and description["labels"] is None
    assert description["preprocessing"]["resize"] == [256, 256] and description["outputs"][0]["shape"] == [1, 3]


def test_export_refuses_a_checkpoint_with_missing_or_extra_tensors(tiny_checkpoint, tmp_path, refused):
    for change, message in [
        (lambda t: t.pop("layers.2.blocks.3.mlp.fc2.bias"), "expects 1 tensor (layers.2.blocks.3.mlp.fc2.bias), which the file lacks"),
        (lambda t: t.update(extra=np.ones(3, "float32")), "the file has 1 tensor (extra), which the model lacks"),
        (lambda t: t.pop("head.bias"), "has no head"),
    ]:
        tensors = load_file(tiny_checkpoint)
        change(tensors)
        save_file(tensors, tmp_path / "changed.safetensors")
        assert message in refused("export", tmp_path / "changed.safetensors", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_export_refuses_a_checkpoint_of_no_released_model(tmp_path, refused):
    message = refused("export", GOLDENS / "official.safetensors", "--out", tmp_path / "bundle")
    assert "embed_dim=12, depths=(2, 3, 1), num_heads=(2, 3, 6), window_size=3, which fits no row" in message


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no model at all"])
def test_export_refuses_a_damaged_keras_file(tmp_path, refused, content):
    (tmp_path / "model.keras").write_bytes(content)
    assert "is not a readable .keras file" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")


def test_export_refuses_a_truncated_or_foreign_zip(nano, tmp_path, refused):
    content = nano.read_bytes()
    (tmp_path / "model.keras").write_bytes(content[: len(content) // 2])
    assert "is not a readable .keras file" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "is not a readable .keras file" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--out", "{out}", "--recipe", "int4"], "`recipes` must be some of"),
        (["{model}", "--out", "{out}", "--layout", "npu"], "`layout` must be one of"),
        (["{model}", "--out", "{out}", "--labels", "{gone}"], "which is no file"),
        (["{model}", "--out", "{out}", "--labels", "{two}"], "each of the model's 3 classes. Received: 2 names"),
        (["{model}", "--out", "{out}", "--labels", "{model}"], "Expected UTF-8 text"),
        (["{gone}.keras", "--out", "{out}"], "which does not exist"),
        (["{gone}.safetensors", "--out", "{out}"], "does not exist"),
        (["{two}", "--out", "{out}"], "Expected a .keras file or a .safetensors checkpoint"),
        (["{folder}", "--out", "{out}"], "Expected a .keras file or a .safetensors checkpoint"),
        (["{model}", "--out", "{two}"], "which is a file"),
        (["{model}", "--out", "{folder}"], "which holds other files"),
        (["{model}"], "required: --out"),
    ],
)
def test_export_refuses_wrong_arguments_and_writes_nothing(nano, tmp_path, refused, arguments, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "two.txt").write_text("a\nb\n")
    names = {"model": nano, "out": tmp_path / "out", "gone": tmp_path / "gone", "two": folder / "two.txt", "folder": folder}
    assert message in refused("export", *[argument.format(**names) for argument in arguments])
    assert [path.name for path in tmp_path.iterdir()] == ["folder"] and [path.name for path in folder.iterdir()] == ["two.txt"]


def test_a_failed_verification_exits_1_and_names_recipe_and_number(nano, tmp_path, capsys, monkeypatch):
    from swin_keras.export import bundle

    monkeypatch.setattr(bundle.verify, "FLOAT32_TOLERANCE", 1e-12)
    assert main(["export", str(nano), "--out", str(tmp_path / "bundle")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and "differs from Keras by" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["train"], "required: --data, --variant, --workdir"),
        (["train", "--data", "digits", "--variant", "swin_tinny", "--workdir", "{out}"], "Did you mean one of: swin"),
        (["train", "--data", "cats", "--variant", NANO, "--workdir", "{out}"], "Expected data='digits'"),
        (["train", "--data", "digits", "--variant", NANO, "--workdir", "{out}", "--epochs", "0"], "expected a whole number from 1"),
        (["train", "--data", "digits", "--variant", NANO, "--workdir", "{out}", "--seed", "-1"], "expected a whole number from 0"),
        (["train", "--data", "digits", "--variant", NANO, "--workdir", "{out}", "--weights", "{out}"], "does not exist"),
        (["demo", "--seed", "x"], "expected a whole number from 0"),
        (["classify", "a.png", "--bundle", "{out}"], "has no model.json"),
    ],
)
def test_wrong_usage_is_one_line_and_writes_nothing(tmp_path, refused, arguments, message):
    assert message in refused(*[argument.format(out=tmp_path / "out") for argument in arguments])
    assert list(tmp_path.iterdir()) == []


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match="which does not exist"):
        main(["export", str(tmp_path / "gone.keras"), "--out", str(tmp_path / "out"), "--debug"])


def test_as_a_process_an_error_is_the_only_line_on_standard_error(tmp_path, nano, run_command):
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    export = run_command("-m", "swin_keras.export", nano, "--out", tmp_path / "bundle", "--recipe", "float32")
    assert (export.returncode, export.stderr) == (0, "")
    for arguments in [
        ["-m", "swin_keras.export", tmp_path / "bad.safetensors", "--out", tmp_path / "other"],
        ["-m", "swin_keras.cli", "classify", tmp_path / "bad.png", "--bundle", tmp_path / "bundle"],
        ["-m", "swin_keras.cli", "demo", "--out", tmp_path / "bad.png"],
    ]:
        finished = run_command(*arguments)
        assert finished.returncode == 2 and finished.stdout == ""
        assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished.stderr
