"""Semantic segmentation: UPerNet on the four stages of a backbone."""

import keras
import numpy as np
from keras import ops

from swin_keras.layers.checks import is_count, is_number
from swin_keras.models import SwinBackbone
from swin_keras.tasks.data import IGNORED


def create_segmenter(backbone, num_classes, channels=512, pool_scales=(1, 2, 3, 6), dropout_rate=0.1, name="segmenter"):
    """Builds UPerNet: a pyramid of pooled features on the last stage, and a feature pyramid network over all.

    Args:
        backbone: `SwinBackbone` of fixed size, with at least two stages as outputs. Its layers become the model's own.
        num_classes: Integer.
        channels: Integer. Width of the head.
        pool_scales: Integers. The last stage is pooled to so many bins on each axis.
        dropout_rate: Float. Before the last layer.
        name: String.

    Returns:
        A functional `keras.Model` from normalized pictures `(batch, height, width, channels)` to float32 logits
        `(batch, height, width, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range.

    Reference: [Xiao et al., 2018](https://arxiv.org/abs/1807.10221), as in the official segmentation code. Its auxiliary head, which only training
    uses, is not built.
    """
    if not isinstance(backbone, SwinBackbone) or None in backbone.input_shape[1:]:
        raise ValueError(f"`backbone` must be what `create_backbone` makes with a fixed `input_shape`. Received: backbone={backbone!r}.")
    stages = [output for key, output in backbone.output.items() if key.startswith("stage")]
    if len(stages) < 2:
        raise ValueError(f"Expected a backbone with at least two stages as outputs. Received: {', '.join(backbone.output)}.")
    for argument, value in [("num_classes", num_classes), ("channels", channels), *(("pool_scales", scale) for scale in pool_scales)]:
        if not is_count(value):
            raise ValueError(f"`{argument}` must be positive integers. Received: {argument}={value!r}.")
    if not is_number(dropout_rate) or not 0 <= dropout_rate < 1:
        raise ValueError(f"`dropout_rate` must be from 0 to below 1. Received: dropout_rate={dropout_rate!r}.")

    def convolve(x, side, name):
        x = keras.layers.Conv2D(channels, side, padding="same", use_bias=False, name=f"{name}_conv")(x)
        # PyTorch's momentum, as there; with Keras' 0.99 a short training ends with the averages of its beginning.
        return keras.layers.Activation("relu", name=name)(keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_bn")(x))

    def resize(x, like, name):
        return x if x.shape[1:3] == like.shape[1:3] else Resize(like.shape[1:3], name=name)(x)

    last, pooled = stages[-1], []
    for scale in pool_scales:
        x = convolve(PyramidPooling(scale, name=f"pool{scale}")(last), 1, f"psp{scale}")
        pooled.append(resize(x, last, f"psp{scale}_resize"))
    levels = [convolve(stage, 1, f"lateral{number}") for number, stage in enumerate(stages[:-1], 1)]
    levels.append(convolve(keras.layers.Concatenate(name="psp")([last, *pooled]), 3, "bottleneck"))
    for number in range(len(levels) - 1, 0, -1):
        above = resize(levels[number], levels[number - 1], f"top_down{number}")
        levels[number - 1] = keras.layers.Add(name=f"sum{number}")([levels[number - 1], above])
    levels = [convolve(level, 3, f"fpn{number}") for number, level in enumerate(levels[:-1], 1)] + levels[-1:]
    fused = [resize(level, levels[0], f"fuse{number}") for number, level in enumerate(levels, 1)]
    x = convolve(keras.layers.Concatenate(name="levels")(fused), 3, "fusion")
    x = keras.layers.Dropout(dropout_rate, name="head_drop")(x)
    x = keras.layers.Conv2D(num_classes, 1, dtype="float32", name="classes")(x)
    return keras.Model(backbone.input, resize(x, backbone.input, "logits"), name=name)


def mean_iou(predicted, masks, num_classes):
    """Measures predicted classes of pixels: common area over that of both, the mean of the classes.

    Args:
        predicted, masks: Integer arrays of the same shape. Pixels whose mask is 255 do not count.
        num_classes: Integer.

    Returns:
        Float. Classes that are in neither do not count.

    Raises:
        ValueError: If the shapes differ, or a class is not below `num_classes`.
    """
    if not is_count(num_classes):
        raise ValueError(f"`num_classes` must be a positive integer. Received: num_classes={num_classes!r}.")
    check_masks(np.asarray(predicted), np.asarray(masks), num_classes)
    metric = keras.metrics.MeanIoU(num_classes, ignore_class=IGNORED)
    metric.update_state(np.ravel(masks), np.ravel(predicted))
    return float(metric.result())


def check_masks(predicted, masks, num_classes):
    """Raises a `ValueError` if classes of pixels are not comparable, of which TensorFlow would say so, or leave them out."""
    if predicted.shape != masks.shape:
        raise ValueError(f"Expected a class for each pixel of the masks. Received: shapes {predicted.shape} and {masks.shape}.")
    for array, allowed in [(predicted, []), (masks, [IGNORED])]:
        wrong = array[(array < 0) | ((array >= num_classes) & ~np.isin(array, allowed))]
        if wrong.size:
            raise ValueError(f"Expected classes from 0 to {num_classes - 1}, and {IGNORED} in masks where none is known. Received: {wrong[0]}.")


@keras.saving.register_keras_serializable(package="swin_keras")
class Resize(keras.layers.Layer):
    """Resizes `(b, h, w, c)` bilinearly, with pixels as areas: as PyTorch does without `align_corners`.

    Args:
        size: Pair of integers, height and width.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = tuple(int(side) for side in size)

    def call(self, x):
        return ops.image.resize(x, self.size, interpolation="bilinear", data_format="channels_last")

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "size": self.size}


@keras.saving.register_keras_serializable(package="swin_keras")
class PyramidPooling(keras.layers.Layer):
    """Averages `(b, h, w, c)` over `bins` areas on each axis, which overlap where the side is no multiple: PyTorch's adaptive average.

    A product with a constant matrix, which every device runs; the usual form cuts the grid into `bins` times `bins` slices.

    Args:
        bins: Integer.
    """

    def __init__(self, bins, **kwargs):
        super().__init__(**kwargs)
        self.bins = bins

    def build(self, input_shape):
        rows, columns = (_averages(side, self.bins) for side in input_shape[1:3])
        self._matrix = np.kron(rows, columns)  # (bins of the grid, its tokens)

    def call(self, x):
        _, height, width, channels = x.shape
        tokens = ops.reshape(x, (-1, height * width, channels))
        pooled = ops.matmul(ops.cast(ops.convert_to_tensor(self._matrix), x.dtype), tokens)
        return ops.reshape(pooled, (-1, self.bins, self.bins, channels))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], self.bins, self.bins, input_shape[3])

    def get_config(self):
        return {**super().get_config(), "bins": self.bins}


def _averages(side, bins):
    """Returns the matrix `(bins, side)` that averages over each bin."""
    matrix = np.zeros((bins, side), "float32")
    for index in range(bins):
        start, end = index * side // bins, -(-(index + 1) * side // bins)
        matrix[index, start:end] = 1 / (end - start)
    return matrix
