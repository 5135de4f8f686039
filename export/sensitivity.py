"""Which operators lose the most when they are quantized, measured; and which to leave in float32 so that accuracy stays within a budget."""

import numpy as np
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import tflite
from swin_keras.export.recipes import RECIPES, quantize
from swin_keras.export.verify import VerificationError

# Noise is measured on this many of the calibration pictures: it takes a run of the model for each picture and operator.
PICTURES = 8
_PRODUCTS = ("FULLY_CONNECTED", "BATCH_MATMUL", "CONV_2D")


def products(model):
    """Returns the names of the matrix products of a .tflite file, as `tflite.operators` gives them, with short ones: block and product."""
    return {name: short_name(name) for name, kind in tflite.operators(model) if kind in _PRODUCTS}


def short_name(name):
    """`"model_1/layers_0_blocks_1_1/qkv/MatMul;...;"` becomes `"layers_0_blocks_1/qkv"`."""
    path = name.split(";")[0].split("/")[:-1]
    # Keras adds a number to the name of a layer that is called for the second time, as the deploy graph's are when it is traced.
    layers = [part.removesuffix("_1") for part in path]
    return "/".join(layers[1:]) or "output"  # Converters rename what the model gives.


def product_errors(float32_model, quantized_model, pictures):
    """Compares the output of each matrix product of two files: how noise builds up along the network.

    Args:
        float32_model, quantized_model: Bytes.
        pictures: Normalized float32 array `(n, height, width, channels)`.

    Returns:
        Dictionary from the short name of a product to its SNR in decibels, in order of execution.
    """
    names = {name.removesuffix(";"): short for name, short in products(float32_model).items()}
    signal, noise = dict.fromkeys(names.values(), 0.0), dict.fromkeys(names.values(), 0.0)
    for expected, received in zip(*(tflite.run_with_all_tensors(model, pictures, names) for model in (float32_model, quantized_model)), strict=True):
        for tensor in expected.keys() & received.keys():
            signal[names[tensor]] += float(np.square(expected[tensor], dtype="float64").sum())
            noise[names[tensor]] += float(np.square(expected[tensor] - received[tensor], dtype="float64").sum())
    return {short: min(300.0, 10 * np.log10(signal[short] / noise[short])) for short in signal if noise[short] > 0 and signal[short] > 0}


def measure(float32_model, recipe, ranges, pictures):
    """Quantizes each unit by itself and measures the noise in the model's outputs.

    A unit is a matrix product, and where the recipe has everything in integers also what else a layer does.

    Args:
        float32_model: Bytes.
        recipe: Key of `RECIPES`.
        ranges: Those of `find_ranges`, or `None`.
        pictures: Normalized float32 array `(n, height, width, channels)`.

    Returns:
        Dictionary from the short name of a unit to the names of its operators and its noise over signal power, the noisiest first.
    """
    named = tflite.operators(float32_model)
    units = {}
    for name, kind in named:
        if kind in _PRODUCTS or RECIPES[recipe].everything:
            units.setdefault(short_name(name), []).append(name)
    reference = _outputs(float32_model, pictures)
    power = sum(float(np.square(output).sum()) for output in reference)
    noises = {}
    for short, members in units.items():
        content = quantize(float32_model, recipe, ranges, keep_float=[name for name, _ in named if name not in members])
        noises[short] = sum(float(np.square(a - b).sum()) for a, b in zip(reference, _outputs(content, pictures), strict=True)) / power
    return {short: (units[short], noise) for short, noise in sorted(noises.items(), key=lambda item: -item[1]) if noise > 0}


def choose(float32_model, recipe, ranges, pictures, loss, budget, log=lambda line: None):
    """Leaves as few operators in float32 as it takes for the loss to stay within the budget, the noisiest first.

    Args:
        float32_model, recipe, ranges, pictures: As in `measure`.
        loss: Function of a file, as bytes, that returns a number.
        budget: The largest loss allowed.
        log: Function that is called with a line of progress.

    Returns:
        The file, as bytes, and the short names of what stays in float32.

    Raises:
        VerificationError: If even all in float32 is over the budget.
    """
    budget += 1e-9  # 100 * (1 - 0.975) is more than 2.5
    content = quantize(float32_model, recipe, ranges)
    lost = loss(content)
    if lost <= budget:
        return content, []
    log(f"{recipe}: loses {lost:.2f} points, more than {budget:g}; measuring which operators that comes from")
    units = measure(float32_model, recipe, ranges, pictures[:PICTURES])
    shorts = list(units)

    def attempt(count):
        keep = [name for short in shorts[:count] for name in units[short][0]]
        content = quantize(float32_model, recipe, ranges, keep_float=keep)
        return content, loss(content)

    # The loss does not fall strictly with each operator, so this finds a small number, not always the smallest.
    low, high = 0, len(shorts)
    content, lost = attempt(high)
    if lost > budget:
        raise VerificationError(f"{recipe} loses {lost:.2f} points with every operator in float32, more than the budget of {budget:g}.")
    while high - low > 1:
        middle = (low + high) // 2
        candidate, lost = attempt(middle)
        if lost <= budget:
            high, content = middle, candidate
        else:
            low = middle
    log(f"{recipe}: {high} of {len(shorts)} stay in float32: {', '.join(shorts[:high])}")
    return content, shorts[:high]


def _outputs(content, pictures):
    model = TFLiteModel(content)
    rows = [[output.astype("float64") for output in model.outputs(picture[None])] for picture in pictures]
    return [np.stack(column) for column in zip(*rows, strict=True)]
