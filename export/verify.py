"""Compares what a file computes with what Keras computes. A file that differs too much does not ship."""

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
    differences, snrs = [], []
    for expected, received in zip(reference, outputs, strict=True):
        expected, received = np.asarray(expected, "float64"), np.asarray(received, "float64")
        differences.append(np.abs(expected - received).max())
        signal, noise = np.square(expected).sum(), np.square(expected - received).sum()
        snrs.append(10 * np.log10(signal / noise) if signal > 0 and noise > 0 else (np.inf if noise == 0 else -np.inf))
    agreement = None
    if len(reference) == 1 and reference[0].ndim == 2:
        agreement = float(np.mean(reference[0].argmax(-1) == outputs[0].argmax(-1)))
    return {
        "max_abs_diff": float(max(differences)),
        # Identical outputs have no noise; JSON has no infinity.
        "snr_db": float(np.clip(min(snrs), -300.0, 300.0)),
        "top1_agreement": agreement,
        "samples": len(reference[0]),
    }


def check(recipe, measured, reference, exact=True):
    """Raises `VerificationError` if `measured`, from `fidelity`, is outside what `recipe` allows.

    Args:
        recipe: Key of `RECIPES`, or `"deploy graph"`, which is held to the same as float32.
        measured: Dictionary.
        reference: The arrays of the trained model.
        exact: Boolean. Whether the deploy graph computes the model's own functions; where it approximates one, nothing is held to more than float16.
    """
    limit = RECIPES[recipe].min_snr_db if recipe in RECIPES else None
    if limit is None and not exact:
        limit = RECIPES["float16"].min_snr_db
    if limit is None:
        allowed = FLOAT32_TOLERANCE * max(1.0, *(float(np.abs(array).max()) for array in reference))
        if not measured["max_abs_diff"] <= allowed:
            raise VerificationError(f"{recipe} differs from Keras by {measured['max_abs_diff']:.3g}, more than the {allowed:.3g} allowed.")
    elif not measured["snr_db"] >= limit:
        raise VerificationError(f"{recipe} has an SNR of {measured['snr_db']:.1f} dB against Keras, less than the {limit:.0f} dB required.")
