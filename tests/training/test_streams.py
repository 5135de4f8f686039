"""Training data that comes one picture after the other: tensorflow-datasets and `tf.data.Dataset`."""

import io
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import preprocess

from swin_keras import training
from swin_keras.training.data import SPLITS

SHAPE = (32, 40, 3)


def load(data, **arguments):
    lines = []
    return training.load_data(data, SHAPE, log=lines.append, **arguments), lines


def random_pictures(count, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (*rng.integers(35, 70, 2), 3), "uint8") for _ in range(count)]


def encoded(pixels, suffix="PNG"):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, suffix)
    return file.getvalue()


def as_dataset(pictures, labels):
    import tensorflow as tf

    return tf.data.Dataset.from_generator(
        lambda: zip(pictures, labels, strict=True),
        output_signature=(
            tf.TensorSpec(() if isinstance(pictures[0], bytes) else (None, None, 3), tf.string if isinstance(pictures[0], bytes) else "uint8"),
            tf.TensorSpec((), "int64"),
        ),
    )


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    """A data set as tensorflow-datasets prepares it, and what is in it."""
    import tensorflow_datasets as tfds

    pictures, labels = random_pictures(30), [index % 3 for index in range(30)]

    class Pets(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.2.3")

        def _info(self):
            features = tfds.features.FeaturesDict(
                {"file": tfds.features.Text(), "image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=["ant", "bee", "cow"])}
            )
            return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("image", "label"))

        def _split_generators(self, manager):
            return {"train": self._generate_examples(0, 20), "test": self._generate_examples(20, 30)}

        def _generate_examples(self, start, end):
            for index in range(start, end):
                yield index, {"file": str(index), "image": pictures[index], "label": labels[index]}

    folder = tmp_path_factory.mktemp("tensorflow_datasets")
    Pets(data_dir=folder).download_and_prepare()
    return folder, pictures, labels


def test_a_prepared_set_of_tensorflow_datasets_is_read_without_its_code(pets):
    folder, pictures, labels = pets
    images, lines = load("tfds:pets", data_dir=folder)
    assert images.labels == ["ant", "bee", "cow"] and not images.fits
    assert {split: images.count(split) for split in SPLITS} == {"train": 18, "validation": 2, "test": 10}
    assert lines == ["pets/1.2.3: 3 classes; pictures: 18 for train (train[:90%]), 2 for validation (train[90%:]), 10 for test (test)"]
    prepared = {preprocess(Image.fromarray(p), images.preprocessing.to_dict()).tobytes(): label for p, label in zip(pictures, labels, strict=True)}
    seen = {}
    for split in SPLITS:
        inputs, classes = images.inputs(split)
        assert len(inputs) == images.count(split)
        for picture, label in zip(inputs, classes, strict=True):
            nearest = min(prepared, key=lambda other: np.abs(np.frombuffer(other, "float32").reshape(picture.shape) - picture).max())
            assert np.abs(np.frombuffer(nearest, "float32").reshape(picture.shape) - picture).max() < 0.02 and prepared[nearest] == label
            seen[nearest] = split
    assert len(seen) == 30  # each picture once, in one split


def test_the_order_of_a_stream_follows_from_the_seed_and_holds_every_picture(pets):
    images, _ = load("tfds:pets", data_dir=pets[0])
    orders = [[int(row) for row, _, _ in images.elements("train", seed)] for seed in ((3, 0), (3, 0), (3, 1), (4, 0))]
    assert all(sorted(order) == list(range(18)) for order in orders)
    assert orders[0] == orders[1] and orders[0] != orders[2] and orders[0] != orders[3] and orders[2] != orders[3]


def test_a_set_that_is_nowhere_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ValueError, match=r"Expected data='tfds:NAME' of a set .*Received: data='tfds:no_such_set' \(.*no_such_set"):
        load("tfds:no_such_set", data_dir=tmp_path)


@pytest.mark.parametrize("kind", ["pixels", "png", "batches"])
def test_a_tf_data_dataset_is_split_by_fifths_and_prepared_as_on_the_device(kind):
    pictures, labels = random_pictures(25), [index * 2 % 3 for index in range(25)]
    if kind == "batches":
        same_size = [picture[:35, :35] for picture in pictures]
        pictures, data = same_size, as_dataset(same_size, labels).batch(4)
    else:
        data = as_dataset([encoded(p) for p in pictures] if kind == "png" else pictures, labels)
    images, lines = load(data, labels=["ant", "bee", "cow"])
    assert lines == ["tf.data.Dataset: 3 classes; pictures: 15 for train, 5 for validation, 5 for test"]
    expected = {"train": [0, 1, 2], "validation": [3], "test": [4]}
    for split, remainders in expected.items():
        chosen = [index for index in range(25) if index % 5 in remainders]
        inputs, classes = images.inputs(split)
        assert classes.tolist() == [labels[index] for index in chosen]
        device = np.concatenate([preprocess(Image.fromarray(pictures[index]), images.preprocessing.to_dict()) for index in chosen])
        np.testing.assert_allclose(inputs, device, atol=1e-5)
    batches = list(images.batches("train", 4).as_numpy_iterator())
    assert [len(classes) for _, classes in batches] == [4, 4, 4, 3]
    np.testing.assert_array_equal(np.concatenate([inputs for inputs, _ in batches]), images.inputs("train")[0])


def test_a_second_dataset_is_for_validation_and_test():
    data, other = as_dataset(random_pictures(6), [0, 1, 2, 3, 0, 1]), as_dataset(random_pictures(4, seed=1), [0, 3, 2, 1])
    images, _ = load(data, validation=other)
    assert images.labels == ["0", "1", "2", "3"] and images.counts == {"train": 6, "validation": 4, "test": 4}
    np.testing.assert_array_equal(images.inputs("test")[0], images.inputs("validation")[0])


