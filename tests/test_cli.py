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


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of pictures of noise, five in each of two sub-folders."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("data") / "pictures", np.random.default_rng(0)
    for label in ("ant", "bee"):
        (folder / label).mkdir(parents=True)
        for index in range(5):
            Image.fromarray(rng.integers(0, 256, (41, 37, 3), "uint8")).save(folder / label / f"{index}.png")
    return folder


def test_export_calibrates_on_a_data_set(nano, pictures, tmp_path, capsys, refused):
    arguments = ["export", str(nano), "--out", str(tmp_path / "bundle"), "--recipe", "hybrid_int8"]
    assert "`calibration` must be pictures for hybrid_int8. Received: None. Give some hundred" in refused(*arguments)
    inside = ["export", nano, "--out", pictures / "bundle", "--calibration", f"folder:{pictures}"]
    assert "Expected a bundle outside of the pictures" in refused(*inside)
    assert main([*arguments, "--calibration", f"folder:{pictures}"]) == 0
    assert "fidelity" in (tmp_path / "bundle" / "report.json").read_text()
    assert (tmp_path / "bundle" / "hybrid_int8.tflite").is_file() and "| hybrid_int8 |" in capsys.readouterr().out


def test_export_calibrates_on_a_folder_without_classes(nano, pictures, tmp_path, capsys, refused):
    arguments = ["export", nano, "--out", tmp_path / "bundle", "--recipe", "hybrid_int8", "--calibration"]
    assert main([str(argument) for argument in [*arguments, f"folder:{pictures / 'ant'}"]]) == 0
    assert f"{pictures / 'ant'}: 5 pictures, without classes" in capsys.readouterr().out
    assert json.loads((tmp_path / "bundle" / "report.json").read_text())["recipes"]["hybrid_int8"]["fidelity"]["samples"] == 5
    (tmp_path / "empty").mkdir()
    assert "or in sub-folders. Received: a folder without. Check the path" in refused(*arguments, f"folder:{tmp_path / 'empty'}")
    assert "Expected a folder that holds pictures. Received: " in refused(*arguments, f"folder:{tmp_path / 'gone'}")
    assert f"received '{pictures}'; for the folder of that name write folder:{pictures}." in refused(*arguments, pictures)
    # Accuracy needs classes.
    assert "holds no sub-folder. Make one for each class" in refused(*arguments[:4], "--data", f"folder:{pictures / 'ant'}")


