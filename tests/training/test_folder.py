"""Training on a folder of pictures: which files, which split, which pixels, and what is refused."""

import dataclasses
import json
import os
import warnings

import keras
import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import open_picture, preprocess

from swin_keras import training
from swin_keras.cli import main
from swin_keras.preprocessing import Preprocessing
from swin_keras.training import folder as module
from swin_keras.training import run as run_module
from swin_keras.training.data import SPLITS

NANO = "swin_nano_patch4_window4_32"
SHAPE = (32, 32, 3)


def random_picture(rng, height=41, width=53):
    """Edges, slopes and noise."""
    ramp = np.linspace(0, rng.integers(100, 256), width)[None, :, None] * rng.random(3)
    return Image.fromarray(np.where(rng.random((height, width, 1)) < 0.3, rng.integers(0, 256, (height, width, 3)), ramp).astype("uint8"))


def fill(folder, counts, suffix=".png", seed=0):
    """Writes pictures of random sizes: `counts` of them into the sub-folder of each class."""
    rng = np.random.default_rng(seed)
    for label, count in counts.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            random_picture(rng, *rng.integers(20, 60, 2)).save(folder / label / f"{number:02}{suffix}")
    return folder


def load(folder, shape=SHAPE, **arguments):
    lines = []
    return training.load_data(f"folder:{folder}", shape, log=lines.append, **arguments), lines


def names(images, split):
    """Paths of a split from the folder on, as `ant/00.png`."""
    return [os.path.relpath(path, images.path) for path in images.splits[split][0]]


@pytest.fixture
def quick(monkeypatch):
    """The recipe without XLA, whose compilation takes longer than these few steps."""
    monkeypatch.setitem(training.RECIPES, "small", dataclasses.replace(training.RECIPES["small"], jit_compile=False))


