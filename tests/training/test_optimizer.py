import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDENS, dtype_policy, randomize

import swin_keras
from swin_keras.models import create_simmim
from swin_keras.training.optimizer import (
    AdamW,
    LossScaleOptimizer,
    decayed,
    freeze,
    learning_rate_schedule,
    make_optimizer,
    moving_averages,
    stage_depths,
)
from swin_keras.weights.variables import official_variables

GOLDEN = json.loads((GOLDENS / "schedules.json").read_text())
SIZES = {"embed_dim": 8, "depths": (2, 1, 3), "num_heads": (1, 2, 4), "window_size": 3, "absolute_position_embedding": True}
FAMILIES = {"swin": "swin_tiny_patch4_window7_224", "swinv2": "swinv2_tiny_patch4_window8_256", "swin_mlp": "swin_mlp_tiny_c24_patch4_window8_256"}


def recipe(**settings):
    plain = {"epochs": 3, "batch_size": 8, "learning_rate": 0.03, "warmup_learning_rate": 0.0, "min_learning_rate": 0.0, "learning_rate_batch": None}
    plain |= {"warmup_epochs": 0, "schedule": "cosine", "milestones": (), "milestone_factor": 0.1, "weight_decay": 0.3, "clip_norm": None}
    plain |= {"layer_decay": None, "ema_momentum": None, "accumulation_steps": 1, "precision": "float32"}
    return types.SimpleNamespace(**{**plain, **settings})


def swin(family="swin", **overrides):
    return randomize(swin_keras.create_model(FAMILIES[family], input_shape=(48, 48, 3), num_classes=7, **{**SIZES, **overrides}))


def dense(*names):
    """A small model: its layers are named, its weights random, and its loss has a gradient in each."""
    keras.utils.set_random_seed(3)
    return keras.Sequential([keras.Input((5,)), *(keras.layers.Dense(width, name=name) for width, name in zip((4, 3, 2), names, strict=False))])


def batches(count, size=4):
    rng = np.random.default_rng(1)
    return [(rng.standard_normal((size, 5)).astype("float32"), rng.standard_normal((size, 2)).astype("float32")) for _ in range(count)]


def train(model, optimizer, data):
    """Runs the steps of a training by hand."""
    optimizer.build(model.trainable_variables)
    for x, y in data:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True) - y))
        optimizer.apply_gradients(zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True))


def close(model, other, tolerance=1e-6):
    return all(np.allclose(a, b, rtol=0, atol=tolerance) for a, b in zip(model.get_weights(), other.get_weights(), strict=True))


@pytest.mark.parametrize("name", GOLDEN["schedules"])
def test_learning_rates_are_those_of_the_official_scheduler(name):
    golden = dict(GOLDEN["schedules"][name])
    at, rates, steps = golden.pop("at"), golden.pop("rates"), golden.pop("steps_per_epoch")
    schedule = learning_rate_schedule(recipe(**golden, learning_rate_batch=512, milestones=(700,)), steps)
    again = keras.optimizers.schedules.deserialize(keras.optimizers.schedules.serialize(schedule))
    # float32 rounds the fraction of the way, of which a small rest is left at the end.
    np.testing.assert_allclose([float(schedule(tf.constant(step))) for step in at], rates, rtol=1e-5, atol=1e-7 * max(rates))
    assert [float(again(step)) for step in at] == [float(schedule(step)) for step in at]


def test_the_schedule_counts_updates_as_the_official_loop_does_one_later():
    steps = recipe(epochs=4, learning_rate=3e-2 / 16, warmup_learning_rate=2e-3 / 16, min_learning_rate=1e-3 / 16, warmup_epochs=1)
    steps.learning_rate_batch, steps.accumulation_steps = 1, 2
    optimizer = make_optimizer(steps, dense("a"), steps_per_epoch=6)
    weight, rates = keras.Variable([1.0]), []
    for _ in range(24):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([tf.zeros(1)], [weight])
    assert rates[::2] == rates[1::2]
    np.testing.assert_allclose(rates[::2][:-1], GOLDEN["accumulated"][1:], rtol=1e-5)


def test_an_epoch_without_an_update_is_refused():
    with pytest.raises(ValueError, match=r"at most the 3 steps of an epoch. Received: accumulation_steps=4"):
        learning_rate_schedule(recipe(accumulation_steps=4), 3)


