"""Built-in scenes for dense prediction: real handwritten digits at random places and sizes, among clutter."""

import numpy as np

# Of the pixels, for the networks.
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
# Of the background the class is 0.
CLASSES = ("background", *map(str, range(10)))
_SPLITS = ("train", "validation", "test")
# Ink above this belongs to a digit.
_INK = 0.35
_MOST_DIGITS, _TRIES = 8, 20


class Scenes:
    """Pictures with the boxes, classes and mask of the digits in them. Each is made of its seed, split and number alone, whenever it is asked for.

    Scans of one split are in no scene of another. Digits do not overlap one another; what lies about besides, strokes cut out of other scans,
    is clutter and counts as background.

    Args:
        size: Pair of integers, height and width, at least 48.
        seed: Integer.

    Raises:
        ValueError: If a size is too small.
    """

    def __init__(self, size=(96, 96), seed=0):
        if min(size) < 48:
            raise ValueError(f"Scenes are at least 48 pixels high and wide. Received: size={tuple(size)}.")
        from swin_keras.training import load_data  # With TensorFlow, which a segmenter on another backend does without.

        self.size, self.seed = tuple(size), seed
        self._splits = load_data("digits", (32, 32, 3)).splits

    def scene(self, split, number):
        """Makes one scene.

        Args:
            split: `"train"`, `"validation"` or `"test"`: whose scans are used.
            number: Integer from 0.

        Returns:
            A dictionary: `"picture"`, uint8 `(height, width, 3)`; `"mask"`, uint8 `(height, width)`, indices of `CLASSES`; `"boxes"`, float32
            `(n, 4)`, top, left, bottom and right in pixels; and `"classes"`, int32 `(n,)`, the digits.
        """
        rng = np.random.default_rng((self.seed, _SPLITS.index(split), number))
        scans, classes = self._splits[split]
        height, width = self.size
        ink, mask = np.zeros(self.size, "float32"), np.zeros(self.size, "uint8")
        for _ in range(rng.integers(3, 9)):  # clutter, below the digits
            self._scribble(ink, scans[rng.integers(len(scans)), :, :, 0], rng)
        boxes, found = [], []
        for _ in range(rng.integers(1, _MOST_DIGITS + 1)):
            index = rng.integers(len(scans))
            drawn = _enlarge(scans[index, :, :, 0], rng.integers(min(self.size) // 4, min(self.size) // 2))
            rows, columns = (np.flatnonzero((drawn > _INK).any(axis)) for axis in (1, 0))
            drawn = drawn[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            for _ in range(_TRIES):
                top, left = rng.integers(0, height - drawn.shape[0] + 1), rng.integers(0, width - drawn.shape[1] + 1)
                box = (top, left, top + drawn.shape[0], left + drawn.shape[1])
                if not any(_overlap(box, other) for other in boxes):
                    break
            else:
                continue
            place = (slice(box[0], box[2]), slice(box[1], box[3]))
            inside = drawn > _INK
            ink[place] = np.where(inside, drawn, np.maximum(ink[place] * (drawn < 0.1), drawn))
            mask[place][inside] = 1 + classes[index]
            boxes.append(box)
            found.append(classes[index])
        paper, pen = rng.uniform(0.0, 0.35, 3), rng.uniform(0.65, 1.0, 3)
        picture = paper + (pen - paper) * ink[..., None] + rng.normal(0, 0.04, (*self.size, 3))
        if rng.random() < 0.5:
            picture = 1 - picture
        return {
            "picture": np.rint(255 * np.clip(picture, 0, 1)).astype("uint8"),
            "mask": mask,
            "boxes": np.array(boxes, "float32"),
            "classes": np.array(found, "int32"),
        }

    def segmentation(self, split, count, start=0):
        """Makes several scenes for a segmenter.

        Returns:
            Pictures, float32 `(count, height, width, 3)`, normalized by `MEAN` and `STD`, and masks, uint8 `(count, height, width)`.
        """
        scenes = [self._for_segmenter(self.scene(split, start + number)) for number in range(count)]
        return tuple(np.stack(arrays) for arrays in zip(*scenes, strict=True))

    def detection(self, split, count, start=0):
        """Makes several scenes for a detector.

        Returns:
            Pictures, uint8 `(count, height, width, 3)`, and `{"boxes": ..., "labels": ...}`: float32 `(count, 8, 4)`, top, left, bottom and right
            in pixels, and int32 `(count, 8)`, the digits; -1 where a scene has fewer.
        """
        scenes = [self._for_detector(self.scene(split, start + number)) for number in range(count)]
        pictures, boxes, labels = (np.stack(arrays) for arrays in zip(*scenes, strict=True))
        return pictures, {"boxes": boxes, "labels": labels}

    def dataset(self, task, count, batch_size):
        """Makes scenes for training while they are needed.

        Args:
            task: `"detection"` or `"segmentation"`.
            count: Integer. How many, a multiple of `batch_size`.
            batch_size: Integer.

        Returns:
            A `tf.data.Dataset` of batches of what the method of that name returns.
        """
        import tensorflow as tf

        make = self._for_detector if task == "detection" else self._for_segmenter
        signature = [tf.TensorSpec(array.shape, array.dtype) for array in make(self.scene("train", 0))]

        def scene(number):
            arrays = tf.numpy_function(lambda n: make(self.scene("train", int(n))), [number], [spec.dtype for spec in signature])
            picture, *target = (tf.ensure_shape(array, spec.shape) for array, spec in zip(arrays, signature, strict=True))
            return picture, dict(zip(("boxes", "labels"), target, strict=True)) if task == "detection" else target[0]

        return tf.data.Dataset.range(count).map(scene, num_parallel_calls=2).batch(batch_size, drop_remainder=True).prefetch(2)

    def _for_segmenter(self, scene):
        return ((scene["picture"] / np.float32(255) - MEAN) / STD).astype("float32"), scene["mask"]

    def _for_detector(self, scene):
        boxes, labels = np.full((_MOST_DIGITS, 4), -1, "float32"), np.full(_MOST_DIGITS, -1, "int32")
        boxes[: len(scene["boxes"])], labels[: len(scene["boxes"])] = scene["boxes"], scene["classes"]
        return scene["picture"], boxes, labels

    def _scribble(self, ink, scan, rng):
        """Puts a piece of a scan somewhere, too small to be read."""
        side = rng.integers(3, 5)
        row, column = rng.integers(0, 8 - side + 1, 2)
        piece = _enlarge(scan[row : row + side, column : column + side], rng.integers(6, 15))
        top, left = rng.integers(0, ink.shape[0] - len(piece) + 1), rng.integers(0, ink.shape[1] - len(piece) + 1)
        place = (slice(top, top + len(piece)), slice(left, left + len(piece)))
        ink[place] = np.maximum(ink[place], rng.uniform(0.5, 1.0) * piece)


def _enlarge(scan, side):
    """Returns a scan of grey levels as ink from 0 to 1, `side` pixels high and wide."""
    from PIL import Image

    return np.asarray(Image.fromarray(scan).resize((int(side),) * 2, Image.Resampling.BICUBIC), "float32") / 255


def _overlap(one, other):
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
