"""Labelled pictures, split and named: digits, a folder, tensorflow-datasets, any `tf.data.Dataset`."""

import dataclasses
import functools
import os

import numpy as np
import tensorflow as tf

from swin_keras.preprocessing import Preprocessing
from swin_keras.training import folder
from swin_keras.training.image_data import ImageData
from swin_keras.training.streams import load_dataset, load_tfds

SPLITS = ("train", "validation", "test")
# Mean and standard deviation of all pixels of the digits' training split, 32x32, in [0, 1].
_DIGITS_MEAN, _DIGITS_STD = 0.309, 0.349


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


def load_data(data, input_shape, splits=SPLITS, preprocessing=None, validation=None, labels=None, data_dir=None, classes=True, log=print):
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
        classes: Boolean. Whether the classes matter. If not, a folder may hold the pictures without sub-folders, all of which are then in each split.
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
        return load_dataset(data, validation, labels, preprocessing or Preprocessing.official(*size), splits, log)
    if validation is not None or labels is not None:
        raise ValueError(f"`validation` and `labels` belong to a `tf.data.Dataset`. Received: data={data!r}. Leave them out.")
    if isinstance(data, str) and data.startswith("folder:"):
        return _load_folder(data, preprocessing or Preprocessing.official(*size), splits, classes, log)
    if isinstance(data, str) and data.startswith("tfds:"):
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


def _load_folder(data, preprocessing, splits, with_classes, log):
    path = os.path.expanduser(data.removeprefix("folder:"))
    if not path:
        raise ValueError(f"Expected data='folder:PATH'. Received: data={data!r}. Name the folder that holds a sub-folder for each class.")
    if not with_classes and (paths := folder.find_unlabelled(path)):
        labels, found = [""], dict.fromkeys(splits, (paths, np.zeros(len(paths), "int32")))
        log(f"{path}: {len(paths):,} pictures, without classes")
        return FolderData(name=data, labels=labels, preprocessing=preprocessing, splits=found, path=path, log=log)
    labels, found = folder.find_pictures(path, log)
    images = FolderData(name=data, labels=labels, preprocessing=preprocessing, splits={split: found[split] for split in splits}, path=path, log=log)
    counts = ", ".join(f"{len(paths):,} for {split}" for split, (paths, _) in images.splits.items())
    log(f"{path}: {len(labels):,} classes; pictures: {counts}")
    return images
