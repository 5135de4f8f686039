"""Compares what a file computes with what Keras computes. A file that differs too much does not ship."""

import math

import keras
import numpy as np
from swin_keras.export.recipes import RECIPES

# Float32 may differ by this, times the larger of 1 and the largest output.
FLOAT32_TOLERANCE = 1e-4


class VerificationError(RuntimeError):
    """An exported file, or the deploy graph, is too far from the trained model."""


def fidelity(reference, outputs):
    """Measures how close outputs are to a reference.

    Args:
        reference: Arrays `(samples, ...)`, one for each output of the model.
        outputs: The same, from the file.

    Returns:
        A dictionary: `max_abs_diff`; `snr_db`, 10 log10 of signal over error power, the worst over the outputs;
        `top1_agreement`, the fraction of samples with the same largest entry, for a model with one output of rank 2 and
        otherwise `None`; and the number of `samples`.
    """
    return _fidelity_of_rows(zip(zip(*reference, strict=True), zip(*outputs, strict=True), strict=True), reference)


def _fidelity_of_rows(rows, reference):
    """As `fidelity`, of pairs of what was expected and received for one picture: outputs may be too large to keep those of all pictures."""
    difference, samples, agreed = 0.0, 0, 0
    signal, noise = np.zeros(len(reference)), np.zeros(len(reference))
    for expected, received in rows:
        for i, (a, b) in enumerate(zip(expected, received, strict=True)):
            a = np.asarray(a, "float64")
            b = np.asarray(b, "float64").reshape(a.shape)
            difference = np.maximum(difference, np.abs(a - b).max())  # NaN stays
            signal[i] += np.square(a).sum()
            noise[i] += np.square(a - b).sum()
        agreed += np.argmax(expected[0]) == np.argmax(received[0])
        samples += 1
    snrs = [10 * np.log10(s / n) if s > 0 and n > 0 else (np.inf if n == 0 else -np.inf) for s, n in zip(signal, noise, strict=True)]
    return {
        "max_abs_diff": float(difference),
        # Identical outputs have no noise; JSON has no infinity.
        "snr_db": float(np.clip(min(snrs), -300.0, 300.0)),
        "top1_agreement": float(agreed / samples) if len(reference) == 1 and reference[0].ndim == 2 else None,
        "samples": samples,
    }


