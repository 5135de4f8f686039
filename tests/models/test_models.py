import keras
import numpy as np
import pytest
from conftest import array, dtype_policy

import swin_keras
from swin_keras.layers import SwinBlock

NANO = "swin_nano_patch4_window4_32"

# Parameters with a 1000-class head: torchvision's metadata of V1 T, S, B; KerasHub's backbone presets plus a head for the others of V1;
# torchvision's V2, less the bias of the keys, which it stores and does not use: one for each channel of each block.
V2_KEYS = {
    "tiny": 2 * 96 + 2 * 192 + 6 * 384 + 2 * 768,
    "small": 2 * 96 + 2 * 192 + 18 * 384 + 2 * 768,
    "base": 2 * 128 + 2 * 256 + 18 * 512 + 2 * 1024,
}
PARAMETERS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "swin_base_patch4_window12_384": 86_878_584 + 1024 * 1000 + 1000,
    "swin_large_patch4_window7_224": 194_995_476 + 1536 * 1000 + 1000,
    "swin_large_patch4_window12_384": 195_198_516 + 1536 * 1000 + 1000,
    "swinv2_tiny_patch4_window8_256": 28_351_570 - V2_KEYS["tiny"],
    "swinv2_small_patch4_window8_256": 49_737_442 - V2_KEYS["small"],
    "swinv2_base_patch4_window8_256": 87_930_848 - V2_KEYS["base"],
    # timm 1.0.31 builds the S3 models with these.
    "swin_s3_tiny_224": 28_328_674,
    "swin_s3_small_224": 49_737_298,
    "swin_s3_base_224": 71_125_762,
}

# Multiply-adds in units of 1e9, as published on the official model hub.
FLOPS = {
    "swin_tiny_patch4_window7_224": 4.5,
    "swin_small_patch4_window7_224": 8.7,
    "swin_base_patch4_window7_224": 15.4,
    "swin_base_patch4_window12_384": 47.1,
    "swin_large_patch4_window7_224": 34.5,
    "swin_large_patch4_window12_384": 103.9,
    "swin_tiny_c24_patch4_window8_256": 5.9,
    "swinv2_tiny_patch4_window8_256": 5.9,
    "swinv2_small_patch4_window8_256": 11.5,
    "swinv2_base_patch4_window8_256": 20.3,
    "swinv2_tiny_patch4_window16_256": 6.6,
    "swinv2_small_patch4_window16_256": 12.6,
    "swinv2_base_patch4_window16_256": 21.8,
    "swinv2_base_patch4_window12to16_192to256_22kto1k_ft": 21.8,
    "swinv2_base_patch4_window12to24_192to384_22kto1k_ft": 54.7,
    "swinv2_large_patch4_window12to16_192to256_22kto1k_ft": 47.5,
    "swinv2_large_patch4_window12to24_192to384_22kto1k_ft": 115.4,
    "swin_mlp_tiny_c24_patch4_window8_256": 4.0,
    "swin_mlp_tiny_c12_patch4_window8_256": 4.0,
    "swin_mlp_tiny_c6_patch4_window8_256": 4.0,
    "swin_mlp_base_patch4_window7_224": 10.4,
}

# Parameters in millions on the official model hub, where it gives no more digits.
MILLIONS = {
    "swin_mlp_tiny_c24_patch4_window8_256": 20,
    "swin_mlp_tiny_c12_patch4_window8_256": 21,
    "swin_mlp_tiny_c6_patch4_window8_256": 23,
    "swin_mlp_base_patch4_window7_224": 61,
    "swinv2_large_patch4_window12to16_192to256_22kto1k_ft": 197,
}


@pytest.mark.parametrize("name", MILLIONS)
def test_millions_of_parameters_are_the_published_ones(name):
    assert round(swin_keras.VARIANTS[name].parameters / 1e6) == MILLIONS[name]


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_the_published_ones(name):
    assert swin_keras.VARIANTS[name].parameters == PARAMETERS[name]


@pytest.mark.parametrize("name", FLOPS)
def test_flops_are_the_published_ones(name):
    assert round(swin_keras.VARIANTS[name].flops / 1e9, 1) == FLOPS[name]