def test_five_classes_train_from_the_command_line_and_are_named_in_the_config(quick, tmp_path, capsys):
    data = fill(tmp_path / "pets", {"emu": 4, "dog": 5, "cat": 6, "bee": 5, "ant": 7})
    (data / "dog" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    arguments = ["train", "--data", f"folder:{data}", "--variant", NANO, "--workdir", str(tmp_path / "run"), "--epochs", "2", "--batch-size", "4"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "5 classes; pictures: 18 for train, 5 for validation, 5 for test" in out
    assert out.count("skipped") == 1 and "skipped 'dog/torn.jpg': " in out
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"] == f"folder:{data}" and config["labels"] == ["ant", "bee", "cat", "dog", "emu"]
    assert config["preprocessing"] == {
        "mode": "cover",
        "resize": [36, 36],
        "crop": [32, 32],
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert config["skipped"] == ["dog/torn.jpg"] and config["pictures"]["train"] == 18
    assert [line.split(",")[0] for line in (tmp_path / "run" / "history.csv").read_text().splitlines()] == ["epoch", "1", "2"]
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    pictures, classes = load(data)[0].inputs("test")
    expected = np.mean(model.predict(pictures, verbose=0).argmax(-1) == classes)
    result = training.evaluate(model, f"folder:{data}")
    assert (result["top1"], result["samples"]) == (expected, len(classes))
    assert main(arguments) == 0 and "holds the finished run" in capsys.readouterr().out


def test_training_sees_the_pixels_that_the_device_sees_in_every_format(tmp_path, rng):
    fill(tmp_path, {"ant": 1, "bee": 1})
    colours = random_picture(rng, 67, 39)
    grey = Image.fromarray(rng.integers(0, 2**16, (35, 58)).astype("uint16"))
    colours.save(tmp_path / "ant" / "a.JPG", quality=80)
    colours.convert("CMYK").save(tmp_path / "ant" / "b.jpeg")
    colours.convert("L").save(tmp_path / "ant" / "c.bmp")
    colours.quantize(40).save(tmp_path / "ant" / "d.png", transparency=3)
    grey.save(tmp_path / "ant" / "e.png")
    colours.save(tmp_path / "ant" / "f.gif", save_all=True, append_images=[random_picture(rng, 67, 39)])
    colours.convert("RGBA").save(tmp_path / "ant" / "g.webp")
    random_picture(rng, 9, 700).save(tmp_path / "ant" / "h.png")
    for height, width in [(32, 48), (384, 400)]:
        images, _ = load(tmp_path, (height, width, 3))
        assert images.preprocessing.crop == (height, width) and images.skipped == []
        seen = set()
        for split in SPLITS:
            pixels, classes = images.pixels(split)
            assert pixels.dtype == np.uint8 and pixels.shape == (len(classes), height, width, 3) and classes.dtype == np.int32
            for path, received in zip(images.splits[split][0], images.inputs(split)[0], strict=True):
                expected = preprocess(open_picture(path), images.preprocessing.to_dict())[0]
                np.testing.assert_allclose(received, expected, atol=1e-5)
                seen.add(os.path.basename(path))
        assert seen == {"00.png", "a.JPG", "b.jpeg", "c.bmp", "d.png", "e.png", "f.gif", "g.webp", "h.png"}


@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (3, 2), (8, 1)])
def test_pictures_are_turned_as_their_exif_says(tmp_path, rng, orientation, turns):
    fill(tmp_path, {"ant": 2, "bee": 3})
    picture = random_picture(rng, 37, 61)
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture.save(tmp_path / "ant" / "00.png", exif=exif)
    Image.fromarray(np.rot90(np.asarray(picture), turns)).save(tmp_path / "ant" / "01.png")
    images, _ = load(tmp_path)
    first, second = (images.pixels(split)[0][0] for split in ("train", "validation"))
    assert {names(images, "train")[0], names(images, "validation")[0]} == {"ant/00.png", "ant/01.png"}
    np.testing.assert_array_equal(first, second)


def test_batches_are_the_inputs_in_their_order(tmp_path):
    images, _ = load(fill(tmp_path, {"ant": 9, "bee": 8}))
    pictures, classes = images.inputs("train")
    batches = list(images.batches("train", 4).as_numpy_iterator())
    assert [len(part) for part, _ in batches] == [4, 4, 1]
    np.testing.assert_array_equal(np.concatenate([part for part, _ in batches]), pictures)
    np.testing.assert_array_equal(np.concatenate([part for _, part in batches]), classes)


@pytest.mark.parametrize(("count", "expected"), [(1, (1, 0, 0)), (2, (1, 1, 0)), (3, (1, 1, 1)), (8, (4, 2, 2)), (31, (19, 6, 6))])
def test_a_fifth_of_each_class_is_split_off_twice_without_overlap(tmp_path, count, expected):
    fill(tmp_path, {"ant": count, "bee": 10})
    images, _ = load(tmp_path)
    sizes = tuple(np.bincount(images.splits[split][1], minlength=2).tolist() for split in SPLITS)
    assert sizes == ([expected[0], 6], [expected[1], 2], [expected[2], 2])
    every = [name for split in SPLITS for name in names(images, split)]
    assert len(every) == len(set(every)) == count + 10
    for split in SPLITS:
        assert [images.labels[index] for index in images.splits[split][1]] == [os.path.dirname(name) for name in names(images, split)]


def test_the_split_follows_from_the_file_names_alone_and_stays_for_ever(tmp_path):
    images, _ = load(fill(tmp_path / "one", {"ant": 10, "bee": 7}))
    # In another order, with other content.
    other, _ = load(fill(tmp_path / "other", {"bee": 7, "ant": 10}, seed=5))
    for split in SPLITS:
        assert names(images, split) == names(other, split)
    # Written down once: another version must not train on what this one tested on.
    assert names(images, "validation") == ["ant/03.png", "ant/06.png", "bee/03.png"]
    assert names(images, "test") == ["ant/02.png", "ant/04.png", "bee/06.png"]


def test_a_picture_more_or_less_leaves_the_others_where_they_are(tmp_path):
    counts = {"ant": 40, "bee": 31}
    before, _ = load(fill(tmp_path, counts))
    where = {name: split for split in SPLITS for name in names(before, split)}
    for change in [lambda: random_picture(np.random.default_rng(1)).save(tmp_path / "ant" / "new.png"), (tmp_path / "bee" / "07.png").unlink]:
        change()
        after, _ = load(tmp_path)
        now = {name: split for split in SPLITS for name in names(after, split)}
        moved = [name for name in where.keys() & now if where[name] != now[name]]
        assert len(now.keys() ^ where) == 1 and len(moved) <= 3
        where = now


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        ({"train": 5, "val": 2, "test": 3}, {"train": 10, "validation": 4, "test": 6}),
        ({"Train": 5, "VALID": 2}, {"train": 10, "validation": 4, "test": 4}),
        ({"train": 5, "validation": 2}, {"train": 10, "validation": 4, "test": 4}),
        ({"train": 11, "test": 3}, {"train": 18, "validation": 4, "test": 6}),
        ({"train": 11}, {"train": 14, "validation": 4, "test": 4}),
    ],
    ids=lambda value: "-".join(value),
)
def test_folders_for_splits_are_taken_and_missing_ones_split_off(tmp_path, folders, sizes):
    for number, (folder, count) in enumerate(folders.items()):
        fill(tmp_path / folder, {"bee": count, "ant": count}, seed=number)
    images, lines = load(tmp_path)
    assert images.labels == ["ant", "bee"] and len(lines) == 1
    assert {split: len(classes) for split, (_, classes) in images.splits.items()} == sizes
    for folder in folders:
        split = module._SPLIT_OF_FOLDER[folder.casefold()]
        assert {name.split(os.sep)[0] for name in names(images, split)} == {folder}
    if "test" not in folders and len(folders) == 2:
        assert names(images, "test") == names(images, "validation")
        np.testing.assert_array_equal(images.pixels("test")[0], images.pixels("validation")[0])


