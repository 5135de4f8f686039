"""How right a classifier is, class by class and under which protocol; and how fast."""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import re
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from swin_keras.edge_demo import Classifier
from swin_keras.layers.checks import is_count
from swin_keras.models import Source, load_source
from swin_keras.preprocessing import Preprocessing
from swin_keras.training.data import SPLITS, load_data
from swin_keras.training.files import written
from swin_keras.training.pictures import draw_confusion

# With more classes there is no confusion matrix: for the 21,841 of ImageNet-22K it would take 3.8 GB.
MAX_CONFUSION = 2000
_MAX_ROWS, _MAX_LABEL = 40, 30
_SECONDS_BETWEEN_LINES = 10
_MAX_BATCH = 99_999


@dataclasses.dataclass
class _Subject:
    """What is evaluated: a function from normalized pictures to scores, and what is known of it."""

    name: str
    scores_of: Callable
    input_shape: tuple
    class_count: int
    labels: list | None
    preprocessing: Preprocessing | None
    origin: str
    config: dict | None = None


def evaluate(model, data, split=None, preprocessing=None, recipe=None, data_dir=None, batch_size=64, log=print):
    """Measures the accuracy of a classifier.

    Args:
        model: `keras.Model` from normalized pictures to one score for each class. Or a path: of a workdir of `train`, whose
            best epoch is taken; of a `.keras` file; of a checkpoint or Hugging Face folder, or `"hf://owner/name"`, as in
            `load_source`; or of a bundle, which runs on the device runtime.
        data: `"digits"`, `"folder:PATH"` or `"tfds:NAME"`, as in `load_data`. Or pictures of your own: a pair of normalized
            float32 pictures `(n, height, width, 3)` and class indices `(n,)`; a `tf.data.Dataset` of such batches; or one of
            uint8 or encoded pictures, as in `load_data`, which are then prepared like the others.
        split: `"train"`, `"validation"` or `"test"`, as `train` splits the data. `None`: `"test"` of data with a name, and all
            pictures of one's own. Pictures that came normalized have no splits.
        preprocessing: `Preprocessing`. `None`: what lies beside the model; else for digits their own, and for all others the
            official protocol for the model's input.
        recipe: String. Which file of a bundle. `None`: the one recommended for a CPU.
        data_dir: Folder of tensorflow-datasets. `None`: its own.
        batch_size: Integer.
        log: Function that is called with each line of progress, and in the end of the report, `format_report`.

    Returns:
        A dictionary that JSON can hold: `model`, `data` and `split`, `None` where they have no name; `top1` and `top5`, fractions, the
        latter `None` below 6 classes; `samples`, and `skipped`, which could not be opened; `protocol`, with `words`, `origin` and
        `preprocessing`, `None` where the pictures came normalized; `classes`, in the model's order, each with `label`,
        `samples`, `top1` (the fraction of its pictures that was told, `None` without any) and `precision` (the fraction of
        the answers with this class that was right, `None` without any); and `confusion`, lists of counts, a row for each
        true class and a column for each answer, `None` above 2,000 classes.

    Raises:
        ValueError: If model or data cannot be used, or have different classes. Names are compared where both have some: in
            another order they are matched. WordNet numbers, as ImageNet's folders have, are the published order, and fit
            any model of as many classes.
        FloatingPointError: If the model's answer is no number.
    """
    if split is not None and split not in SPLITS:
        raise ValueError(f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}.")
    _check_batch_size(batch_size)
    subject = _open(model, recipe)
    named = isinstance(data, str)
    split = split or ("test" if named else None)
    images, labels, mapping = None, subject.labels, None
    protocol = {"words": "the pictures came normalized", "origin": None, "preprocessing": None}
    given = _given_batches(data, batch_size)
    if given is not None:
        if split is not None:
            raise ValueError(f"`split` is for pictures that are still to be prepared. Received: split={split!r} with normalized ones. Leave it out.")
        batches, total = given
    else:
        images, origin = _load(subject, data, split, preprocessing, data_dir, log)
        labels, mapping = _match(subject, images, log)
        (part,) = images.splits
        _warn_of_known(subject.config, images, split, log)
        batches, total = images.batches(part, batch_size).as_numpy_iterator(), images.count(part)
        protocol = {"words": _words(images.preprocessing), "origin": origin, "preprocessing": images.preprocessing.to_dict()}
    counts = _Counts(subject.class_count)
    started = time.monotonic()
    next_line = started + _SECONDS_BETWEEN_LINES
    with images.reading() if images else contextlib.nullcontext():
        for pictures, classes in batches:
            classes = classes if mapping is None else mapping[classes]
            counts.add(_scores(subject, pictures, classes), classes)
            if time.monotonic() > next_line:
                of = "" if total is None else f" of {total:,}"
                log(f"evaluated {counts.samples:,}{of} pictures, {counts.samples / (time.monotonic() - started):,.1f} a second")
                next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
    if not counts.samples:
        raise ValueError("Expected pictures to evaluate. Received: none.")
    result = {
        "model": subject.name,
        "data": data if named else None,
        "split": split,
        **counts.accuracy(),
        "skipped": 0 if total is None else total - counts.samples,
        "protocol": protocol,
        **counts.of_classes(labels or [f"class {index}" for index in range(subject.class_count)]),
    }
    for line in format_report(result):
        log(line)
    return result