@pytest.mark.parametrize(("family", "layer_decay"), [("swin", 0.8), ("swinv2", 0.8), ("swin_mlp", None)])
def test_decay_and_learning_rate_of_each_variable_are_the_official_ones(family, layer_decay):
    model, golden = swin(family), GOLDEN["parameters"][family]
    variables = official_variables(model)
    assert set(variables) == set(golden)
    assert {name for name, variable in variables.items() if any(variable is v for v in decayed(model))} == {
        name for name, (decays, _) in golden.items() if decays
    }
    optimizer = make_optimizer(recipe(layer_decay=layer_decay), model, 10)
    before = {name: variable.numpy() for name, variable in variables.items()}
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    for name, (decays, scale) in golden.items():
        rate = 0.03 * (1.0 if layer_decay is None else scale)
        expected = before[name] * (1 - rate * 0.3 * decays) - rate  # Adam's first step is the rate itself.
        np.testing.assert_allclose(variables[name], expected, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize(("family", "name"), [("swin", "simmim"), ("swinv2", "simmim_v2")])
def test_pretraining_decays_what_the_official_code_does_but_for_the_names_that_it_misses(family, name):
    sizes = {**SIZES, "pretrained_window_sizes": None} if family == "swinv2" else SIZES
    model = create_simmim(FAMILIES[family], input_shape=(48, 48, 3), **sizes)
    official = {key.removeprefix("encoder.") for key, (decays, _) in GOLDEN["parameters"][name].items() if decays}
    ours = {key for key, variable in official_variables(model).items() if any(variable is v for v in decayed(model))}
    assert "mask_token" not in ours and ours < official
    missed = ("relative_position_bias_table", "logit_scale", "cpb_mlp.0.weight", "cpb_mlp.2.weight")
    assert official - ours == {key for key in official if key.endswith(missed)}


def test_layers_of_the_users_own_around_a_backbone_decay_by_rank_and_name():
    backbone = swin_keras.create_backbone(
        FAMILIES["swinv2"], input_shape=(48, 48, 3), out_stages=["stage2"], **{**SIZES, "depths": (1, 1), "num_heads": (1, 2)}
    )
    x = keras.layers.EinsumDense("bhwc,cde->bhwde", (None, None, 3, 4), bias_axes="de", name="bias_of_rank_two")(backbone(backbone.input)["stage2"])
    model = keras.Model(backbone.input, keras.layers.LayerNormalization(name="own_norm")(x))
    decays = [v.path for v in decayed(model)]
    assert [path for path in decays if "layers_" not in path] == ["patch_embed/proj/kernel", "bias_of_rank_two/kernel"]
    assert {path.split("/", 1)[1] for path in decays if "blocks" in path} == {
        f"{part}/kernel" for part in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2")
    }


@pytest.mark.parametrize(("jit", "parts"), [(False, [1]), (True, [1.5, 0.2, 1.3])])
def test_steps_are_those_of_torch(jit, parts):
    start, steps = GOLDEN["adamw"]["start"], GOLDEN["adamw"]["steps"]
    variables = []
    for layer, leaf in [("layers_2_blocks_0", "kernel"), ("head", "bias")]:
        with keras.name_scope(layer):
            variables.append(keras.Variable(np.array(start[leaf], "float32"), name=leaf))
    optimizer = AdamW(0.01, weight_decay=0.3, layer_decay=0.8, depths=(2, 1, 3), clip_norm=2.0, accumulation_steps=len(parts))
    optimizer.build(variables)
    apply = tf.function(optimizer.apply, jit_compile=jit)
    for step in steps:
        for part in parts:
            apply([part * tf.constant(step["kernel_gradient"]), part * tf.constant(step["bias_gradient"])])
        for variable, leaf in zip(variables, ("kernel", "bias"), strict=True):
            np.testing.assert_allclose(variable, step[leaf], rtol=0, atol=3e-7)


def test_accumulated_steps_are_one_step_on_all_their_pictures():
    data = batches(6)
    settings = recipe(epochs=2, clip_norm=0.05, ema_momentum=0.9, layer_decay=0.8, min_learning_rate=0.01, learning_rate=0.05)
    large, small = (dense("layers_0_blocks_0", "layers_1_blocks_0", "head") for _ in range(2))
    whole = make_optimizer(settings, large, 2)
    train(large, whole, [tuple(np.concatenate(parts) for parts in zip(*data[i : i + 3], strict=True)) for i in (0, 3)])
    settings.accumulation_steps = 3
    parts = make_optimizer(settings, small, 6)
    train(small, parts, data[:5])
    assert int(parts.iterations) == 1 and not close(small, large)
    train(small, parts, data[5:])
    assert int(parts.iterations) == 2 and close(small, large)
    for (_, average), (_, other) in zip(moving_averages(parts, small), moving_averages(whole, large), strict=True):
        np.testing.assert_allclose(average, other, rtol=0, atol=1e-6)


def test_fit_leaves_the_average_of_the_weights_in_the_model():
    model, seen = dense("a", "b", "c"), []
    model.compile(AdamW(0.1, ema_momentum=0.75), "mse")
    x, y = (np.concatenate(parts) for parts in zip(*batches(3), strict=True))
    record = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: seen.append(model.get_weights()))
    model.fit(x, y, batch_size=4, verbose=0, callbacks=[record])
    for first, second, third, final in zip(*seen, model.get_weights(), strict=True):
        np.testing.assert_allclose(final, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third, rtol=0, atol=1e-6)
    assert moving_averages(AdamW(), model) == []


