"""Writes a bundle: all that a device needs, and the report that proves it."""

import functools
import hashlib
import importlib.metadata
import json
import pathlib
import time
import zlib

import keras
import numpy as np
from swin_keras.edge_demo import bench
from swin_keras.edge_demo.bundle import FORMAT_VERSION
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import arguments, migration, saved_model, sensitivity, simulation, tflite, verify
from swin_keras.export import report as reports
from swin_keras.export.deploy import fixed_shape, in_float32, to_deploy
from swin_keras.export.folder import check_folder, written_beside
from swin_keras.export.metadata import add_metadata
from swin_keras.export.recipes import RECIPES, find_ranges, quantize
from swin_keras.export.signatures import DEFAULT, make_signatures
from swin_keras.export.simulation import trained_graph
from swin_keras.export.sizes import at_size

from swin_keras.version import __version__

# Every file is compared with Keras on this many pictures of normal noise, always the same, and on the calibration pictures if there are any.
RANDOM_SAMPLES = 32
# Attention shares out its ranges on this many of the calibration pictures: each takes a run in Keras.
MIGRATED_SAMPLES = 16
# With fewer the ranges are found all the same, and the log says that more are better.
FEW_PICTURES = 32
# What adds up along the network is shown on this many pictures: each takes a run without XNNPACK, which is slow.
CHARTED_SAMPLES = 4
THREADS = 2
# Attention maps of one large picture take 100 MB and more: outputs of Keras are kept for as many pictures as fit into this.
REFERENCE_BYTES = 2**30
# On XNNPACK hybrid_int8 took 0.81 of float32's time, dynamic_int8 as long at a quarter of the size (Swin-T: benchmarks/results/inference.md).
# A GPU or NPU computes in float16.
_BEST_FIRST = {
    "cpu": ("hybrid_int8", "dynamic_int8", "dynamic_int4", "float32", "float16", "int16x8", "full_int8"),
    "gpu": ("float16", "float32", "hybrid_int8", "dynamic_int8", "dynamic_int4", "int16x8", "full_int8"),
    "npu": ("float16", "float32", "int16x8", "full_int8", "hybrid_int8", "dynamic_int8", "dynamic_int4"),
}