def _check_batch_size(batch_size):
    if not is_count(batch_size) or batch_size > _MAX_BATCH:
        raise ValueError(f"`batch_size` must be a whole number from 1 to {_MAX_BATCH:,}. Received: batch_size={batch_size!r}.")


def format_report(result):
    """Returns lines for a terminal: accuracy, its protocol, and a table of the classes, the worst first."""
    protocol, classes = result["protocol"], result["classes"]
    top5 = "" if result["top5"] is None else f", top-5 {_percent(result['top5'])}"
    skipped = f"; {result['skipped']:,} could not be opened" if result["skipped"] else ""
    origin = "" if protocol["origin"] is None else f" (from {protocol['origin']})"
    lines = [f"top-1 {_percent(result['top1'])}{top5} of {result['samples']:,} pictures{skipped}", f"protocol: {protocol['words']}{origin}", ""]
    # Those without pictures last.
    order = sorted(range(len(classes)), key=lambda i: (classes[i]["top1"] is None, classes[i]["top1"] or 0.0))
    labels = {i: _clip(classes[i]["label"]) for i in order[:_MAX_ROWS]}
    width = max(5, *map(len, labels.values()))
    lines.append(f"{'class':{width}}  pictures     top-1  precision" + ("" if result["confusion"] is None else "  most often taken for"))
    for i, label in labels.items():
        row = f"{label:{width}}  {classes[i]['samples']:8,}  {_percent(classes[i]['top1']):>8}  {_percent(classes[i]['precision']):>9}"
        if result["confusion"] is not None:
            wrong = np.array(result["confusion"][i])
            wrong[i] = 0
            row += f"  {_clip(classes[wrong.argmax()]['label'])}, {wrong.max():,}" if wrong.any() else ""
        lines.append(row)
    if len(order) > _MAX_ROWS:
        lines.append(f"and {len(order) - _MAX_ROWS:,} more")
    return lines


