"""How good a detector or segmenter is, on data that need not fit into memory."""

import keras
import numpy as np
from keras import ops

from swin_keras.tasks.data import IGNORED
from swin_keras.tasks.detection import average_precision, joined, predict_batches
from swin_keras.tasks.segmentation import check_masks


def evaluate(model, batches):
    """Measures a detector or segmenter.

    Args:
        model: What `create_detector` or `create_segmenter` makes.
        batches: Iterable of what `fit` takes, such as `DenseData.dataset`. Each is looked at once.

    Returns:
        A dictionary of floats: of a detector `"mAP"`, `"mAP50"` and `"mAP75"`, as `average_precision` gives; of a segmenter `"mean IoU"` and
        `"pixel accuracy"`, without pixels whose mask is 255.

    Raises:
        ValueError: If there is no batch, or no true box.
    """
    if hasattr(model, "decode_predictions"):
        truth = []

        def pictures():
            for pictures, target in batches:
                truth.append({key: ops.convert_to_numpy(target[key]) for key in ("boxes", "labels")})
                yield ops.convert_to_numpy(pictures)

        predicted = list(predict_batches(model, pictures()))
        if not predicted:
            raise ValueError("Expected pictures to measure. Received: no batch.")
        return average_precision(joined(predicted), joined(truth))
    classes = model.output.shape[-1]
    iou, right, count = keras.metrics.MeanIoU(classes, ignore_class=IGNORED), 0, 0
    for pictures, masks in batches:
        logits, masks = model.predict_on_batch(pictures), ops.convert_to_numpy(masks)
        if not np.isfinite(logits).all():
            raise ValueError("Expected a model whose outputs are numbers. Received: one that gives infinity or none, as after training diverged.")
        predicted = logits.argmax(-1)
        check_masks(predicted, masks, classes)
        iou.update_state(masks, predicted)
        right, count = right + np.sum((predicted == masks) & (masks != IGNORED)), count + np.sum(masks != IGNORED)
    if not count:
        raise ValueError("Expected pictures to measure. Received: no batch with a pixel of a class.")
    return {"mean IoU": float(iou.result()), "pixel accuracy": float(right / count)}
