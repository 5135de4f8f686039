"""Runs on every Keras backend."""

import keras
import numpy as np
import pytest
from conftest import call
from keras.ops import convert_to_numpy

from swin_keras.layers.quantized_graph import QuantizedGraph, fake_quantize, round_weight


def integers(bits, **rule):
    return {"bits": bits, "symmetric": False, **rule}


def graph(rounding, source=None, shared=0):
    """One product of a picture (1, 1, 3, 5) with a kernel (5, 7) and a bias."""
    weights = {
        "kernel": {"shape": [5, 7], "trained": True, "bits": 8, "symmetric": True, "per_channel": True, "block": 0, "shared": shared},
        "bias": {"shape": [7], "trained": True, "bits": None, "shared": 0},
    }
    moved = {"kind": "RESHAPE", "name": "rows", "inputs": [0], "outputs": [1], "options": {"shape": [3, 5]}, "rounding": [None]}
    rounded = {"kind": "ROUND", "name": "rows", "inputs": [1], "outputs": [2], "options": {}, "rounding": [source]}
    product = {
        "kind": "FULLY_CONNECTED",
        "name": "product",
        "inputs": [2 if source else 1, {"weight": "kernel"}, {"weight": "bias"}],
        "outputs": [3],
        "options": {"shape": [3, 7], "activation": None},
        "rounding": [rounding],
        "source": source,
    }
    operators = [moved, *([rounded] if source else []), product]
    return {"operators": operators, "outputs": [3], "weights": weights, "ranges": [1, 3]}


@pytest.fixture
def drawn(rng):
    return (
        rng.standard_normal((2, 1, 3, 5)).astype("float32"),
        rng.standard_normal((5, 7)).astype("float32"),
        rng.standard_normal(7).astype("float32"),
    )


def build(description, drawn, ranges=((-3, 4), (-5, 6)), **kwargs):
    layer = QuantizedGraph(description, **kwargs)
    layer.build((None, 1, 3, 5))
    layer.weight("kernel").assign(drawn[1])
    layer.weight("bias").assign(drawn[2])
    if not layer.deployed:
        layer.ranges.assign(np.array(ranges, "float32"))
    return layer


def rounded(x, low, high, bits=8):
    """The arithmetic of TFLite's specification of asymmetric integers, in float64."""
    scale = (high - low) / (2**bits - 1)
    zero = np.rint(-(2 ** (bits - 1)) - low / scale)
    return (np.clip(np.rint(x / scale) + zero, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) - zero) * scale