def check_no_file(folder):
    """Raises a `ValueError` where an evaluation cannot be written."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"Expected a folder for the evaluation. Received: {str(folder)!r}, which is a file.")


def write_evaluation(result, folder):
    """Writes a result of `evaluate` into a folder: evaluation.json, and where there is one the confusion matrix as .csv and .png.

    Args:
        result: Dictionary.
        folder: Path. Made if missing; older files of these names are replaced.

    Raises:
        ValueError: If `folder` is a file.
    """
    folder = pathlib.Path(folder)
    check_no_file(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("evaluation.json", "confusion.csv", "confusion.png"):
        (folder / name).unlink(missing_ok=True)  # So that they are never of two evaluations.
    labels = [row["label"] for row in result["classes"]]
    if result["confusion"] is not None:
        with written(folder / "confusion.csv") as partial, partial.open("w", newline="", encoding="utf-8") as file:
            rows = ([label, *row] for label, row in zip(labels, result["confusion"], strict=True))
            csv.writer(file).writerows([["true / predicted", *labels], *rows])
        draw_confusion(result["confusion"], labels, folder / "confusion.png")
    with written(folder / "evaluation.json") as partial, partial.open("w", encoding="utf-8") as file:
        json.dump({key: value for key, value in result.items() if key != "confusion"}, file, indent=2, ensure_ascii=False)


def measure_throughput(model, batch_size=64, warm_up=50, steps=30, log=print):
    """Measures how many pictures a second a model takes, forward only, as the official `--throughput` does.

    Args:
        model: `keras.Model` of pictures of a fixed size.
        batch_size: Integer.
        warm_up: Integer, at least 2. Steps before those that are timed.
        steps: Integer. Steps that are timed.
        log: Function that is called with each line of progress.

    Returns:
        A dictionary: `images_per_second`, `batch_size`, `warm_up`, `steps`, `seconds` of the timed steps, and `device`.

    Raises:
        ValueError: If the size of the pictures is not known.
    """
    _check_batch_size(batch_size)
    shapes = [tuple(tensor.shape[1:]) for tensor in keras.tree.flatten(model.input)]
    if any(None in shape for shape in shapes):
        raise ValueError(f"Expected a model with a fixed input size. Received: inputs of {shapes}. Create it with a size.")
    # Noise, as normalized pictures are; one batch for all steps.
    inputs = keras.tree.map_structure(lambda tensor: tf.random.stateless_normal((batch_size, *tensor.shape[1:]), (0, 0)), model.input)
    forward = tf.function(lambda x: model(x, training=False), jit_compile=model.jit_compile, autograph=False)

    def run(count):
        started = time.perf_counter()
        outputs = None
        for _ in range(count):
            outputs = forward(inputs)
        # A GPU works behind the program's back: its answer is waited for.
        keras.tree.map_structure(np.asarray, outputs)
        return time.perf_counter() - started

    run(1)  # compiles
    step = run(1)
    left = max(0, warm_up - 2)
    log(f"a step of {batch_size} takes {step:.3g} s: {left + steps} more take about {step * (left + steps):,.0f} s")
    run(left)
    seconds = run(steps)
    device = tf.DeviceSpec.from_string(keras.tree.flatten(inputs)[0].device)
    result = {
        "images_per_second": steps * batch_size / seconds,
        "batch_size": batch_size,
        "warm_up": warm_up,
        "steps": steps,
        "seconds": seconds,
        "device": f"{device.device_type}:{device.device_index}",
    }
    log(f"{result['images_per_second']:,.1f} images/s: {steps} steps of {batch_size} in {seconds:.2f} s on {result['device']}, after {warm_up} more")
    return result


def _open(model, recipe):
    if isinstance(model, keras.Model):
        return _of_keras(Source(model), model.name, recipe)
    is_folder = isinstance(model, (str, os.PathLike)) and os.path.isdir(model)
    files = set(os.listdir(model)) if is_folder else set()
    if "model.json" in files:
        classifier = Classifier(model, recipe)
        description = classifier.description
        return _Subject(
            f"{model} ({classifier.recipe})",
            lambda pictures: np.stack([classifier.probabilities(picture[None]) for picture in pictures]),
            tuple(description["input"]["shape"][1:]),
            classifier.model.output_shape[-1],
            classifier.labels,
            Preprocessing.from_dict(description["preprocessing"]),
            os.path.join(model, "model.json"),
        )
    if is_folder and "model.keras" not in files and not any(name.endswith((".safetensors", ".bin", ".h5")) for name in files):
        raise ValueError(
            "Expected a workdir of `train` after its first epoch, a bundle, or a Hugging Face folder. "
            f"Received: {str(model)!r}, which has no model.json, no model.keras and no weights."
        )
    return _of_keras(load_source(model), str(model), recipe)


def _of_keras(source, name, recipe):
    if recipe is not None:
        raise ValueError(f"`recipe` picks a file of a bundle. Received: recipe={recipe!r} with {name!r}, which is none. Leave it out.")
    shapes = [getattr(source.model, side, None) for side in ("input_shape", "output_shape")]  # Models without a graph have none.
    lengths = [len(shape) if isinstance(shape, tuple) else None for shape in shapes]
    if lengths != [4, 2]:
        raise ValueError(f"Expected a classifier: pictures to one score for each class. Received: {name!r}, from {shapes[0]} to {shapes[1]}.")
    if source.labels is not None and len(source.labels) != shapes[1][1]:
        raise ValueError(f"Expected {shapes[1][1]:,} labels in {source.labels_from}, one for each score. Received: {len(source.labels):,}.")
    # Of any number of pictures: `predict` would trace the model again for the last batch, which takes longer than most batches.
    signature = [tf.TensorSpec((None, *shapes[0][1:]), tf.float32)]
    forward = tf.function(lambda pictures: source.model(pictures, training=False), signature, autograph=False, jit_compile=source.model.jit_compile)
    return _Subject(
        name,
        lambda pictures: forward(pictures).numpy(),
        shapes[0][1:],
        shapes[1][1],
        source.labels,
        source.preprocessing,
        source.preprocessing_from,
        source.config,
    )


def _given_batches(data, batch_size):
    """Returns batches of pictures and classes, and how many pictures they are if that is known; `None` if they are still to be prepared."""
    if isinstance(data, (tuple, list)) and len(data) == 2:
        pictures, classes = map(np.asarray, data)
        if len(pictures) != len(classes):
            raise ValueError(f"Expected a class index for each picture. Received: {len(pictures)} pictures and {len(classes)} indices.")
        slices = (slice(start, start + batch_size) for start in range(0, len(classes), batch_size))
        return ((pictures[part], classes[part]) for part in slices), len(classes)
    if isinstance(data, tf.data.Dataset):
        spec = data.element_spec
        if isinstance(spec, tuple) and len(spec) == 2 and getattr(spec[0], "dtype", tf.string).is_floating:
            if int(data.cardinality()) == tf.data.INFINITE_CARDINALITY:
                raise ValueError("Expected a `tf.data.Dataset` that ends. Received: an endless one. Leave out its `repeat`.")
            return data.as_numpy_iterator(), None
    return None


def _load(subject, data, split, preprocessing, data_dir, log):
    """Returns an `ImageData` for a model, and where its preprocessing comes from."""
    chosen, origin = subject.preprocessing, subject.origin
    if preprocessing is not None:
        chosen, origin = preprocessing, "`preprocessing`"
    elif chosen is None:
        origin = "the data set" if isinstance(data, str) and data == "digits" else "the official code"
    sides = [side or (chosen.crop[axis] if chosen else None) for axis, side in enumerate(subject.input_shape[:2])]
    if None in sides:
        raise ValueError(f"Expected a fixed input size, or `preprocessing`. Received: a model of {subject.input_shape}. Create it with a size.")
    if chosen is not None and list(chosen.crop) != sides:
        crop = "x".join(map(str, chosen.crop))
        raise ValueError(f"Expected pictures of {sides[0]}x{sides[1]}, the model's input. Received: {crop}, by {origin}. Give `preprocessing`.")
    more = {}
    if isinstance(data, tf.data.Dataset):
        labels = subject.labels or [f"class {index}" for index in range(subject.class_count)]
        more = {"validation": data if split is None else None, "labels": labels}
    images = load_data(data, (*sides, 3), splits=(split or "test",), preprocessing=chosen, data_dir=data_dir, log=log, **more)
    return images, origin


def _warn_of_known(config, images, split, log):
    """Says so if pictures to be evaluated seem to be among those that the model was trained on."""
    noted = config.get("pictures") if config else None
    if not isinstance(noted, dict) or config.get("data") != images.name or not hasattr(images, "fingerprint") or split == "train":
        return
    if split is not None:
        if any(noted.get(key) != value for key, value in images.fingerprint.items() if key.startswith(split)):
            log(f"warning: {images.name} has changed since the training, and some of these pictures may have been trained on")
        return
    parts = [noted.get(f"{part}_classes") for part in SPLITS]
    known = all(isinstance(part, list) and len(part) == len(images.labels) for part in parts)
    if known and images.fingerprint["test_classes"] in (parts[0], np.sum(parts, axis=0).tolist()):
        log("warning: these seem to be the very pictures that the model was trained on; split='test' takes those held out from it")


def _match(subject, images, log):
    """Returns class names in the model's order, and where in it each class of the data is, or `None` if they are in this order."""
    found, known = images.labels, subject.labels
    if len(found) != subject.class_count:
        raise ValueError(f"Expected the model's {subject.class_count:,} classes in {images.name!r}. Received: {len(found):,} classes.")
    if known is None or known == found:
        return found, None
    if sorted(known) == sorted(found) and len(set(known)) == len(known):
        log("the classes of model and data are in different orders, and were matched by name")
        return known, np.array([known.index(label) for label in found])
    if found == sorted(found) and all(re.fullmatch(r"n\d{8}", label) for label in found):
        log("the classes of the data are WordNet numbers: they were taken to be the model's, in this order")
        return known, None
    index = next(index for index, pair in enumerate(zip(known, found, strict=True)) if pair[0] != pair[1])
    raise ValueError(
        f"Expected the model's classes in {images.name!r}. Received: {found[index]!r} as class {index}, where the model has {known[index]!r}. "
        "Rename or reorder the classes of the data."
    )


