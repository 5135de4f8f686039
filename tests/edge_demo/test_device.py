"""The device program: what it needs, what it prints, what it refuses."""

import json
import os
import shutil
import subprocess
import sys
import venv

import numpy as np
import pytest
from conftest import ROOT, edit_description, randomize
from PIL import Image
from swin_keras.edge_demo.__main__ import main as edge_main
from swin_keras.edge_demo.classifier import TFLiteModel

LABELS = ["nought", "one", "two", "three", "four", "five", "six"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("edge") / "bundle"
    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7))
    export_bundle(model, folder, recipes=["float32", "dynamic_int8"], labels=LABELS)
    return folder


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "bundle")


@pytest.fixture
def picture(tmp_path, rng):
    path = tmp_path / "picture.png"
    Image.fromarray(rng.integers(0, 256, (50, 70, 3)).astype("uint8")).save(path)
    return path


@pytest.fixture
def refusal(capsys):
    def run(*arguments):
        assert edge_main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.err.count("\n") == 1, captured.err
        return captured.err

    return run


def test_prints_the_top_k_with_probabilities_and_times(bundle, picture, capsys):
    assert edge_main([str(picture), "--bundle", str(bundle), "--top-k", "3"]) == 0
    first, *rest = capsys.readouterr().out.splitlines()
    assert str(picture) in first and "decode" in first and "preprocess" in first and "inference" in first
    assert len(rest) == 3
    percents = [float(line.split("%")[0]) for line in rest]
    assert percents == sorted(percents, reverse=True) and all(line.split("%")[1].strip() in LABELS for line in rest)


