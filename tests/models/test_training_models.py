"""Whole models in training: gradient checkpointing, half precision."""

import keras
import numpy as np
import pytest
from conftest import dtype_policy, randomize

import swin_keras

NANO = "swin_nano_patch4_window4_32"
ROWS = {"V1": NANO, "V2": "swinv2_tiny_patch4_window8_256"}
SMALL = {"input_shape": (33, 47, 3), "embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3), "window_size": (3, 4), "num_classes": 5}
RATES = {"drop_rate": 0.2, "attention_drop_rate": 0.3, "drop_path_rate": 0.4}


def trained_once(version, x, seed=3, **overrides):
    """The weights of a model after one step of plain gradient descent: its gradient."""
    keras.utils.set_random_seed(seed)
    model = randomize(swin_keras.create_model(ROWS[version], **{**SMALL, **overrides}))
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.array([0, 3, 4]), verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("size", [(33, 47), (None, None)], ids=["static", "unknown size"])
@pytest.mark.parametrize("version", ROWS)
def test_gradient_checkpointing_gives_the_same_gradient_with_dropout(version, size, rng):
    x = rng.standard_normal((3, 33, 47, 3)).astype("float32")
    plain = trained_once(version, x, **RATES, input_shape=(*size, 3))
    checkpointed = trained_once(version, x, **RATES, input_shape=(*size, 3), gradient_checkpointing=True)
    for expected, received in zip(plain, checkpointed, strict=True):
        np.testing.assert_allclose(received, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))


def test_the_gradient_depends_on_the_draws_that_checkpointing_must_repeat(rng):
    x = rng.standard_normal((3, 33, 47, 3)).astype("float32")
    for rate in RATES:
        first, second = (trained_once("V1", x, seed=seed, **{rate: RATES[rate]}) for seed in (3, 4))
        assert max(np.abs(a - b).max() for a, b in zip(first, second, strict=True)) > 1e-3, rate


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX replays the traced computation, not the Python function")
def test_gradient_checkpointing_computes_each_block_twice(rng, monkeypatch):
    calls = []
    original = swin_keras.layers.MLP.call
    monkeypatch.setattr(swin_keras.layers.MLP, "call", lambda self, *args, **kwargs: calls.append(self) or original(self, *args, **kwargs))
    counts = []
    for checkpointing in (False, True):
        model = swin_keras.create_model(NANO, **SMALL, gradient_checkpointing=checkpointing)
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=True)
        calls.clear()
        model.train_on_batch(rng.standard_normal((3, 33, 47, 3)), np.array([0, 3, 4]))
        counts.append(len(calls))
    assert counts[1] - counts[0] == 3  # the blocks of SMALL


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="others sum one after the other")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("variant", [*ROWS.values(), "swin_mlp_tiny_c24_patch4_window8_256"])
def test_no_gradient_is_a_sum_of_more_than_two_whose_order_tensorflow_leaves_open(variant, checkpointing):
    import tensorflow as tf

    rates = {"drop_rate": 0.2} if "mlp" in variant else RATES
    model = swin_keras.create_model(variant, **SMALL, **rates, gradient_checkpointing=checkpointing)

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            y = model(x, training=True)
        return tape.gradient(y, [weight.value for weight in model.trainable_weights])

    graph = step.get_concrete_function(tf.TensorSpec((3, 33, 47, 3))).graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    terms = [node.attr["N"].i for node in nodes if node.op == "AddN"]
    assert terms and max(terms) == 2


def test_inference_is_the_same_with_gradient_checkpointing(rng):
    x = rng.standard_normal((3, 33, 47, 3)).astype("float32")
    plain, checkpointed = (randomize(swin_keras.create_model(NANO, **SMALL, gradient_checkpointing=value)) for value in (False, True))
    np.testing.assert_array_equal(plain.predict(x, verbose=0), checkpointed.predict(x, verbose=0))


@pytest.mark.parametrize("policy", [pytest.param("mixed_bfloat16", marks=pytest.mark.slow), "mixed_float16"])
@pytest.mark.parametrize("version", ROWS)
def test_many_steps_in_half_precision_stay_finite_and_learn(version, policy, rng):
    # PyTorch has no fast products of half precision for most CPUs: there a step takes 1.5 s, and few must do.
    few = keras.backend.backend() == "torch"
    keras.utils.set_random_seed(0)
    with dtype_policy(policy):
        model = swin_keras.create_model(ROWS[version], **{**SMALL, **RATES, "drop_rate": 0.05})
    assert model.get_layer("layers_0_blocks_1").compute_dtype == policy.removeprefix("mixed_")
    # Pictures of five patterns in noise.
    classes = rng.integers(0, 5, 64)
    x = (rng.standard_normal((5, 33, 47, 3))[classes] + 0.5 * rng.standard_normal((64, 33, 47, 3))).astype("float32")
    model.compile(keras.optimizers.AdamW(2e-3, weight_decay=0.05), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    losses = model.fit(x, classes, batch_size=8, epochs=2 if few else 25, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses))
    assert all(np.all(np.isfinite(weight)) for weight in model.get_weights())
    assert losses[-1] < losses[0] if few else losses[-1] < 0.3 < 1.0 < losses[0], losses


@pytest.mark.parametrize(("policy", "tolerance"), [("mixed_bfloat16", 0.005), ("mixed_float16", 0.001)])
def test_attention_at_the_largest_logit_scale_is_near_float32_in_half_precision(policy, tolerance, rng):
    # With cosines rounded to half precision the weights are wrong by 0.012 in bfloat16 and 0.002 in float16.
    x = keras.ops.convert_to_numpy(keras.ops.cast(rng.standard_normal((4, 16, 8)), "bfloat16")).astype("float32")
    attention = []
    for dtype in ("float32", policy):
        layer = swin_keras.layers.WindowAttentionV2(window_size=4, num_heads=2, qkv_bias=False, return_attention=True, dtype=dtype)
        layer(x)
        randomize(layer)
        layer.logit_scale.assign(np.full((2, 1, 1), 9.0))
        layer.qkv.kernel.assign(np.concatenate([np.eye(8)] * 3, axis=1))
        attention.append(keras.ops.convert_to_numpy(keras.ops.cast(layer(x)[1], "float32")))
    assert np.abs(attention[1] - attention[0]).max() < tolerance
