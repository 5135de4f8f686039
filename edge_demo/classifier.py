"""Runs a bundle: preprocesses a picture, invokes the model, names the classes."""

import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from .bundle import at_size, find_file, find_recommended, read_bundle, read_file
from .errors import InputError, words
from .first_run import check_first_run
from .preprocess import open_reduced, prepare
from .quiet import quietly

# The runtime starts as many as it is told, and a machine does not survive a million.
MAX_THREADS = 64
_ROUNDED = 0.01  # what the rounding of a quantized softmax may add


def check_threads(threads):
    """Raises an `InputError` for a number of threads that cannot be used."""
    if not isinstance(threads, int) or not 1 <= threads <= MAX_THREADS:
        raise InputError(f"expected 1 to {MAX_THREADS} threads, received {threads!r}. A phone has 4 to 8 cores.")


class TFLiteModel:
    """A .tflite file in memory, ready to run on the CPU.

    Args:
        content: Bytes of the file. Only files that you trust: the runtime does not survive every damaged one.
        threads: Integer.
        signature: String. Which way into the file; defaults to its first, whose outputs are in the order of the file. Others give theirs by name.
    """

    def __init__(self, content, threads=2, signature=None):
        self._interpreter = quietly(lambda: Interpreter(model_content=content, num_threads=threads))
        self._called = False
        if signature is None:
            self._signature = None
            quietly(self._interpreter.allocate_tensors)
            self._input = self._interpreter.get_input_details()[0]
            self._outputs, self.names = self._interpreter.get_output_details(), None
        else:
            self._signature = quietly(lambda: self._interpreter.get_signature_runner(signature))
            (self._name, self._input), *_ = self._signature.get_input_details().items()
            outputs = self._signature.get_output_details()
            self._outputs, self.names = list(outputs.values()), list(outputs)
        self.input_shape, self.output_shapes = self._input["shape"].tolist(), [output["shape"].tolist() for output in self._outputs]
        self.output_shape = self.output_shapes[0]

    def outputs(self, x):
        """Runs float32 `(1, height, width, 3)` through the model and returns all its outputs."""
        if self._signature is not None:
            # At the first call the runtime announces its delegate.
            call = (lambda function: function()) if self._called else quietly
            self._called = True
            return list(call(lambda: self._signature(**{self._name: x})).values())
        self._interpreter.set_tensor(self._input["index"], x)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(output["index"]) for output in self._outputs]

    def __call__(self, x, output=0):
        """As `outputs`, but returns one of them."""
        return self.outputs(x)[output]


