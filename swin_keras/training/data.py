"""Labelled pictures, split and named."""

import dataclasses
import functools
import os
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from swin_keras.preprocessing import Preprocessing
from swin_keras.training import folder

SPLITS = ("train", "validation", "test")
# Mean and standard deviation of all pixels of the digits' training split, 32x32, in [0, 1].
_DIGITS_MEAN, _DIGITS_STD = 0.309, 0.349


@dataclasses.dataclass(frozen=True)
class ImageData:
    """A labelled data set in memory.

    Attributes:
        name: String, as given to `train`.
        labels: Class names.
        preprocessing: How a picture becomes a model's input.
        splits: `"train"`, `"validation"` and `"test"`, each a pair of uint8 pictures `(n, height, width, 3)` and
            int32 class indices `(n,)`.
    """

    name: str
    labels: list
    preprocessing: Preprocessing
    splits: dict

    def pixels(self, split):
        """Returns a split as resized and cropped uint8 pictures `(n, *crop, 3)` and its class indices."""
        pictures, classes = self.splits[split]
        # As a graph: one call of TensorFlow for each picture costs more than the work.
        batch = tf.data.Dataset.from_tensor_slices(pictures).map(self.preprocessing.pixels, tf.data.AUTOTUNE).batch(len(pictures))
        return batch.get_single_element().numpy().astype("uint8"), classes

    def inputs(self, split):
        """Returns a split as the model takes it: float32 `(n, *crop, 3)`, and its class indices."""
        pixels, classes = self.pixels(split)
        return self.preprocessing.normalize(pixels.astype("float32")).numpy(), classes

    def batches(self, split, size):
        """Returns a split in its order as a `tf.data.Dataset` of `inputs` and class indices, `size` of them at a time."""
        pixels, classes = self.pixels(split)

        def batch(start):
            chosen = tf.range(start, tf.minimum(start + size, len(classes)))
            return self.preprocessing.normalize(tf.cast(take_rows(pixels, chosen), tf.float32)), tf.gather(classes, chosen)

        return tf.data.Dataset.range(0, len(classes), size).map(batch).prefetch(tf.data.AUTOTUNE)


@dataclasses.dataclass(frozen=True)
class FolderData(ImageData):
    """Pictures of a folder, which are read when the first of the splits is asked for, all splits at once.

    Attributes:
        splits: As in `ImageData`, but with a list of paths in place of the pictures.
        path: String. The folder.
        log: Function that is called with each line of progress.
    """

    path: str
    log: Callable

    def pixels(self, split):
        """As in `ImageData`, without the pictures that cannot be read.

        Raises:
            ValueError: If too many cannot be read, or none of a class is left.
        """
        return self._read[0][split]

    @property
    def fingerprint(self):
        """What a run notes to know these pictures again: how many each split has, and a sha256 of their names and sizes."""
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


def load_data(data, input_shape, splits=SPLITS, log=print):
    """Opens a data set for a model's input.

    Args:
        data: `"digits"`: the 1,797 handwritten digits that ship with scikit-learn, 8x8 scans of 16 grey levels, split
            60/20/20 by class and always the same way. Or `"folder:PATH"`: pictures in a sub-folder for each class, split
            60/20/20 by class and always the same way, or in `train`, `val` and `test` with such sub-folders;
            `folder.find_pictures` has the rules. They are turned as their EXIF says, prepared as the official code does
            for this input, and kept in memory, at most 8 GiB. Damaged ones are skipped, up to one in a hundred.
        input_shape: Height, width and channels of the model.
        splits: Which of `"train"`, `"validation"` and `"test"` are wanted. No file of another is read.
        log: Function that is called with each line of progress.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: If `data` is unknown, or its folder cannot be used.
    """
    if isinstance(data, str) and data.startswith("folder:"):
        return _load_folder(data, input_shape, splits, log)
    if data != "digits":
        raise ValueError(f"Expected data='digits', the built-in data set, or data='folder:PATH', your own. Received: data={data!r}.")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    scans = np.round(digits.images * (255 / 16)).astype("uint8")
    pictures = np.repeat(scans[..., None], 3, axis=-1)
    classes = digits.target.astype("int32")
    train, rest = train_test_split(np.arange(len(classes)), train_size=0.6, stratify=classes, random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=classes[rest], random_state=0)
    chosen = {"train": train, "validation": validation, "test": test}
    size = tuple(input_shape[:2])
    return ImageData(
        name="digits",
        labels=[str(digit) for digit in digits.target_names],
        preprocessing=Preprocessing("exact", size, size, mean=(_DIGITS_MEAN,) * 3, std=(_DIGITS_STD,) * 3),
        splits={split: (pictures[chosen[split]], classes[chosen[split]]) for split in splits},
    )


def take_rows(array, chosen):
    """Returns rows of an array as a tensor. TensorFlow's own `gather` would first copy the whole array."""
    taken = tf.numpy_function(lambda rows: array[rows], [chosen], array.dtype)
    return tf.ensure_shape(taken, (*chosen.shape, *array.shape[1:]))


def _load_folder(data, input_shape, splits, log):
    path = os.path.expanduser(data.removeprefix("folder:"))
    if not path:
        raise ValueError(f"Expected data='folder:PATH'. Received: data={data!r}. Name the folder that holds a sub-folder for each class.")
    if None in input_shape:
        raise ValueError(f"Expected a model with a fixed input size. Received: input_shape={tuple(input_shape)}. Create it with a size.")
    labels, found = folder.find_pictures(path, log)
    preprocessing = Preprocessing.official(*input_shape[:2])
    images = FolderData(data, labels, preprocessing, {split: found[split] for split in splits}, path, log)
    folder.check_size(path, len({name for paths, _ in images.splits.values() for name in paths}), preprocessing.crop)
    counts = ", ".join(f"{len(paths):,} for {split}" for split, (paths, _) in images.splits.items())
    log(f"{path}: {len(labels):,} classes; pictures: {counts}")
    return images
