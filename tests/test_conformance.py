"""Every promise about a layer, over every layer."""

import keras
import numpy as np
import pytest
from conftest import randomize
from descriptors import DESCRIPTORS

BATCH = 3


@pytest.fixture(params=DESCRIPTORS, ids=lambda descriptor: descriptor.name)
def descriptor(request):
    return request.param


def batch(descriptor, rng):
    return rng.standard_normal((BATCH, *descriptor.input_shape)).astype("float32")


def functional(descriptor, **kwargs):
    image = keras.Input(descriptor.input_shape)
    return keras.Model(image, descriptor.make(**kwargs)(image))


def test_every_public_layer_has_a_descriptor():
    import swin_keras.layers

    described = {type(descriptor.make()).__name__ for descriptor in DESCRIPTORS}
    assert described == set(swin_keras.layers.__all__)


def test_config_round_trip_makes_the_same_layer(descriptor, rng):
    layer = descriptor.make()
    twin = type(layer).from_config(layer.get_config())
    assert twin.get_config() == layer.get_config()
    x = batch(descriptor, rng)
    expected = layer(x)
    twin(x)
    twin.set_weights(layer.get_weights())
    np.testing.assert_array_equal(twin(x), expected)


def test_weights_are_all_trainable_and_as_many_as_described(descriptor, rng):
    layer = descriptor.make()
    layer(batch(descriptor, rng))
    assert len(layer.weights) == len(layer.trainable_weights) == descriptor.num_weights


def test_keras_file_reloads_with_the_same_output(descriptor, rng, tmp_path):
    model = randomize(functional(descriptor))
    model.save(tmp_path / "model.keras")
    x = batch(descriptor, rng)
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


def test_output_shape_is_the_one_announced_and_batch_is_free(descriptor, rng):
    model = functional(descriptor)
    assert model.output_shape[0] is None
    x = batch(descriptor, rng)
    assert model(x).shape == (BATCH, *model.output_shape[1:])
    assert model(x[:1]).shape == (1, *model.output_shape[1:])


def test_one_training_step_moves_every_weight(descriptor, rng):
    model = randomize(functional(descriptor))
    before = [weight.numpy() for weight in model.trainable_weights]
    model.compile(keras.optimizers.SGD(1.0), "mse")
    x = batch(descriptor, rng)
    model.fit(x, rng.standard_normal(model(x).shape), batch_size=BATCH, verbose=0)
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.all(np.isfinite(weight))
        if weight.path.endswith("qkv/bias"):
            # The bias of the keys does not change the output, so it has no gradient.
            assert np.any(np.split(weight.numpy() - old, 3)[0]) and np.any(np.split(weight.numpy() - old, 3)[2])
        else:
            assert np.any(weight.numpy() != old), weight.path


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_half_and_stays_near_float32(descriptor, rng, policy):
    x = batch(descriptor, rng)
    full = randomize(functional(descriptor))
    half = functional(descriptor, dtype=policy)
    half.set_weights(full.get_weights())
    assert all(weight.dtype == "float32" for weight in half.weights)
    assert keras.backend.standardize_dtype(half(x).dtype) == policy.removeprefix("mixed_")
    expected = np.asarray(full(x))
    received = np.asarray(keras.ops.cast(half(x), "float32"))
    np.testing.assert_allclose(received, expected, atol={"mixed_float16": 0.01, "mixed_bfloat16": 0.08}[policy] * np.abs(expected).max())


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_trains_without_nan(descriptor, rng, policy):
    model = functional(descriptor, dtype=policy)
    model.compile(keras.optimizers.SGD(1e-2), "mse")
    x = batch(descriptor, rng)
    history = model.fit(x, rng.standard_normal(model(x).shape), epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert all(np.all(np.isfinite(weight)) for weight in model.weights)


def test_xla_gives_the_same_output(descriptor, rng):
    import tensorflow as tf

    model = randomize(functional(descriptor))
    x = batch(descriptor, rng)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=True)
    np.testing.assert_allclose(compiled(x), model(x), rtol=1e-5, atol=1e-5)
