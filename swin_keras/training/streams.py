"""Data sets that come one picture after the other: tensorflow-datasets, and any `tf.data.Dataset`."""

import dataclasses
import io

import numpy as np
import tensorflow as tf
from PIL import Image

from swin_keras.edge_demo import open_picture
from swin_keras.training.image_data import ImageData

# Pictures that are shuffled among each other; still encoded, some hundred kilobytes each.
_SHUFFLED = 10_000
# Pictures whose order is looked at.
_READ_TWICE = 1000
# ImageNet-22K has 21,841; a mistaken column of labels may have anything.
_MOST_CLASSES = 1_000_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamData(ImageData):
    """Pictures of `tf.data.Dataset`s, of which a few thousand are held at a time.

    Attributes:
        splits: For each split a `tf.data.Dataset` of a picture, encoded or as uint8 `(height, width, channels)`, and its class.
        counts: For each split its number of pictures.
        fingerprint: What a run notes to know these pictures again.
    """

    counts: dict
    fingerprint: dict

    fits = False

    def count(self, split):
        return self.counts[split]

    def pixels(self, split):
        pictures = self.pictures(split, self.elements(split).enumerate(), self.prepare)
        with self.reading():
            rows = [(pixels, label) for pixels, label, good in pictures.as_numpy_iterator() if good]
        return np.stack([pixels for pixels, _ in rows]), np.array([label for _, label in rows], "int32")

    def sample(self, split, count):
        step = -(-self.count(split) // count)
        some = {"splits": {"test": self.splits[split].shard(step, 0)}, "counts": {"test": -(-self.count(split) // step)}}
        return dataclasses.replace(self, **some).inputs("test")[0]

    def elements(self, split, seed=None):
        elements = self.splits[split].enumerate().map(lambda row, example: (row, *example))
        if seed is None:
            return elements
        if not tf.executing_eagerly():
            # Of this function of the pipeline alone: where the program's seed is 0, TensorFlow asks in Python whether the other is too.
            tf.random.set_seed(1)
        # In another order for each seed, as far as the buffer reaches.
        return elements.shuffle(_SHUFFLED, seed[0] * 1_000_003 + seed[1])

    def open(self, split, row, picture, label):
        if isinstance(picture, bytes):
            return open_picture(io.BytesIO(picture)), label
        return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).convert("RGB"), label


def load_dataset(data, validation, labels, preprocessing, splits, log):
    """Takes a `tf.data.Dataset` of pictures and class indices, as `load_data` says.

    It is gone through once, to count, and its beginning once more, for its order.
    """
    names = None if labels is None else _class_names(labels)
    sets = {"train": _examples(data, "data")}
    if validation is None:
        # Every fifth for validation, the one after it for test, always the same if the order is.
        parts = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}
        sets = {split: _part(sets["train"], rests) for split, rests in parts.items()}
    else:
        sets["validation"] = sets["test"] = _examples(validation, "validation")
    classes = {split: _classes(sets[split]) for split in splits}
    order_matters = validation is None or "train" in splits
    if order_matters and not all(np.array_equal(_classes(sets[split].take(_READ_TWICE)), found[:_READ_TWICE]) for split, found in classes.items()):
        if validation is None:
            raise ValueError(
                "Expected a `tf.data.Dataset` in the same order each time, as some pictures are held out by their number. Received: one in another "
                "order when read again. Give its `shuffle` reshuffle_each_iteration=False, or leave it out: training shuffles. Or give `validation`."
            )
        log("tf.data.Dataset: the pictures come in another order when read again, so that the run cannot be repeated to the last bit")
    every = np.concatenate(list(classes.values()))
    if len(every) == 0 or not all(map(len, classes.values())):
        empty = [split for split, found in classes.items() if not len(found)]
        raise ValueError(f"Expected pictures for {', '.join(splits)}. Received: a `tf.data.Dataset` without any for {', '.join(empty)}. Add some.")
    highest = _MOST_CLASSES - 1 if names is None else len(names) - 1
    if every.min() < 0 or every.max() > highest:
        reason = "" if names is None else f", for {len(names)} labels"
        raise ValueError(f"Expected class indices from 0 to {highest:,}{reason}. Received: {every.min()} to {every.max()}. Number classes from 0.")
    names = names or [str(index) for index in range(every.max() + 1)]
    if len(names) < 2:
        raise ValueError("Expected at least two classes. Received: a `tf.data.Dataset` of one. Add pictures of another.")
    if "train" in classes and (empty := [names[index] for index in range(len(names)) if index not in classes["train"]]):
        raise ValueError(f"Expected training pictures of each class. Received: none of {', '.join(empty[:3])}. Add some, or number classes from 0.")
    counts = {split: len(found) for split, found in classes.items()}
    log(f"tf.data.Dataset: {len(names):,} classes; pictures: {', '.join(f'{count:,} for {split}' for split, count in counts.items())}")
    each = {f"{split}_classes": np.bincount(found, minlength=len(names)).tolist() for split, found in classes.items()}
    return StreamData(
        name="tf.data.Dataset",
        labels=names,
        preprocessing=preprocessing,
        splits={split: sets[split] for split in splits},
        counts=counts,
        fingerprint={**counts, **each},
        log=log,
    )


def open_builder(data, data_dir, log):
    """Returns the builder of a data set of tensorflow-datasets, prepared.

    Raises:
        ValueError: If there is no such set, or it cannot be prepared.
    """
    import tensorflow_datasets as tfds

    name = data.removeprefix("tfds:")
    try:
        builder = tfds.builder(name, data_dir=data_dir)
        if not builder.info.splits:
            log(f"{name}: preparing it in {builder.data_dir}")
            builder.download_and_prepare()
    except Exception as error:  # Not found, no network, no space, a manual download: each data set raises its own.
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        where = "tensorflow-datasets' own folder" if data_dir is None else repr(str(data_dir))
        raise ValueError(f"Expected data='tfds:NAME' of a set that is in {where} or can be downloaded. Received: data={data!r} ({first}).") from error
    return builder


def load_tfds(data, data_dir, preprocessing, splits, log):
    """Opens a data set of tensorflow-datasets, as `load_data` says."""
    import tensorflow_datasets as tfds

    builder = open_builder(data, data_dir, log)
    picture, label = _features(builder, tfds, data)
    chosen = splits_of(builder, data)
    parts = {split: chosen[split] for split in splits}
    classes = builder.info.features[label].num_classes
    sets, counts = read_splits(builder, parts, [picture], lambda example: (example[picture], example[label]), classes, log)
    return StreamData(
        name=data,
        labels=list(builder.info.features[label].names),
        preprocessing=preprocessing,
        splits=sets,
        counts=counts,
        fingerprint={"set": builder.info.full_name, **counts},
        log=log,
    )


def _examples(data, argument):
    """Returns a `tf.data.Dataset` of single pictures and int64 class indices, whatever its batches."""
    if not isinstance(data, tf.data.Dataset):
        raise ValueError(f"Expected a `tf.data.Dataset` as `{argument}`. Received: {data!r}.")
    spec = data.element_spec
    what = "pairs of a picture, uint8 (height, width, channels) in 0 to 255 or an encoded string, and its class index"
    if not isinstance(spec, tuple) or len(spec) != 2 or not all(isinstance(part, tf.TensorSpec) for part in spec):
        raise ValueError(f"Expected a `tf.data.Dataset` of {what}. Received: elements of {spec}. Map it to such pairs.")
    picture, label = spec
    if label.shape.rank == 1 and picture.shape.rank in (1, 4):
        data, (picture, label) = data.unbatch(), (tf.TensorSpec(part.shape[1:], part.dtype) for part in spec)
    right_picture = (picture.dtype, picture.shape.rank) in [(tf.uint8, 3), (tf.string, 0)]
    if not right_picture or not label.dtype.is_integer or label.shape.rank != 0:
        raise ValueError(f"Expected a `tf.data.Dataset` of {what}. Received: elements of {spec}. Training itself resizes and normalizes.")
    if picture.dtype == tf.uint8 and picture.shape[-1] not in (1, 3, None):
        raise ValueError(f"Expected pictures of 1 or 3 channels. Received: {picture.shape[-1]}. Map them to RGB.")
    if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a `tf.data.Dataset` that ends: an epoch is all of it. Received: an endless one. Leave out its `repeat`.")
    return data.map(lambda picture, label: (picture, tf.cast(label, tf.int64)))


def _part(data, rests):
    mine = tf.constant(rests, tf.int64)
    return data.enumerate().filter(lambda row, example: tf.reduce_any(row % 5 == mine)).map(lambda row, example: example)


def _classes(data):
    return np.fromiter(data.map(lambda picture, label: label).as_numpy_iterator(), "int64")


def _class_names(labels):
    names = list(labels) if isinstance(labels, (list, tuple)) else []
    if len(names) < 2 or not all(isinstance(name, str) and name.strip() for name in names):
        raise ValueError(f"`labels` must be a list of at least two names. Received: labels={labels!r}.")
    return names


def _features(builder, tfds, data):
    """Returns the names of the picture and of the class of a data set."""
    features = builder.info.features
    keys = builder.info.supervised_keys or (None, None)
    pictures = [key for key in (keys[0], *features) if key in features and isinstance(features[key], tfds.features.Image)]
    labels = [key for key in (keys[1], *features) if key in features and isinstance(features[key], tfds.features.ClassLabel)]
    if not pictures or not labels:
        has = ", ".join(features)
        raise ValueError(f"Expected a data set of pictures with a class each. Received: data={data!r}, which has {has}. Choose another.")
    if features[labels[0]].num_classes < 2:
        raise ValueError(f"Expected at least two classes. Received: data={data!r}, which has {features[labels[0]].num_classes}. Choose another.")
    return pictures[0], labels[0]


def read_splits(builder, parts, pictures, change, classes, log):
    """Opens parts of a data set of tensorflow-datasets, and says what is in them.

    Args:
        builder: Its builder.
        parts: Dictionary from names to what tensorflow-datasets calls the part.
        pictures: Names of features that stay encoded.
        change: Function from an example to a tuple.
        classes: Integer. How many there are.
        log: Function that is called with a line.

    Returns:
        For each name a `tf.data.Dataset`, and the number of its examples.
    """
    import tensorflow_datasets as tfds

    decoders = {picture: tfds.decode.SkipDecoding() for picture in pictures}
    # One file after the other, each from its start: the order never changes.
    config = tfds.ReadConfig(interleave_cycle_length=1, add_tfds_id=False)
    sets = {
        name: builder.as_dataset(split=part, decoders=decoders, read_config=config, shuffle_files=False).map(change) for name, part in parts.items()
    }
    counts = {name: builder.info.splits[part].num_examples for name, part in parts.items()}
    described = ", ".join(f"{count:,} for {name} ({parts[name]})" for name, count in counts.items())
    log(f"{builder.info.full_name}: {classes:,} classes; pictures: {described}")
    return sets, counts


def splits_of(builder, data, use_test=True):
    """Returns which part of a data set is for what: its own splits where it has them (of test if `use_test`), else parts of the training pictures."""
    names = set(builder.info.splits)
    if "train" not in names:
        raise ValueError(f"Expected a split 'train'. Received: data={data!r}, which has {', '.join(sorted(names))}. Choose another.")
    validation = next((name for name in ("validation", "val", "imagenet_val") if name in names), None)
    # The test pictures of some come without their classes.
    known = use_test and not builder.name.startswith(("imagenet", "coco"))
    test = "test" if known and "test" in names else None
    if validation is None and test is None:
        return {"train": "train[:60%]", "validation": "train[60%:80%]", "test": "train[80%:]"}
    if validation is None:
        return {"train": "train[:90%]", "validation": "train[90%:]", "test": test}
    return {"train": "train", "validation": validation, "test": test or validation}