def test_a_model_of_no_update_keeps_its_weights():
    model, start = dense("a", "b", "c"), dense("a", "b", "c")
    optimizer = AdamW(0.1, ema_momentum=0.75, accumulation_steps=3)
    train(model, optimizer, batches(2))
    optimizer.finalize_variable_values(model.trainable_variables)
    assert close(model, start, 0)


# Each of these is a reason for a class of our own, as are those of the test with replicas below. Where one fails, Keras may do.


def test_keras_adds_epsilon_before_the_correction_of_the_bias():
    theirs, ours = keras.Variable([1.0]), keras.Variable([1.0])
    keras.optimizers.AdamW(0.01, weight_decay=0.0, epsilon=1e-8).apply([tf.constant([1e-7])], [theirs])
    AdamW(0.01).apply([tf.constant([1e-7])], [ours])
    # By hand, after one step: the corrected root of the velocity is the gradient, 1e-7; the correction is the root of 0.001.
    np.testing.assert_allclose(1 - theirs.numpy(), 0.01 * 1e-7 / (1e-7 + 1e-8 / 0.001**0.5), rtol=1e-3)
    np.testing.assert_allclose(1 - ours.numpy(), 0.01 * 1e-7 / (1e-7 + 1e-8), rtol=1e-3)


def test_keras_asks_the_schedule_and_averages_the_weights_by_steps_instead_of_updates():
    weight = keras.Variable([1.0, 2.0])
    settings = {"gradient_accumulation_steps": 2, "use_ema": True, "ema_momentum": 0.5}
    optimizer = keras.optimizers.AdamW(keras.optimizers.schedules.CosineDecay(0.1, 4), **settings)
    for _ in range(4):
        optimizer.apply([tf.ones(2)], [weight])
    assert int(optimizer.iterations) == 2 and float(optimizer.learning_rate) == pytest.approx(0)
    (average,) = (v for v in optimizer.variables if v.path.endswith("average"))
    value, before = weight.numpy(), average.numpy()
    optimizer.apply([tf.ones(2)], [weight])
    np.testing.assert_allclose(average, (before + value) / 2)
    assert np.array_equal(weight, value) and not np.allclose(average, before)


def test_keras_forgets_by_saving_what_is_excluded_from_weight_decay():
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    again = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    results = []
    for one in (optimizer, again):
        kernel = keras.Variable([1.0], name="kernel")
        one.apply([tf.zeros(1)], [kernel])
        results.append(float(kernel[0]))
    assert results == pytest.approx([1.0, 0.95])


def test_a_saved_model_trains_on_as_before(tmp_path):
    data = batches(5)
    settings = recipe(accumulation_steps=2, ema_momentum=0.9, layer_decay=0.8, clip_norm=1.0, milestones=(1,), schedule="multistep")
    model = dense("layers_0_blocks_0", "layers_1_blocks_0", "head")
    optimizer = make_optimizer(settings, model, 4)
    model.compile(optimizer, "mse")
    train(model, optimizer, data[:3])  # in the middle of an update
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == optimizer.get_config() and isinstance(again.optimizer, AdamW)
    model.save_weights(tmp_path / "epoch.weights.h5")
    third = dense("layers_0_blocks_0", "layers_1_blocks_0", "head")
    third.compile(make_optimizer(settings, third, 4), "mse")
    third.optimizer.build(third.trainable_variables)
    third.load_weights(tmp_path / "epoch.weights.h5")
    train(model, optimizer, data[3:])
    for other in (again, third):
        train(other, other.optimizer, data[3:])
        assert close(other, model, 0) and int(other.optimizer.iterations) == 2
        assert all(np.array_equal(a, b) for a, b in zip(other.optimizer.variables, optimizer.variables, strict=True))


