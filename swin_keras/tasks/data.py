"""Users' own data for dense prediction: pictures with COCO's json, and sets of tensorflow-datasets."""

import dataclasses
import numbers

import numpy as np

from swin_keras.layers.checks import is_count
from swin_keras.preprocessing import IMAGENET_MEAN, IMAGENET_STD, MAX_SIDE, Preprocessing

# In masks: what no class is known of, which is neither trained on nor measured.
IGNORED = 255


@dataclasses.dataclass(frozen=True)
class DenseData:
    """Pictures with boxes or masks, as `load_data` finds them.

    Attributes:
        task: `"detection"` or `"segmentation"`.
        labels: Class names; of a segmenter with the background, if there is one.
        preprocessing: How a picture becomes a model's input, for `export_bundle`.
    """

    task: str
    labels: list
    preprocessing: Preprocessing
    _source: object = dataclasses.field(repr=False)
    _most: int = dataclasses.field(repr=False)

    def count(self, split):
        """Returns the number of pictures of `"train"`, `"validation"` or `"test"`."""
        if not isinstance(split, str) or split not in self._source.splits:
            raise ValueError(f"`split` must be one of {', '.join(self._source.splits)}. Received: split={split!r}.")
        return self._source.count(split)

    def dataset(self, split, batch_size, seed=None, flip=True):
        """Reads pictures as `fit` and `evaluate` take them.

        Args:
            split: `"train"`, `"validation"` or `"test"`.
            batch_size: Integer.
            seed: Integer, for training: the pictures come without end, in another order in each epoch, so that `fit` needs
                `steps_per_epoch=data.count("train") // batch_size`. Or `None`: each once, in their order.
            flip: Boolean. Whether half of the pictures are mirrored where there is a `seed`.

        Returns:
            A `tf.data.Dataset` of batches. For detection: pictures, uint8 `(batch, height, width, 3)`, and `{"boxes": ..., "labels": ...}`:
            float32 `(batch, most, 4)`, top, left, bottom and right in pixels of the resized picture, and int32 `(batch, most)`; -1 where a
            picture has fewer. For segmentation: normalized pictures, float32, and masks, uint8 `(batch, height, width)`, 255 where no class is
            known. A picture that cannot be read is black, without objects and with a mask of 255, up to one in a hundred; more end the reading
            with an error of TensorFlow's that names them.

        Raises:
            ValueError: If an argument is out of its range.
        """
        import tensorflow as tf

        self.count(split)  # checks it
        if not is_count(batch_size):
            raise ValueError(f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}.")
        if seed is not None and (not isinstance(seed, numbers.Integral) or isinstance(seed, bool) or not 0 <= seed < 2**63):
            raise ValueError(f"`seed` must be a positive integer or 0, or None. Received: seed={seed!r}.")
        if not isinstance(flip, bool):
            raise ValueError(f"`flip` must be True or False. Received: flip={flip!r}.")
        if seed is None:
            elements = self._source.elements(split).enumerate()
        else:
            epochs = tf.data.Dataset.range(2**31 - 1)
            elements = epochs.flat_map(lambda epoch: self._source.elements(split, tf.stack([tf.cast(seed, tf.int64), epoch]))).enumerate()
        size = self.preprocessing.crop
        target = [((self._most, 4), tf.float32, -1), ((self._most,), tf.int32, -1)] if self.task == "detection" else [(size, tf.uint8, IGNORED)]
        signature = [((*size, 3), tf.uint8, 0), *target]

        def read(number, *element):
            mirrored = seed is not None and flip and np.random.default_rng((int(seed), int(number))).random() < 0.5
            try:
                picture, found = self._source.open(split, *element)
                return self._prepare(picture, found, mirrored)
            except Exception as error:  # Pillow's decoders raise what they like on damaged files.
                self._source.damage.add(self._source.name_of(split, *element), str(error))
                return tuple(np.full(shape, value, dtype.as_numpy_dtype) for shape, dtype, value in signature)

        def read_in_graph(number, element):
            arrays = tf.numpy_function(read, [number, *element], [dtype for _, dtype, _ in signature])
            return tuple(tf.ensure_shape(array, shape) for array, (shape, _, _) in zip(arrays, signature, strict=True))

        def as_pair(picture, *target):
            if self.task == "detection":
                return picture, dict(zip(("boxes", "labels"), target, strict=True))
            return self.preprocessing.normalize(tf.cast(picture, tf.float32)), target[0]

        batches = elements.map(read_in_graph, tf.data.AUTOTUNE, deterministic=True).batch(batch_size, drop_remainder=seed is not None).map(as_pair)
        if seed is None:
            # Keras warns of data that end where their number is not known.
            batches = batches.apply(tf.data.experimental.assert_cardinality(-(-self.count(split) // batch_size)))
        return batches.prefetch(tf.data.AUTOTUNE)

    def _prepare(self, picture, found, mirrored):
        """Returns uint8 pixels, and boxes and labels or a mask, resized and perhaps mirrored."""
        from PIL import Image

        from swin_keras.training import folder

        height, width = self.preprocessing.crop
        pixels = folder.prepare(picture, self.preprocessing)
        if self.task == "segmentation":
            mask = np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.NEAREST))
            return (pixels[:, ::-1], mask[:, ::-1]) if mirrored else (pixels, mask)
        boxes, labels = found
        boxes = boxes * np.array([height, width, height, width])
        if mirrored:
            pixels, boxes = pixels[:, ::-1], boxes * [1, -1, 1, -1] + [0, width, 0, width]
            boxes = boxes[:, [0, 3, 2, 1]]
        sides = boxes[:, 2:] - boxes[:, :2]
        kept = np.argsort(-sides.prod(-1), kind="stable")[: self._most]
        padded = np.full((self._most, 4), -1, "float32"), np.full(self._most, -1, "int32")
        padded[0][: len(kept)], padded[1][: len(kept)] = boxes[kept], labels[kept]
        return pixels, *padded


def load_data(data, task, size, labels=None, mean=IMAGENET_MEAN, std=IMAGENET_STD, max_objects=100, data_dir=None, log=print):
    """Finds pictures with boxes or masks.

    Args:
        data: `"coco:PATH"`: a folder with COCO's json for each split and its pictures. Or `"tfds:NAME"`, with `/CONFIG` and `:VERSION` as
            tensorflow-datasets has them: for detection a set with boxes (`coco`, `voc`, `oxford_iiit_pet`), for segmentation one with a
            mask (`scene_parse150`, which is ADE20K, `oxford_iiit_pet`).
        task: `"detection"` or `"segmentation"`.
        size: Pair of integers, height and width. Pictures are resized to it, whatever their shape, as the exported bundle does.
        labels: List of class names, for the masks of a set of tensorflow-datasets that does not name them.
        mean, std: Three numbers each, for the normalization of pixels from 0 to 1.
        max_objects: Integer. Of a picture with more boxes the largest are kept. COCO too measures a hundred.
        data_dir: Path. Where tensorflow-datasets keeps its sets. `None`: its own folder.
        log: Function that is called with each line of progress.

    Returns:
        `DenseData`. Regions that are marked as crowds are in no box; boxes are cut at the edge of the picture.

    Raises:
        ValueError: If the data cannot be found or read, has no boxes or masks, or an argument is out of its range.
    """
    if task not in ("detection", "segmentation"):
        raise ValueError(f"`task` must be 'detection' or 'segmentation'. Received: task={task!r}.")
    if not is_count(max_objects):
        raise ValueError(f"`max_objects` must be a positive integer. Received: max_objects={max_objects!r}.")
    if labels is not None and (not isinstance(labels, (list, tuple)) or not labels or not all(isinstance(name, str) for name in labels)):
        raise ValueError(f"`labels` must be a list of names. Received: labels={labels!r}.")
    if not isinstance(size, (list, tuple)) or len(size) != 2 or not all(is_count(side) and side <= MAX_SIDE for side in size):
        raise ValueError(f"`size` must be two whole numbers, height and width, of at most {MAX_SIDE}. Received: size={size!r}.")
    preprocessing = Preprocessing("exact", size, size, interpolation="bilinear", mean=mean, std=std)
    from swin_keras.tasks import sources  # With TensorFlow, which a segmenter on another backend does without.

    kind, _, where = data.partition(":") if isinstance(data, str) else ("", "", "")
    if labels is not None and kind != "tfds":
        raise ValueError(f"Expected `labels` for data='tfds:NAME' only; COCO's json names its classes. Received: labels={labels!r:.200}.")
    if kind == "coco" and where:
        labels, source = sources.open_coco(where, task, preprocessing, log)
    elif kind == "tfds" and where:
        labels, source = sources.open_tfds(data, task, labels, data_dir, preprocessing, log)
    else:
        raise ValueError(
            f"Expected data='coco:PATH', a folder of pictures with COCO's json, or data='tfds:NAME', of tensorflow-datasets. Received: data={data!r}."
        )
    if task == "segmentation" and len(labels) > IGNORED:
        raise ValueError(f"Expected at most {IGNORED} classes of pixels. Received: {len(labels)} in data={data!r}.")
    return DenseData(task, list(labels), preprocessing, source, max_objects)