@pytest.mark.parametrize("recipe", ["float32", "dynamic_int8"])
def test_json_is_one_line_a_picture_with_the_contract_keys(bundle, picture, capsys, recipe):
    assert edge_main([str(picture), str(picture), "--bundle", str(bundle), "--recipe", recipe, "--top-k", "50", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 2 and lines[0]["top"] == lines[1]["top"]
    assert set(lines[0]) == {"image", "recipe", "top", "ms"} and lines[0]["recipe"] == recipe
    assert set(lines[0]["ms"]) == {"decode", "preprocess", "inference"} and all(value >= 0 for value in lines[0]["ms"].values())
    assert [set(entry) for entry in lines[0]["top"]] == [{"index", "label", "probability"}] * 7
    assert sum(entry["probability"] for entry in lines[0]["top"]) == pytest.approx(1.0)
    assert all(LABELS[entry["index"]] == entry["label"] for entry in lines[0]["top"])


def test_the_same_picture_in_another_file_format_gets_the_same_answer(bundle, tmp_path, rng, capsys):
    grey = rng.integers(0, 256, (33, 45)).astype("uint8")
    picture = Image.fromarray(grey)
    rgba = picture.convert("RGBA")
    files = {
        "grey.png": picture,
        "rgb.bmp": picture.convert("RGB"),
        "alpha.png": rgba,
        "palette.gif": picture.convert("P"),
        "wide.png": Image.fromarray(grey.astype("uint16") * 257),
    }
    for name, image in files.items():
        image.save(tmp_path / name)
    assert edge_main([*(str(tmp_path / name) for name in files), "--bundle", str(bundle), "--recipe", "float32", "--json"]) == 0
    tops = [json.loads(line)["top"] for line in capsys.readouterr().out.splitlines()]
    assert all(top == tops[0] for top in tops)


def test_a_bundle_without_model_json_is_refused(copy, picture, refusal):
    (copy / "model.json").unlink()
    assert "has no model.json" in refusal(picture, "--bundle", copy)
    assert "has no model.json" in refusal(picture, "--bundle", copy / "nowhere")


def test_a_changed_file_is_refused_before_it_runs(copy, picture, refusal):
    path = copy / "float32.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "expected sha256" in refusal(picture, "--bundle", copy, "--recipe", "float32")
    path.write_bytes(content[: len(content) // 2])
    assert "expected sha256" in refusal(picture, "--bundle", copy, "--recipe", "float32")
    path.unlink()
    assert "float32.tflite" in refusal(picture, "--bundle", copy, "--recipe", "float32")


@pytest.mark.parametrize("shape", [[1, 0], [0, 7], [2, 7], [1, 8], [7]], ids=str)
def test_a_shape_of_the_output_that_is_not_the_files_is_refused(copy, picture, refusal, shape):
    edit_description(copy, lambda description: description["outputs"][0].update(shape=shape))
    edit_description(copy, lambda description: description.update(labels=None))
    assert "Export the bundle again" in refusal(picture, "--bundle", copy)


def test_a_bundle_that_is_no_classifiers_says_what_it_is_for(copy, picture, refusal):
    edit_description(copy, lambda description: description.update(output_kind="features"))
    assert "received one of feature maps" in refusal(picture, "--bundle", copy)
    edit_description(copy, lambda description: description.update(output_kind="logits", recommended=dict.fromkeys(("cpu", "gpu", "npu"))))
    assert "received a SavedModel alone" in refusal(picture, "--bundle", copy)


@pytest.mark.parametrize("version", [2, 0, "1", None, True, [1]])
def test_an_unknown_format_version_is_refused(copy, picture, refusal, version):
    edit_description(copy, lambda description: description.update(format_version=version))
    assert f"expected a bundle of format version 1, received {version!r}" in refusal(picture, "--bundle", copy)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"model"', "\x00\x01"])
def test_a_damaged_model_json_is_refused(copy, picture, refusal, text):
    (copy / "model.json").write_text(text)
    refusal(picture, "--bundle", copy)


@pytest.mark.parametrize("key", ["files", "labels", "preprocessing", "output_kind", "recommended"])
@pytest.mark.parametrize("value", ["missing", None, 3, "text", [], {}, [1], {"a": 1}])
def test_a_model_json_with_wrong_values_is_refused_or_still_right(copy, picture, refusal, capsys, key, value):
    edit_description(copy, lambda description: description.pop(key) if value == "missing" else description.update({key: value}))
    if (key, value) == ("labels", None):
        assert edge_main([str(picture), "--bundle", str(copy)]) == 0 and "class " in capsys.readouterr().out
    else:
        refusal(picture, "--bundle", copy)


@pytest.mark.parametrize(
    ("change", "received"),
    [
        (lambda d: d["preprocessing"].update(std=[0, 0, 0]), "preprocessing.std [0, 0, 0]. Export"),
        (lambda d: d["preprocessing"].update(mode="fit"), ", received preprocessing.mode 'fit'. Export"),
        (lambda d: d["preprocessing"].pop("interpolation"), ", received preprocessing.interpolation None. Export"),
        (lambda d: d.update(labels=["one"]), ", labels ['one']. Export"),
        (lambda d: d.update(files=["x" * 500]), ", received files ['xxx"),
        (lambda d: d["input"].update(shape=[1, 3, 32, 32]), "'shape': [1, 3, 32, 32]"),
    ],
)
def test_what_is_wrong_in_a_model_json_is_shown_shortened(copy, picture, refusal, change, received):
    edit_description(copy, change)
    error = refusal(picture, "--bundle", copy)
    assert received in error and len(error) < 600


def test_a_recommendation_that_is_no_recipe_says_that_model_json_is_wrong(copy, picture, refusal, capsys):
    edit_description(copy, lambda description: description["recommended"].update(cpu="nope"))
    error = refusal(picture, "--bundle", copy)
    assert "expected as recommended.cpu in" in error and "model.json' one of the bundle's recipes float32, dynamic_int8, received 'nope'" in error
    assert edge_main([str(picture), "--bundle", str(copy), "--recipe", "float32"]) == 0


def test_probabilities_that_are_none_are_refused(copy, picture, refusal, monkeypatch):
    edit_description(copy, lambda description: description.update(output_kind="probabilities"))
    monkeypatch.setattr(TFLiteModel, "outputs", lambda self, x: [np.float32([[4.12, -3.2, 0, 0, 0, 0, 0]])])
    assert "its output_kind is probabilities, received -3.2 to 4.12." in refusal(picture, "--bundle", copy)
    monkeypatch.setattr(TFLiteModel, "outputs", lambda self, x: [np.float32([[1.002, 0, 0, 0, 0, 0, 0]])])
    assert edge_main([str(picture), "--bundle", str(copy)]) == 0


def test_a_sha256_in_capitals_is_the_same(copy, picture):
    edit_description(copy, lambda description: [file.update(sha256=file["sha256"].upper()) for file in description["files"]])
    assert edge_main([str(picture), "--bundle", str(copy)]) == 0


def test_a_sentence_of_another_program_brings_no_second_full_stop(bundle, picture, refusal, monkeypatch):
    def fail(self, x):
        raise RuntimeError("Node 7 failed to invoke.\n")

    monkeypatch.setattr(TFLiteModel, "outputs", fail)
    assert "Node 7 failed to invoke. Export the bundle again." in refusal(picture, "--bundle", bundle)


def test_output_that_is_not_buffered_and_cannot_be_written_is_told_in_the_same_words(bundle, picture):
    with open("/dev/full", "wb") as full:
        finished = subprocess.run(
            [sys.executable, "-u", "-m", "edge_demo", picture, "--bundle", bundle],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert finished.returncode == 2 and finished.stderr.count("\n") == 1
    assert finished.stderr.startswith("error: expected to write to standard output: No space left on device. Make room")


def test_another_size_leaves_the_runtimes_notice_off_standard_error(several_sizes, picture):
    command = [sys.executable, "-m", "edge_demo", picture, "--bundle", several_sizes, "--size", "64", "48"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_a_file_outside_the_bundle_is_refused(copy, picture, refusal, tmp_path):
    shutil.copy(copy / "float32.tflite", tmp_path / "outside.tflite")
    edit_description(copy, lambda description: description["files"][0].update(file="../outside.tflite"))
    assert "inside the bundle" in refusal(picture, "--bundle", copy, "--recipe", "float32")


def test_a_link_that_leads_out_of_the_bundle_is_refused(copy, picture, refusal, tmp_path):
    for name in ("float32.tflite", "model.json"):
        (copy / name).rename(tmp_path / name)
        (copy / name).symlink_to(tmp_path / name)
        assert "a link that leads out of it" in refusal(picture, "--bundle", copy, "--recipe", "float32")
        (copy / name).unlink()
        (tmp_path / name).rename(copy / name)
    (copy / "moved").mkdir()
    (copy / "float32.tflite").rename(copy / "moved" / "file")
    (copy / "float32.tflite").symlink_to("moved/file")
    assert edge_main([str(picture), "--bundle", str(copy), "--recipe", "float32"]) == 0


def test_files_too_large_to_be_true_are_refused_unread(copy, picture, refusal):
    os.truncate(copy / "float32.tflite", 2**31 + 1)
    assert "of at most 2,147,483,648 bytes" in refusal(picture, "--bundle", copy, "--recipe", "float32")
    os.truncate(copy / "model.json", 2**24 + 1)
    assert "of at most 16,777,216 bytes" in refusal(picture, "--bundle", copy)


def test_what_the_runtime_says_at_a_later_picture_is_one_line(bundle, picture, refusal, monkeypatch):
    def fail(self, x):
        raise RuntimeError("node 7 failed to invoke")

    monkeypatch.setattr(TFLiteModel, "outputs", fail)
    assert "node 7 failed to invoke" in refusal(picture, "--bundle", bundle)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_answer_that_is_no_number_is_refused(bundle, picture, refusal, monkeypatch, value):
    monkeypatch.setattr(TFLiteModel, "outputs", lambda self, x: [np.full((1, 7), value, "float32")])
    assert "received NaN or infinity" in refusal(picture, "--bundle", bundle)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "int4"], "expected one of the bundle's recipes float32, dynamic_int8, received 'int4'"),
        (["--top-k", "0"], "expected a whole number from 1, received '0'"),
        (["--threads", "-1"], "expected a whole number from 1"),
        (["--threads", "many"], "received 'many'"),
        (["--threshold", "1.5"], "expected a number from 0 to 1, received '1.5'"),
        (["--threshold", "nan"], "expected a number from 0 to 1, received 'nan'"),
        (["--threshold", "-0.1"], "argument --threshold"),
        (["--camera", "0"], "one of IMAGE..., --camera N and --folder DIR is required, received more"),
        (["--folder", "."], "received more"),
        (["--csv", "table.csv"], "expected --csv FILE with --folder DIR"),
        (["--threads", "1000000"], "expected a whole number from 1 to 64, received '1000000'"),
        (["--threads", "0"], "expected a whole number from 1 to 64, received '0'"),
        (["--size", "32"], "argument --size: expected a height and a width, such as --size 224 320. `"),
        (["--save-overlay", ""], "argument --save-overlay: expected a name, received ''"),
        (["--recipe", ""], "argument --recipe: expected a name, received ''"),
        (["--folder", ".", "--csv", ""], "argument --csv: expected a name, received ''"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_wrong_options_are_refused(bundle, picture, refusal, options, message):
    assert message in refusal(picture, "--bundle", bundle, *options)


def test_a_folder_in_the_place_of_a_picture_is_told_of_the_option(bundle, picture, refusal):
    error = refusal(picture, picture.parent, "--bundle", bundle)
    assert f"received {str(picture.parent)!r}, which is a folder. `--folder {picture.parent}` classifies all pictures in it." in error


def test_missing_arguments_are_refused(refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "one of IMAGE..., --camera N and --folder DIR is required, received none" in refusal()
    assert "received 'bundle', which has no model.json. Give with --bundle" in refusal("picture.png")


def test_a_bundle_in_the_current_folder_is_found_without_an_argument(copy, picture, monkeypatch, capsys):
    monkeypatch.chdir(copy.parent)
    assert edge_main([str(picture), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["recipe"] == "dynamic_int8"


@pytest.fixture(scope="module")
def several_sizes(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("sizes") / "bundle"
    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7))
    export_bundle(model, folder, recipes=["float32"], labels=LABELS, sizes=[(64, 48)], uint8_input=True)
    return folder


def test_a_size_chooses_the_signature_and_its_preprocessing(several_sizes, picture, capsys):
    from ai_edge_litert.interpreter import Interpreter
    from swin_keras.edge_demo import open_picture, preprocess

    def top(*options):
        assert edge_main([str(picture), "--bundle", str(several_sizes), "--top-k", "7", "--json", *options]) == 0
        return {entry["index"]: entry["probability"] for entry in json.loads(capsys.readouterr().out)["top"]}

    description = json.loads((several_sizes / "model.json").read_text())
    (signature,) = [s for s in description["signatures"] if s["key"] == "size_64x48"]
    x = preprocess(open_picture(picture), signature["preprocessing"])
    logits = Interpreter(str(several_sizes / "float32.tflite")).get_signature_runner("size_64x48")(image=x)["logits"][0].astype("float64")
    expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    for _ in range(2):  # the first time in a process of its own
        found = top("--size", "64", "48")
        np.testing.assert_allclose([found[index] for index in range(7)], expected, rtol=1e-5)
    assert top("--size", "32", "32") == top() != found


def test_a_size_that_the_bundle_lacks_is_refused_with_those_that_it_has(bundle, several_sizes, picture, refusal):
    message = "expected as --size one of the bundle's, 32 32, 64 48, received 48 64. Export it with that size too."
    assert message in refusal(picture, "--bundle", several_sizes, "--size", "48", "64")
    assert "one of the bundle's, 32 32, received 64 48" in refusal(picture, "--bundle", bundle, "--size", "64", "48")
    assert "argument --size" in refusal(picture, "--bundle", bundle, "--size", "64", "0")


@pytest.mark.parametrize(
    "signatures",
    [None, 3, [None], [{}], [{"key": "a b"}], "text", {"a": 1}]
    + [[{"key": "k", "input": {"shape": [1, 64, 48, 3], "dtype": "float32", "layout": "NHWC"}, "preprocessing": {}, "outputs": [{"shape": [1, 7]}]}]],
)
def test_signatures_that_are_none_are_refused(copy, picture, refusal, signatures):
    edit_description(copy, lambda description: description.update(signatures=signatures))
    refusal(picture, "--bundle", copy, "--size", "64", "48")


def test_a_threshold_leaves_out_what_is_less_probable(bundle, picture, capsys):
    def top(*options):
        assert edge_main([str(picture), "--bundle", str(bundle), "--top-k", "7", "--json", *options]) == 0
        return json.loads(capsys.readouterr().out)["top"]

    everything = top()
    third = everything[2]["probability"]
    assert top("--threshold", repr(third)) == everything[:3]
    assert top("--threshold", "1") == []
    assert edge_main([str(picture), "--bundle", str(bundle), "--threshold", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["  no class reaches 100 %"]


def test_what_would_move_the_cursor_is_written_out(copy, picture, capsys, refusal):
    edit_description(copy, lambda description: description.update(labels=["\x1b[2Ja\r\nb"] * 7))
    assert edge_main([str(picture), "--bundle", str(copy), "--top-k", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("%  \\x1b[2Ja b")
    assert "\x1b" not in refusal("\x1b[2J.png", "--bundle", copy)
    edit_description(copy, lambda description: description["files"][0].update(recipe="\x1b[2J"))
    assert "\x1b" not in refusal(picture, "--bundle", copy, "--recipe", "x")


def test_an_interruption_is_one_word_and_code_130(capsys):
    def run(arguments):
        raise KeyboardInterrupt

    assert edge_main([], add_arguments=lambda parser: None, run=run) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("edge_demo", ["--help"]),
        ("edge_demo", ["PICTURE"]),
        ("edge_demo.bench", ["--recipe", "float32", "--runs", "1"]),
    ],
)
def test_output_that_nobody_reads_or_a_full_disk_ends_without_a_complaint_of_pythons(bundle, picture, module, options):
    options = [picture if option == "PICTURE" else option for option in options]
    command = [sys.executable, "-m", module, *options, "--bundle", bundle]
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as closed, open("/dev/full", "wb") as full:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        finished = [
            subprocess.run(command, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.PIPE, text=True, check=False) for out in (closed, full)
        ]
    errors = [[line for line in one.stderr.splitlines() if "loading in a process" not in line and "in turns" not in line] for one in finished]
    assert [one.returncode for one in finished] == [141, 2] and errors[0] == []
    assert errors[1] == ["error: expected to write to standard output: No space left on device. Make room, or send the output elsewhere."]


def test_memory_that_runs_out_is_one_line(capsys):
    def run(arguments):
        raise MemoryError

    assert edge_main([], add_arguments=lambda parser: None, run=run) == 2
    assert capsys.readouterr().err.startswith("error: expected more memory")


def test_the_first_picture_that_cannot_be_read_ends_the_run_in_one_line(bundle, picture, tmp_path, refusal):
    (tmp_path / "letter.png").write_text("Dear reader")
    assert "letter.png" in refusal(picture, tmp_path / "letter.png", picture, "--bundle", bundle)


def test_installed_program_imports_no_tensorflow_keras_or_package_of_ours(tmp_path, bundle, picture):
    # The folder alone, in a process that has everything else installed: what does it load?
    shutil.copytree(ROOT / "edge_demo", tmp_path / "device" / "edge_demo", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; from edge_demo.__main__ import main; assert main(sys.argv[1:]) == 0\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'tensorflow', 'keras', 'swin_keras', 'sklearn', 'tf_keras', 'torch', 'jax'}, loaded"
    )
    command = [sys.executable, "-c", code, str(picture), "--bundle", str(bundle)]
    finished = subprocess.run(command, cwd=tmp_path / "device", capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_five_commands_of_the_readme_lead_to_a_result(tmp_path, bundle, picture):
    _, heading, rest = (ROOT / "edge_demo" / "README.md").read_text().partition("from nothing to a result\n")
    make, copy, _, install, classify = commands = [line.strip() for line in rest.split("\n## ")[0].splitlines() if line.startswith("    ")][:5]
    assert heading and commands == [line.strip() for line in rest.split("\nIt prints")[0].splitlines() if line.startswith("    ")]
    assert make == "make demo" and "demo --out demo-out" in (ROOT / "Makefile").read_text()
    assert copy.split()[2:5] == ["edge_demo", "demo-out/bundle", "demo-out/samples"] and install.endswith("-r edge_demo/requirements.txt")
    shutil.copytree(ROOT / "edge_demo", tmp_path / "pi" / "edge_demo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(bundle, tmp_path / "pi" / "bundle")
    program, *arguments = classify.split()
    (tmp_path / "pi" / arguments[-1]).parent.mkdir()
    shutil.copy(picture, tmp_path / "pi" / arguments[-1])
    assert program == "venv/bin/python"
    finished = subprocess.run([sys.executable, *arguments], cwd=tmp_path / "pi", capture_output=True, text=True, check=False)
    assert finished.returncode == 0 and finished.stderr == "" and finished.stdout.startswith("samples/3_12.png (dynamic_int8: decode "), finished


@pytest.mark.slow
def test_folder_copied_alone_runs_in_an_environment_with_its_requirements_only(tmp_path, bundle, picture):
    shutil.copytree(ROOT / "edge_demo", tmp_path / "device" / "edge_demo", ignore=shutil.ignore_patterns("__pycache__"))
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "-r", tmp_path / "device" / "edge_demo" / "requirements.txt"], check=True, capture_output=True
    )
    installed = subprocess.run([python, "-m", "pip", "list"], check=True, capture_output=True, text=True).stdout
    assert "tensorflow" not in installed and "keras" not in installed
    command = [python, "-m", "edge_demo", str(picture), "--bundle", str(bundle), "--json"]
    finished = subprocess.run(command, cwd=tmp_path / "device", capture_output=True, text=True, check=True)
    assert json.loads(finished.stdout)["top"][0]["label"] in LABELS
    np.testing.assert_allclose(sum(entry["probability"] for entry in json.loads(finished.stdout)["top"]), 1, atol=0.5)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d["preprocessing"].update(mean=[float("nan")] * 3),
        lambda d: d["preprocessing"].update(std=[float("inf")] * 3),
        lambda d: d["preprocessing"].update(std=[1e-320] * 3),
        lambda d: d["preprocessing"].update(mean=[10**400] * 3),
        lambda d: d["preprocessing"].update(crop=[16, 16], resize=[16, 16]) or d["input"].update(shape=[1, 16, 16, 3]),
        lambda d: d["outputs"][0].update(shape=[1, 5]) or d.update(labels=None),
        lambda d: d["outputs"][0].update(shape=[1, 5]) or d.update(labels=["x"] * 5),
        lambda d: d["outputs"].append(d["outputs"][0]),
        lambda d: d["input"].update(dtype="uint8"),
        lambda d: d["input"].update(layout="NCHW"),
        lambda d: d.update(format_version=1.0),
        lambda d: [f.update(file="a" * 5000) for f in d["files"]],
    ],
)
def test_a_model_json_that_its_file_contradicts_is_refused(copy, picture, refusal, change):
    edit_description(copy, change)
    refusal(picture, "--bundle", copy)


def test_a_file_that_is_no_model_is_refused_even_with_the_right_sha256(copy, picture, refusal):
    import hashlib

    (copy / "float32.tflite").write_bytes(b"")
    edit_description(copy, lambda d: d["files"][0].update(sha256=hashlib.sha256(b"").hexdigest()))
    assert "expected a .tflite file" in refusal(picture, "--bundle", copy, "--recipe", "float32")


def test_a_name_that_is_no_utf8_is_classified(bundle, picture, tmp_path):
    path = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    shutil.copy(picture, path)
    command = [sys.executable, "-m", "swin_keras.cli", "classify", path, "--bundle", str(bundle)]
    finished = subprocess.run(command, cwd="/", capture_output=True, env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"}, check=False)
    assert finished.returncode == 0 and b"\\udcff" in finished.stdout, finished.stderr


def test_output_into_a_closed_pipe_or_a_full_disk_is_no_traceback(bundle, picture):
    command = f"{sys.executable} -m swin_keras.cli classify {' '.join([str(picture)] * 9)} --bundle {bundle} --json"
    for target in ("| head -c1 >/dev/null", ">/dev/full"):
        finished = subprocess.run(["bash", "-c", f"{command} {target}"], cwd="/", capture_output=True, text=True, check=False)
        assert "Traceback" not in finished.stderr, finished.stderr
