"""Object detection: KerasHub's RetinaNet on a backbone."""

import contextlib
import importlib
import io
import math

import keras
import numpy as np
from keras import ops

from swin_keras.layers.checks import is_count, is_number
from swin_keras.models import SwinBackbone
from swin_keras.preprocessing import IMAGENET_MEAN, IMAGENET_STD

# Boxes are top, left, bottom and right in pixels.
BOX_FORMAT = "yxyx"
# As in torchvision's RetinaNet: average precision needs the doubtful ones too.
_CONFIDENCE = 0.05
# A box is at most so many times as large as its anchor, as a logarithm: as in torchvision. Else what is no object may have a side that is no number.
_LARGEST = math.log(1000 / 16)


def create_detector(
    backbone,
    num_classes,
    min_level=3,
    max_level=7,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
    prior_probability=0.01,
    use_p5=False,
    name="detector",
    **options,
):
    """Builds KerasHub's RetinaNet with a Swin as its image encoder.

    It is trained with `compile()` and `fit(pictures, {"boxes": ..., "labels": ...})`: pictures of values from 0 to 255, which it resizes to the
    backbone's size and normalizes itself; boxes `(n, most, 4)`, top, left, bottom and right in pixels; class indices `(n, most)`. A picture with
    fewer objects has boxes and labels of -1 for the others. `predict` returns `"boxes"`, `"labels"`, `"confidence"` and `"num_detections"`.

    Args:
        backbone: `SwinBackbone` of fixed size. Its layers become the model's own.
        num_classes: Integer.
        min_level, max_level: Integers. A level has a stride of 2 to that power; those that the backbone lacks are built from its last.
        mean, std: Three numbers each, for the normalization of pixels from 0 to 1.
        prior_probability: Float. The probability of each class at each anchor before training.
        use_p5: Boolean. As in `keras_hub.models.RetinaNetBackbone`.
        name: String.
        **options: Those of `keras_hub.models.RetinaNetObjectDetector`, such as `anchor_generator` or `pre_logits_num_conv_layers`.

    Returns:
        A `keras_hub.models.RetinaNetObjectDetector`.

    Raises:
        ValueError: If an argument is out of its range, or KerasHub is not installed: `pip install swin-keras[detection]`.

    References: [Lin et al., 2017](https://arxiv.org/abs/1708.02002).
    """
    hub = extra("keras_hub")
    if not isinstance(backbone, SwinBackbone) or None in backbone.input_shape[1:]:
        raise ValueError(f"`backbone` must be what `create_backbone` makes with a fixed `input_shape`. Received: backbone={backbone!r}.")
    levels = [int(level[1:]) for level in backbone.pyramid_outputs]
    if not is_count(num_classes):
        raise ValueError(f"`num_classes` must be a positive integer. Received: num_classes={num_classes!r}.")
    if not is_count(min_level) or not is_count(max_level) or not min_level <= max_level or min_level not in levels:
        raise ValueError(
            f"`min_level` must be one of the levels of the backbone, {levels}, and at most `max_level`. Received: min_level={min_level!r}, "
            f"max_level={max_level!r}."
        )
    if not is_number(prior_probability) or not 0 < prior_probability < 1:
        raise ValueError(f"`prior_probability` must be between 0 and 1. Received: prior_probability={prior_probability!r}.")
    size = backbone.input_shape[1:3]
    converter = hub.layers.RetinaNetImageConverter(
        image_size=size,
        scale=[1 / (255 * value) for value in std],
        offset=[-average / value for average, value in zip(mean, std, strict=True)],
        crop_to_aspect_ratio=False,
        antialias=True,
        bounding_box_format=BOX_FORMAT,
    )
    pyramid = hub.models.RetinaNetBackbone(
        image_encoder=backbone, min_level=min_level, max_level=max_level, use_p5=use_p5, image_shape=backbone.input_shape[1:]
    )
    options.setdefault(
        "prediction_decoder", hub.layers.NonMaxSuppression(bounding_box_format=BOX_FORMAT, from_logits=True, confidence_threshold=_CONFIDENCE)
    )
    detector = hub.models.RetinaNetObjectDetector(
        pyramid,
        num_classes,
        bounding_box_format=BOX_FORMAT,
        preprocessor=hub.models.RetinaNetObjectDetectorPreprocessor(converter),
        name=name,
        **options,
    )
    # KerasHub 0.32 gives the prior to the head of boxes, where it does harm, and none to that of classes.
    prior = -math.log((1 - prior_probability) / prior_probability)
    for head, value in [(detector.classification_head, prior), (detector.box_head, 0.0)]:
        head.prediction_layer.bias.assign(np.full(head.prediction_layer.bias.shape, value, "float32"))
    return detector