@pytest.mark.slow
def test_export_builds_the_model_for_another_size_and_measures_accuracy(tmp_path, capsys, refused):
    from conftest import randomize

    import swin_keras

    model = randomize(swin_keras.create_model(NANO, num_classes=10, input_shape=(None, None, 3)))
    model.save(tmp_path / "model.keras")
    export = ["export", tmp_path / "model.keras", "--out", tmp_path / "bundle", "--recipe", "float32"]
    assert "on the command line, --size HEIGHT WIDTH" in refused(*export)
    assert "expected a whole number from 1, received '0'" in refused(*export, "--size", "0", "32")
    for size in (["32"], ["32x48"], []):
        assert "argument --size: expected a height and a width, such as --size 224 320." in refused(*export, "--size", *size)
    assert "this takes more memory than there is (Unable to allocate" in refused(*export, "--size", "1000000", "1000000")
    arguments = [*export, "--size", "24", "40", "--size", "32", "16", "--uint8-input", "--data", "digits", "--json"]
    assert main([str(argument) for argument in arguments]) == 0
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert report["model"]["input"] == [1, 24, 40, 3] and 0 < report["keras"]["top1"] == report["recipes"]["float32"]["top1"] < 0.5
    description = json.loads((tmp_path / "bundle" / "model.json").read_text())
    assert description["preprocessing"]["crop"] == [24, 40] and description["preprocessing"]["resize"] == [27, 45]
    keys = [signature["key"] for signature in description["signatures"]]
    assert keys == ["serving_default", "size_32x16", "uint8", "uint8_32x16"]

    assert main(["bench", "--bundle", str(tmp_path / "bundle"), "--runs", "2", "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)["recipes"]["float32"]
    assert measured["latency_ms"]["runs"] == 2 and measured["delegate"] == report["recipes"]["float32"]["delegate"]


def test_export_refuses_labelled_pictures_of_other_classes(nano, tmp_path, refused):
    message = refused("export", nano, "--out", tmp_path / "bundle", "--data", "digits")
    assert "`--data` must have the model's 3 classes in its order. Received: 10, ['0', '1', '2']" in message
    assert list(tmp_path.iterdir()) == []


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
    from swin_keras.weights.variables import official_name

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


@pytest.mark.slow
def test_export_tells_the_variant_of_a_checkpoint_from_its_shapes(tiny_checkpoint, tmp_path, capsys, monkeypatch):
    from swin_keras import export
    from swin_keras.preprocessing import Preprocessing

    class Exported(Exception):
        """What would be exported: that takes a minute at this size, and is tried elsewhere."""

    def export_bundle(model, out, **arguments):
        raise Exported(model, arguments)

    monkeypatch.setattr(export, "export_bundle", export_bundle)
    with pytest.raises(Exported) as caught:
        main(["export", str(tiny_checkpoint), "--out", str(tmp_path / "bundle"), "--recipe", "float32"])
    assert "labels: none; preprocessing: the official protocol" in capsys.readouterr().out
    model, arguments = caught.value.args
    resized = (arguments["preprocessing"] or Preprocessing.official(*model.input_shape[1:3])).to_dict()["resize"]
    assert list(resized) == [256, 256]
    assert model.name == "swin_tiny_patch4_window7_224" and model.output_shape == (None, 3) and arguments["labels"] is None
    loaded = load_file(tiny_checkpoint)["layers.2.blocks.3.mlp.fc2.weight"].astype("float32")
    np.testing.assert_array_equal(model.get_layer("layers_2_blocks_3").mlp.fc2.kernel, loaded.T)


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
    assert "embed_dim=12, depths=(2, 3, 1), num_heads=(2, 3, 6), windows=((3, 3), (3, 3), (3, 3)), which fits no row" in message


def test_export_takes_labels_and_preprocessing_from_a_folder_of_transformers(nano, tmp_path, capsys):
    import keras

    import swin_keras

    folder = tmp_path / "folder"
    folder.mkdir()
    swin_keras.save_weights(keras.models.load_model(nano), folder / "model.safetensors", layout="huggingface")
    (folder / "config.json").write_text(json.dumps({"id2label": {"0": "ant", "1": "bee", "2": "cat"}}))
    processor = {"size": {"height": 32, "width": 32}, "resample": 2, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    assert main(["export", str(folder), "--out", str(tmp_path / "bundle"), "--recipe", "float32"]) == 0
    assert f"labels: {folder}; preprocessing: {folder}" in capsys.readouterr().out
    description = json.loads((tmp_path / "bundle" / "model.json").read_text())
    assert description["model"] == NANO and description["labels"] == ["ant", "bee", "cat"]
    assert description["preprocessing"]["interpolation"] == "bilinear" and description["preprocessing"]["mode"] == "exact"


@pytest.mark.parametrize(
    ("source", "dialect", "layout"),
    [
        ("official.pth", "official", "timm"),
        ("timm_v2.safetensors", "timm", "huggingface"),
        ("huggingface_v5.safetensors", "huggingface", "official"),
        ("torchvision_v2.pth", "torchvision", "timm"),
        ("mmdet.pth", "mmdet", "official"),
        ("keras_hub.keras", "keras_hub", "huggingface"),
        ("official_simmim.pth", "official", "huggingface"),
    ],
)
def test_convert_translates_and_the_result_translates_back_to_the_same(tmp_path, capsys, source, dialect, layout):
    from swin_keras.weights import read_checkpoint

    assert main(["convert", str(GOLDENS / source), str(tmp_path / "out.safetensors"), "--layout", layout]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1 and f"in {layout} layout, read as {dialect}" in out
    original, converted = read_checkpoint(GOLDENS / source), read_checkpoint(tmp_path / "out.safetensors")
    assert converted.source == layout
    assert set(converted.tensors) == set(original.tensors) - original.outside
    for name, tensor in converted.tensors.items():
        np.testing.assert_array_equal(tensor.read(), original.tensors[name].read().astype("float32"), err_msg=name)


def test_convert_takes_a_trained_model(nano, tmp_path, capsys):
    assert main(["convert", str(nano), str(tmp_path / "out.safetensors"), "--layout", "timm", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"source": "swin_keras", "layout": "timm", "tensors": 63, "left_out": []}
    assert "head.fc.weight" in load_file(tmp_path / "out.safetensors")


def _bad_checkpoints(folder):
    """Files that are no good checkpoint, and what is said of each."""
    tensors = load_file(GOLDENS / "official.safetensors")

    def file(name, content):
        (folder / name).write_bytes(content)
        return name

    def changed(name, **changes):
        save_file({**tensors, **{key.replace("__", "."): value for key, value in changes.items()}}, folder / name)
        return name

    safetensors, pth = ((GOLDENS / f"official.{suffix}").read_bytes() for suffix in ("safetensors", "pth"))
    with zipfile.ZipFile(folder / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(2**26))
    with zipfile.ZipFile(folder / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    doubled = {**tensors, **{f"module.{name}": value for name, value in tensors.items()}}
    save_file(doubled, folder / "doubled.safetensors")
    return {
        file("truncated.safetensors", safetensors[:-100]): "is not a readable checkpoint",
        file("truncated.pth", pth[:-100]): "perhaps cut off",
        file("empty.safetensors", b""): "it is empty",
        changed("integers.safetensors", norm__weight=np.ones(48, "int32")): "norm.weight holds int32",
        changed("rank.safetensors", norm__weight=np.ones((48, 1), "float32")): "norm.weight has shape (48, 1)",
        changed("nan.safetensors", norm__weight=np.full(48, np.nan, "float32")): "values that are not finite",
        changed("mixed.safetensors", **{"swin__embeddings__patch_embeddings__projection__weight": np.ones(3, "float32")}): "of one dialect",
        "doubled.safetensors": "which the model lacks",
        "other.zip": "holds no checkpoint",
        "bomb.pth": "is compressed or encrypted",
        file("lies.safetensors", b"\xff" * 8 + safetensors[8:]): "is not a readable checkpoint",
    }


def test_convert_refuses_every_bad_checkpoint_in_one_line_and_writes_nothing(tmp_path, refused):
    for name, message in _bad_checkpoints(tmp_path).items():
        assert message in refused("convert", tmp_path / name, tmp_path / "out.safetensors"), name
        assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{gone}.pth", "{out}.safetensors"], "does not exist"),
        (["{golden}/official.pth", "{out}.pth"], "Expected the path of a .safetensors file to write"),
        (["{golden}/official.pth", "{out}/x.safetensors"], "whose folder does not exist"),
        (["{golden}/official.pth", "{out}.safetensors", "--layout", "torch"], "`layout` must be one of"),
        (["{golden}/official_mlp.pth", "{out}.safetensors", "--layout", "timm"], "timm has no place for"),
        (["{golden}/resize.npz", "{out}.safetensors"], "holds no checkpoint"),
        (["{golden}", "{out}.safetensors"], "which has no such file"),
        (["{golden}/official.pth"], "required: DST"),
    ],
)
def test_convert_refuses_wrong_arguments(tmp_path, refused, arguments, message):
    names = {"gone": tmp_path / "gone", "out": tmp_path / "out", "golden": GOLDENS}
    assert message in refused("convert", *[argument.format(**names) for argument in arguments])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("model.json", "it is a bundle, or another exported model: give what it was exported from"),
        ("saved_model.pb", "it is a SavedModel, from which no layers can be read: give the .keras file or checkpoint"),
        ("history.csv", "which has no such file and no model.keras; it is a workdir of `train` without a finished epoch: train on"),
    ],
)
def test_export_says_what_a_folder_of_another_kind_is(tmp_path, refused, file, message):
    (tmp_path / file).write_text("{}")
    assert message in refused("export", tmp_path, "--out", tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == [file]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, world", "it is of none of these kinds"),
        (b"\x93NUMPY\x01\x00v\x00{'descr': '<f4'}", "it is an array of numpy"),
        (b"\x20\x00\x00\x00TFL3" + bytes(40), "it is a .tflite file, from which no layers can be read"),
    ],
)
def test_export_says_what_a_file_of_another_kind_is(tmp_path, refused, content, message):
    (tmp_path / "model").write_bytes(content)
    assert f"is not a readable checkpoint ({message}). Expected safetensors" in refused("export", tmp_path / "model", "--out", tmp_path / "bundle")


def test_export_says_why_keras_does_not_load_a_model(tmp_path, refused):
    import keras

    class Elsewhere(keras.layers.ReLU):
        pass

    image = keras.Input((8, 8, 3))
    for layer, message in [
        (Elsewhere(), "it needs Elsewhere, which is not known here"),
        (keras.layers.Lambda(lambda x: 2 * x), "it has a Lambda layer"),
    ]:
        keras.Model(image, layer(image)).save(tmp_path / "model.keras")
        assert f"is not a readable .keras file ({message}" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")


@pytest.mark.filterwarnings("ignore")
def test_export_tells_a_model_in_the_old_format_of_keras_and_a_damaged_configuration(nano, tmp_path, refused, caplog):
    import keras

    keras.models.load_model(nano).save(tmp_path / "model.h5")
    assert "(it is a model in Keras' old format. Load it by" in refused("export", tmp_path / "model.h5", "--out", tmp_path / "bundle")
    with zipfile.ZipFile(nano) as archive:
        place = archive.getinfo("config.json").header_offset + 200
    content = bytearray(nano.read_bytes())
    content[place] ^= 255
    (tmp_path / "model.keras").write_bytes(content)
    assert "is not a readable checkpoint (Bad CRC-32 for file 'config.json')" in refused(
        "export", tmp_path / "model.keras", "--out", tmp_path / "bundle"
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no model at all"])
def test_export_refuses_a_damaged_keras_file(tmp_path, refused, content):
    (tmp_path / "model.keras").write_bytes(content)
    assert "is not a readable" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")


def test_export_refuses_a_truncated_or_foreign_zip(nano, tmp_path, refused):
    content = nano.read_bytes()
    (tmp_path / "model.keras").write_bytes(content[: len(content) // 2])
    assert "is not a readable" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")
    with zipfile.ZipFile(tmp_path / "model.keras", "w") as archive:
        archive.writestr("hello.txt", "hello")
    assert "is not a readable" in refused("export", tmp_path / "model.keras", "--out", tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "--out", "{out}", "--recipe", "int4"], "`recipes` must be some of"),
        (["{model}", "--out", "{out}", "--layout", "npu"], "`layout` must be one of"),
        (["{model}", "--out", "{out}", "--percentile", "20"], "`percentile` must be above 50"),
        (["{model}", "--out", "{out}", "--accuracy-budget", "-3"], "`accuracy_budget` must be points"),
        (["{model}", "--out", "{out}", "--migrate"], "`calibration` must be pictures for migration"),
        (["{model}", "--out", "{out}", "--percentile", "99.9"], "`percentile` is for the recipes hybrid_int8, full_int8, int16x8. Received: float32"),
        (["{model}", "--out", "{out}", "--recipe", "float32", "--accuracy-budget", "1", "--data", "digits"], "`accuracy_budget` is for the recipes"),
        (["{model}", "--out", "{out}", "--labels", "{gone}"], "which is no file"),
        (["{model}", "--out", "{out}", "--labels", "{two}"], "each of the model's 3 classes. Received: 2 names"),
        (["{model}", "--out", "{out}", "--labels", "{model}"], "Expected UTF-8 text"),
        (["{gone}.keras", "--out", "{out}"], "which does not exist"),
        (["{gone}.safetensors", "--out", "{out}"], "does not exist"),
        (["{two}", "--out", "{out}"], "is not a readable checkpoint"),
        (
            ["{folder}", "--out", "{out}"],
            "which has no such file. Give a file, a folder as transformers saves one, or, to export or evaluate, a workdir",
        ),
        (["{model}", "--out", "{two}"], "which is a file"),
        (["{model}", "--out", "{two}/bundle"], "two.txt' is a file. Choose another"),
        (["{model}", "--out", "/"], "which holds other files: "),
        (["{model}", "--out", "{out}" + "x" * 300], "error: File name too long: "),
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


@pytest.mark.parametrize(
    ("recipe", "blocks"), [("float32", 200), *(pytest.param(*case, marks=pytest.mark.slow) for case in [("float32", 4000), ("saved_model", 200)])]
)
def test_a_full_disk_is_one_line_and_leaves_the_older_bundle(nano, tmp_path, recipe, blocks):
    """A limit on the size of files stands for the disk: of 1 kB each, for TensorFlow's files on the way or for the bundle's own."""
    import subprocess
    import sys

    (tmp_path / "bundle").mkdir()
    code = (
        "import resource, signal, sys\n"
        "from swin_keras.cli import main\n"
        "from swin_keras.export import bundle\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "convert = bundle.tflite.convert\n"
        "def limit(size): resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "def convert_then_limit(*arguments):\n"
        "    content = convert(*arguments)\n"
        "    limit(500_000)\n"
        "    return content\n"
        f"limit({blocks} * 1024)\n"
        "bundle.tflite.convert = convert_then_limit\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, "export", str(nano), "--out", str(tmp_path / "bundle"), "--recipe", recipe]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    errors = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "File too large" in errors[0] and "Traceback" not in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"] and not any((tmp_path / "bundle").iterdir())


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
        (["train", "--data", "cats", "--variant", NANO, "--workdir", "{out}"], "expected digits, folder:PATH or tfds:NAME, received 'cats'"),
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


def test_an_evaluation_over_a_file_is_refused_before_the_model_is_opened(tmp_path, refused):
    (tmp_path / "report").write_text("mine")
    message = refused("evaluate", tmp_path / "gone.keras", "--data", "digits", "--out", tmp_path / "report")
    assert "Expected a folder for the evaluation" in message and (tmp_path / "report").read_text() == "mine"


@pytest.mark.slow
def test_whoever_wants_no_more_output_or_has_no_room_for_it_gets_no_traceback():
    import os
    import subprocess
    import sys

    reader, writer = os.pipe()
    os.close(reader)
    command, environment = [sys.executable, "-m", "swin_keras.cli", "models"], {**os.environ, "PYTHONUNBUFFERED": ""}
    with open(writer, "wb") as closed, open("/dev/full", "wb") as full:
        finished = [subprocess.run(command, env=environment, stdout=out, stderr=subprocess.PIPE, text=True, check=False) for out in (closed, full)]
    assert (finished[0].returncode, finished[0].stderr) == (141, "")
    assert finished[1].returncode == 2 and finished[1].stderr.startswith("error: expected to write to standard output: No space left on device.")


def test_debug_shows_the_traceback_and_the_code_is_the_same(tmp_path, capsys):
    assert main(["export", str(tmp_path / "gone.keras"), "--out", str(tmp_path / "out"), "--debug"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and "ValueError" in error and "which does not exist" in error.splitlines()[-1]


@pytest.mark.slow
def test_as_a_process_an_error_is_the_only_line_on_standard_error(tmp_path, nano, pictures, run_command):
    (tmp_path / "bad.safetensors").write_bytes(b"nonsense")
    (tmp_path / "bad.png").write_bytes(b"nonsense")
    # The device runtime announces its delegate once a process: in the first file that is run, or before that where ranges are found.
    for options in (["float32", "--uint8-input"], ["hybrid_int8", "--calibration", f"folder:{pictures}"]):
        export = run_command("-m", "swin_keras.export", nano, "--out", tmp_path / "bundle", "--recipe", *options)
        assert (export.returncode, export.stderr) == (0, "")
    for arguments in [
        ["-m", "swin_keras.export", tmp_path / "bad.safetensors", "--out", tmp_path / "other"],
        ["-m", "swin_keras.cli", "classify", tmp_path / "bad.png", "--bundle", tmp_path / "bundle"],
        ["-m", "swin_keras.cli", "demo", "--out", tmp_path / "bad.png"],
    ]:
        finished = run_command(*arguments)
        assert finished.returncode == 2 and finished.stdout == ""
        assert finished.stderr.startswith("error: ") and finished.stderr.count("\n") == 1, finished.stderr


def test_serve_takes_what_the_server_takes(tmp_path, refused):
    assert "which has no model.json" in refused("serve", "--bundle", tmp_path)
    assert "expected a number from 0 to 65535, received '65536'" in refused("serve", "--bundle", tmp_path, "--port", "65536")