def test_folders_beside_train_are_ignored_and_named(tmp_path):
    fill(tmp_path / "train", {"ant": 5, "bee": 4})
    fill(tmp_path / "drafts", {"cow": 2})
    images, lines = load(tmp_path)
    assert images.labels == ["ant", "bee"] and lines[0] == f"ignored in {str(tmp_path)!r}: 'drafts'"


def test_a_class_may_be_called_train(tmp_path):
    images, _ = load(fill(tmp_path, {"bus": 3, "car": 4, "train": 5}))
    assert images.labels == ["bus", "car", "train"]


def test_hidden_and_other_files_are_ignored_and_any_name_is_fine(tmp_path, rng):
    fill(tmp_path, {"Ant": 3, "ant": 3, "Kätzchen 🐈‍⬛": 3, "10": 3, "9": 3})
    fill(tmp_path, {".hidden": 2})
    random_picture(rng).save(tmp_path / "ant" / ".hidden.png")
    random_picture(rng).save(tmp_path / "ant" / "A.png")
    random_picture(rng).save(tmp_path / "ant" / "a.PNG")
    random_picture(rng).save(tmp_path / "ant" / "übel ist's.jpg")
    random_picture(rng).save(tmp_path / "ant" / "scan.tiff")
    random_picture(rng).save(tmp_path / "cover.png")
    (tmp_path / "ant" / "notes.txt").write_text("not a picture")
    (tmp_path / "ant" / "folder.png").mkdir()
    images, _ = load(tmp_path)
    assert images.labels == ["10", "9", "Ant", "Kätzchen 🐈‍⬛", "ant"]
    found = {name for split in SPLITS for name in names(images, split) if name.startswith("ant/")}
    assert found == {f"ant/{name}" for name in ("00.png", "01.png", "02.png", "A.png", "a.PNG", "übel ist's.jpg")}
    assert images.skipped == []


def test_links_are_followed_and_loops_of_them_end(tmp_path):
    fill(tmp_path / "elsewhere", {"ant": 4})
    fill(tmp_path / "data", {"bee": 4})
    (tmp_path / "data" / "ant").symlink_to(tmp_path / "elsewhere" / "ant")
    (tmp_path / "data" / "bee" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "bee" / "itself").symlink_to("itself")
    (tmp_path / "data" / "itself").symlink_to("itself")
    images, _ = load(tmp_path / "data")
    assert images.labels == ["ant", "bee"] and sum(len(images.pixels(split)[1]) for split in SPLITS) == 8
    (tmp_path / "data" / "train").symlink_to(tmp_path / "data")
    with pytest.raises(ValueError, match="in the sub-folder|in each sub-folder"):
        load(tmp_path / "data")