def detection_network(detector):
    """Returns the part of a detector that goes to a device: all but the suppression of boxes that overlap.

    Args:
        detector: What `create_detector` makes.

    Returns:
        A functional `keras.Model` from a normalized picture `(batch, height, width, 3)` to `"boxes"`, float32 `(batch, anchors, 4)`, top, left,
        bottom and right as fractions of the picture's height and width, and `"scores"`, float32 `(batch, anchors, num_classes)`, logits.

    Raises:
        ValueError: If it is no detector.
    """
    if not isinstance(detector, extra("keras_hub").models.RetinaNetObjectDetector):
        raise ValueError(f"Expected what `create_detector` makes. Received: {detector!r}.")
    picture = keras.Input(detector.input_shape[1:], name="image")
    predicted = detector(picture)
    height, width = detector.input_shape[1:3]
    of_levels = detector.anchor_generator(ops.zeros((1, height, width, 3)))
    anchors = ops.convert_to_numpy(ops.concatenate(list(of_levels.values())))
    decode = DecodeBoxes(anchors / np.array([height, width, height, width]), name="boxes")
    return keras.Model(picture, decode(predicted["bbox_regression"], predicted["cls_logits"]), name=f"{detector.name}_network")


@keras.saving.register_keras_serializable(package="swin_keras")
class DecodeBoxes(keras.layers.Layer):
    """Turns offsets from anchors `(b, n, 4)`, x, y, width and height, into `"boxes"`: top, left, bottom and right. `"scores"` pass.

    Args:
        anchors: Array `(n, 4)`, top, left, bottom and right.
    """

    def __init__(self, anchors, **kwargs):
        super().__init__(**{"dtype": "float32", **kwargs})
        self.anchors = np.asarray(anchors, "float32")

    def call(self, offsets, scores):
        top, left, bottom, right = self.anchors.T
        sides = ops.convert_to_tensor(np.stack([right - left, bottom - top], -1))
        centres = offsets[..., :2] * sides + ops.convert_to_tensor(np.stack([left + right, top + bottom], -1) / 2)
        halves = ops.exp(ops.minimum(offsets[..., 2:], _LARGEST)) * (sides / 2)
        corners = [(centres + sign * halves)[..., axis : axis + 1] for sign in (-1, 1) for axis in (1, 0)]
        return {"boxes": ops.concatenate(corners, axis=-1), "scores": ops.cast(scores, "float32")}

    def compute_output_spec(self, offsets, scores):
        # KerasHub 0.32 is wrong about the number of anchors of pictures that are not square, where it builds levels from the backbone's last.
        shapes = {"boxes": (offsets.shape[0], len(self.anchors), 4), "scores": (scores.shape[0], len(self.anchors), scores.shape[2])}
        return {name: keras.KerasTensor(shape, "float32") for name, shape in shapes.items()}

    def get_config(self):
        return {**super().get_config(), "anchors": self.anchors.tolist()}


def predict(detector, pictures, batch_size=8):
    """Finds objects in any number of pictures: the `predict` of KerasHub 0.32 takes full batches of always the same size.

    Args:
        detector: What `create_detector` makes.
        pictures: Array `(n, height, width, 3)` of values from 0 to 255.
        batch_size: Integer.

    Returns:
        `"boxes"` `(n, most, 4)`, top, left, bottom and right in pixels; `"labels"` and `"confidence"` `(n, most)`, the most likely first; and
        `"num_detections"` `(n,)`, how many of them there are.

    Raises:
        ValueError: If an argument is of another kind.
    """
    pictures = ops.convert_to_numpy(pictures)
    if pictures.ndim != 4 or not len(pictures) or pictures.shape[-1] != 3:
        raise ValueError(f"Expected an array of pictures (n, height, width, 3). Received: shape {pictures.shape}.")
    if not is_count(batch_size):
        raise ValueError(f"`batch_size` must be a positive integer. Received: batch_size={batch_size!r}.")
    batches = (pictures[start : start + batch_size] for start in range(0, len(pictures), batch_size))
    return joined(predict_batches(detector, batches))


