"""Runs bundles whose models find boxes around objects, or the class of each pixel."""

import numpy as np

from .bundle import find_task
from .classifier import BundleModel, Classifier
from .preprocess import visible_box

# Of two boxes that overlap by more the less likely is left out: as KerasHub's `NonMaxSuppression`.
_MOST_OVERLAP = 0.5
# So many candidates are compared with one another.
_MOST_CANDIDATES = 1000


def open_bundle(bundle, recipe=None, threads=2, size=None):
    """Returns the `Classifier`, `Detector` or `Segmenter` of a bundle. Arguments and errors are those of `BundleModel`."""
    return {"classes": Classifier, "boxes": Detector, "masks": Segmenter}[find_task(bundle)](bundle, recipe, threads, size)


class Detector(BundleModel):
    """The bundle of a detector, ready to find objects in pictures. Arguments and errors are those of `BundleModel`.

    Answers have a `box` too: left, top, right and bottom in pixels of the picture, whose width and height stand beside them as `size`.
    """

    task, default_top_k, default_threshold, most_answers = "boxes", 100, 0.5, _MOST_CANDIDATES

    def _answers(self, outputs, opened, top_k, threshold):
        boxes, scores = (output[0].astype("float64") for output in outputs)
        classes = scores.argmax(-1)
        probabilities = 1 / (1 + np.exp(-scores.max(-1)))
        order = np.argsort(-probabilities, kind="stable")[:_MOST_CANDIDATES]
        seen = np.clip(boxes[order], 0, 1)
        order = order[(probabilities[order] >= threshold) & np.all(seen[:, 2:] > seen[:, :2], -1)]  # Some are beside the picture.
        left, top, right, bottom = visible_box(opened, self.description["preprocessing"])
        scale, origin = [bottom - top, right - left] * 2, [top, left] * 2
        found = []
        for index in suppress(boxes[order])[:top_k]:
            index = order[index]
            up, across, down, end = (round(float(side), 1) for side in np.clip(boxes[index], 0, 1) * scale + origin)
            answer = {"index": int(classes[index]), "label": self.label(classes[index]), "probability": float(probabilities[index])}
            found.append({**answer, "box": [across, up, end, down]})
        return {"top": found, "size": list(opened.size)}


def suppress(boxes):
    """Leaves out each box that overlaps a box before it that was not left out.

    Args:
        boxes: Array `(n, 4)`, top, left, bottom and right, the most likely first.

    Returns:
        List of the indices of those that remain.
    """
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], -1)
    remaining, kept = np.ones(len(boxes), bool), []
    for index, box in enumerate(boxes):
        if remaining[index]:
            kept.append(index)
            sides = np.minimum(boxes[:, 2:], box[2:]) - np.maximum(boxes[:, :2], box[:2])
            common = np.prod(np.clip(sides, 0, None), -1)
            remaining &= ~(common > _MOST_OVERLAP * (areas + areas[index] - common))
    return kept


class Segmenter(BundleModel):
    """The bundle of a model for semantic segmentation, ready to name the class of each pixel. Arguments and errors are those of `BundleModel`.

    Answers have a `share` in place of a probability: the part of the pixels that have the class. Beside them stand `size`, width and height of the
    picture, and `mask`: its own `size`, height and width; `box`, the part of the picture that it covers, left, top, right and bottom in pixels; and
    `runs`, row by row, pairs of a class index and of how many pixels have it.
    """

    task, default_top_k = "masks", 10

    def _answers(self, outputs, opened, top_k, threshold):
        mask = outputs[0][0].argmax(-1)
        counts = np.bincount(mask.ravel(), minlength=outputs[0].shape[-1])
        shares = counts / mask.size
        best = [i for i in np.argsort(-shares, kind="stable")[:top_k] if counts[i] and shares[i] >= threshold]
        starts = np.flatnonzero(np.diff(mask.ravel(), prepend=-1))
        lengths = np.diff(starts, append=mask.size)
        return {
            "top": [{"index": int(i), "label": self.label(i), "share": float(shares[i])} for i in best],
            "size": list(opened.size),
            "mask": {
                "size": list(mask.shape),
                "box": [round(float(side), 1) for side in visible_box(opened, self.description["preprocessing"])],
                "runs": np.stack([mask.ravel()[starts], lengths], -1).tolist(),
            },
        }


def unpack(mask):
    """Returns the classes, an array `(height, width)`, of a `mask` as a `Segmenter` gives it."""
    classes, lengths = np.array(mask["runs"]).T
    return np.repeat(classes, lengths).reshape(mask["size"])