class Reference:
    """What a trained model gives.

    Args:
        model: Functional float32 `keras.Model`.
        pictures: Array `(n, height, width, channels)`, normalized.
        memory: Integer, bytes.

    Attributes:
        pictures: As many of the pictures as `memory` holds outputs for.
        outputs: Arrays, one for each output of the model.
    """

    def __init__(self, model, pictures, memory):
        largest = 4 * sum(math.prod(output.shape[1:]) for output in keras.tree.flatten(model.outputs))
        self.pictures = pictures[: max(1, memory // largest)]
        outputs = model.predict(self.pictures, batch_size=max(1, min(32, memory // 4 // largest)), verbose=0)
        self.outputs = [np.asarray(output) for output in keras.tree.flatten(outputs)]


class Comparison:
    """What a deploy graph and a signature of files are compared on.

    Args:
        on_pictures: `Reference`.
        on_noise: `Reference`, or `None`.
        to_input: Function from normalized pictures to what the signature takes.
        exact, min_snr_db: As in `check`.
    """

    def __init__(self, on_pictures, on_noise=None, *, to_input, exact, min_snr_db=None):
        self._limits = {"exact": exact, "min_snr_db": min_snr_db}
        self.reference = on_pictures.outputs
        self._inputs = to_input(on_pictures.pictures)
        self._on_noise = None if on_noise is None else (to_input(on_noise.pictures), on_noise.outputs)

    def compare(self, name, run, where=""):
        """Compares what runs one picture with Keras.

        Args:
            name: Key of `RECIPES`, or `"deploy graph"`.
            run: Function from what a file takes, of batch 1, to a list of arrays.
            where: String that follows the name in an error.

        Returns:
            A dictionary: `fidelity` on the pictures, and `fidelity_on_noise`.

        Raises:
            VerificationError: As `check` does.
        """
        measured = self._measure(run, self._inputs, self.reference)
        check(name, measured, self.reference, where=where, **self._limits)
        if self._on_noise is None:
            return {"fidelity": measured, "fidelity_on_noise": measured}
        on_noise = self._measure(run, *self._on_noise)
        # Noise is not what the ranges of a calibrated recipe are for: how far it is off is in the report.
        if name not in RECIPES or not RECIPES[name].calibrated:
            check(name, on_noise, self._on_noise[1], where=where, **self._limits)
        return {"fidelity": measured, "fidelity_on_noise": on_noise}

    def disagreement(self, run):
        """Returns the fraction of pictures on which the largest score is another one than in Keras."""
        return 1 - self._measure(run, self._inputs, self.reference)["top1_agreement"]

    @staticmethod
    def _measure(run, inputs, reference):
        outputs = (run(picture[None]) for picture in inputs)
        return _fidelity_of_rows(zip(zip(*reference, strict=True), outputs, strict=True), reference)


class Examples:
    """Labelled pictures, gone through batch by batch each time; held in memory only if they come once.

    Args:
        data: Iterable of `(pictures, class indices)`, normalized.
        shape: Height, width and channels.
        classes: Integer, their number.

    Raises:
        ValueError: If `data` cannot be gone through; from `top1`, if it yields something else, or nothing.
    """

    def __init__(self, data, shape, classes):
        self._expected = f"`data` must yield batches of pictures (n, {', '.join(map(str, shape))}) and class indices (n,) below {classes}."
        if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
            raise ValueError(f"{self._expected} Received: {data!r:.100}.")
        self._data = list(data) if iter(data) is data else data
        self._shape, self._classes = shape, classes

    def top1(self, score):
        """Returns the fraction that is classified right, by a function from pictures `(n, height, width, channels)` to scores `(n, classes)`."""
        right, total = 0, 0
        for pictures, indices in map(self._check, self._data):
            if not len(indices):
                continue
            right += np.count_nonzero(np.asarray(score(pictures)).argmax(-1) == indices)
            total += len(indices)
        if not total:
            raise ValueError(f"{self._expected} Received: nothing.")
        return right / total

    def _check(self, batch):
        batch = tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)
        if len(batch) != 2:
            raise ValueError(f"{self._expected} Received: {len(batch)} arrays in a batch.")
        x, y = map(np.asarray, batch)
        whole = y.dtype.kind in "iu" or not y.size
        if x.shape[1:] != self._shape or y.shape != x.shape[:1] or not whole or not np.all((y >= 0) & (y < self._classes)):
            raise ValueError(f"{self._expected} Received: pictures {x.shape} and indices {y!r:.80}.")
        if x.dtype.kind != "f" and x.dtype.name != "bfloat16":
            raise ValueError(f"{self._expected} Received: pictures of {x.dtype}. Normalize them as the model's input.")
        if not np.isfinite(x).all():
            raise ValueError(f"{self._expected} Received: pictures with numbers that are not finite.")
        return x.astype("float32"), y


def check(recipe, measured, reference, exact=True, min_snr_db=None, where=""):
    """Raises `VerificationError` if `measured`, from `fidelity`, is outside what `recipe` allows.

    Args:
        recipe: Key of `RECIPES`, or `"deploy graph"`, which is held to the same as float32.
        measured: Dictionary.
        reference: The arrays of the trained model.
        exact: Boolean. Whether the deploy graph computes the model's own functions; where it approximates one, nothing is held to more than float16.
        min_snr_db: Float. In place of the recipe's.
        where: String that follows the recipe in the error.
    """
    limit = min_snr_db or (RECIPES[recipe].min_snr_db if recipe in RECIPES else None)
    if limit is None and not exact:
        limit = RECIPES["float16"].min_snr_db
    if limit is None:
        allowed = FLOAT32_TOLERANCE * max(1.0, *(float(np.abs(array).max()) for array in reference))
        if not measured["max_abs_diff"] <= allowed:
            raise VerificationError(f"{recipe}{where} differs from Keras by {measured['max_abs_diff']:.3g}, more than the {allowed:.3g} allowed.")
    elif not measured["snr_db"] >= limit:
        raise VerificationError(f"{recipe}{where} has an SNR of {measured['snr_db']:.1f} dB against Keras, less than the {limit:.0f} dB required.")