def assert_built_as_in_the_table(name, monkeypatch):
    variant = swin_keras.VARIANTS[name]
    # Up to 197 million random numbers that nobody looks at take most of the time.
    monkeypatch.setattr(keras.initializers.RandomNormal, "__call__", lambda self, shape, dtype=None: keras.ops.zeros(shape, dtype))
    model = swin_keras.create_model(name)
    assert model.count_params() == variant.parameters
    assert model.input_shape == (None, variant.image_size, variant.image_size, 3) and model.output_shape == (None, variant.num_classes)
    if "_s3_" in name:
        return
    assert f"_{variant.image_size}" in name or f"to{variant.image_size}_" in name
    assert f"window{variant.window_size}_" in name or f"to{variant.window_size}_" in name
    assert variant.num_classes == (21841 if name.endswith("_22k") else 1000)


QUICK = ("tiny_patch4_window7_224", "window8_256", "nano")


@pytest.mark.parametrize("name", [n for n in swin_keras.VARIANTS if any(word in n for word in QUICK)])
def test_model_is_built_as_the_table_says(name, monkeypatch):
    assert_built_as_in_the_table(name, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in swin_keras.VARIANTS if not any(word in n for word in QUICK)])
def test_every_other_model_is_built_as_the_table_says(name, monkeypatch):
    assert_built_as_in_the_table(name, monkeypatch)


# Configurations that reach every term of the count: see the overrides of `create_model`.
COUNTED = {
    "V1": ("swin_tiny_patch4_window7_224", {"input_shape": (36, 52, 3), "window_size": (3, 4)}),
    "V1 without": ("swin_tiny_patch4_window7_224", {"qkv_bias": False, "patch_norm": False, "relative_position_bias": False}),
    "V1 with": ("swin_tiny_patch4_window7_224", {"absolute_position_embedding": True, "window_fit": "pad", "mlp_ratio": 2.5}),
    "V2": ("swinv2_tiny_patch4_window8_256", {"input_shape": (36, 52, 4), "window_size": 3, "patch_size": (2, 4)}),
    "MLP": ("swin_mlp_tiny_c24_patch4_window8_256", {"window_size": (3, 4)}),
    "windows of stages": ("swin_s3_tiny_224", {"window_size": (3, (2, 5), 4)}),
    "V2 without": ("swinv2_tiny_patch4_window8_256", {"qkv_bias": False, "relative_position_bias": False, "patch_norm": False}),
}


def counted(case):
    """A small model, its counted parameters, and its counted multiply-adds."""
    from swin_keras.models.architecture import Architecture
    from swin_keras.models.complexity import count
    from swin_keras.models.variants import _arguments

    name, overrides = COUNTED[case]
    overrides = {"input_shape": (44, 60, 3), "embed_dim": 12, "depths": (2, 3, 1), "num_heads": (2, 3, 6), **overrides}
    model = swin_keras.create_model(name, num_classes=7, **overrides)
    input_shape = overrides.pop("input_shape")
    return model, *count(Architecture(**_arguments(swin_keras.VARIANTS[name], overrides)), input_shape, 7)


@pytest.mark.parametrize("case", COUNTED)
def test_counted_parameters_are_those_of_the_model(case):
    model, parameters, _ = counted(case)
    assert model.count_params() == parameters


def profiled_products(model, batch):
    """Multiply-adds of matrix products and convolutions, by TensorFlow's profiler."""
    import tensorflow as tf

    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((batch, *model.input_shape[1:])))
    options = tf.compat.v1.profiler.ProfileOptionBuilder(tf.compat.v1.profiler.ProfileOptionBuilder.float_operation())
    options.with_empty_output().with_node_names(show_name_regexes=[".*(MatMul|Conv2D|convolution|einsum|dot).*"])
    with function.graph.as_default():
        profile = tf.compat.v1.profiler.profile(function.graph, options=options.build())
    return profile.total_float_ops // 2


@pytest.mark.parametrize("case", COUNTED)
def test_counted_flops_are_those_of_tensorflows_profiler(case):
    model, _, flops = counted(case)
    # The difference of two batches leaves out V2's position bias, which is the same for every picture.
    assert profiled_products(model, 3) - profiled_products(model, 2) == flops