class BundleModel:
    """A bundle, ready to run; a subclass says what to make of its outputs.

    A file that never ran on this machine is tried in a process of its own first, which takes some tenths of a second more (`first_run.py`).

    Args:
        bundle: Path of the folder with model.json.
        recipe: String. Which file to run. Defaults to the one recommended for a CPU.
        threads: Integer, from 1 to 64.
        size: Height and width. Which of the sizes that the files take; defaults to the bundle's main one.

    Raises:
        InputError: If the bundle, the recipe, the number of threads or the size cannot be used, a file's sha256 does not match, or it does not run.
    """

    # Of `read_bundle`; and how many answers there are, and from which probability, where nothing is asked for.
    task, default_top_k, default_threshold = None, 5, 0.0

    def __init__(self, bundle, recipe=None, threads=2, size=None):
        check_threads(threads)
        self.description, signature = read_bundle(bundle, self.task), None
        if size is not None:
            signature, self.description = at_size(bundle, self.description, size, self.task)
        self.labels = self.description["labels"]
        self.recipe = find_recommended(bundle, self.description) if recipe is None else recipe
        content = read_file(bundle, self.description, self.recipe)
        check_first_run(content, find_file(self.description, self.recipe)["sha256"], self.recipe, threads, signature)
        try:
            self.model = TFLiteModel(content, threads, signature)
        except (ValueError, RuntimeError, IndexError, MemoryError) as error:
            raise InputError(f"expected a .tflite file for the recipe {self.recipe!r}: {words(error)}. Export the bundle again.") from error
        outputs, names = self.description["outputs"], self.model.names
        self._order = [names.index(output["name"]) if names and output["name"] in names else output["index"] for output in outputs]
        shapes = [self.model.input_shape, *(self.model.output_shapes[at : at + 1] for at in self._order)]
        described = [self.description["input"]["shape"], *([output["shape"]] for output in outputs)]
        if shapes != described:
            has, expected = (
                f"{given[0]} and {' and '.join(str(shape[0]) if shape else 'none' for shape in given[1:])}" for given in (shapes, described)
            )
            raise InputError(f"expected input and output of {expected}, as model.json says; the file has {has}. Export the bundle again.")

    @property
    def most_answers(self):
        """How many answers there can be."""
        return self.model.output_shape[-1]

    def outputs(self, x):
        """Returns the outputs, as model.json lists them, of a preprocessed picture `(1, height, width, 3)`."""
        outputs = self.model.outputs(x)
        outputs = [outputs[at] for at in self._order]
        for output, described in zip(outputs, self.description["outputs"], strict=True):
            if output.dtype != np.float32 or list(output.shape) != described["shape"]:
                raise InputError(
                    f"expected float32 {described['shape']} from the recipe {self.recipe!r}, received {output.dtype} {list(output.shape)}. "
                    "Export the bundle again."
                )
        return outputs

    def label(self, index):
        """Returns the name of a class, or "class 17" where the bundle has none."""
        return self.labels[index] if self.labels else f"class {index}"

    def classify(self, path, top_k=None, threshold=None):
        """Runs a picture file. A large JPEG file is decoded at a fraction of its size (`preprocess.open_reduced`).

        Args:
            path: Path, or an open file.
            top_k: Integer. How many answers at most.
            threshold: Float. Answers of a smaller probability are left out.

        Returns:
            A dictionary: `image`, `recipe`, `top` (a list of `index`, `label`, `probability`, best first) and `ms`
            (`decode`, `preprocess`, `inference`).

        Raises:
            InputError: If the file is not a picture that can be read, or the model's answer to it is no number.
        """
        return self.classify_and_keep(path, top_k, threshold)[0]

    def classify_and_keep(self, path, top_k=None, threshold=None):
        """As `classify`, but returns also the picture, as it was decoded: in mode RGB, and perhaps at a fraction of its size."""
        started = time.perf_counter()
        opened = open_reduced(path, self.description["preprocessing"])
        decode_ms = round(1000 * (time.perf_counter() - started), 3)
        return self.classify_opened(str(path), opened, decode_ms, top_k, threshold), opened.picture

    def classify_opened(self, name, opened, decode_ms, top_k=None, threshold=None):
        """As `classify`, of an `Opened` and the time that it took to decode it."""
        top_k = self.default_top_k if top_k is None else top_k
        threshold = self.default_threshold if threshold is None else threshold
        started = time.perf_counter()
        x = prepare(opened, self.description["preprocessing"])
        prepared = time.perf_counter()
        try:
            # Broken weights give infinities, and numpy would warn of each.
            with np.errstate(all="ignore"):
                outputs = self.outputs(x)
                answers = self._answers(outputs, opened, top_k, threshold)
        except RuntimeError as error:
            raise InputError(
                f"expected a .tflite file that runs here for the recipe {self.recipe!r}: {words(error)}. Export the bundle again."
            ) from error
        finished = time.perf_counter()
        if not all(np.isfinite(output).all() for output in outputs):
            raise InputError(f"expected numbers from the recipe {self.recipe!r} for {name!r}, received NaN or infinity. Export the bundle again.")
        return {
            "image": name,
            "recipe": self.recipe,
            **answers,
            "ms": {
                "decode": decode_ms,
                "preprocess": round(1000 * (prepared - started), 3),
                "inference": round(1000 * (finished - prepared), 3),
            },
        }


class Classifier(BundleModel):
    """The bundle of a classifier, ready to name the classes of pictures. Arguments and errors are those of `BundleModel`."""

    task = "classes"

    def probabilities(self, x):
        """Returns the class probabilities `(classes,)` of a preprocessed picture `(1, height, width, 3)`."""
        return self._to_probabilities(self.outputs(x)[0][0])

    def _to_probabilities(self, scores):
        scores = scores.astype("float64")
        if self.description["output_kind"] == "probabilities":
            # Numbers that are none are told of by who classifies.
            if (scores < -_ROUNDED).any() or (scores > 1 + _ROUNDED).any():
                raise InputError(
                    f"expected values from 0 to 1 from the recipe {self.recipe!r}, since model.json says that its output_kind is probabilities, "
                    f"received {scores.min():.4g} to {scores.max():.4g}. Export the bundle again."
                )
            return scores
        scores = np.exp(scores - scores.max())
        return scores / scores.sum()

    def _answers(self, outputs, _, top_k, threshold):
        probabilities = self._to_probabilities(outputs[0][0])
        best = [i for i in np.argsort(-probabilities, kind="stable")[:top_k] if probabilities[i] >= threshold]
        return {"top": [{"index": int(i), "label": self.label(i), "probability": float(probabilities[i])} for i in best]}
