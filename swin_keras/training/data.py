"""Labelled pictures, split and named: digits, a folder, tensorflow-datasets, any `tf.data.Dataset`."""

import contextlib
import dataclasses
import functools
import os
import threading
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from swin_keras.preprocessing import Preprocessing
from swin_keras.training import folder

SPLITS = ("train", "validation", "test")
# Mean and standard deviation of all pixels of the digits' training split, 32x32, in [0, 1].
_DIGITS_MEAN, _DIGITS_STD = 0.309, 0.349


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageData:
    """A labelled data set in memory.

    Attributes:
        name: String, as given to `train`.
        labels: Class names.
        preprocessing: How a picture becomes a model's input.
        splits: `"train"`, `"validation"` and `"test"`, each a pair of uint8 pictures `(n, height, width, 3)` and
            int32 class indices `(n,)`.
        log: Function that is called with each line of progress.
    """

    name: str
    labels: list
    preprocessing: Preprocessing
    splits: dict
    log: Callable = print

    # Whether `pixels` of all splits stay in memory.
    fits = True

    def count(self, split):
        """Returns the number of pictures of a split."""
        return len(self.splits[split][1])

    def batched(self, split):
        """Returns the number of pictures in `batches`: where they are in memory, of those that can be read."""
        return self.count(split)

    def pixels(self, split):
        """Returns a split as resized and cropped uint8 pictures `(n, *crop, 3)` and its class indices."""
        pictures, classes = self.splits[split]
        # As a graph: one call of TensorFlow for each picture costs more than the work.
        batch = tf.data.Dataset.from_tensor_slices(pictures).map(self.preprocessing.pixels, tf.data.AUTOTUNE).batch(len(pictures))
        return batch.get_single_element().numpy().astype("uint8"), classes

    def inputs(self, split):
        """Returns a split as the model takes it: float32 `(n, *crop, 3)`, and its class indices."""
        pixels, classes = self.pixels(split)
        return self.normalize(pixels).numpy(), classes

    def sample(self, split, count):
        """Returns about so many pictures of a split, spread evenly over it, as the model takes them: float32 `(n, *crop, 3)`."""
        pictures, classes = self.splits[split]
        chosen = np.arange(0, len(classes), -(-len(classes) // count))
        pictures = pictures[chosen] if isinstance(pictures, np.ndarray) else [pictures[row] for row in chosen]
        # Not as training pictures, of which each class has some.
        return dataclasses.replace(self, splits={"test": (pictures, classes[chosen])}).inputs("test")[0]

    def batches(self, split, size):
        """Returns a split in its order as a `tf.data.Dataset` of `inputs` and class indices, `size` of them at a time."""
        if not self.fits:
            pictures = self.pictures(split, self.elements(split).enumerate(), self.prepare).filter(lambda pixels, label, good: good)
            return pictures.batch(size).map(lambda pixels, classes, good: (self.normalize(pixels), classes)).prefetch(tf.data.AUTOTUNE)
        pixels, classes = self.pixels(split)

        def batch(start):
            chosen = tf.range(start, tf.minimum(start + size, len(classes)))
            return self.normalize(take_rows(pixels, chosen)), tf.gather(classes, chosen)

        return tf.data.Dataset.range(0, len(classes), size).map(batch).prefetch(tf.data.AUTOTUNE)

    def normalize(self, pixels):
        """Returns bytes as the model takes them."""
        return self.preprocessing.normalize(tf.cast(pixels, tf.float32))

    def elements(self, split, seed=None):
        """Returns what stands for each picture until it is opened, a tuple; here of its row.

        In the order of the split, or in one that follows from `seed`, an integer tensor `(2,)`.
        """
        count = self.count(split)
        rows = tf.data.Dataset.range(count)
        return rows.map(lambda row: (row if seed is None else tf.random.experimental.index_shuffle(row, seed, tf.cast(count - 1, tf.int64)),))

    def open(self, split, row):
        """Opens an element: a `PIL.Image.Image` in mode RGB, and its class index."""
        pictures, classes = self.splits[split]
        return Image.fromarray(pictures[row]), classes[row]

    def name_of(self, split, row, *_):
        """Returns what a person calls an element."""
        return f"picture {row} of {split}"

    def prepare(self, picture, number):
        """Returns an open picture as resized and cropped uint8 pixels `(*crop, 3)`, as the device makes them."""
        return folder.prepare(picture, self.preprocessing)

    def pictures(self, split, elements, change):
        """Opens pictures, in parallel and in their order.

        Args:
            split: String.
            elements: `tf.data.Dataset` of pairs: a number for each picture, and its element.
            change: Function from an open picture and its number to uint8 pixels `(*crop, 3)`.

        Returns:
            A `tf.data.Dataset` of pixels, class index, and whether the picture could be opened: else the pixels are black.
        """
        size = self.preprocessing.crop

        def read(number, *element):
            try:
                picture, label = self.open(split, *element)
                pixels = change(picture, number)
            except Exception as error:  # Pillow's decoders raise what they like on damaged files.
                self.damage.add(self.name_of(split, *element), str(error))
                return np.zeros((*size, 3), "uint8"), np.int32(0), False
            if not 0 <= label < len(self.labels):
                problem = f"Received: {label} at {self.name_of(split, *element)}. Choose another split, or mend the labels."
                self.damage.stop(f"Expected class indices from 0 to {len(self.labels) - 1} in {self.name!r}. {problem}")
            return pixels, np.int32(label), True

        def read_in_graph(number, element):
            pixels, label, good = tf.numpy_function(read, [number, *element], (tf.uint8, tf.int32, tf.bool))
            return tf.ensure_shape(pixels, (*size, 3)), tf.ensure_shape(label, ()), tf.ensure_shape(good, ())

        return elements.map(read_in_graph, tf.data.AUTOTUNE, deterministic=True)

    @contextlib.contextmanager
    def reading(self):
        """Gives errors that stop the reading of pictures as they were, not as TensorFlow hands them on.

        Raises:
            ValueError: If too many pictures, or a file of many, cannot be opened, or one has a class that there is not.
        """
        try:
            # Pictures are opened on many threads, each of which silences and restores the warnings of all.
            with warnings.catch_warnings():
                yield
        except tf.errors.OpError as error:
            if self.damage.failure is not None:
                raise self.damage.failure from None
            if isinstance(error, (tf.errors.DataLossError, tf.errors.NotFoundError, tf.errors.FailedPreconditionError)):
                # A file of many pictures, of tensorflow-datasets or of the user's own `tf.data.Dataset`.
                first = str(error).strip().splitlines()[-1]
                raise ValueError(f"Expected files of {self.name!r} that can be read. Received: {first}. Prepare the data set again.") from error
            raise

    @functools.cached_property
    def damage(self):
        """`Damage` that was met by `pictures`."""
        return Damage(sum(map(self.count, self.splits)), self.name, self.log)


class Damage:
    """Which pictures could not be opened when they were read one after the other; too many stop the run.

    Attributes:
        problems: What is wrong with each, by name.
        failure: The `ValueError` that stopped the reading, which TensorFlow hands on as an error of its own, or `None`.
    """

    def __init__(self, count, where, log):
        self.problems, self.failure = {}, None
        self._count, self._where, self._log, self._lock = count, where, log, threading.Lock()

    def add(self, name, problem):
        """Notes a picture, and says so once."""
        with self._lock:
            if name in self.problems:
                return
            self.problems[name] = problem
            self._log(f"skipped {name}: {problem}")
            try:
                folder.check_damage(self.problems, self._count, self._where)
            except ValueError as error:
                self.failure = error
                raise

    def stop(self, problem):
        """Raises a `ValueError`."""
        self.failure = ValueError(problem)
        raise self.failure


@dataclasses.dataclass(frozen=True, kw_only=True)
class FolderData(ImageData):
    """Pictures of a folder. If they fit into memory they are read when the first of the splits is asked for, all splits at once.

    Attributes:
        splits: As in `ImageData`, but with a list of paths in place of the pictures.
        path: String. The folder.
    """

    path: str

    @functools.cached_property
    def fits(self):
        paths = {path for paths, _ in self.splits.values() for path in paths}
        return len(paths) * int(np.prod(self.preprocessing.crop)) * 3 <= folder.MAX_PIXEL_BYTES

    def batched(self, split):
        return len(self.pixels(split)[1]) if self.fits else self.count(split)

    def pixels(self, split):
        """As in `ImageData`, without the pictures that cannot be read.

        Raises:
            ValueError: If they do not fit into memory, too many cannot be read, or none of a class is left.
        """
        if not self.fits:
            raise ValueError(
                f"Expected pictures that fit into {folder.MAX_PIXEL_BYTES / 2**30:.3g} GiB of memory once resized. Received: "
                f"{sum(map(self.count, self.splits)):,} pictures in {self.path!r}. Take `batches`, which reads them one after the other."
            )
        return self._read[0][split]

    @property
    def fingerprint(self):
        """What a run notes to know these pictures again: for each split their number, and a sha256 of their names and sizes."""
        return folder.fingerprint(self.labels, self.splits)

    @property
    def skipped(self):
        """Paths of the pictures that cannot be read, from the folder on."""
        return self._read[1]

    @functools.cached_property
    def _read(self):
        # A split that stands for two is read once.
        paths = list(dict.fromkeys(path for paths, _ in self.splits.values() for path in paths))
        pixels, readable = folder.read_pictures(self.path, paths, self.preprocessing, self.log)
        splits = {}
        for split, (its_paths, classes) in self.splits.items():
            start = paths.index(its_paths[0])
            classes = classes[readable[start : start + len(its_paths)]]
            lacking = [label for index, label in enumerate(self.labels) if index not in classes]
            if len(lacking) == len(self.labels) or (lacking and split == "train"):
                what = f"a picture of {lacking[0]!r}" if split == "train" else "a picture"
                raise ValueError(f"Expected {what} for {split} that can be read. Received: damaged ones in {self.path!r}. Repair or add some.")
            first = readable[:start].sum()
            splits[split] = pixels[first : first + len(classes)], classes
        return splits, [os.path.relpath(path, self.path) for path, good in zip(paths, readable, strict=True) if not good]

    def open(self, split, row):
        paths, classes = self.splits[split]
        return folder.open_regular(paths[row]), classes[row]

    def name_of(self, split, row, *_):
        return repr(os.path.relpath(self.splits[split][0][row], self.path))


def load_data(data, input_shape, splits=SPLITS, preprocessing=None, validation=None, labels=None, data_dir=None, log=print):
    """Opens a data set for a model's input.

    Args:
        data: `"digits"`: the 1,797 handwritten digits that ship with scikit-learn, 8x8 scans of 16 grey levels, split
            60/20/20 by class and always the same way. Or `"folder:PATH"`: pictures in a sub-folder for each class, split
            60/20/20 by class and always the same way, or in `train`, `val` and `test` with such sub-folders;
            `folder.find_pictures` has the rules. They are turned as their EXIF says and prepared as the official code does
            for this input. Damaged ones are skipped, up to one in a hundred. Or `"tfds:NAME"`, with `/CONFIG` and `:VERSION`
            as tensorflow-datasets has them, prepared in its data folder or downloaded. Or a `tf.data.Dataset` of pairs:
            a picture, uint8 `(height, width, 3)` or an encoded string, and its class index, in the same order each time: with
            `shuffle`, only with `reshuffle_each_iteration=False`. Another order is refused where none are given for `validation`.
        input_shape: Height, width and channels of the model.
        splits: Which of `"train"`, `"validation"` and `"test"` are wanted. No file of another is read.
        preprocessing: How a picture becomes the model's input. `None`: the official evaluation of this size; for digits
            their own.
        validation: With a `tf.data.Dataset`: another for validation and test. `None`: every fifth picture of the first.
        labels: With a `tf.data.Dataset`: class names. `None`: the numbers.
        data_dir: Folder of tensorflow-datasets. `None`: its own.
        log: Function that is called with each line of progress.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: If `data` is unknown, or cannot be used.
    """
    size = tuple(input_shape[:2])
    if None in size and preprocessing is None and not (isinstance(data, str) and data == "digits"):
        raise ValueError(f"Expected a model with a fixed input size. Received: input_shape={tuple(input_shape)}. Create it with a size.")
    if isinstance(data, tf.data.Dataset):
        from swin_keras.training.streams import load_dataset

        return load_dataset(data, validation, labels, preprocessing or Preprocessing.official(*size), splits, log)
    if validation is not None or labels is not None:
        raise ValueError(f"`validation` and `labels` belong to a `tf.data.Dataset`. Received: data={data!r}. Leave them out.")
    if isinstance(data, str) and data.startswith("folder:"):
        return _load_folder(data, preprocessing or Preprocessing.official(*size), splits, log)
    if isinstance(data, str) and data.startswith("tfds:"):
        from swin_keras.training.streams import load_tfds

        return load_tfds(data, data_dir, preprocessing or Preprocessing.official(*size), splits, log)
    if data != "digits":
        raise ValueError(
            "Expected data='digits', the built-in data set, data='folder:PATH', your own, data='tfds:NAME', of tensorflow-datasets, or a "
            f"`tf.data.Dataset`. Received: data={data!r}."
        )
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    scans = np.round(digits.images * (255 / 16)).astype("uint8")
    pictures = np.repeat(scans[..., None], 3, axis=-1)
    classes = digits.target.astype("int32")
    train, rest = train_test_split(np.arange(len(classes)), train_size=0.6, stratify=classes, random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=classes[rest], random_state=0)
    chosen = {"train": train, "validation": validation, "test": test}
    return ImageData(
        name="digits",
        labels=[str(digit) for digit in digits.target_names],
        preprocessing=preprocessing or Preprocessing("exact", size, size, mean=(_DIGITS_MEAN,) * 3, std=(_DIGITS_STD,) * 3),
        splits={split: (pictures[chosen[split]], classes[chosen[split]]) for split in splits},
    )


def take_rows(array, chosen):
    """Returns rows of an array as a tensor. TensorFlow's own `gather` would first copy the whole array."""
    taken = tf.numpy_function(lambda rows: array[rows], [chosen], array.dtype)
    return tf.ensure_shape(taken, (*chosen.shape, *array.shape[1:]))


def check_outside(data, path, name):
    """Refuses what would be written into a folder of pictures, where it would be taken for a class.

    Raises:
        ValueError: If `data` is `"folder:PATH"`, and `path` lies in that folder.
    """
    if not isinstance(data, str) or not data.startswith("folder:"):
        return
    pictures = os.path.realpath(os.path.expanduser(data.removeprefix("folder:")))
    if os.path.realpath(path).startswith(os.path.join(pictures, "")):
        raise ValueError(f"Expected a {name} outside of the pictures in {pictures!r}. Received: {str(path)!r}. Choose another.")


def _load_folder(data, preprocessing, splits, log):
    path = os.path.expanduser(data.removeprefix("folder:"))
    if not path:
        raise ValueError(f"Expected data='folder:PATH'. Received: data={data!r}. Name the folder that holds a sub-folder for each class.")
    labels, found = folder.find_pictures(path, log)
    images = FolderData(name=data, labels=labels, preprocessing=preprocessing, splits={split: found[split] for split in splits}, path=path, log=log)
    counts = ", ".join(f"{len(paths):,} for {split}" for split, (paths, _) in images.splits.items())
    log(f"{path}: {len(labels):,} classes; pictures: {counts}")
    return images
