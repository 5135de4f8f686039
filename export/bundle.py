"""Writes a bundle: all that a device needs, and the report that proves it."""

import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import time

import keras
import numpy as np
from swin_keras.edge_demo.bundle import FORMAT_VERSION
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import report as reports
from swin_keras.export import tflite, verify
from swin_keras.export.deploy import in_float32, to_deploy
from swin_keras.export.recipes import RECIPES, quantize

from swin_keras.preprocessing import Preprocessing
from swin_keras.version import __version__

# Without calibration pictures fidelity is measured on this many of normal noise, always the same.
RANDOM_SAMPLES = 32
THREADS = 2
# On XNNPACK hybrid_int8 took 0.91 of float32's time, dynamic_int8 0.97 at a quarter of the size (Swin-T, x86-64 with AVX2, 2 threads, medians of
# 60 alternating runs, 2026-11-26). A GPU or NPU computes in float16.
_BEST_FIRST = {
    "cpu": ("hybrid_int8", "dynamic_int8", "float32", "float16", "int16x8", "full_int8"),
    "gpu": ("float16", "float32", "hybrid_int8", "dynamic_int8", "int16x8", "full_int8"),
    "npu": ("float16", "float32", "int16x8", "full_int8", "hybrid_int8", "dynamic_int8"),
}