REFUSALS = {
    "missing": (lambda folder: None, "Received: '.*data', which does not exist. Check the path"),
    "a file": (lambda folder: folder.write_text("no folder"), "'.*data', which is a file"),
    "no sub-folder": (lambda folder: folder.mkdir(), "holds no sub-folder. Make one for each class"),
    "no picture": (
        lambda folder: fill(folder, {"ant": 0, "bee": 0}),
        "in the sub-folders of .* Received: 'ant', 'bee', which hold none",
    ),
    "an empty class": (lambda folder: fill(folder, {"ant": 3, "bee": 0, "cow": 3}), "Received: 'bee' without any. Add some, or move it elsewhere"),
    "one class": (lambda folder: fill(folder, {"ant": 5}), "Expected at least two classes. Received: .* only 'ant'. Add a sub-folder"),
    "too few to split": (
        lambda folder: fill(folder, {"ant": 2, "bee": 2}),
        "at least 3 pictures of a class .* validation and test. Received: 2 at most",
    ),
    "a name of two lines": (lambda folder: fill(folder, {"ant": 3, "be\ne": 3}), "whose names are class names, on one line. Received: 'be\\\\ne'"),
    "a name that is no text": (lambda folder: fill(folder, {"ant": 3, "b\udcff": 3}), "Received: 'b\\\\udcff'"),
    "validation without train": (lambda folder: fill(folder / "val", {"ant": 3, "bee": 3}), "Expected a folder 'train' .* Received: 'val'"),
    "pictures in train itself": (lambda folder: fill(folder, {"train": 3, "val": 3}), "Received: '.*train', which holds no sub-folder"),
    "two validation folders": (
        lambda folder: [fill(folder / name, {"ant": 3, "bee": 3}) for name in ("train", "val", "valid")],
        "Expected one folder for validation in .* Received: 'val' and 'valid'. Keep one",
    ),
    "an empty class in validation": (
        lambda folder: [fill(folder / "train", {"ant": 3, "bee": 3}), fill(folder / "val", {"ant": 3, "bee": 0})],
        "in each sub-folder of '.*val'. Received: 'bee' without any",
    ),
    "other classes in validation": (
        lambda folder: [fill(folder / "train", {"ant": 3, "bee": 3, "cow": 3}), fill(folder / "val", {"ant": 3, "Bee": 3, "cow": 1})],
        "same classes in 'train' and 'val' of .* Received: 'Bee', 'bee' in one of them only. Add or remove",
    ),
    "other classes in test": (
        lambda folder: [fill(folder / "train", {"ant": 3, "bee": 3}), fill(folder / "test", {"ant": 3, "bee": 3, "cow": 1})],
        "same classes in 'train' and 'test' of .* Received: 'cow' in one of them only",
    ),
}