def rounded_channels(kernel):
    scale = np.abs(kernel).max(0, keepdims=True) / 127
    return np.rint(kernel / scale) * scale


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_fake_quantize_gives_the_integers_of_a_range_and_cuts_off_what_is_beyond(rng, bits):
    x = np.append(rng.uniform(-3, 4, 95), [0.0, -9.0, 9.0]).astype("float32")
    received = convert_to_numpy(fake_quantize(x, -1.7, 2.9, bits, symmetric=False))
    np.testing.assert_allclose(received, rounded(x, -1.7, 2.9, bits), atol=1e-5 if bits == 16 else 1e-6)
    symmetric = convert_to_numpy(fake_quantize(x, -1.7, 2.9, bits, symmetric=True))
    scale = 2.9 / (2 ** (bits - 1) - 1)
    np.testing.assert_allclose(
        symmetric, np.clip(np.rint(x / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) * scale, atol=1e-5 if bits == 16 else 1e-6
    )


def test_a_weight_is_rounded_in_the_range_of_each_channel_or_block(rng):
    kernel = rng.standard_normal((12, 5)).astype("float32")
    tensor = keras.ops.convert_to_tensor(kernel)
    received = convert_to_numpy(round_weight(tensor, 8, symmetric=True, per_channel=True, block=0))
    np.testing.assert_allclose(received, rounded_channels(kernel), atol=1e-6)
    blocks = convert_to_numpy(round_weight(tensor, 4, symmetric=True, per_channel=False, block=4))
    for start in range(0, 12, 4):
        rows = kernel[start : start + 4]
        scale = np.abs(rows).max(0) / 7
        # As bfloat16 has 8 bits, so do the scales.
        assert np.all(np.abs(blocks[start : start + 4] - np.rint(rows / scale) * scale) <= 7 * scale / 256 + 1e-6)


def test_a_product_rounds_its_input_its_weights_its_bias_and_its_output(drawn):
    x, kernel, bias = drawn
    layer = build(graph(integers(8, range=1), source=integers(8, range=0)), drawn)
    scales = 7 / 255 * np.abs(kernel).max(0) / 127
    exact = rounded(x.reshape(2, 3, 5), -3, 4) @ rounded_channels(kernel) + np.rint(bias / scales) * scales
    np.testing.assert_allclose(convert_to_numpy(layer(x)[0]), rounded(exact, -5, 6), atol=1e-5)


def test_an_input_without_a_range_is_rounded_row_by_row(drawn):
    x, kernel, bias = drawn
    layer = build(graph(None, shared=1), drawn)
    rows = np.stack([rounded(row, min(row.min(), 0), max(row.max(), 0)) for row in x.reshape(6, 5).astype("float64")]).reshape(2, 3, 5)
    np.testing.assert_allclose(convert_to_numpy(layer(x)[0]), rows @ rounded_channels(kernel) + bias, atol=1e-5)


def test_the_deployed_form_rounds_nothing_and_trains_nothing(drawn):
    x, kernel, bias = drawn
    layer = build(graph(integers(8, range=1), source=integers(8, range=0)), drawn, deployed=True)
    received = convert_to_numpy(layer(x[:1])[0])
    np.testing.assert_allclose(received, x[0, 0] @ kernel + bias, atol=1e-6)
    assert received.shape == (3, 7) and layer.trainable_weights == []


def test_training_moves_ranges_towards_the_extremes_of_what_is_rounded_and_inference_does_not(drawn):
    x = drawn[0]
    layer = build(graph(integers(8, range=1), source=integers(8, range=0)), drawn, momentum=0.75)
    layer(x)
    np.testing.assert_array_equal(convert_to_numpy(layer.ranges), [[-3, 4], [-5, 6]])
    layer(x, training=True)
    np.testing.assert_allclose(convert_to_numpy(layer.ranges)[0], [0.75 * -3 + 0.25 * x.min(), 0.75 * 4 + 0.25 * x.max()], atol=1e-6)


def test_fit_trains_the_weights_through_the_rounding(drawn, rng):
    x, kernel, _ = drawn
    image = keras.Input((1, 3, 5))
    layer = QuantizedGraph(graph(integers(8, range=1), source=integers(8, range=0)))
    model = keras.Model(image, layer(image)[0])
    layer.weight("kernel").assign(kernel)
    layer.ranges.assign(np.array([[-3, 4], [-9, 9]], "float32"))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    target = rng.standard_normal((2, 3, 7))
    losses = model.fit(x, target, epochs=5, batch_size=2, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert all(np.any(convert_to_numpy(weight) != old) for weight, old in zip(layer.trainable_weights, (kernel, np.zeros(7)), strict=True))


def test_a_saved_model_reloads_with_the_same_output(drawn, tmp_path):
    x = drawn[0]
    image = keras.Input((1, 3, 5))
    layer = QuantizedGraph(graph(integers(8, range=1), source=integers(8, range=0)), momentum=0.9)
    model = keras.Model(image, layer(image)[0])
    layer.weight("kernel").assign(drawn[1])
    layer.ranges.assign(np.array([[-3, 4], [-9, 9]], "float32"))
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(convert_to_numpy(call(keras.models.load_model(tmp_path / "model.keras"), x)), convert_to_numpy(call(model, x)))


def test_the_root_of_what_was_rounded_to_zero_is_the_end_of_its_range_as_in_the_runtime(rng):
    product = {"kind": "MUL", "name": "m", "inputs": [0, {"weight": "w"}], "outputs": [1], "options": {}, "rounding": [integers(8, range=0)]}
    root = {"kind": "RSQRT", "name": "r", "inputs": [1], "outputs": [2], "options": {}, "rounding": [integers(8, range=1)]}
    weights = {"w": {"shape": [5], "trained": True, "bits": None, "shared": 0}}
    image = keras.Input((1, 3, 5))
    layer = QuantizedGraph({"operators": [product, root], "outputs": [2], "weights": weights, "ranges": [1, 2]}, momentum=0.5)
    model = keras.Model(image, layer(image)[0])
    layer.weight("w").assign(np.ones(5, "float32"))
    layer.ranges.assign(np.array([[0, 4], [0, 6]], "float32"))
    x = rng.uniform(0.5, 4, (2, 1, 3, 5)).astype("float32")
    x[0, 0, 1, 2] = 0.001
    assert abs(convert_to_numpy(call(model, x))[0, 0, 1, 2] - 6) < 1e-5
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    model.fit(x, np.ones_like(x), epochs=2, verbose=0)
    assert all(np.isfinite(convert_to_numpy(weight)).all() for weight in layer.weights) and convert_to_numpy(layer.ranges)[1, 1] == 6
