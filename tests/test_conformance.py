"""Every promise about a layer, over every layer. Runs on every Keras backend."""

import keras
import numpy as np
import pytest
from conftest import call, randomize
from descriptors import DESCRIPTORS
from keras.ops import convert_to_numpy

from swin_keras import layers

BATCH = 3


@pytest.fixture(params=DESCRIPTORS, ids=lambda descriptor: descriptor.name)
def descriptor(request):
    return request.param


def batch(descriptor, rng):
    return rng.standard_normal((BATCH, *descriptor.input_shape)).astype("float32")


def functional(descriptor, input_shape=None, **kwargs):
    keras.utils.set_random_seed(0)  # of three samples, stochastic depth now and then drops all
    image = keras.Input(input_shape or descriptor.input_shape)
    return keras.Model(image, descriptor.make(**kwargs)(image))


def arrays(outputs):
    """One array or several, as a list of float32 arrays."""
    return [convert_to_numpy(keras.ops.cast(output, "float32")) for output in keras.tree.flatten(outputs)]


def assert_equal(received, expected, atol=0.0):
    for r, e in zip(arrays(received), arrays(expected), strict=True):
        np.testing.assert_allclose(r, e, rtol=atol, atol=atol)


def fit(model, x, rng, **kwargs):
    targets = [rng.standard_normal(output.shape) for output in keras.tree.flatten(model(keras.Input(batch_shape=x.shape)))]
    return model.fit(x, targets if len(targets) > 1 else targets[0], batch_size=BATCH, verbose=0, **kwargs)


def test_every_public_layer_has_a_descriptor():
    described = {type(descriptor.make()).__name__ for descriptor in DESCRIPTORS}
    assert described == set(layers.__all__)


def test_config_round_trip_makes_the_same_layer(descriptor, rng):
    layer = descriptor.make()
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    x = batch(descriptor, rng)
    expected = layer(x)
    twin(x)
    twin.set_weights(layer.get_weights())
    assert_equal(twin(x), expected)


def test_weights_are_all_trainable_and_as_many_as_described(descriptor, rng):
    layer = descriptor.make()
    layer(batch(descriptor, rng))
    assert len(layer.weights) == len(layer.trainable_weights) == descriptor.num_weights


def test_keras_file_reloads_with_the_same_output(descriptor, rng, tmp_path):
    model = randomize(functional(descriptor))
    model.save(tmp_path / "model.keras")
    x = batch(descriptor, rng)
    assert_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_output_shape_is_the_one_announced_and_batch_is_free(descriptor, rng):
    model = functional(descriptor)
    x = batch(descriptor, rng)
    for announced, output, single in zip(keras.tree.flatten(model.outputs), arrays(model(x)), arrays(call(model, x[:1])), strict=True):
        assert announced.shape[0] is None
        assert output.shape[1:] == single.shape[1:] == announced.shape[1:]
        assert len(output) == BATCH * len(single)


@pytest.mark.parametrize("descriptor", [d for d in DESCRIPTORS if d.any_size], ids=lambda descriptor: descriptor.name)
def test_unknown_height_and_width_give_the_same_output(descriptor, rng):
    static = randomize(functional(descriptor))
    free = functional(descriptor, (None, None, descriptor.input_shape[-1]))
    free.set_weights(static.get_weights())
    x = batch(descriptor, rng)
    assert_equal(free(x), static(x), atol=1e-6)
    assert_equal(free.predict(x, verbose=0), static(x), atol=1e-5)


def test_another_rank_or_channel_count_is_refused_with_both_numbers(descriptor, rng):
    layer = descriptor.make()
    *grid, channels = descriptor.input_shape
    with pytest.raises(ValueError, match=r"expected (min_)?ndim=\d, found ndim=1"):
        layer(np.zeros(channels, "float32"))
    layer(batch(descriptor, rng))
    with pytest.raises(
        ValueError, match=rf"expected (axis -1|shape).*{channels}.*received.*{channels + 1}|expected shape=.*{channels}.*{channels + 1}"
    ):
        layer(np.zeros((BATCH, *grid, channels + 1), "float32"))


def test_a_layer_of_a_fixed_grid_refuses_another_one(descriptor, rng):
    layer = descriptor.make()
    layer(batch(descriptor, rng))
    *grid, channels = descriptor.input_shape
    other = np.zeros((BATCH, *grid[::-1], channels), "float32") if len(grid) == 2 else np.zeros((BATCH, grid[0] + 1, channels), "float32")
    if not isinstance(layer, (layers.MLP, layers.PatchEmbedding, layers.PatchMerging, layers.PatchMergingV2, layers.PixelShuffle)):
        with pytest.raises(ValueError, match="incompatible with the layer: expected shape="):
            layer(other)
    else:
        layer(other)


def test_one_training_step_moves_every_weight(descriptor, rng):
    model = randomize(functional(descriptor))
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), "mse")
    fit(model, batch(descriptor, rng), rng)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        change = convert_to_numpy(weight) - old
        assert np.all(np.isfinite(change))
        if weight.path.endswith("qkv/bias"):
            # The bias of the keys does not change the output, so it has no gradient.
            assert np.any(np.split(change, 3)[0]) and np.any(np.split(change, 3)[2])
        else:
            assert np.any(change), weight.path


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_stays_near_float32(descriptor, rng, policy):
    x = batch(descriptor, rng)
    full = randomize(functional(descriptor))
    half = functional(descriptor, dtype=policy)
    half.set_weights(full.get_weights())
    assert all(weight.dtype == "float32" for weight in half.weights)
    outputs = call(half, x)
    assert {keras.backend.standardize_dtype(output.dtype) for output in keras.tree.flatten(outputs)} == {policy.removeprefix("mixed_")}
    for received, expected in zip(arrays(outputs), arrays(full(x)), strict=True):
        np.testing.assert_allclose(received, expected, atol={"mixed_float16": 0.01, "mixed_bfloat16": 0.08}[policy] * np.abs(expected).max())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_without_nan(descriptor, rng, policy):
    model = functional(descriptor, dtype=policy)
    model.compile(keras.optimizers.SGD(1e-2), "mse")
    history = fit(model, batch(descriptor, rng), rng, epochs=2)
    assert np.all(np.isfinite(history.history["loss"]))
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX compiles everything; PyTorch has no XLA here")
def test_xla_gives_the_same_output(descriptor, rng):
    import tensorflow as tf

    model = randomize(functional(descriptor))
    x = batch(descriptor, rng)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    assert_equal(compiled(x), model(x), atol=1e-5)