@pytest.mark.parametrize(("build", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_folder_that_cannot_be_trained_on_is_refused_before_the_workdir_is_made(tmp_path, refused, build, message):
    build(tmp_path / "data")
    with pytest.raises(ValueError, match=message):
        training.train(f"folder:{tmp_path / 'data'}", NANO, tmp_path / "run")
    refused("train", "--data", f"folder:{tmp_path / 'data'}", "--variant", NANO, "--workdir", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    fill(tmp_path, {"ant": 3, "bee": 3})
    listdir = os.listdir

    def denied(path):
        if str(path).endswith("bee"):
            raise PermissionError(13, "Permission denied")
        return listdir(path)

    monkeypatch.setattr(os, "listdir", denied)
    with pytest.raises(ValueError, match="Expected a folder that can be read. Received: '.*bee' .Permission denied"):
        load(tmp_path)


@pytest.mark.parametrize("data", ["folder:", "folder", "folders:x", None, 3])
def test_data_without_a_path_is_refused(data):
    with pytest.raises(ValueError, match=f"Expected data='.*folder:PATH'.* Received: data={data!r}"):
        training.load_data(data, SHAPE)


def test_a_model_without_a_fixed_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="Expected a model with a fixed input size"):
        load(fill(tmp_path, {"ant": 3, "bee": 3}), (None, None, 3))


def test_the_home_folder_may_be_short(tmp_path, monkeypatch):
    fill(tmp_path / "data", {"ant": 3, "bee": 3})
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load("~/data")[0].labels == ["ant", "bee"]


def test_a_batch_larger_than_the_folder_is_refused_with_its_size(quick, tmp_path):
    fill(tmp_path / "data", {"ant": 6, "bee": 7})
    with pytest.raises(ValueError, match="`batch_size` must be at most the 9 training pictures. Received: batch_size=64"):
        training.train(f"folder:{tmp_path / 'data'}", NANO, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pictures_that_need_too_much_memory_are_read_one_after_the_other(tmp_path, monkeypatch):
    fill(tmp_path, {"ant": 6, "bee": 6})
    monkeypatch.setattr(module, "MAX_PIXEL_BYTES", 12 * 32 * 40 * 3)
    assert load(tmp_path, (32, 40, 3))[0].fits
    random_picture(np.random.default_rng(1)).save(tmp_path / "bee" / "more.png")
    images, _ = load(tmp_path, (32, 40, 3))
    assert not images.fits
    with pytest.raises(ValueError, match="GiB of memory once resized. Received: 13 pictures in .*Take `batches`"):
        images.pixels("train")
    # Only what is wanted counts.
    kept, _ = load(tmp_path, (32, 40, 3), splits=("train", "validation"))
    assert kept.fits
    for one, other in zip(images.batches("train", 2), kept.batches("train", 2), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a text, and no picture"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "gone": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "huge": lambda path: Image.new("1", (20_000, 9_000)).save(path),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_picture_is_skipped_and_named(tmp_path, damage):
    fill(tmp_path, {"ant": 7, "bee": 8})
    whole, _ = load(tmp_path)
    row, before = 3, {split: whole.pixels(split) for split in SPLITS}
    victim = names(whole, "train")[row]
    damage(tmp_path / victim)
    images, lines = load(tmp_path)
    for split in SPLITS:
        pixels, classes = images.pixels(split)
        gone = [row] if split == "train" else []
        np.testing.assert_array_equal(pixels, np.delete(before[split][0], gone, axis=0))
        np.testing.assert_array_equal(classes, np.delete(before[split][1], gone))
    assert images.skipped == [victim] and len(lines) == 2 and lines[1].startswith(f"skipped {victim!r}: ")


def test_more_than_one_in_a_hundred_damaged_pictures_stop_the_run(tmp_path):
    (tmp_path / "data" / "ant").mkdir(parents=True)
    fill(tmp_path / "data", {"bee": 1})
    for number in range(249):
        os.link(tmp_path / "data" / "bee" / "00.png", tmp_path / "data" / "ant" / f"{number:03}.png")
    damaged = [tmp_path / "data" / "ant" / f"{number:03}.png" for number in (5, 80, 120, 240)]
    for path in damaged[:2]:
        path.unlink()
        path.write_bytes(b"nothing")
    images, _ = load(tmp_path / "data")
    assert sorted(images.skipped) == ["ant/005.png", "ant/080.png"]
    assert sum(len(images.pixels(split)[1]) for split in SPLITS) == 248
    for path in damaged[2:]:
        path.unlink()
        path.write_bytes(b"nothing")
    with pytest.raises(
        ValueError, match="4 of 250 in '.*data' that cannot: '.*', '.*', '.*' and 1 more. Repair or remove them. The first: "
    ) as raised:
        training.train(f"folder:{tmp_path / 'data'}", NANO, tmp_path / "run", batch_size=4)
    assert sum(f"'ant/{path.name}'" in str(raised.value) for path in damaged) == 3
    assert not (tmp_path / "run").exists()


def test_two_damaged_pictures_stop_a_small_folder(tmp_path):
    fill(tmp_path, {"ant": 10, "bee": 10})
    for label in ("ant", "bee"):
        (tmp_path / label / "05.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"2 of 20 in .* that cannot: '(ant|bee)/05.png', '(ant|bee)/05.png'\. Repair or remove them"):
        load(tmp_path)[0].pixels("train")


def test_a_class_left_without_a_training_picture_stops_the_run(tmp_path):
    fill(tmp_path / "train", {"ant": 1, "bee": 3})
    fill(tmp_path / "val", {"ant": 1, "bee": 1})
    good = (tmp_path / "train" / "ant" / "00.png").read_bytes()
    (tmp_path / "val" / "ant" / "00.png").write_bytes(b"nothing")
    assert load(tmp_path)[0].skipped == ["val/ant/00.png"]
    (tmp_path / "val" / "ant" / "00.png").write_bytes(good)
    (tmp_path / "train" / "ant" / "00.png").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Expected a picture of 'ant' for train that can be read. Received: .*Repair or add some"):
        load(tmp_path)[0].pixels("train")


def test_a_split_left_without_a_picture_stops_the_run(tmp_path):
    images, _ = load(fill(tmp_path, {"ant": 1, "bee": 3}))
    (tmp_path / names(images, "validation")[0]).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="Expected a picture for validation that can be read"):
        images.pixels("train")


def test_long_reading_shows_progress_and_leaves_the_filters_of_warnings(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0)
    images, lines = load(fill(tmp_path, {"ant": 12, "bee": 13}))
    before = list(warnings.filters)
    images.pixels("train")
    assert lines[1] == "read 1 of 25 pictures" and lines[-1] == "read 25 of 25 pictures" and warnings.filters == before


def test_a_resumed_run_gets_the_same_pictures_in_the_same_order(quick, tmp_path, monkeypatch):
    data = fill(tmp_path / "data", {"ant": 9, "bee": 8})
    (data / "bee" / "03.png").write_bytes(b"nothing")
    given = []

    def stop(images, *arguments):
        given.append(images.pixels("train"))
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "training_batches", stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            training.train(f"folder:{data}", NANO, tmp_path / "run", batch_size=4)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["skipped"] == ["bee/03.png"]
    for first, again in zip(*given, strict=True):
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: os.link(data / "ant" / "00.png", data / "ant" / "new.png"), r"\(pictures.train 5 there, 6 here; .*train_sha256"),
        (lambda data: (data / "ant" / "00.png").rename(data / "ant" / "renamed.png"), r"\(pictures.[a-z]+_sha256 '.*' there, '.*' here"),
        (lambda data: (data / "ant" / "00.png").write_bytes(b"other"), r"\(pictures.[a-z]+_sha256"),
    ],
    ids=["more", "renamed", "another"],
)
def test_a_run_is_not_resumed_on_pictures_that_changed(quick, tmp_path, monkeypatch, change, message):
    data = fill(tmp_path / "data", {"ant": 4, "bee": 5})
    monkeypatch.setattr(run_module, "training_batches", None)
    with pytest.raises(TypeError):
        training.train(f"folder:{data}", NANO, tmp_path / "run", batch_size=4)
    (tmp_path / "run" / "checkpoints").mkdir()  # as the first epoch's end does
    change(data)
    monkeypatch.setattr(module, "open_picture", None)  # It is refused before any is read.
    with pytest.raises(ValueError, match=f"holds another run {message}"):
        training.train(f"folder:{data}", NANO, tmp_path / "run", batch_size=4)


def test_evaluate_reads_the_test_pictures_only_and_wants_as_many_classes_as_the_model(tmp_path):
    fill(tmp_path / "train", {"ant": 3, "bee": 3, "cow": 2})
    fill(tmp_path / "val", {"ant": 1, "bee": 1, "cow": 1})
    fill(tmp_path / "test", {"ant": 4, "bee": 2, "cow": 3}, seed=1)
    for path in (tmp_path / "train").rglob("*.png"):
        path.write_bytes(b"nothing")
    inputs = keras.Input((36, 44, 3))
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(inputs)))
    lines = []
    result = training.evaluate(model, f"folder:{tmp_path}", log=lines.append)
    settings = Preprocessing.official(36, 44).to_dict()
    pictures = np.concatenate([preprocess(open_picture(path), settings) for path in sorted((tmp_path / "test").rglob("*.png"))])
    right = model.predict(pictures, verbose=0).argmax(-1) == [0, 0, 0, 0, 1, 1, 2, 2, 2]
    assert (result["top1"], result["samples"]) == (np.mean(right), 9) and lines[0] == f"{tmp_path}: 3 classes; pictures: 9 for test"
    four = keras.Model(inputs, keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(inputs)))
    with pytest.raises(ValueError, match="Expected the model's 4 classes in '.*'. Received: 3 classes"):
        training.evaluate(four, f"folder:{tmp_path}")