def test_list_models_is_the_table_newest_first():
    names = swin_keras.list_models()
    assert names == list(swin_keras.VARIANTS)
    versions = [swin_keras.VARIANTS[name].family for name in names]
    assert list(dict.fromkeys(versions))[:2] == ["swinv2", "swin"]
    assert set(PARAMETERS) | set(FLOPS) <= set(names)


def test_every_released_row_says_where_its_accuracy_is_published():
    for name, variant in swin_keras.VARIANTS.items():
        assert name == NANO or variant.source.startswith("https://"), name
        assert (variant.top1 is None) == (name == NANO or name.endswith("_22k")), name


def test_nano_shifts_with_a_mask_in_its_first_stage_and_is_one_window_in_its_second():
    model = swin_keras.create_model(NANO)
    blocks = {layer.name: layer for layer in model.layers if isinstance(layer, SwinBlock)}
    assert blocks["layers_0_blocks_0"].fitted_shift == (0, 0)
    assert blocks["layers_0_blocks_1"].fitted_shift == (2, 2)
    assert blocks["layers_0_blocks_1"].attention_mask.min() == -100
    assert blocks["layers_1_blocks_1"].grid == blocks["layers_1_blocks_1"].fitted_window == (4, 4)
    assert blocks["layers_1_blocks_1"].fitted_shift == (0, 0)
    assert sum(isinstance(layer, swin_keras.layers.PatchMerging) for layer in model.layers) == 1


def test_stochastic_depth_rises_linearly_over_all_blocks():
    model = swin_keras.create_model(NANO, depths=(2, 3), drop_path_rate=0.2)
    rates = [layer.drop_path_rate for layer in model.layers if isinstance(layer, SwinBlock)]
    np.testing.assert_allclose(rates, [0.0, 0.05, 0.1, 0.15, 0.2])