def test_half_precision_skips_steps_that_overflow_and_keeps_all_the_rest(tmp_path):
    settings = recipe(accumulation_steps=2, ema_momentum=0.9, clip_norm=0.05, precision="mixed_float16")
    with dtype_policy("mixed_float16"):
        model = dense("a", "b", "c")
    optimizer = make_optimizer(settings, model, 4)
    optimizer.build(model.trainable_variables)
    model.compile(optimizer, "mse")
    assert model.optimizer is optimizer
    start, scale = model.get_weights(), optimizer.initial_scale
    zeros = [tf.zeros(v.shape) for v in model.trainable_variables]
    optimizer.apply([tf.fill(zeros[0].shape, np.inf), *zeros[1:]])
    assert float(optimizer.dynamic_scale) == scale / 2
    optimizer.apply(zeros)
    assert int(optimizer.iterations) == 0
    optimizer.apply(zeros)
    assert int(optimizer.iterations) == 1
    for before, variable in zip(start, model.trainable_variables, strict=True):
        np.testing.assert_allclose(variable, before * (1 - 0.03 * 0.3 * (before.ndim > 1)), rtol=1e-6)
    # The weights decayed to these: their average begins there.
    assert all(np.array_equal(weight, average) for weight, average in moving_averages(optimizer, model))
    before = model.get_weights()
    optimizer.apply([float(optimizer.dynamic_scale) * tf.ones(v.shape) for v in model.trainable_variables])
    optimizer.apply([float(optimizer.dynamic_scale) * tf.ones(v.shape) for v in model.trainable_variables])
    momentum = next(v for v in optimizer.variables if v.path.endswith("momentum"))
    size = sum(weight.size for weight in before)
    np.testing.assert_allclose(momentum, np.full(momentum.shape, 0.1 * 0.05 / size**0.5), rtol=1e-5)  # clipped, unscaled
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(again, LossScaleOptimizer) and again.get_config() == optimizer.get_config()


def test_variables_without_a_gradient_stay_and_are_named():
    model = dense("a", "b", "c")
    before = model.get_weights()
    optimizer = AdamW(0.1)
    gradients = [None, *(tf.ones(v.shape) for v in model.trainable_variables[1:])]
    with pytest.warns(UserWarning, match="does not depend on .*/a/kernel"):
        optimizer.apply(gradients, model.trainable_variables)
    assert [np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)] == [True, *[False] * 5]
    with pytest.raises(ValueError, match="Received: no gradient at all"):
        optimizer.apply([None] * 6)
    with pytest.raises(ValueError, match=r"Received: .*/strange/kernel. Make a new optimizer"):
        optimizer.apply([tf.ones((5, 4))], [dense("strange").trainable_variables[0]])


def test_constraints_of_the_users_own_layers_hold():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3, kernel_constraint=keras.constraints.NonNeg())])
    AdamW(0.1).apply([tf.ones((5, 3)), tf.ones((3,))], model.trainable_variables)
    kernel, bias = model.get_weights()
    assert kernel.min() == 0 and bias.max() < 0


def test_what_cannot_be_optimized_is_refused():
    with dtype_policy("bfloat16"):
        model = dense("a")
    with pytest.raises(ValueError, match=r"Received: .*/a/kernel in another type. Build the model under a mixed policy"):
        AdamW().build(model.trainable_variables)
    with pytest.raises(ValueError, match=r"`depths` must be the blocks of each stage. Received: depths=\(\)"):
        make_optimizer(recipe(layer_decay=0.8), model, 10)


@pytest.mark.parametrize("frozen", [0, 2])
def test_freezing_leaves_patch_embedding_and_first_stages_as_they_are(frozen):
    model = swin()
    freeze(model, frozen)
    still = {v.path.split("/")[0] for v in model.non_trainable_variables if "seed" not in v.path}
    expected = {"patch_embed", "absolute_pos_embed"}
    if frozen:
        expected |= {"layers_0_blocks_0", "layers_0_blocks_1", "layers_0_downsample", "layers_1_blocks_0", "layers_1_downsample"}
    assert still == expected
    # The layers that learn have the rates that they have where all do, and what is frozen does not decay.
    optimizer = make_optimizer(recipe(layer_decay=0.8), model, 10)
    before = {name: variable.numpy() for name, variable in official_variables(model).items()}
    optimizer.apply([tf.ones(v.shape) for v in model.trainable_variables], model.trainable_variables)
    for name, variable in official_variables(model).items():
        decays, scale = GOLDEN["parameters"]["swin"][name]
        rate = 0.03 * scale if variable.path.split("/")[0] not in expected else 0.0
        np.testing.assert_allclose(variable, before[name] * (1 - rate * 0.3 * decays) - rate, rtol=0, atol=1e-6, err_msg=name)


