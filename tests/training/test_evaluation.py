"""Accuracy against scikit-learn's, on each kind of model and of data, and what is refused."""

import csv
import dataclasses
import json
import warnings

import keras
import numpy as np
import pytest
from conftest import randomize
from PIL import Image
from sklearn import metrics

import swin_keras
from swin_keras.preprocessing import Preprocessing
from swin_keras.training import evaluation, load_data
from swin_keras.training.evaluation import evaluate, format_report, measure_throughput, write_evaluation

NANO = "swin_nano_patch4_window4_32"


def classifier(classes, height=5, width=7, seed=0):
    """A model without the time that a Swin takes to trace."""
    x = inputs = keras.Input((height, width, 3))
    for layer in [keras.layers.AveragePooling2D((height // 5, width // 5)), keras.layers.Flatten(), keras.layers.Dense(classes)]:
        x = layer(x)
    return randomize(keras.Model(inputs, x, name="linear"), seed, scale=1.0)


def quiet(*arguments, **settings):
    lines = []
    return evaluate(*arguments, log=lines.append, **settings), lines


@pytest.fixture
def examples(rng):
    """Pictures of 11 classes; none is of class 4."""
    classes = rng.integers(0, 10, 157)
    return rng.standard_normal((157, 5, 7, 3)).astype("float32"), np.where(classes == 4, 10, classes)


def test_the_numbers_are_those_of_scikit_learn(examples):
    import tensorflow as tf

    model = classifier(11)
    model.layers[-1].bias.assign(np.where(np.arange(11) == 7, -1e3, 0.0))  # never the answer
    pictures, classes = examples
    scores = model.predict(pictures, verbose=0)
    answers, every = scores.argmax(-1), np.arange(11)
    result, lines = quiet(model, examples, batch_size=32)
    assert result["samples"] == 157 and result["skipped"] == 0 and result["protocol"]["preprocessing"] is None
    assert result["top1"] == metrics.accuracy_score(classes, answers)
    assert result["top5"] == metrics.top_k_accuracy_score(classes, scores, k=5, labels=every)
    np.testing.assert_array_equal(result["confusion"], metrics.confusion_matrix(classes, answers, labels=every))
    assert [row["samples"] for row in result["classes"]] == np.bincount(classes, minlength=11).tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", metrics._classification.UndefinedMetricWarning)
        for key, score in [("top1", metrics.recall_score), ("precision", metrics.precision_score)]:
            expected = score(classes, answers, labels=every, average=None, zero_division=np.nan)
            received = [np.nan if row[key] is None else row[key] for row in result["classes"]]
            np.testing.assert_allclose(received, expected, rtol=1e-12)
    assert result["classes"][4]["top1"] is None and result["classes"][7]["precision"] is None
    assert result["classes"][4]["label"] == "class 4" and "protocol: the pictures came normalized" in lines
    json.dumps(result, allow_nan=False)
    batches = tf.data.Dataset.from_tensor_slices((pictures, classes)).batch(50)
    assert quiet(model, batches)[0] == result


def test_of_equal_scores_the_first_class_is_the_answer():
    model = classifier(7)
    model.set_weights([np.zeros_like(weight) for weight in model.get_weights()])
    pictures, classes = np.zeros((7, 5, 7, 3), "float32"), np.arange(7)
    result, _ = quiet(model, (pictures, classes))
    assert result["top1"] == 1 / 7 and result["top5"] == 5 / 7 and np.array(result["confusion"])[:, 0].tolist() == [1] * 7


def test_few_classes_have_no_top5_and_very_many_no_confusion_matrix(examples):
    pictures, classes = examples
    assert quiet(classifier(5), (pictures, classes % 5))[0]["top5"] is None
    assert quiet(classifier(6), (pictures, classes % 6))[0]["top5"] is not None
    many = evaluation.MAX_CONFUSION + 1
    result, lines = quiet(classifier(many), (pictures, classes))
    assert result["confusion"] is None and len(result["classes"]) == many and len(lines) < 50


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Random pictures of all shapes, 6 classes, and where each is."""
    path, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(1)
    paths = []
    for split, count in [("train", 1), ("val", 4)]:
        for label in ("ant", "bee", "cat", "dog", "eel", "fox"):
            (path / split / label).mkdir(parents=True)
            for index in range(count):
                small = Image.fromarray(rng.integers(0, 256, (3, 4, 3), "uint8"))
                small.resize(tuple(rng.integers(20, 60, 2).tolist()), Image.Resampling.BICUBIC).save(path / split / label / f"{index}.png")
                paths += [path / split / label / f"{index}.png"] * (split == "val")
    return path, paths


def prepared(paths, shorter_side, size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """The official evaluation as torchvision does it, by hand; no resize to a shorter side if that is `None`."""
    pictures = []
    for path in paths:
        picture = Image.open(path)
        width, height = picture.size
        short = min(width, height)
        target = (size, size) if shorter_side is None else (shorter_side * width // short, shorter_side * height // short)
        picture = picture.resize(target, Image.Resampling.BICUBIC)
        left, top = (round((side - size) / 2) for side in picture.size)
        pictures.append((np.asarray(picture.crop((left, top, left + size, top + size))) / 255 - mean) / std)
    return np.array(pictures, "float32")


@pytest.mark.parametrize(("size", "shorter_side"), [(35, 40), (385, None)])
def test_a_folder_is_prepared_by_the_official_protocol_which_is_said(folder, size, shorter_side):
    path, paths = folder
    model = classifier(6, size, size)
    result, lines = quiet(model, f"folder:{path}", split="validation")
    answers = model.predict(prepared(paths, shorter_side, size), verbose=0).argmax(-1)
    expected = metrics.confusion_matrix(np.repeat(np.arange(6), 4), answers, labels=np.arange(6))
    np.testing.assert_array_equal(result["confusion"], expected)
    resized = "resized to 385x385, bicubic" if shorter_side is None else "shorter side to 40, bicubic, centre crop 35x35"
    words = f"{resized}, mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)"
    assert result["protocol"]["words"] == words and f"protocol: {words} (from the official code)" in lines
    assert (result["model"], result["data"], result["split"]) == ("linear", f"folder:{path}", "validation")
    assert [row["label"] for row in result["classes"]] == ["ant", "bee", "cat", "dog", "eel", "fox"]


def test_encoded_pictures_of_a_dataset_are_prepared_like_a_folder(folder):
    import tensorflow as tf

    path, paths = folder
    model = classifier(6, 35, 35)
    data = tf.data.Dataset.from_tensor_slices(([file.read_bytes() for file in paths], np.repeat(np.arange(6), 4)))
    of_folder, _ = quiet(model, f"folder:{path}")
    result, _ = quiet(model, data, batch_size=5)
    assert result["confusion"] == of_folder["confusion"] and result["protocol"] == of_folder["protocol"]
    held_out, _ = quiet(model, data, split="test")
    assert held_out["split"] == "test" and result["split"] is None
    assert [row["samples"] for row in held_out["classes"]] == np.bincount(np.repeat(np.arange(6), 4)[4::5], minlength=6).tolist()


def test_pictures_that_were_trained_on_are_told_from_those_held_out(folder, tmp_path):
    import shutil

    import tensorflow as tf

    pictures = tf.data.Dataset.from_tensor_slices(([file.read_bytes() for file in folder[1]], np.repeat(np.arange(6), 4)))
    data = pictures.concatenate(pictures)
    shutil.copytree(folder[0] / "val", tmp_path / "pictures")
    labels, protocol = ["ant", "bee", "cat", "dog", "eel", "fox"], Preprocessing.official(35, 35)
    run = workdir(tmp_path / "run", classifier(6, 35, 35), labels, protocol)
    config = json.loads((run / "config.json").read_text())

    def trained_on(data, **arguments):
        images = load_data(data, (35, 35, 3), log=lambda line: None, **arguments)
        (run / "config.json").write_text(json.dumps({**config, "data": images.name, "pictures": images.fingerprint}))

    def warnings_of(data, split=None):
        return [line for line in quiet(run, data, split=split)[1] if line.startswith("warning: ")]

    trained_on(data, labels=labels)
    assert warnings_of(data)[0].endswith("split='test' takes those held out from it")
    assert not warnings_of(data, "test") and not warnings_of(data, "train") and not warnings_of(data.take(17))
    trained_on(data, labels=labels, validation=pictures)
    assert warnings_of(data) and not warnings_of(pictures)
    trained_on(name := f"folder:{tmp_path / 'pictures'}")
    assert not warnings_of(name)
    for number in range(8):  # Wherever their names put them, they move others.
        shutil.copy(folder[1][0], tmp_path / "pictures" / "ant" / f"new {number}.png")
    assert "has changed since the training" in warnings_of(name)[0] and not warnings_of(name, "train")


def test_a_damaged_picture_is_left_out_and_counted(folder, tmp_path):
    import shutil

    shutil.copytree(folder[0], tmp_path / "pictures")
    (tmp_path / "pictures" / "val" / "cat" / "2.png").write_bytes(b"\x89PNG\r\n")
    result, lines = quiet(classifier(6, 35, 35), f"folder:{tmp_path / 'pictures'}")
    assert (result["samples"], result["skipped"], result["classes"][2]["samples"]) == (23, 1, 3)
    assert any(line.endswith("of 23 pictures; 1 could not be opened") for line in lines)


def workdir(path, model, labels, preprocessing):
    path.mkdir()
    model.save(path / "model.keras")
    (path / "config.json").write_text(json.dumps({"labels": labels, "preprocessing": preprocessing.to_dict()}))
    return path


def test_a_workdir_brings_its_labels_and_its_preprocessing(folder, tmp_path):
    path, paths = folder
    model = classifier(6, 35, 35)
    labels = ["fox", "ant", "eel", "bee", "dog", "cat"]
    own = Preprocessing("exact", (35, 35), (35, 35), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))
    run = workdir(tmp_path / "run", model, labels, own)
    result, lines = quiet(run, f"folder:{path}")
    answers = model.predict(prepared(paths, None, 35, own.mean, own.std), verbose=0).argmax(-1)
    classes = [labels.index(file.parent.name) for file in paths]
    np.testing.assert_array_equal(result["confusion"], metrics.confusion_matrix(classes, answers, labels=np.arange(6)))
    assert [row["label"] for row in result["classes"]] == labels
    assert any("different orders, and were matched by name" in line for line in lines)
    assert f"resized to 35x35, bicubic, mean (0.1, 0.2, 0.3), std (0.5, 0.6, 0.7) (from {run / 'config.json'})" in "\n".join(lines)
    assert quiet(str(run / "model.keras"), f"folder:{path}")[0] == {**result, "model": str(run / "model.keras")}
    # What the caller says goes before it.
    official, _ = quiet(run, f"folder:{path}", preprocessing=Preprocessing.official(35, 35))
    answers = model.predict(prepared(paths, 40, 35), verbose=0).argmax(-1)
    np.testing.assert_array_equal(official["confusion"], metrics.confusion_matrix(classes, answers, labels=np.arange(6)))
    assert official["protocol"]["origin"] == "`preprocessing`"


def test_wordnet_numbers_are_the_published_order(folder, tmp_path):
    numbers = tmp_path / "pictures"
    numbers.mkdir()
    for index, label in enumerate(sorted(path.name for path in (folder[0] / "val").iterdir())):
        (numbers / f"n0144076{index}").symlink_to(folder[0] / "val" / label)
    labels = ["tench", "goldfish", "great white shark", "tiger shark", "hammerhead", "crane"]
    model = classifier(6, 35, 35)
    result, lines = quiet(workdir(tmp_path / "run", model, labels, Preprocessing.official(35, 35)), f"folder:{numbers}")
    assert [row["label"] for row in result["classes"]] == labels and any("WordNet numbers" in line for line in lines)
    assert result["confusion"] == quiet(model, f"folder:{numbers}")[0]["confusion"]


def test_released_models_are_told_from_their_files(folder, tmp_path, monkeypatch):
    path, paths = folder
    # A released model that takes a moment to trace.
    small = dataclasses.replace(swin_keras.VARIANTS[NANO], embed_dim=6, depths=(1,), num_heads=(2,))
    monkeypatch.setitem(swin_keras.VARIANTS, NANO, small)
    nano = randomize(swin_keras.create_model(NANO, num_classes=6), scale=0.3)
    swin_keras.save_weights(nano, tmp_path / "nano.safetensors")
    (tmp_path / "hub").mkdir()
    swin_keras.save_weights(nano, tmp_path / "hub" / "model.safetensors", layout="huggingface")
    (tmp_path / "hub" / "config.json").write_text(json.dumps({"id2label": dict(enumerate(["ant", "bee", "cat", "dog", "eel", "fox"]))}))
    processor = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(processor))
    for model, pictures, origin in [
        (tmp_path / "nano.safetensors", prepared(paths, 36, 32), "the official code"),
        (tmp_path / "hub", prepared(paths, None, 32, (0.5,) * 3, (0.25,) * 3), str(tmp_path / "hub")),
    ]:
        result, _ = quiet(model, f"folder:{path}")
        answers = np.asarray(nano(pictures)).argmax(-1)
        np.testing.assert_array_equal(result["confusion"], metrics.confusion_matrix(np.repeat(np.arange(6), 4), answers, labels=np.arange(6)))
        assert result["protocol"]["origin"] == origin


def test_a_bundle_runs_with_its_own_preprocessing_and_the_chosen_file(folder, tmp_path):
    from swin_keras.export import export_bundle

    path, paths = folder
    model = classifier(6, 35, 35)
    own = Preprocessing("exact", (35, 35), (35, 35))
    export_bundle(model, tmp_path / "bundle", ["float32", "float16"], labels=["ant", "bee", "cat", "dog", "eel", "fox"], preprocessing=own)
    answers = model.predict(prepared(paths, None, 35), verbose=0).argmax(-1)
    expected = metrics.confusion_matrix(np.repeat(np.arange(6), 4), answers, labels=np.arange(6))
    for recipe in ("float32", "float16"):
        result, _ = quiet(tmp_path / "bundle", f"folder:{path}", recipe=recipe)
        np.testing.assert_array_equal(result["confusion"], expected)
        assert result["protocol"]["origin"] == str(tmp_path / "bundle" / "model.json") and result["model"].endswith(f"bundle ({recipe})")
    with pytest.raises(ValueError, match="received 'int4'"):
        quiet(tmp_path / "bundle", f"folder:{path}", recipe="int4")


def test_digits_have_a_protocol_of_their_own():
    result, _ = quiet(classifier(10, 9, 9), "digits")
    assert (result["samples"], result["protocol"]["origin"], result["protocol"]["preprocessing"]["mean"]) == (360, "the data set", [0.309] * 3)
    assert [row["label"] for row in result["classes"]] == list("0123456789")


def test_classes_that_differ_are_refused(folder, tmp_path):
    path, _ = folder
    with pytest.raises(ValueError, match="Expected the model's 5 classes in .* Received: 6 classes"):
        quiet(classifier(5, 35, 35), f"folder:{path}")
    labels = ["ant", "bee", "cow", "dog", "eel", "fox"]
    with pytest.raises(ValueError, match="Received: 'cat' as class 2, where the model has 'cow'"):
        quiet(workdir(tmp_path / "run", classifier(6, 35, 35), labels, Preprocessing.official(35, 35)), f"folder:{path}")
    with pytest.raises(ValueError, match="Expected 6 labels in .*config.json, one for each score. Received: 5"):
        quiet(workdir(tmp_path / "few", classifier(6, 35, 35), labels[:5], Preprocessing.official(35, 35)), f"folder:{path}")


def test_what_cannot_be_evaluated_is_refused(examples, tmp_path):
    import tensorflow as tf

    pictures, classes = examples
    model = classifier(11)
    other = Preprocessing("exact", (7, 5), (7, 5))
    endless = tf.data.Dataset.from_tensor_slices((pictures, classes)).batch(8).repeat()
    for arguments, settings, message in [
        ((model, "digits"), {"split": "testing"}, "`split` must be one of train, validation, test"),
        ((model, examples), {"recipe": "float32"}, "`recipe` picks a file of a bundle"),
        ((tmp_path, "digits"), {}, "has no model.json, no model.keras and no weights"),
        ((tmp_path / "gone.keras", "digits"), {}, "does not exist"),
        ((swin_keras.create_backbone(NANO), examples), {}, "Expected a classifier"),
        ((classifier(11, 7, 5), examples), {}, r"Expected normalized float32 pictures \(n, 7, 5, 3\). Received: float32 \(32, 5, 7, 3\)"),
        ((model, (pictures.astype("uint8"), classes)), {}, "Received: uint8"),
        ((model, (pictures, classes[:-1])), {}, "157 pictures and 156 indices"),
        ((model, (pictures, classes + 1)), {}, "class indices from 0 to 10"),
        ((model, (pictures, classes - 1)), {}, "class indices from 0 to 10"),
        ((model, (pictures, classes.astype("float32"))), {}, "Received: float32"),
        ((model, (pictures[:0], classes[:0])), {}, "Expected pictures to evaluate. Received: none"),
        ((model, endless), {}, "endless"),
        ((model, examples), {"split": "test"}, "`split` is for pictures that are still to be prepared"),
        ((model, examples), {"batch_size": 0}, "`batch_size` must be a whole number from 1 to 99,999. Received: batch_size=0"),
        ((model, "folder:pictures"), {"preprocessing": other}, "Expected pictures of 5x7, the model's input. Received: 7x5, by `preprocessing`"),
        ((model, "cats"), {}, "Expected data='digits'"),
    ]:
        with pytest.raises(ValueError, match=message):
            quiet(*arguments, **{"batch_size": 32, **settings})
    model.layers[-1].bias.assign(np.full(11, np.nan))
    with pytest.raises(FloatingPointError, match="no number"):
        quiet(model, examples)


def test_a_model_of_any_size_needs_a_protocol(folder):
    x = inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, keras.layers.Dense(6)(keras.layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ValueError, match="Expected a fixed input size, or `preprocessing`"):
        quiet(model, f"folder:{folder[0]}")
    result, _ = quiet(model, f"folder:{folder[0]}", preprocessing=Preprocessing.official(35, 35))
    answers = model.predict(prepared(folder[1], 40, 35), verbose=0).argmax(-1)
    assert result["top1"] == np.mean(answers == np.repeat(np.arange(6), 4))


def test_the_report_lists_the_worst_classes_first(rng):
    classes = np.repeat(np.arange(45), 10)
    scores = np.eye(45)[classes]
    for index in range(45):  # of class i, i % 10 of its ten pictures are taken for the next
        scores[index * 10 : index * 10 + index % 10] = np.eye(45)[(index + 1) % 45]
    pictures = scores.reshape(450, 3, 5, 3).astype("float32")
    inputs = keras.Input((3, 5, 3))
    result, lines = quiet(keras.Model(inputs, keras.layers.Flatten()(inputs)), (pictures, classes))
    assert lines == format_report(result) and len(lines) == 4 + 40 + 1 and lines[-1] == "and 5 more"
    assert lines[0] == f"top-1 {100 * np.mean(scores.argmax(-1) == classes):.2f} %, top-5 {100 * result['top5']:.2f} % of 450 pictures"
    assert lines[3].split() == ["class", "pictures", "top-1", "precision", "most", "often", "taken", "for"]
    # Class 9 keeps one picture in ten; of those called 9, this one and eight of class 8.
    assert lines[4].split() == ["class", "9", "10", "10.00", "%", "11.11", "%", "class", "10,", "9"]
    recalls = [float(line.split()[3]) for line in lines[4:-1]]
    assert recalls == sorted(recalls) and recalls[-1] == 90


def test_an_evaluation_is_written_whole(examples, tmp_path, monkeypatch):
    result, _ = quiet(classifier(11), examples)
    write_evaluation(result, tmp_path / "new" / "out")
    out = tmp_path / "new" / "out"
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "confusion.csv", "confusion.png"}
    header, *rows = csv.reader((out / "confusion.csv").open(newline="", encoding="utf-8"))
    assert header[1:] == [row[0] for row in rows] == [f"class {index}" for index in range(11)]
    np.testing.assert_array_equal(np.array([row[1:] for row in rows], int), result["confusion"])
    assert json.loads((out / "evaluation.json").read_text()) == {key: value for key, value in result.items() if key != "confusion"}
    assert Image.open(out / "confusion.png").format == "PNG"

    def fill_the_disk(matrix, labels, path):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "draw_confusion", fill_the_disk)
        with pytest.raises(OSError, match="No space left"):
            write_evaluation(result, out)
    assert [path.name for path in out.iterdir()] == ["confusion.csv"]
    write_evaluation({**result, "confusion": None}, out)
    assert [path.name for path in out.iterdir()] == ["evaluation.json"]  # no matrix of another evaluation
    with pytest.raises(ValueError, match="which is a file"):
        write_evaluation(result, out / "evaluation.json")


class Counter(keras.layers.Layer):
    """Counts how often it is called, and whether for training."""

    def build(self, input_shape):
        self.calls, self.trained = (self.add_weight(shape=(), initializer="zeros", trainable=False) for _ in range(2))

    def call(self, x, training=False):
        self.calls.assign_add(1)
        self.trained.assign_add(float(training))
        return x


def test_throughput_counts_the_steps_after_the_warm_up():
    inputs = keras.Input((5, 7, 3))
    counter = Counter()
    model = keras.Model(inputs, keras.layers.Flatten()(counter(inputs)))
    lines = []
    result = measure_throughput(model, 6, warm_up=4, steps=3, log=lines.append)
    assert float(counter.calls) == 4 + 3 and float(counter.trained) == 0
    assert result["images_per_second"] == pytest.approx(3 * 6 / result["seconds"]) and result["seconds"] > 0
    assert (result["batch_size"], result["warm_up"], result["steps"]) == (6, 4, 3) and ":" in result["device"]
    assert "5 more take about" in lines[0] and "images/s: 3 steps of 6" in lines[1]
    with pytest.raises(ValueError, match="fixed input size"):
        measure_throughput(swin_keras.create_model(NANO, input_shape=(None, None, 3)), 2)
