"""Writes a bundle: all that a device needs, and the report that proves it."""

import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import shutil
import time

import keras
import numpy as np
from swin_keras.edge_demo import bench
from swin_keras.edge_demo.bundle import FORMAT_VERSION
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import migration, saved_model, sensitivity, tflite, verify
from swin_keras.export import report as reports
from swin_keras.export.deploy import in_float32, to_deploy
from swin_keras.export.metadata import add_metadata
from swin_keras.export.recipes import RECIPES, find_ranges, quantize

from swin_keras.preprocessing import Preprocessing
from swin_keras.version import __version__

# Every file is compared with Keras on this many pictures of normal noise, always the same, and on the calibration pictures if there are any.
RANDOM_SAMPLES = 32
# Attention shares out its ranges on this many of the calibration pictures: each takes a run in Keras.
MIGRATED_SAMPLES = 16
# What adds up along the network is shown on this many pictures: each takes a run without XNNPACK, which is slow.
CHARTED_SAMPLES = 4
THREADS = 2
# On XNNPACK hybrid_int8 took 0.81 of float32's time, dynamic_int8 as long at a quarter of the size (Swin-T: benchmarks/results/inference.md).
# A GPU or NPU computes in float16.
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
    accuracy_budget=None,
    percentile=100.0,
    migrate=False,
    gelu="exact",
    fp16_safe_norm=False,
    log=lambda line: None,
):
    """Exports a model as a bundle of verified files.

    Args:
        model: Functional `keras.Model` with one input of fixed size.
        folder: Path. Made if missing; an older bundle there is replaced once the new one is complete.
        recipes: Keys of `RECIPES`.
        layout: As in `to_deploy`.
        calibration: Iterable of normalized float32 arrays `(n, height, width, channels)` on which fidelity is measured and
            hybrid_int8, full_int8 and int16x8 find the ranges of activations, for which some hundred pictures like those
            to come are enough. `None`: fidelity is measured on 32 pictures of seeded noise alone.
        labels: Class names, one for each output, or `None`.
        preprocessing: `Preprocessing`. Defaults to the official protocol for the input's size.
        data: Iterable of `(pictures, class indices)`, normalized, on which top-1 accuracy is measured, or `None`.
        weights: String for the record: where the weights come from.
        max_accuracy_loss: Float, a fraction. A recipe that loses more against Keras on `data` does not ship.
        accuracy_budget: Float, in points of top-1 (0.3 is 0.3 %), for a classifier. Of a recipe with integers that loses more, the operators
            that cost the most stay in float32, as few as it takes. The loss is against Keras: of accuracy on `data`; without it, of agreement
            on the pictures that fidelity is measured on.
        percentile: Float. As in `find_ranges`: 100 for true minima and maxima, less to cut outliers off.
        migrate: Boolean. With `calibration`, query, key and value always share out their ranges (`migration.migrate`), which costs nothing. If this
            is set, the files with integers are made from a graph whose activations give part of their range to weights everywhere. That costs an
            operator for each product behind a norm, and a second conversion.
        gelu, fp16_safe_norm: As in `to_deploy`. With `gelu="tanh"` the deploy graph and float32 are held to 40 dB.
        log: Function that is called with a line of progress at each step.

    Returns:
        The report, a dictionary: the content of report.json.

    Raises:
        ValueError: If an argument does not fit, a recipe lacks `calibration`, or `folder` holds something that is not a bundle.
        VerificationError: If the deploy graph or a file is too far from the trained model; `folder` stays as it was.
    """
    folder = pathlib.Path(folder).resolve()
    recipes = _check_recipes(recipes)
    lacking = [recipe for recipe in recipes if RECIPES[recipe].calibrated] + ["migration"] * bool(migrate)
    if calibration is None and lacking:
        raise ValueError(
            f"`calibration` must be pictures for {' and '.join(lacking)}. Received: None. Give some hundred like those to come; "
            "on the command line, --calibration SRC."
        )
    _check_folder(folder)
    _check_preprocessing(preprocessing)
    log("building the deploy graph")
    form = {"layout": layout, "gelu": gelu, "fp16_safe_norm": fp16_safe_norm}
    deploy = to_deploy(model, **form)
    migrated = to_deploy(model, **form, scaled=True) if migrate else None
    model = in_float32(model)
    _, height, width, channels = deploy.inputs[0].shape
    if channels != 3:
        raise ValueError(f"A bundle is for pictures with 3 channels, red, green and blue. Received: a model of {channels}.")
    labels = _check_labels(labels, model)
    if preprocessing is None:
        preprocessing = Preprocessing.official(height, width)
    if preprocessing.crop != (height, width):
        raise ValueError(f"`preprocessing` must crop to the model's input {height}x{width}. Received: crop={preprocessing.crop}.")

    if accuracy_budget is not None and not (isinstance(accuracy_budget, (int, float)) and 0 <= accuracy_budget <= 100):
        raise ValueError(f"`accuracy_budget` must be points of top-1 from 0 to 100. Received: accuracy_budget={accuracy_budget!r}.")
    if not isinstance(percentile, (int, float)) or not 50 < percentile <= 100:
        raise ValueError(f"`percentile` must be above 50 and at most 100. Received: percentile={percentile!r}.")

    noise = np.random.default_rng(0).standard_normal((RANDOM_SAMPLES, height, width, channels)).astype("float32")
    pictures = noise if calibration is None else _read_calibration(calibration, (height, width, channels))
    reference = _as_list(model.predict(pictures, batch_size=32, verbose=0))
    noise_reference = reference if calibration is None else _as_list(model.predict(noise, batch_size=32, verbose=0))
    output_names, output_kind = _outputs(model, reference)
    if output_kind == "features" and (labels is not None or data is not None or accuracy_budget is not None):
        raise ValueError(
            "`labels`, `data` and `accuracy_budget` are for a classifier, with one output (batch, classes). Received: a model with other outputs."
        )
    examples = None if data is None else _gather(data, (height, width, channels), reference[0].shape[-1])
    report = {
        "model": {
            "name": model.name,
            "parameters": model.count_params(),
            "input": [1, height, width, channels],
            "layout": layout,
            "fidelity_on": "pictures of seeded noise" if calibration is None else "calibration pictures",
        },
        "machine": bench.describe_machine(),
        "keras": {"top1": None},
        "recipes": {},
    }
    if examples is not None:
        report["keras"]["top1"] = _top1(model.predict(examples[0], batch_size=32, verbose=0), examples[1])

    def compare(name, run):
        """Compares what runs one picture with Keras, and returns the fidelity on `pictures` and on noise."""
        measured = verify.fidelity(reference, _run_each(run, pictures, reference))
        on_noise = measured if calibration is None else verify.fidelity(noise_reference, _run_each(run, noise, reference))
        verify.check(name, measured, reference, exact=gelu == "exact")
        # Noise is not what the ranges of a calibrated recipe are for: how far it is off is in the report.
        if name not in RECIPES or not RECIPES[name].calibrated:
            verify.check(name, on_noise, noise_reference, exact=gelu == "exact")
        return {"fidelity": measured, "fidelity_on_noise": on_noise}

    def points_lost(content):
        run = TFLiteModel(content, THREADS)
        if examples is None:
            return 100 * float(np.mean(_run_each(lambda x: [run(x)], pictures, reference)[0].argmax(-1) != reference[0].argmax(-1)))
        return 100 * (report["keras"]["top1"] - _top1(_run_each(lambda x: [run(x)], examples[0], reference)[0], examples[1]))

    if calibration is not None:
        migration.migrate(deploy, pictures[:MIGRATED_SAMPLES])
    measured = compare("deploy graph", lambda x: _as_list(deploy.predict_on_batch(x)))["fidelity"]
    log(f"deploy graph differs from Keras by at most {measured['max_abs_diff']:.2g}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir()
    try:
        indices = range(len(output_names))
        if set(recipes) != {"saved_model"}:
            started = time.perf_counter()
            float32_model = tflite.convert(deploy, output_names)
            log(f"converted in {time.perf_counter() - started:.1f} s")
            indices = tflite.output_indices(float32_model, output_names)
            integer_model = float32_model
            if migrate and any(RECIPES[recipe].has_integers for recipe in recipes):
                log("migrating ranges from activations to weights")
                migration.migrate(migrated, pictures[:MIGRATED_SAMPLES])
                integer_model = tflite.convert(migrated, output_names)
        runners = {}
        for recipe in recipes:
            if recipe == "saved_model":
                saved_model.write(deploy, output_names, partial / recipe)
                run = saved_model.load(partial / recipe, output_names)
                measured = dict.fromkeys(("ops", "delegate", "latency_ms", "peak_memory_mb"))
            else:
                ranges, kept, errors = None, [], None
                source = integer_model if RECIPES[recipe].has_integers else float32_model
                if RECIPES[recipe].calibrated:
                    log(f"{recipe}: finding the ranges of activations on {len(pictures):,} pictures")
                    ranges = find_ranges(source, recipe, pictures, percentile)
                if accuracy_budget is not None and RECIPES[recipe].has_integers:
                    content, kept = sensitivity.choose(source, recipe, ranges, pictures, points_lost, accuracy_budget, log)
                else:
                    content = quantize(source, recipe, ranges)
                if RECIPES[recipe].has_integers:
                    errors = sensitivity.product_errors(source, content, pictures[:CHARTED_SAMPLES])
                if output_kind != "features":
                    content = add_metadata(
                        content,
                        name=model.name,
                        description=RECIPES[recipe].summary,
                        labels=labels,
                        mean=preprocessing.mean,
                        std=preprocessing.std,
                        version=__version__,
                    )
                (partial / f"{recipe}.tflite").write_bytes(content)
                runner = runners[recipe] = TFLiteModel(content, THREADS)
                run = functools.partial(_run_outputs, runner, indices)
                measured = {
                    "ops": tflite.count_operators(content)[0],
                    "delegate": bench.delegate_coverage(content),
                    "latency_ms": None,
                    "peak_memory_mb": bench.measure_fresh_process(partial / f"{recipe}.tflite", THREADS, log)["peak_memory_mb"],
                    "kept_float": kept,
                    "products_snr_db": errors,
                }
            measured |= {"bytes": sum(path.stat().st_size for path in _files(partial, recipe)), **compare(recipe, run)}
            measured["top1"] = None if examples is None else _top1(_run_each(run, examples[0], reference)[0], examples[1])
            report["recipes"][recipe] = measured
            _check_accuracy(recipe, measured["top1"], report["keras"]["top1"], max_accuracy_loss)
            log(f"{recipe}: {measured['bytes'] / 1e6:.2f} MB, SNR {measured['fidelity']['snr_db']:.1f} dB")
        for recipe, latency in bench.measure_latencies(runners, pictures[:1], THREADS).items():
            report["recipes"][recipe]["latency_ms"] = latency

        description = {
            "format_version": FORMAT_VERSION,
            "model": model.name,
            "input": {"shape": [1, height, width, channels], "dtype": "float32", "layout": "NHWC"},
            "preprocessing": preprocessing.to_dict(),
            "labels": labels,
            "output_kind": output_kind,
            "outputs": [
                {"name": name, "index": index, "shape": list(output.shape)}
                for name, index, output in zip(output_names, indices, keras.tree.flatten(deploy.outputs), strict=True)
            ],
            "files": [_file_entry(partial, recipe, path) for recipe in recipes for path in _files(partial, recipe)],
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
        ours = {"model.json", "labels.txt", "report.json", "report.md"} | listed | {f"report/{name}" for name in reports.PICTURES}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()  # Some other program's model.json, TensorFlow.js' for one.
    paths = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()]
    foreign = sorted(name for name in (path.relative_to(folder).as_posix() for path in paths) if name not in ours)
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
    if bad := [index for index, label in enumerate(labels) if not label.strip() or label.splitlines() != [label]]:
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


def _read_calibration(calibration, shape):
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
    pictures, indices = [np.asarray(batch[0], "float32") for batch in batches], [np.asarray(batch[1]) for batch in batches]
    for x, y in zip(pictures, indices, strict=True):
        if x.shape[1:] != shape or y.shape != x.shape[:1] or not np.all((y >= 0) & (y < classes)):
            raise ValueError(f"{expected} Received: pictures {x.shape} and indices {y!r:.80}.")
    if not sum(map(len, indices)):
        raise ValueError(f"{expected} Received: nothing.")
    return np.concatenate(pictures), np.concatenate(indices)


def _run_outputs(model, indices, picture):
    outputs = model.outputs(picture)
    return [outputs[index] for index in indices]


def _run_each(run, pictures, reference):
    """Runs a model of batch 1 on each picture; returns one array for each output, of the shape that Keras gives."""
    rows = [run(picture[None]) for picture in pictures]
    return [
        np.concatenate([np.reshape(output, (1, *expected.shape[1:])) for output in column])
        for column, expected in zip(zip(*rows, strict=True), reference, strict=False)
    ]


def _as_list(outputs):
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


def _top1(scores, classes):
    return float(np.mean(np.asarray(scores).argmax(-1) == classes))


def _recommend(recipes):
    """Says which file to run where. Not by what was measured here: two exports of one model are to be the same."""
    return {target: next((recipe for recipe in order if recipe in recipes), None) for target, order in _BEST_FIRST.items()}


def _files(folder, recipe):
    """Returns the paths of a recipe's files."""
    if recipe == "saved_model":
        return sorted(path for path in (folder / recipe).rglob("*") if path.is_file())
    return [folder / f"{recipe}.tflite"]


def _file_entry(folder, recipe, path):
    content = path.read_bytes()
    return {"recipe": recipe, "file": path.relative_to(folder).as_posix(), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


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
