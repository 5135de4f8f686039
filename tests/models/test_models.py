import keras
import numpy as np
import pytest

import swin_keras
from swin_keras.layers import SwinBlock

# Published: torchvision's model metadata for T, S, B; KerasHub's backbone presets plus a 1000-class head for the others.
PARAMETERS = {
    "swin_tiny_patch4_window7_224": 28_288_354,
    "swin_small_patch4_window7_224": 49_606_258,
    "swin_base_patch4_window7_224": 87_768_224,
    "swin_base_patch4_window12_384": 86_878_584 + 1024 * 1000 + 1000,
    "swin_large_patch4_window7_224": 194_995_476 + 1536 * 1000 + 1000,
    "swin_large_patch4_window12_384": 195_198_516 + 1536 * 1000 + 1000,
}
NANO = "swin_nano_patch4_window4_32"


@pytest.mark.parametrize("name", [n for n in PARAMETERS if "large" not in n])
def test_parameters_are_the_published_ones(name):
    model = swin_keras.create_model(name)
    assert model.count_params() == PARAMETERS[name] == swin_keras.VARIANTS[name].parameters
    side = swin_keras.VARIANTS[name].image_size
    assert model.input_shape == (None, side, side, 3) and model.output_shape == (None, 1000)
    assert f"_{side}" in name and f"window{swin_keras.VARIANTS[name].window_size}_" in name


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in PARAMETERS if "large" in n])
def test_parameters_of_the_large_models_are_the_published_ones(name):
    assert swin_keras.create_model(name).count_params() == PARAMETERS[name] == swin_keras.VARIANTS[name].parameters


def test_nano_parameters_are_those_of_the_table():
    assert swin_keras.create_model(NANO).count_params() == swin_keras.VARIANTS[NANO].parameters


def test_list_models_is_the_table():
    assert swin_keras.list_models() == list(swin_keras.VARIANTS) == [*PARAMETERS, NANO]


def test_nano_shifts_with_a_mask_in_its_first_stage_and_is_one_window_in_its_second():
    model = swin_keras.create_model(NANO)
    blocks = {layer.name: layer for layer in model.layers if isinstance(layer, SwinBlock)}
    assert blocks["layers_0_blocks_0"].fitted_shift == (0, 0)
    assert blocks["layers_0_blocks_1"].fitted_shift == (2, 2)
    assert blocks["layers_0_blocks_1"]._mask.min() == -100
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
    keras.config.set_dtype_policy(policy)
    try:
        model = swin_keras.create_model(NANO, num_classes=7)
    finally:
        keras.config.set_dtype_policy("float32")
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
        ({"input_shape": (None, None, 3)}, r"input_shape=\(None, None, 3\)"),
        ({"input_shape": (36, 32, 3)}, r"multiples of 8 .*input_shape=\(36, 32, 3\)"),
        ({"window_size": 3}, r"window_size=\(3, 3\) for a grid of \(8, 8\)"),
        ({"window_size": 0}, "`window_size` must be a positive integer or a pair"),
        ({"window_size": "4"}, "`window_size` must be a positive integer or a pair"),
        ({"num_heads": (5, 6)}, "num_heads=5 for 48 channels"),
        ({"num_heads": (3,)}, "one entry a stage"),
        ({"depths": (2, 0)}, r"depths=\(2, 0\)"),
        ({"depths": ()}, r"depths=\(\)"),
        ({"embed_dim": -48}, "embed_dim=-48"),
        ({"mlp_ratio": 0}, "mlp_ratio=0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"drop_rate": -0.1}, "drop_rate=-0.1"),
        ({"attention_drop_rate": "high"}, "attention_drop_rate='high'"),
        ({"window": 4}, "takes the overrides .*window_size.* Received: window."),
    ],
)
def test_create_model_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        swin_keras.create_model(NANO, **arguments)


def test_an_unknown_variant_is_answered_with_close_names():
    with pytest.raises(ValueError, match="Unknown variant 'swin_tiny_patch4_window8_224'. Did you mean one of: swin_tiny_patch4_window7_224"):
        swin_keras.create_model("swin_tiny_patch4_window8_224")


def test_numpy_integers_are_integers():
    model = swin_keras.create_model(NANO, num_classes=np.int64(5), embed_dim=np.int32(12), input_shape=tuple(np.array([32, 32, 3])))
    assert model.output_shape == (None, 5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e-9, -1])
def test_an_mlp_ratio_that_leaves_no_width_is_refused(value):
    with pytest.raises(ValueError, match="`mlp_ratio` must be a positive number that leaves a width"):
        swin_keras.create_model(NANO, mlp_ratio=value)