def predict_batches(detector, batches):
    """Yields what `predict` returns for each batch of pictures."""
    if not isinstance(detector, extra("keras_hub").models.RetinaNetObjectDetector):
        raise ValueError(f"Expected what `create_detector` makes. Received: {detector!r}.")
    network = keras.Model(detector.inputs, detector.output)
    for pictures in batches:
        x = detector.preprocessor(pictures)
        # As tensors: KerasHub multiplies them by its own.
        found = detector.decode_predictions(keras.tree.map_structure(ops.convert_to_tensor, network.predict_on_batch(x)), x)
        yield {key: ops.convert_to_numpy(value) for key, value in found.items()}


def joined(batches):
    """Returns dictionaries of arrays as one. Where they have another number of boxes they are filled up with -1."""
    batches = list(batches)
    most = max(batch["labels"].shape[1] for batch in batches)

    def filled(array):
        return np.pad(array, [(0, 0), (0, most - array.shape[1]), *[(0, 0)] * (array.ndim - 2)], constant_values=-1) if array.ndim > 1 else array

    return {key: np.concatenate([filled(batch[key]) for batch in batches]) for key in batches[0]}


def average_precision(predicted, truth):
    """Measures found boxes against true ones as COCO does.

    Args:
        predicted: What `predict` returns.
        truth: `{"boxes": ..., "labels": ...}`, as for `fit`, of the same pictures.

    Returns:
        A dictionary of floats: `"mAP"`, over overlaps from 0.50 to 0.95, `"mAP50"` and `"mAP75"`.

    Raises:
        ValueError: If there is no true box, the pictures are not as many, or a box or confidence is no number; or pycocotools is not installed:
            `pip install swin-keras[detection]`.
    """
    coco, cocoeval = extra("pycocotools.coco"), extra("pycocotools.cocoeval")
    truth = {key: np.asarray(truth[key]) for key in ("boxes", "labels")}
    predicted = {key: np.asarray(predicted[key]) for key in ("boxes", "labels", "confidence", "num_detections")}
    if len({len(array) for array in (*truth.values(), *predicted.values())}) != 1:
        raise ValueError(f"Expected boxes for the same pictures. Received: those of {len(predicted['labels'])} and of {len(truth['labels'])}.")
    true, found = [], []
    for image, labels in enumerate(truth["labels"]):
        true += [{**row, "id": len(true) + n} for n, row in enumerate(_rows(image, truth, labels >= 0), 1)]
        chosen = np.arange(len(predicted["labels"][image])) < predicted["num_detections"][image]
        scores = predicted["confidence"][image][chosen].tolist()
        found += [{**row, "score": score} for row, score in zip(_rows(image, predicted, chosen), scores, strict=True)]
    if not all(math.isfinite(value) for row in (*true, *found) for value in (*row["bbox"], row.get("score", 0))):
        raise ValueError("Expected boxes and confidences that are numbers. Received: infinity or none, as after training diverged.")
    if not true:
        raise ValueError("Expected pictures with objects. Received: none with a label of 0 or more.")
    if not found:
        return dict.fromkeys(("mAP", "mAP50", "mAP75"), 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # It prints a table.
        known = coco.COCO()
        categories = [{"id": category} for category in sorted({row["category_id"] for row in true})]
        known.dataset = {"images": [{"id": image} for image in range(len(truth["labels"]))], "annotations": true, "categories": categories}
        known.createIndex()
        evaluation = cocoeval.COCOeval(known, known.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(value) for name, value in zip(("mAP", "mAP50", "mAP75"), evaluation.stats, strict=False)}


def _rows(image, objects, chosen):
    """Yields boxes of a picture as COCO writes them."""
    for (top, left, bottom, right), label in zip(objects["boxes"][image][chosen].tolist(), objects["labels"][image][chosen], strict=True):
        width, height = right - left, bottom - top
        yield {"image_id": image, "category_id": int(label), "bbox": [left, top, width, height], "area": width * height, "iscrowd": 0}


def extra(name):
    """Returns an installed module of the extra `detection`: `"keras_hub"`, or one of pycocotools. Raises `ValueError` where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0].replace("_", "-")
        raise ValueError(f"Detection needs {package}. Received: {error}. Install it: pip install 'swin-keras[detection]'.") from error
