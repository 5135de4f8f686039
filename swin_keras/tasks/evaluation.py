"""How good a detector or segmenter is, on data that need not fit into memory."""

import keras
import numpy as np
from keras import ops

from swin_keras.tasks.data import IGNORED
from swin_keras.tasks.detection import average_precision, joined, predict_batches


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
    batches = ((ops.convert_to_numpy(pictures), target) for pictures, target in batches)
    if hasattr(model, "decode_predictions"):
        truth = []

        def pictures():
            for pictures, target in batches:
                truth.append({key: ops.convert_to_numpy(target[key]) for key in ("boxes", "labels")})
                yield pictures

        predicted = list(predict_batches(model, pictures()))
        if not predicted:
            raise ValueError("Expected pictures to measure. Received: no batch.")
        return average_precision(joined(predicted), joined(truth))
    iou, right, count = keras.metrics.MeanIoU(model.output.shape[-1], ignore_class=IGNORED), 0, 0
    for pictures, masks in batches:
        classes, masks = model.predict_on_batch(pictures).argmax(-1), ops.convert_to_numpy(masks)
        iou.update_state(masks, classes)
        right, count = right + np.sum((classes == masks) & (masks != IGNORED)), count + np.sum(masks != IGNORED)
    if not count:
        raise ValueError("Expected pictures to measure. Received: no batch with a pixel of a class.")
    return {"mean IoU": float(iou.result()), "pixel accuracy": float(right / count)}
