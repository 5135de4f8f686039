"""A labelled set of pictures in memory, and what sets that are read one picture after the other share with it."""

import contextlib
import dataclasses
import functools
import threading
import warnings
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from PIL import Image

from swin_keras.preprocessing import Preprocessing
from swin_keras.training import folder


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


def take_rows(array, chosen):
    """Returns rows of an array as a tensor. TensorFlow's own `gather` would first copy the whole array."""
    taken = tf.numpy_function(lambda rows: array[rows], [chosen], array.dtype)
    return tf.ensure_shape(taken, (*chosen.shape, *array.shape[1:]))