@pytest.mark.parametrize("inside", ["run", "ant/run", "../pets/run"])
def test_nothing_is_written_among_the_pictures(tmp_path, refused, inside):
    data = fill(tmp_path / "pets", {"ant": 5, "bee": 5})
    before = sorted(data.rglob("*"))
    for command in (["train", "--variant", NANO, "--workdir"], ["evaluate", "gone.keras", "--out"]):
        assert "outside of the pictures in" in refused(*command, data / inside, "--data", f"folder:{data}")
    assert sorted(data.rglob("*")) == before


@pytest.mark.slow
def test_simmim_skips_a_damaged_validation_picture(tmp_path):
    data = fill(tmp_path / "pets", {"ant": 60, "bee": 60})
    images, _ = load(data)
    (data / names(images, "validation")[0]).write_bytes(b"junk")
    settings = {"task": "simmim", "mask_patch_size": 8, "jit_compile": False}
    training.train(f"folder:{data}", NANO, tmp_path / "run", epochs=1, batch_size=24, settings=settings, log=lambda line: None)
    assert (tmp_path / "run" / "final.keras").is_file()


def test_a_sample_is_spread_over_the_training_pictures(tmp_path):
    images, _ = load(fill(tmp_path, {"ant": 20, "bee": 21, "cow": 1}))
    inputs, classes = images.inputs("train")
    assert len(classes) == 26
    np.testing.assert_array_equal(images.sample("train", 9), inputs[::3])
    np.testing.assert_array_equal(images.sample("train", 500), inputs)
    digits = training.load_data("digits", SHAPE)
    assert len(digits.sample("train", 128)) == 120