def _scores(subject, pictures, classes):
    """Returns the scores of a batch that was checked."""
    expected = [given or shape for given, shape in zip(subject.input_shape, pictures.shape[1:], strict=False)]
    if pictures.dtype.kind != "f" or pictures.ndim != 4 or list(pictures.shape[1:]) != expected:
        shape = ", ".join("any" if side is None else str(side) for side in ("n", *subject.input_shape))
        raise ValueError(f"Expected normalized float32 pictures ({shape}). Received: {pictures.dtype} {pictures.shape}.")
    if (
        classes.dtype.kind not in "iu"
        or classes.shape != pictures.shape[:1]
        or (len(classes) and not 0 <= classes.min() <= classes.max() < subject.class_count)
    ):
        few = np.array2string(classes.ravel()[:5], separator=", ")
        raise ValueError(
            f"Expected class indices from 0 to {subject.class_count - 1}, one for each of {len(pictures)} pictures. "
            f"Received: {classes.dtype} {classes.shape}, {few}."
        )
    scores = np.asarray(subject.scores_of(np.asarray(pictures, "float32")), "float32")
    if np.isnan(scores).any():
        raise FloatingPointError("the model's answer to a picture is no number; its weights are damaged, or the pictures")
    return scores


class _Counts:
    """Counts right answers, of any number of pictures."""

    def __init__(self, class_count):
        self.in_top5 = 0
        self.true, self.answered, self.right = np.zeros((3, class_count), "int64")
        self.confusion = np.zeros((class_count, class_count), "int64") if class_count <= MAX_CONFUSION else None

    @property
    def samples(self):
        return int(self.true.sum())

    def add(self, scores, classes):
        # Of equal scores the first counts as the higher, as in `argmax`.
        own = np.take_along_axis(scores, classes[:, None].astype("int64"), 1)
        before = (scores > own) | ((scores == own) & (np.arange(scores.shape[1]) < classes[:, None]))
        self.in_top5 += int((before.sum(1) < 5).sum())
        answers = scores.argmax(-1)
        np.add.at(self.true, classes, 1)
        np.add.at(self.answered, answers, 1)
        np.add.at(self.right, classes[answers == classes], 1)
        if self.confusion is not None:
            np.add.at(self.confusion, (classes, answers), 1)

    def accuracy(self):
        top5 = self.in_top5 / self.samples if len(self.true) > 5 else None
        return {"top1": int(self.right.sum()) / self.samples, "top5": top5, "samples": self.samples}

    def of_classes(self, labels):
        def fraction(right, count):
            return right / count if count else None

        rows = zip(labels, self.true.tolist(), self.answered.tolist(), self.right.tolist(), strict=True)
        classes = [
            {"label": label, "samples": true, "top1": fraction(right, true), "precision": fraction(right, answered)}
            for label, true, answered, right in rows
        ]
        return {"classes": classes, "confusion": None if self.confusion is None else self.confusion.tolist()}


def _words(preprocessing):
    """Returns what a `Preprocessing` does, for people."""
    (down, across), crop = preprocessing.resize, "x".join(map(str, preprocessing.crop))
    if preprocessing.mode == "exact":
        resized = f"resized to {down}x{across}"
    else:
        resized = f"shorter side to {down}" if down == across else f"resized to just cover {down}x{across}"
    cropped = "" if preprocessing.mode == "exact" and preprocessing.resize == preprocessing.crop else f", centre crop {crop}"
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    return f"{resized}, {preprocessing.interpolation}{cropped}, mean ({mean}), std ({std})"


def _percent(fraction):
    return "-" if fraction is None else f"{100 * fraction:.2f} %"


def _clip(label):
    return label if len(label) <= _MAX_LABEL else label[: _MAX_LABEL - 1] + "…"
