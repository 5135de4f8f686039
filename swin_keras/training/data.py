"""Labelled pictures, split and named."""

import dataclasses

import numpy as np
import tensorflow as tf

from swin_keras.preprocessing import Preprocessing

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


def load_data(data, input_shape):
    """Opens a data set for a model's input.

    Args:
        data: `"digits"`: the 1,797 handwritten digits that ship with scikit-learn, 8x8 scans of 16 grey levels, split
            60/20/20 by class and always the same way.
        input_shape: Height, width and channels of the model.

    Returns:
        An `ImageData`.

    Raises:
        ValueError: If `data` is unknown.
    """
    if data != "digits":
        raise ValueError(f"Expected data='digits', the built-in data set. Received: data={data!r}.")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    scans = np.round(digits.images * (255 / 16)).astype("uint8")
    pictures = np.repeat(scans[..., None], 3, axis=-1)
    classes = digits.target.astype("int32")
    train, rest = train_test_split(np.arange(len(classes)), train_size=0.6, stratify=classes, random_state=0)
    validation, test = train_test_split(rest, train_size=0.5, stratify=classes[rest], random_state=0)
    splits = {"train": train, "validation": validation, "test": test}
    size = tuple(input_shape[:2])
    return ImageData(
        name="digits",
        labels=[str(digit) for digit in digits.target_names],
        preprocessing=Preprocessing("exact", size, size, mean=(_DIGITS_MEAN,) * 3, std=(_DIGITS_STD,) * 3),
        splits={split: (pictures[chosen], classes[chosen]) for split, chosen in splits.items()},
    )