def test_every_weight_of_a_model_gets_a_gradient(rng):
    model = swin_keras.create_model(NANO, num_classes=7)
    before = model.get_weights()
    model.compile(keras.optimizers.SGD(1.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(rng.standard_normal((5, 32, 32, 3)), np.array([1, 4, 0, 6, 2]), verbose=0)
    for weight, old in zip(model.weights, before, strict=True):
        assert np.any(weight.numpy() != old), weight.path


def test_keras_file_reloads_without_custom_objects_and_with_the_same_logits(rng, tmp_path):
    model = swin_keras.create_model(NANO, num_classes=7, input_shape=(32, 64, 3))
    model.save(tmp_path / "model.keras")
    x = rng.standard_normal((3, 32, 64, 3)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(x), model(x))


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_logits_are_float32_under_mixed_precision(rng, policy):
    with dtype_policy(policy):
        model = swin_keras.create_model(NANO, num_classes=7)
    assert model(rng.standard_normal((2, 32, 32, 3))).dtype == "float32"
    assert model.get_layer("layers_0_blocks_0").compute_dtype == policy.removeprefix("mixed_")


def test_classifier_activation_makes_probabilities(rng):
    model = swin_keras.create_model(NANO, num_classes=7, classifier_activation="softmax")
    np.testing.assert_allclose(np.sum(model(rng.standard_normal((3, 32, 32, 3))), -1), 1.0, rtol=1e-5)


def test_overrides_replace_the_row(rng):
    model = swin_keras.create_model(
        NANO,
        input_shape=(36, 60, 3),
        embed_dim=10,
        depths=(1, 2),
        num_heads=(2, 5),
        window_size=(3, 5),
        patch_size=(6, 2),
        patch_norm=False,
        qkv_bias=False,
        mlp_ratio=1.5,
    )
    assert model.get_layer("layers_0_blocks_0").grid == (6, 30)
    assert model(rng.standard_normal((2, 36, 60, 3))).shape == (2, 1000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_classes": 0}, "`num_classes` must be a positive integer. Received: num_classes=0"),
        ({"num_classes": 2.5}, "num_classes=2.5"),
        ({"num_classes": True}, "num_classes=True"),
        ({"input_shape": (32, 32)}, r"three positive integers .*Received: input_shape=\(32, 32\)"),
        ({"input_shape": (32, 0, 3)}, r"input_shape=\(32, 0, 3\)"),
        ({"input_shape": (32, 32, None)}, r"input_shape=\(32, 32, None\)"),
        ({"input_shape": (32, 32, 3, 1)}, r"input_shape=\(32, 32, 3, 1\)"),
        ({"input_shape": (32, -32, 3)}, r"input_shape=\(32, -32, 3\)"),
        ({"input_shape": 32}, "input_shape=32"),
        ({"input_shape": (3, 32, 3)}, r"as large as one patch. Received: an image of 3x32 for patch_size=4"),
        ({"input_shape": (None, None, 3), "window_fit": "clamp"}, "`window_fit='clamp'` fits the window to a known grid.*Use `window_fit='pad'`"),
        ({"input_shape": (32, None, 3), "absolute_position_embedding": True}, r"fixed grid. Received: a grid of \(8, None\)"),
        ({"window_fit": "crop"}, "`window_fit` must be one of .* Received: window_fit='crop'"),
        ({"window_size": (2, 3, 4)}, r"window_size=\(2, 3, 4\)"),
        ({"window_size": -7}, "window_size=-7"),
        ({"patch_size": 0}, "`patch_size` must be a positive integer or a pair"),
        ({"pretrained_window_sizes": (4, 4)}, "`pretrained_window_sizes` belongs to Swin V2"),
        ({"embed_dim": 2**30, "num_heads": (1, 1)}, "no wider than 1,048,576. Received: 8,589,934,592 in the last stage"),
        ({"mlp_ratio": "4"}, "mlp_ratio='4'"),
        ({"qkv_bias": "no"}, "`qkv_bias` must be True or False. Received: qkv_bias='no'"),
        ({"window_size": 0}, "`window_size` must be a positive integer or a pair"),
        ({"window_size": "4"}, "`window_size` must be a positive integer or a pair"),
        ({"num_heads": (5, 6)}, "num_heads=5 for 48 channels in stage 1"),
        ({"num_heads": (3,)}, "one entry a stage"),
        ({"depths": (2, 0)}, r"depths=\(2, 0\)"),
        ({"depths": ()}, r"depths=\(\)"),
        ({"embed_dim": -48}, "embed_dim=-48"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"drop_rate": -0.1}, "drop_rate=-0.1"),
        ({"attention_drop_rate": "high"}, "attention_drop_rate='high'"),
        ({"window": 4}, "The overrides are .*window_size.* Received: window."),
    ],
)
def test_create_model_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        swin_keras.create_model(NANO, **arguments)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ((12, 12), r"one entry for each of the 4 stages. Received: pretrained_window_sizes=\(12, 12\)"),
        (12, "pretrained_window_sizes=12"),
        ((12, 12, 12, -6), "`pretrained_window_sizes` must be a positive integer or a pair .*-6"),
        ((12, 12, 12, "6"), "`pretrained_window_sizes` must be a positive integer or a pair"),
    ],
)
def test_pretrained_window_sizes_that_do_not_fit_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        swin_keras.create_model("swinv2_tiny_patch4_window8_256", pretrained_window_sizes=value)


def test_a_default_for_each_stage_goes_where_overridden_depths_leave_no_place():
    row = "swinv2_base_patch4_window12to16_192to256_22kto1k_ft"
    small = {"input_shape": (64, 64, 3), "embed_dim": 12}
    kept = swin_keras.create_model(row, depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), **small)
    assert [kept.get_layer(f"layers_{i}_blocks_0").pretrained_window_size for i in range(4)] == [12, 12, 12, 6]
    gone = swin_keras.create_model(row, depths=(1, 2), num_heads=(1, 2), **small)
    assert gone.get_layer("layers_1_blocks_1").pretrained_window_size is None


