"""Quantization-aware training: a model that rounds where the file will, so that its weights learn to live with it."""

import keras
import numpy as np

from swin_keras.export import RECIPES, recipes, simulation, tflite, to_deploy
from swin_keras.export.bundle import MIGRATED_SAMPLES
from swin_keras.export.deploy import fixed_shape, in_float32
from swin_keras.export.migration import migrate
from swin_keras.layers.checks import is_number
from swin_keras.layers.quantized_graph import QuantizedGraph


def quantization_aware(model, recipe, calibration=None, momentum=0.99):
    """Makes a model to train for a recipe of integers.

    It computes what the recipe's .tflite file does, operator by operator: the file is made, and read. `fit` trains the weights of that file, which
    are the folded ones of the deploy graph, with straight-through gradients; `export_bundle` then writes the file with the ranges that training came
    to. There is no dropout and no stochastic depth.

    Args:
        model: Functional `keras.Model` of fixed size, trained. It stays as it is.
        recipe: `"dynamic_int4"`, `"dynamic_int8"`, `"hybrid_int8"`, `"full_int8"` or `"int16x8"`.
        calibration: Normalized float32 array `(n, height, width, channels)` of training pictures, some hundred, on which ranges of activations
            begin. For those recipes that fix ranges.
        momentum: Float from 0 to 1. Of the moving average of ranges, for each step. With 1 they stay.

    Returns:
        A float32 functional `keras.Model` with the same input and outputs, whose only layer is a `QuantizedGraph`. It is compiled and saved as any
        other.

    Raises:
        ValueError: If the model does not convert, has operators that `QuantizedGraph` does not know, or an argument does not fit.
    """
    if recipe not in recipes.INTEGER_RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(recipes.INTEGER_RECIPES)}. Received: recipe={recipe!r}.")
    if not is_number(momentum) or not 0 <= momentum <= 1:
        raise ValueError(f"`momentum` must be from 0 to 1. Received: momentum={momentum!r}.")
    shape = fixed_shape(model)
    if simulation.trained_graph(model) is not None:
        raise ValueError(
            f"Expected a model as it was before training for integers. Received: {model.name!r}, which rounds already. `fit` trains it on."
        )
    if RECIPES[recipe].calibrated:
        calibration = _check_pictures(calibration, shape, recipe)
    deploy = to_deploy(in_float32(model))
    if RECIPES[recipe].calibrated:
        migrate([deploy], calibration[:MIGRATED_SAMPLES])
    names = [f"output_{number}" for number in range(len(deploy.outputs))]
    plain = recipes.prepare(tflite.convert(deploy, names), recipe)
    ranges = recipes.find_ranges(plain, recipe, calibration) if RECIPES[recipe].calibrated else None
    graph, weights, limits = simulation.describe(plain, recipes.quantize(plain, recipe, ranges, learning=True), ranges)
    image = keras.Input(shape, dtype="float32", name=model.inputs[0].name)
    layer = QuantizedGraph({"recipe": recipe, **graph}, momentum, name="quantized_graph")
    outputs = layer(image)
    outputs = [outputs[index] for index in tflite.output_indices(plain, names)]
    for name, array in weights.items():
        layer.weight(name).assign(array)
    layer.ranges.assign(limits)
    return keras.Model(image, keras.tree.pack_sequence_as(model.output, outputs), name=model.name)


def _check_pictures(pictures, shape, recipe):
    expected = f"{recipe} needs `calibration`, a float array (n, {', '.join(map(str, shape))}) of normalized training pictures."
    if pictures is None:
        raise ValueError(f"{expected} Received: none.")
    pictures = np.asarray(pictures)
    if pictures.shape[1:] != shape or len(pictures) < 2 or pictures.dtype.kind != "f" or not np.isfinite(pictures).all():
        raise ValueError(
            f"{expected} Received: {pictures.dtype} {pictures.shape}"
            + (", with numbers that are not finite." if pictures.shape[1:] == shape else ".")
        )
    return pictures.astype("float32")