def wrong(case):
    import tensorflow as tf

    pictures, labels = random_pictures(10), [index % 2 for index in range(10)]
    data = as_dataset(pictures, labels)
    return {
        "floats": data.map(lambda picture, label: (tf.cast(picture, tf.float32), label)),
        "one-hot": data.map(lambda picture, label: (picture, tf.one_hot(label, 2))),
        "no label": data.map(lambda picture, label: picture),
        "endless": data.repeat(),
        "empty": data.take(0),
        "another order": as_dataset(pictures, list(range(10))).shuffle(10, seed=1),
        "a column of something else": data.map(lambda picture, label: (picture, 1_000_000_000 * label)),
        "one class": data.map(lambda picture, label: (picture, 0 * label)),
        "negative": data.map(lambda picture, label: (picture, label - 1)),
        "a class without pictures": data.map(lambda picture, label: (picture, 2 * label)),
        "four channels": data.map(lambda picture, label: (tf.ensure_shape(tf.repeat(picture[..., :1], 4, -1), (None, None, 4)), label)),
    }[case]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("floats", "Training itself resizes and normalizes"),
        ("one-hot", "and its class index"),
        ("no label", "Map it to such pairs"),
        ("endless", "Leave out its `repeat`"),
        ("empty", "without any for train"),
        ("another order", "same order each time, .* Give its `shuffle` reshuffle_each_iteration=False"),
        ("a column of something else", "Expected class indices from 0 to 999,999. Received: 0 to 1000000000"),
        ("one class", "Expected at least two classes"),
        ("negative", "Expected class indices from 0 to 999,999.*Received: -1 to 0"),
        ("a class without pictures", "Expected training pictures of each class. Received: none of 1"),
        ("four channels", "Expected pictures of 1 or 3 channels. Received: 4"),
    ],
)
def test_a_dataset_that_cannot_be_trained_on_is_refused(case, message):
    with pytest.raises(ValueError, match=message):
        load(wrong(case))


@pytest.mark.parametrize("labels", ["ab", 5, ["ant"], ["ant", " "], ["ant", 3]], ids=str)
def test_labels_are_a_list_of_names(labels):
    with pytest.raises(ValueError, match="`labels` must be a list of at least two names. Received: labels="):
        load(as_dataset(random_pictures(10), [0, 1] * 5), labels=labels)


def test_another_order_is_only_told_where_others_are_for_validation():
    data = as_dataset(random_pictures(23), list(range(23)))  # of as many classes, so that no two orders look the same
    images, lines = load(data.shuffle(23, seed=1), validation=data)
    assert images.count("train") == 23 and "cannot be repeated to the last bit" in lines[0]
    images, lines = load(data, validation=data.shuffle(23, seed=1, reshuffle_each_iteration=False))
    assert len(lines) == 1


def test_labels_belong_to_a_dataset():
    with pytest.raises(ValueError, match="`validation` and `labels` belong to a `tf.data.Dataset`. Received: data='digits'"):
        load("digits", labels=["a"])


def test_one_damaged_picture_is_skipped_and_more_stop_the_reading():
    files = [encoded(picture) for picture in random_pictures(20)]
    files[2] = b"no picture"
    images, lines = load(as_dataset(files, [index % 4 for index in range(20)]))
    assert len(images.inputs("train")[0]) == 11
    assert len([line for line in lines if line.startswith("skipped picture 2 of train: ")]) == 1
    files[5] = files[7][:80]
    images, _ = load(as_dataset(files, [index % 4 for index in range(20)]))
    with pytest.raises(ValueError, match="but for one in a hundred. Received: 2 of 20 in 'tf.data.Dataset' that cannot"):
        images.inputs("train")


def test_a_class_index_that_has_no_label_stops_the_reading(pets):
    images, _ = load("tfds:pets", data_dir=pets[0])
    images.labels.pop()
    with pytest.raises(ValueError, match="Expected class indices from 0 to 1 in 'tfds:pets'. Received: 2 at picture"):
        images.inputs("train")


NANO = "swin_nano_patch4_window4_32"


@pytest.mark.parametrize("seed", [0, pytest.param(3, marks=pytest.mark.slow)])
def test_a_dataset_trains_with_any_seed_and_repeats(tmp_path, seed):
    same_size = [picture[:35, :35] for picture in random_pictures(25)]
    data = as_dataset(same_size, [index * 2 % 3 for index in range(25)])
    arguments = {"epochs": 1, "batch_size": 4, "seed": seed, "settings": {"jit_compile": False}, "log": lambda line: None}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        first, second = (training.train(data, NANO, tmp_path / name, **arguments).get_weights() for name in ("first", "second"))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_damaged_file_of_many_pictures_is_refused_by_name(pets, tmp_path):
    shutil.copytree(pets[0], tmp_path / "sets")
    (record,) = (tmp_path / "sets").rglob("*train.tfrecord*")
    record.write_bytes(record.read_bytes()[:-50])
    images, _ = load("tfds:pets", data_dir=tmp_path / "sets")
    with pytest.raises(ValueError, match=r"Expected files of 'tfds:pets' that can be read. Received: .*Prepare the data set again"):
        images.inputs("validation")  # the last of the file


def test_a_sample_of_a_stream_is_spread_over_it():
    images, _ = load(as_dataset(random_pictures(40), [0, 1] * 20))
    np.testing.assert_array_equal(images.sample("train", 7), images.inputs("train")[0][::4])