def export_bundle(
    model,
    folder,
    recipes=("float32", "float16", "dynamic_int8"),
    layout="portable",
    calibration=None,
    labels=None,
    preprocessing=None,
    data=None,
    weights=None,
    max_accuracy_loss=None,
    log=lambda line: None,
):
    """Exports a model as a bundle of verified .tflite files.

    Args:
        model: Functional `keras.Model` with one input of fixed size.
        folder: Path. Made if missing; an older bundle there is replaced once the new one is complete.
        recipes: Keys of `RECIPES`.
        layout: As in `to_deploy`.
        calibration: Iterable of normalized float32 arrays `(n, height, width, channels)` on which fidelity is measured and
            hybrid_int8, full_int8 and int16x8 find the ranges of activations, for which some hundred pictures like those
            to come are enough. `None`: fidelity is measured on 32 pictures of seeded noise.
        labels: Class names, one for each output, or `None`.
        preprocessing: `Preprocessing`. Defaults to the official protocol for the input's size.
        data: Iterable of `(pictures, class indices)`, normalized, on which top-1 accuracy is measured, or `None`.
        weights: String for the record: where the weights come from.
        max_accuracy_loss: Float, a fraction. A recipe that loses more against Keras on `data` does not ship.
        log: Function that is called with a line of progress at each step.

    Returns:
        The report, a dictionary: the content of report.json.

    Raises:
        ValueError: If an argument does not fit, a recipe lacks `calibration`, or `folder` holds something that is not a bundle.
        VerificationError: If the deploy graph or a file is too far from the trained model; `folder` stays as it was.
    """
    folder = pathlib.Path(folder).resolve()
    recipes = _check_recipes(recipes)
    if calibration is None and (lacking := [recipe for recipe in recipes if RECIPES[recipe].calibrated]):
        raise ValueError(
            f"`calibration` must be pictures for {' and '.join(lacking)}. Received: None. Give some hundred like those to come; "
            "on the command line, --calibration SRC."
        )
    _check_folder(folder)
    _check_preprocessing(preprocessing)
    log("building the deploy graph")
    deploy = to_deploy(model, layout=layout)
    model = in_float32(model)
    _, height, width, channels = deploy.inputs[0].shape
    if channels != 3:
        raise ValueError(f"A bundle is for pictures with 3 channels, red, green and blue. Received: a model of {channels}.")
    labels = _check_labels(labels, model)
    if preprocessing is None:
        preprocessing = Preprocessing.official(height, width)
    if preprocessing.crop != (height, width):
        raise ValueError(f"`preprocessing` must crop to the model's input {height}x{width}. Received: crop={preprocessing.crop}.")

    pictures = _fidelity_pictures(calibration, (height, width, channels))
    reference = _as_list(model.predict(pictures, batch_size=32, verbose=0))
    output_names, output_kind = _outputs(model, reference)
    if output_kind == "features" and (labels is not None or data is not None):
        raise ValueError("`labels` and `data` are for a classifier, with one output (batch, classes). Received: a model with other outputs.")
    examples = None if data is None else _gather(data, (height, width, channels), reference[0].shape[-1])
    report = {
        "model": {
            "name": model.name,
            "parameters": model.count_params(),
            "input": [1, height, width, channels],
            "layout": layout,
            "fidelity_on": "pictures of seeded noise" if calibration is None else "calibration pictures",
        },
        "keras": {"top1": None},
        "recipes": {},
    }
    if examples is not None:
        report["keras"]["top1"] = _top1(model.predict(examples[0], batch_size=32, verbose=0), examples[1])

    measured = verify.fidelity(reference, _as_list(deploy.predict(pictures, batch_size=1, verbose=0)))
    verify.check("deploy graph", measured, reference)
    log(f"deploy graph differs from Keras by at most {measured['max_abs_diff']:.2g}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        started = time.perf_counter()
        float32_model = tflite.convert(deploy, output_names)
        log(f"converted in {time.perf_counter() - started:.1f} s")
        runners = {}
        for recipe in recipes:
            if RECIPES[recipe].calibrated:
                log(f"{recipe}: finding the ranges of activations on {len(pictures):,} pictures")
            content = quantize(float32_model, recipe, pictures)
            (partial / f"{recipe}.tflite").write_bytes(content)
            runners[recipe] = TFLiteModel(content, THREADS)
            indices = tflite.output_indices(content, output_names)
            measured = _measure(content, runners[recipe], indices, pictures, reference, examples)
            report["recipes"][recipe] = measured
            verify.check(recipe, measured["fidelity"], reference)
            _check_accuracy(recipe, measured["top1"], report["keras"]["top1"], max_accuracy_loss)
            log(f"{recipe}: {measured['bytes'] / 1e6:.2f} MB, SNR {measured['fidelity']['snr_db']:.1f} dB")
        for recipe, latency in reports.measure_latencies(runners, pictures[:1], THREADS).items():
            report["recipes"][recipe]["latency_ms"] = latency

        description = {
            "format_version": FORMAT_VERSION,
            "model": model.name,
            "input": {"shape": [1, height, width, channels], "dtype": "float32", "layout": "NHWC"},
            "preprocessing": preprocessing.to_dict(),
            "labels": labels,
            "output_kind": output_kind,
            "outputs": [
                {"name": name, "index": index, "shape": [1, *output.shape[1:]]}
                for name, index, output in zip(output_names, indices, reference, strict=True)
            ],
            "files": [_file_entry(recipe, partial / f"{recipe}.tflite") for recipe in recipes],
            "recommended": _recommend(recipes),
            "provenance": {"weights": weights, "versions": versions()},
        }
        reports.write(report, partial)
        if labels is not None:
            (partial / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        (partial / "model.json").write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return report


def versions():
    """Returns the versions of this package and of those that make the files."""
    packages = ("tensorflow", "keras", "litert-quantizer", "ai-edge-litert")
    return {"swin-keras": __version__, **{package: importlib.metadata.version(package) for package in packages}}


def _check_recipes(recipes):
    known = f"`recipes` must be some of {', '.join(RECIPES)}."
    if not isinstance(recipes, (str, list, tuple)):
        raise ValueError(f"{known} Received: {recipes!r}.")
    recipes = [recipes] if isinstance(recipes, str) else list(dict.fromkeys(recipes))
    unknown = [recipe for recipe in recipes if recipe not in RECIPES]
    if unknown or not recipes:
        raise ValueError(f"{known} Received: {', '.join(map(str, unknown)) or 'none'}.")
    return recipes


def _check_folder(folder):
    """Refuses to replace anything but a bundle that holds only what an export writes."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write to. Received: {str(folder)!r}, which is a file.")
    if folder == pathlib.Path.cwd():
        raise ValueError("Expected a folder other than the current one, which is replaced whole. Give a name in it.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        listed = {file["file"] for file in description["files"] if description["format_version"]}
        ours = {"model.json", "labels.txt", "report.json", "report.md"} | listed
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()  # Some other program's model.json, TensorFlow.js' for one.
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours)
    if foreign:
        raise ValueError(
            f"Expected a new folder, an empty one, or a bundle to replace. Received: {str(folder)!r}, which holds other files: "
            f"{', '.join(foreign[:5])}. Choose another folder."
        )


def _check_preprocessing(preprocessing):
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"`preprocessing` must be a `swin_keras.preprocessing.Preprocessing`. Received: {type(preprocessing).__name__}.")


def _check_labels(labels, model):
    if labels is None:
        return None
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"`labels` must be a list of class names. Received: {labels!r:.100}.")
    labels = list(labels)
    if bad := [index for index, label in enumerate(labels) if not label.strip() or len(label.splitlines()) > 1]:
        raise ValueError(f"`labels` must be names, each on one line. Received: {labels[bad[0]]!r} for class {bad[0]}.")
    classes = keras.tree.flatten(model.outputs)[0].shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must name each of the model's {classes} classes. Received: {len(labels)} names.")
    return labels


def _check_accuracy(recipe, top1, keras_top1, max_loss):
    if max_loss is not None and top1 is not None and keras_top1 - top1 > max_loss + 1e-9:
        raise verify.VerificationError(
            f"{recipe} loses {100 * (keras_top1 - top1):.2f} points of accuracy against Keras, more than the {100 * max_loss:.2f} allowed."
        )


def _outputs(model, reference):
    """Returns the name of each output, in the order of `keras.tree.flatten`, and what they are: logits, probabilities or features."""
    if isinstance(model.output, dict):
        return sorted(model.output), "features"
    if len(reference) > 1 or reference[0].ndim != 2:
        return [f"output_{i}" for i in range(len(reference))], "features"
    # Told from the values: a softmax may stand anywhere in the graph, and logits of many pictures are not all in [0, 1].
    if np.all((reference[0] >= 0) & (reference[0] <= 1)):
        return ["probabilities"], "probabilities"
    return ["logits"], "logits"


def _fidelity_pictures(calibration, shape):
    if calibration is None:
        return np.random.default_rng(0).standard_normal((RANDOM_SAMPLES, *shape)).astype("float32")
    expected = f"`calibration` must yield arrays (n, {', '.join(map(str, shape))})"
    if isinstance(calibration, (str, bytes)) or not hasattr(calibration, "__iter__"):
        raise ValueError(f"{expected}. Received: {calibration!r:.100}.")
    try:
        batches = [np.asarray(batch) for batch in ([calibration] if len(getattr(calibration, "shape", ())) == 4 else calibration)]
        if batches and (kinds := {batch.dtype for batch in batches if batch.dtype.kind != "f" and batch.dtype.name != "bfloat16"}):
            raise ValueError(f"{', '.join(sorted(map(str, kinds)))}; normalize them as the model's input")
        batches = [batch.astype("float32") for batch in batches]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected} of normalized floats. Received: something else ({error}).") from error
    if not any(len(batch) if batch.ndim else 0 for batch in batches) or any(batch.shape[1:] != shape for batch in batches):
        received = sorted({batch.shape for batch in batches})
        raise ValueError(f"{expected}. Received: {received or 'nothing'}.")
    pictures = np.concatenate(batches)
    if not np.isfinite(pictures).all():
        raise ValueError(f"{expected} of finite numbers. Received: {np.count_nonzero(~np.isfinite(pictures)):,} that are not.")
    return pictures


def _gather(data, shape, classes):
    expected = f"`data` must yield batches of pictures (n, {', '.join(map(str, shape))}) and class indices (n,) below {classes}."
    batches = [tuple(batch) if isinstance(batch, (tuple, list)) else (batch,) for batch in data]
    if any(len(batch) != 2 for batch in batches):
        raise ValueError(f"{expected} Received: {len(batches[0])} arrays in a batch.")
    pictures, indices = ([np.asarray(batch[part]) for batch in batches] for part in (0, 1))
    for x, y in zip(pictures, indices, strict=True):
        if x.shape[1:] != shape or y.shape != x.shape[:1] or not np.all((y >= 0) & (y < classes)):
            raise ValueError(f"{expected} Received: pictures {x.shape} and indices {y!r:.80}.")
    if not sum(map(len, indices)):
        raise ValueError(f"{expected} Received: nothing.")
    return np.concatenate(pictures).astype("float32"), np.concatenate(indices)


def _measure(content, runner, indices, pictures, reference, examples):
    operators, _ = tflite.count_operators(content)
    outputs = _run_each(lambda x: [runner(x, index) for index in indices], pictures)
    top1 = None if examples is None else _top1(_run_each(lambda x: [runner(x)], examples[0])[0], examples[1])
    return {
        "bytes": len(content),
        "ops": operators,
        "delegate": tflite.delegate_coverage(content),
        "latency_ms": None,
        "peak_memory_mb": None,
        "fidelity": verify.fidelity(reference, outputs),
        "top1": top1,
    }


def _run_each(run, pictures):
    """Runs a model of batch 1 on each picture; returns one array for each output."""
    rows = [[np.asarray(output)[0] for output in run(picture[None])] for picture in pictures]
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _as_list(outputs):
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def _top1(scores, classes):
    return float(np.mean(np.asarray(scores).argmax(-1) == classes))


def _recommend(recipes):
    """Says which file to run where. Not by what was measured here: two exports of one model are to be the same."""
    return {target: next(recipe for recipe in order if recipe in recipes) for target, order in _BEST_FIRST.items()}


def _file_entry(recipe, path):
    content = path.read_bytes()
    return {"recipe": recipe, "file": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _replace(folder, partial):
    """Puts the finished bundle under its name; an older one stays until then."""
    old = None
    if folder.is_dir():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old is not None:
            old.rename(folder)
        raise
    if old is not None:
        shutil.rmtree(old)