def test_nothing_is_dropped_in_frozen_stages(rng):
    drops = {"drop_rate": 0.3, "attention_drop_rate": 0.3, "drop_path_rate": 0.5}
    backbone = randomize(swin_keras.create_backbone(FAMILIES["swin"], input_shape=(48, 48, 3), **{**SIZES, **drops}))
    outer = keras.Sequential([keras.Input((48, 48, 3)), backbone])
    freeze(outer, 2)
    assert "norm1" in {v.path.split("/")[0] for v in backbone.non_trainable_variables}
    picture = rng.standard_normal((2, 48, 48, 3)).astype("float32")
    trained, inferred = outer(picture, training=True), outer(picture, training=False)
    assert [np.allclose(trained[stage], inferred[stage]) for stage in ("stage1", "stage2", "stage3")] == [True, True, False]


def test_more_stages_than_there_are_cannot_be_frozen():
    model = swin()
    for frozen in (4, -1, True, 1.0):
        with pytest.raises(ValueError, match=r"`frozen_stages` must be an integer from 0 to 3, the stages. Received: frozen_stages="):
            freeze(model, frozen)
    assert stage_depths(model) == (2, 1, 3)
    assert stage_depths(dense("a")) == ()


REPLICAS = """
import keras, numpy as np, tensorflow as tf
from swin_keras.training.optimizer import AdamW, LossScaleOptimizer

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
one, both = tf.distribute.get_strategy(), tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
# Of four steps, two replicas, and a kernel. The replicas' gradients are of unlike size.
gradients = np.random.default_rng(1).standard_normal((4, 2, 3, 2)).astype("float32") * [[[[1]], [[9]]]]


def results(strategy, build, gradients):
    with strategy.scope():
        with keras.name_scope("layers_0_blocks_0"):
            variable = keras.Variable(np.ones((3, 2), "float32"), name="kernel")
        optimizer = build()
        optimizer.build([variable])
    step = tf.function(lambda gradient: strategy.run(lambda g: optimizer.apply([g]), (gradient,)))
    for gradient in gradients.astype("float32"):
        parts = [gradient.sum(0)] if strategy is one else gradient
        step(strategy.experimental_distribute_values_from_function(lambda context: tf.constant(parts[context.replica_id_in_sync_group])))
    copies = [[v.numpy() for v in strategy.experimental_local_results(w.value)] for w in [variable, *optimizer.variables]]
    for own in copies:
        np.testing.assert_array_equal(own[0], own[-1])
    return optimizer, [own[0] for own in copies]


def difference(build):
    pairs = zip(results(one, build, gradients)[1], results(both, build, gradients)[1], strict=True)
    return max(abs(a - b).max() for a, b in pairs)


ours = dict(layer_decay=0.8, depths=(1,), clip_norm=0.05, ema_momentum=0.9, accumulation_steps=2)
assert difference(lambda: AdamW(0.01, clip_norm=0.05)) < 1e-6
assert difference(lambda: LossScaleOptimizer(AdamW(0.01, **ours), initial_scale=8, dynamic_growth_steps=2)) < 1e-6

# Why Keras' own do not do.
assert difference(lambda: keras.optimizers.AdamW(0.01, global_clipnorm=0.05)) > 1e-4
try:
    results(both, lambda: keras.optimizers.AdamW(0.01, gradient_accumulation_steps=2), gradients)
    raise SystemExit("Keras accumulates on several replicas")
except RuntimeError as error:
    assert "merge_call" in str(error)

# A gradient that overflows on the second replica alone.
gradients[1, 1] = np.inf
optimizer, (weight, *_) = results(both, lambda: LossScaleOptimizer(AdamW(0.01)), gradients)
assert np.isfinite(weight).all() and int(optimizer.iterations.numpy()) == 3 and float(optimizer.dynamic_scale.numpy()) == 2.0**14
assert not np.isfinite(results(both, lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(0.01)), gradients)[1][0]).all()
print("done")
"""


def test_replicas_take_the_step_of_one_with_all_their_gradients(run_command):
    process = run_command("-c", REPLICAS)
    assert process.stdout.endswith("done\n"), process.stderr[-3000:]