def test_each_stage_may_have_a_window_of_its_own():
    model = swin_keras.create_model("swin_s3_tiny_224")
    assert [model.get_layer(f"layers_{i}_blocks_0").fitted_window for i in range(4)] == [(7, 7), (7, 7), (14, 14), (7, 7)]
    two = swin_keras.create_model(NANO, window_size=((3, 4), 2))
    assert [two.get_layer(f"layers_{i}_blocks_0").fitted_window for i in range(2)] == [(3, 4), (2, 2)]
    with pytest.raises(ValueError, match=r"a window for each of its 4 stages.*Received: depths=\(1, 1, 1\). Pass `window_size` too"):
        swin_keras.create_model("swin_s3_tiny_224", depths=(1, 1, 1), num_heads=(3, 6, 12))


@pytest.mark.parametrize("overrides", [{"qkv_bias": False}, {"relative_position_bias": False}, {"attention_drop_rate": 0.1}], ids=str)
def test_swin_mlp_refuses_arguments_of_attention(overrides):
    with pytest.raises(ValueError, match=f"Swin-MLP has no attention.*{next(iter(overrides))}"):
        swin_keras.create_model("swin_mlp_tiny_c24_patch4_window8_256", **overrides)


def test_no_window_shifts_where_the_switch_is_off():
    model = swin_keras.create_model(NANO, shifted_windows=False)
    assert not any(any(layer.fitted_shift) for layer in model.layers if isinstance(layer, SwinBlock))


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256"])
@pytest.mark.parametrize("size", [(33, 47), (4, 5), (40, 12)])
def test_any_size_trains_and_reloads(name, size, rng, tmp_path):
    small = {"embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3), "window_size": (3, 4), "num_classes": 5}
    model = swin_keras.create_model(name, input_shape=(*size, 3), **small)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    x = rng.standard_normal((3, *size, 3)).astype("float32")
    assert np.isfinite(model.fit(x, np.array([0, 3, 4]), verbose=0).history["loss"][0])
    model.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(keras.models.load_model(tmp_path / "model.keras")(x)), array(model(x)))


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256"])
def test_one_model_of_unknown_size_fits_at_two_sizes_and_equals_the_static_ones(name, rng, tmp_path):
    small = {"embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3), "window_size": (3, 4), "num_classes": 5}
    model = swin_keras.create_model(name, input_shape=(None, None, 3), **small)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    sizes = [(33, 47), (52, 21)]
    for size in sizes:
        x = rng.standard_normal((3, *size, 3)).astype("float32")
        assert np.isfinite(model.fit(x, np.array([0, 3, 4]), verbose=0).history["loss"][0])
    model.save(tmp_path / "model.keras")
    reloaded = keras.models.load_model(tmp_path / "model.keras")
    for size in sizes:
        static = swin_keras.create_model(name, input_shape=(*size, 3), window_fit="pad", **small)
        static.set_weights(model.get_weights())
        x = rng.standard_normal((3, *size, 3)).astype("float32")
        np.testing.assert_allclose(reloaded.predict(x, verbose=0), array(static(x)), atol=1e-5)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="XLA through TensorFlow")
def test_a_model_of_unknown_size_runs_under_xla(rng):
    import tensorflow as tf

    model = swin_keras.create_model(NANO, input_shape=(None, None, 3), window_size=3)
    function = tf.function(lambda x: model(x, training=False), jit_compile=True)
    for size in [(33, 47), (52, 21)]:
        x = rng.standard_normal((2, *size, 3)).astype("float32")
        np.testing.assert_allclose(function(x), model(x), atol=1e-5)


def test_an_unknown_variant_is_answered_with_close_names():
    with pytest.raises(ValueError, match="Unknown variant 'swin_tiny_patch4_window8_224'. Did you mean one of: swin"):
        swin_keras.create_model("swin_tiny_patch4_window8_224")


def test_numpy_integers_are_integers():
    model = swin_keras.create_model(NANO, num_classes=np.int64(5), embed_dim=np.int32(12), input_shape=tuple(np.array([32, 32, 3])))
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-9, -1])
def test_an_mlp_ratio_that_leaves_no_width_is_refused(value):
    with pytest.raises(ValueError, match="`mlp_ratio` must be a positive number that leaves a width"):
        swin_keras.create_model(NANO, mlp_ratio=value)