def export_bundle(
    model,
    folder,
    recipes=None,
    layout="portable",
    calibration=None,
    labels=None,
    preprocessing=None,
    data=None,
    weights=None,
    sizes=(),
    uint8_input=False,
    fold_normalization=False,
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
        recipes: Keys of `RECIPES`. Defaults to float32, float16 and dynamic_int8. A model from `compression.quantization_aware` has one, for which
            it was trained: the ranges of activations are those of training, and the file is held to 25 dB of what training simulated.
        layout: As in `to_deploy`.
        calibration: Iterable of normalized float32 arrays `(n, height, width, channels)` on which fidelity is measured and
            hybrid_int8, full_int8 and int16x8 find the ranges of activations, for which some hundred pictures like those
            to come are enough. `None`: fidelity is measured on 32 pictures of seeded noise alone.
        sizes: Further heights and widths. A file has a signature for each, `size_HxW`, beside `serving_default`, and they share the weights, but
            for what a window that shrinks or a grid that does not divide into windows changes. They are compared with Keras, and find their
            ranges, on the calibration pictures, resized.
        uint8_input: Boolean. Whether a file has a signature for each size that takes uint8 pixels and normalizes them itself: `uint8`, `uint8_HxW`.
        fold_normalization: Boolean. Whether the files take pictures in [0, 1] and normalize them themselves, in the patch embedding where they can.
        labels: Class names, one for each class of pictures, boxes (`tasks.detection_network`) or pixels (`tasks.create_segmenter`), or `None`.
        preprocessing: `Preprocessing`. Defaults to the official protocol for the input's size.
        data: Iterable of `(pictures, class indices)`, normalized, on which top-1 accuracy is measured, or `None`. It is gone through for Keras
            and each file; what can be only once, such as a generator, is held in memory.
        weights: String for the record: where the weights come from.
        max_accuracy_loss: Float, a fraction. A recipe that loses more against Keras on `data` does not ship.
        accuracy_budget: Float, in points of top-1 (0.3 is 0.3 %), for a classifier. Of a recipe with integers that loses more, the operators
            that cost the most stay in float32, as few as it takes. The loss is against Keras, of the default signature: of accuracy on `data`;
            without it, of agreement on the pictures that fidelity is measured on.
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
    trained = trained_graph(model)
    recipes = arguments.check_recipes(recipes, trained)
    arguments.check_switches(uint8_input=uint8_input, fold_normalization=fold_normalization, migrate=migrate)
    arguments.check_quantization(recipes, accuracy_budget, percentile, migrate)
    calibrated = [recipe for recipe in recipes if RECIPES[recipe].calibrated and not trained] + ["migration"] * bool(migrate)
    arguments.check_calibrated(calibration, calibrated)
    if accuracy_budget is not None and calibration is None and data is None:
        raise ValueError("`accuracy_budget` is measured on `data` or `calibration`. Received: neither. Give one; on the command line, --data SRC.")
    if recipes == ["saved_model"] and (sizes or uint8_input):
        raise ValueError("`sizes` and `uint8_input` are for .tflite files. Received: recipes=['saved_model']. Add a recipe, or leave them out.")
    check_folder(folder)
    log("building the deploy graph")
    options = {"layout": layout, "gelu": gelu, "fp16_safe_norm": fp16_safe_norm}
    if trained:
        changes = {**options, "layout": layout != "portable", "gelu": gelu != "exact", "sizes": sizes, "uint8_input": uint8_input, "migrate": migrate}
        changes |= {"fold_normalization": fold_normalization, "accuracy_budget": accuracy_budget is not None, "percentile": percentile != 100}
        arguments.check_unchanged(changes)
    export = _Export(model, options, preprocessing, sizes, uint8_input, fold_normalization, log)
    arguments.check_task(export.task, labels, data, accuracy_budget)
    labels = arguments.check_labels(labels, export.models[0], export.task)
    export.choose_pictures(arguments.read_calibration(calibration, export.shape, calibrated))
    if data is not None:
        export.choose_examples(data)
    report = {
        "model": {
            "name": export.models[0].name,
            "parameters": export.models[0].count_params(),
            "input": [1, *export.shape],
            "layout": layout,
            "fidelity_on": "pictures of seeded noise" if calibration is None else "calibration pictures",
        },
        "machine": bench.describe_machine(),
        "keras": {"top1": export.keras_top1},
        "recipes": {},
    }
    export.compare_graphs()
    with written_beside(folder) as partial:
        if set(recipes) != {"saved_model"}:
            export.convert(migrate)
        for recipe in recipes:
            if recipe == "saved_model":
                measured = export.write_saved_model(partial / recipe)
            else:
                measured = export.write_file(recipe, partial / f"{recipe}.tflite", labels, percentile, accuracy_budget)
            measured["bytes"] = sum(path.stat().st_size for path in _files(partial, recipe))
            measured["zipped_bytes"] = sum(len(zlib.compress(path.read_bytes())) for path in _files(partial, recipe))
            report["recipes"][recipe] = measured
            _check_accuracy(recipe, measured["top1"], export.keras_top1, max_accuracy_loss)
            size, zipped = (measured[key] / 1e6 for key in ("bytes", "zipped_bytes"))
            log(f"{recipe}: {size:.2f} MB ({zipped:.2f} MB zipped), SNR {measured['fidelity']['snr_db']:.1f} dB")
        export.add_latencies(report["recipes"])
        reports.write(report, partial)
        if labels is not None:
            (partial / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
        description = {
            "format_version": FORMAT_VERSION,
            "model": export.models[0].name,
            **export.describe(),
            "labels": labels,
            "files": [_file_entry(partial, recipe, path) for recipe in recipes for path in _files(partial, recipe)],
            "recommended": _recommend(recipes),
            "provenance": {"weights": weights, "versions": versions()},
        }
        (partial / "model.json").write_text(json.dumps(description, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return report


class _Export:
    """The state of one export: a model at each of its sizes, the signatures, and what files are compared on."""

    def __init__(self, model, options, preprocessing, sizes, uint8_input, fold_normalization, log):
        self.shape = fixed_shape(model)
        if self.shape[-1] != 3:
            raise ValueError(f"A bundle is for pictures with 3 channels, red, green and blue. Received: a model of {self.shape[-1]}.")
        sizes = [self.shape[:2], *arguments.check_sizes(sizes, self.shape[:2])]
        self.task = arguments.task_of(model)
        self._preprocessing = arguments.preprocessing_of_sizes(preprocessing, sizes, self.task)
        self._options, self._uint8_input, self._log = options, uint8_input, log
        self._normalization = self._taken = self._preprocessing[sizes[0]].mean, self._preprocessing[sizes[0]].std
        if fold_normalization:
            self._options = {**options, "normalization": self._normalization}
            self._taken = (0.0,) * 3, (1.0,) * 3
        self.models = [in_float32(model), *(in_float32(at_size(model, *size)) for size in sizes[1:])]
        self._graphs = self._make_graphs(self.models)
        self.signatures = self._make_signatures(self._graphs)
        self._trained = trained_graph(model)
        self.keras_top1 = self._examples = None
        self._latencies = {}

    def _make_graphs(self, models, scaled=False):
        return [to_deploy(model, **self._options, scaled=scaled) for model in models]

    def _make_signatures(self, graphs):
        return make_signatures(graphs, *self._taken, self._uint8_input)

    def choose_pictures(self, pictures):
        """Computes what Keras gives on calibration pictures, or where they are `None`, and else too, on noise."""
        noise = np.random.default_rng(0).standard_normal((RANDOM_SAMPLES, *self.shape)).astype("float32")
        if self._uint8_input:
            noise = self._in_pixels(noise)
        self._calibrated = pictures is not None
        chosen = [pictures, noise] if self._calibrated else [noise]
        # What is made of whole pixels is so at each size: signatures for floats and for pixels then share what Keras gives.
        whole = [self._uint8_input and np.allclose(x, self._in_pixels(x), atol=1e-5) for x in chosen]
        predict = functools.partial(verify.Reference, memory=REFERENCE_BYTES // (2 * len(self.signatures)))
        self._inputs, self._comparisons = {}, {}
        for number, model in enumerate(self.models):
            resized = [_resize(x, model.inputs[0].shape[1:3]) for x in chosen]
            resized = [self._in_pixels(x) if of_pixels else x for x, of_pixels in zip(resized, whole, strict=True)]
            references = [predict(model, x) for x in resized]
            for signature in self.signatures[number :: len(self.models)]:
                if signature.dtype == "uint8":
                    known = zip(references, resized, whole, strict=True)
                    references = [reference if of_pixels else predict(model, self._in_pixels(x)) for reference, x, of_pixels in known]
                to_input = functools.partial(signature.to_input, normalization=self._normalization)
                self._inputs[signature.key] = to_input(resized[0])
                kept = {"exact": self._options["gelu"] == "exact", "min_snr_db": simulation.MIN_SNR_DB if self._trained else None}
                self._comparisons[signature.key] = verify.Comparison(*references, to_input=to_input, **kept)
        self._main = self._comparisons[DEFAULT]
        self._output_names, self.output_kind = _outputs(self.models[0], self.task, self._main.reference)
        self._indices = list(range(len(self._output_names)))

    def _in_pixels(self, pictures):
        """Rounds normalized pictures as the signatures for pixels do."""
        of_pixels = self.signatures[-1]
        return of_pixels.from_input(of_pixels.to_input(pictures, self._normalization), self._normalization)

    def choose_examples(self, data):
        """Measures the accuracy of Keras on labelled pictures."""
        self._examples = verify.Examples(data, self.shape, self._main.reference[0].shape[-1])
        self.keras_top1 = self._examples.top1(lambda x: self.models[0].predict(x, batch_size=32, verbose=0))

    def _top1(self, run):
        if self._examples is None:
            return None
        to_input = functools.partial(self.signatures[0].to_input, normalization=self._normalization)
        return self._examples.top1(lambda x: np.concatenate([run(picture[None])[0] for picture in to_input(x)]))

    def _points_lost(self, content):
        run = self._runner(content)
        return 100 * (self._main.disagreement(run) if self._examples is None else self.keras_top1 - self._top1(run))

    def compare_graphs(self):
        """Compares the deploy graphs with Keras, once attention has shared out its ranges."""
        if self._trained:  # What is in training for integers rounds, and its deploy graph does not.
            return
        if self._calibrated:
            migration.migrate(self._graphs, self._inputs[DEFAULT][:MIGRATED_SAMPLES])
        for signature in self.signatures[: len(self._graphs)]:
            measured = self._comparisons[signature.key].compare(
                "deploy graph", lambda x, s=signature: _as_list(s.deploy.predict_on_batch(x)), self._of(signature.key)
            )
            self._log(f"deploy graph of {signature.size} differs from Keras by at most {measured['fidelity']['max_abs_diff']:.2g}")

    def convert(self, migrate):
        """Makes the files that quantization begins with: in float32, and with `migrate` another for the recipes with integers."""
        started = time.perf_counter()
        self._float32 = self._before_integers = tflite.convert(self.signatures, self._output_names)
        self._log(f"converted in {time.perf_counter() - started:.1f} s")
        self._indices = tflite.output_indices(self._float32, self._output_names)
        if migrate:
            self._log("migrating ranges from activations to weights")
            graphs = self._make_graphs(self.models, scaled=True)
            migration.migrate(graphs, self._inputs[DEFAULT][:MIGRATED_SAMPLES])
            self._before_integers = tflite.convert(self._make_signatures(graphs), self._output_names)

    def write_file(self, recipe, path, labels, percentile, accuracy_budget):
        """Writes a recipe's .tflite file, and returns what the report says of it."""
        content, found = self._quantize(recipe, percentile, accuracy_budget)
        if self.task == "classes":
            content = add_metadata(
                content,
                name=self.models[0].name,
                description=RECIPES[recipe].summary,
                labels=labels,
                mean=self.signatures[0].mean,
                std=self.signatures[0].std,
                version=__version__,
            )
        path.write_bytes(content)
        measured = self._measure(recipe, content)
        return {**found, **measured, "peak_memory_mb": bench.measure_fresh_process(content, recipe, THREADS, self._log)["peak_memory_mb"]}

    def _quantize(self, recipe, percentile, accuracy_budget):
        """Returns a recipe's file, as bytes, and what was found while it was made."""
        source = self._before_integers if RECIPES[recipe].has_integers else self._float32
        pictures = self._inputs[DEFAULT]
        ranges, kept, errors = None, [], None
        if self._trained:
            content = simulation.quantize(self._trained, source, recipe)
            return content, {"kept_float": kept, "products_snr_db": sensitivity.product_errors(source, content, pictures[:CHARTED_SAMPLES])}
        if RECIPES[recipe].calibrated:
            few = "; some hundred are better" if len(pictures) < FEW_PICTURES else ""
            self._log(f"{recipe}: finding the ranges of activations on {len(pictures):,} pictures{few}")
            ranges = find_ranges(source, recipe, self._inputs, percentile)
        if accuracy_budget is not None and RECIPES[recipe].has_integers:
            content, kept = sensitivity.choose(source, recipe, ranges, pictures, self._points_lost, accuracy_budget, self._log)
        else:
            content = quantize(source, recipe, ranges)
        if RECIPES[recipe].has_integers:
            errors = sensitivity.product_errors(source, content, pictures[:CHARTED_SAMPLES])
        return content, {"kept_float": kept, "products_snr_db": errors}

    def _measure(self, recipe, content):
        """Compares each signature of a file with Keras, and returns what the report says of it."""
        if len(self.signatures) == 1:
            runs = {DEFAULT: self._runner(content)}
        else:  # One interpreter: each has its own copy of the weights.
            runs = tflite.signature_runs(content, [signature.key for signature in self.signatures], self._output_names, THREADS)
        for key, run in runs.items():
            self._latencies[recipe, key] = lambda _, run=run, x=self._inputs[key][:1]: run(x)
        compared = {key: self._comparisons[key].compare(recipe, run, self._of(key)) for key, run in runs.items()}
        return {
            "ops": tflite.count_operators(content)[0],
            "delegate": bench.delegate_coverage(content),
            "latency_ms": None,
            **compared.pop(DEFAULT),
            "signatures": compared,
            "top1": self._top1(runs[DEFAULT]),
        }

    def write_saved_model(self, folder):
        """Writes the recipe of that name, which has the default signature alone, and returns what the report says of it."""
        saved_model.write(self._graphs[0], self._output_names, folder)
        run = saved_model.load(folder, self._output_names)
        unknown = dict.fromkeys(("ops", "delegate", "latency_ms", "peak_memory_mb"))
        return {**unknown, **self._main.compare("saved_model", run), "top1": self._top1(run)}

    def _of(self, key):
        return f", signature {key}," if len(self.signatures) > 1 else ""

    def _runner(self, content):
        """Returns a function from what the default signature of a file takes to its outputs, in the order of `_output_names`."""
        model = TFLiteModel(content, THREADS)

        def run(x):
            outputs = model.outputs(x)
            return [outputs[index] for index in self._indices]

        return run

    def add_latencies(self, measured):
        """Times all files and signatures, in turns, and enters what it takes them."""
        for (recipe, key), latency in bench.measure_latencies(self._latencies, None, THREADS).items():
            (measured[recipe] if key == DEFAULT else measured[recipe]["signatures"][key])["latency_ms"] = latency

    def describe(self):
        """Returns what model.json says of inputs and outputs."""
        signatures = [signature.describe(self._preprocessing[signature.shape[1:3]], self._output_names) for signature in self.signatures]
        main = signatures[0]
        return {
            "input": main["input"],
            "preprocessing": main["preprocessing"],
            "output_kind": self.output_kind,
            "outputs": [{"name": o["name"], "index": index, "shape": o["shape"]} for o, index in zip(main["outputs"], self._indices, strict=True)],
            "signatures": signatures,
        }


def versions():
    """Returns the versions of this package and of those that make the files."""
    packages = ("tensorflow", "keras", "litert-quantizer", "ai-edge-litert")
    return {"swin-keras": __version__, **{package: importlib.metadata.version(package) for package in packages}}


def _check_accuracy(recipe, top1, keras_top1, max_loss):
    if max_loss is not None and top1 is not None and keras_top1 - top1 > max_loss + 1e-9:
        raise verify.VerificationError(
            f"{recipe} loses {100 * (keras_top1 - top1):.2f} points of accuracy against Keras, more than the {100 * max_loss:.2f} allowed."
        )


def _outputs(model, task, reference):
    """Returns the name of each output, in the order of `keras.tree.flatten`, and the kind: of classes logits or probabilities, else the task."""
    if task == "masks":
        return ["logits"], task
    if task != "classes":
        return sorted(model.output) if isinstance(model.output, dict) else [f"output_{i}" for i in range(len(reference))], task
    # Told from the values: a softmax may stand anywhere in the graph, and logits of many pictures are not all in [0, 1].
    if np.all((reference[0] >= 0) & (reference[0] <= 1)):
        return ["probabilities"], "probabilities"
    return ["logits"], "logits"


def _resize(pictures, size):
    """Resizes normalized pictures, bilinear with antialiasing."""
    if pictures.shape[1:3] == size:
        return pictures
    return keras.ops.convert_to_numpy(keras.ops.image.resize(pictures, size, antialias=True, data_format="channels_last"))


def _as_list(outputs):
    return [np.asarray(output) for output in keras.tree.flatten(outputs)]


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
