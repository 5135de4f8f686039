"""The feature pyramid: names, strides, norms, attention maps, saving, and use inside KerasHub's RetinaNet."""

import json
import math

import keras
import numpy as np
import pytest
from conftest import GOLDENS, array, call, dtype_policy, randomize
from safetensors.numpy import load_file

import swin_keras

TINY = "swin_tiny_patch4_window7_224"
V2 = "swinv2_tiny_patch4_window8_256"
SMALL = {"embed_dim": 6, "depths": (1, 2, 1, 2), "num_heads": (1, 2, 3, 4), "window_size": 3}
DETECTION = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8)}


@pytest.mark.parametrize("name", [TINY, V2])
def test_stages_have_strides_4_to_32_rounded_up_and_double_their_channels(name, rng):
    backbone = swin_keras.create_backbone(name, **SMALL)
    assert backbone.input_shape == (None, None, None, 3)
    for height, width in [(52, 71), (33, 130)]:
        outputs = call(backbone, rng.standard_normal((2, height, width, 3)).astype("float32"))
        assert list(outputs) == ["stage1", "stage2", "stage3", "stage4"]
        for stage, stride in enumerate((4, 8, 16, 32)):
            assert outputs[f"stage{stage + 1}"].shape == (2, -(-height // stride), -(-width // stride), 6 * 2**stage)


def test_pyramid_outputs_are_the_stages_by_their_power_of_two():
    backbone = swin_keras.create_backbone(TINY, **SMALL)
    assert list(backbone.pyramid_outputs) == ["P2", "P3", "P4", "P5"]
    assert all(backbone.pyramid_outputs[f"P{stage + 1}"] is backbone.output[f"stage{stage}"] for stage in (1, 2, 3, 4))


def test_pyramid_levels_follow_the_patch_and_are_refused_where_there_is_none():
    assert list(swin_keras.create_backbone(TINY, patch_size=2, **SMALL).pyramid_outputs) == ["P1", "P2", "P3", "P4"]
    assert list(swin_keras.create_backbone(TINY, patch_size=8, **SMALL).pyramid_outputs) == ["P3", "P4", "P5", "P6"]
    for patch_size in (3, (2, 4)):
        with pytest.raises(ValueError, match="powers of two. Received: a model of patch_size="):
            _ = swin_keras.create_backbone(TINY, patch_size=patch_size, **SMALL).pyramid_outputs


@pytest.mark.parametrize("out_stages", [("stage2", "stage3"), [3, 2], ("stage2", 3)])
def test_out_stages_are_chosen_by_name_or_number_and_later_ones_are_not_built(out_stages, rng):
    backbone = swin_keras.create_backbone(TINY, out_stages=out_stages, **SMALL)
    assert list(backbone.output) == ["stage2", "stage3"] and list(backbone.pyramid_outputs) == ["P3", "P4"]
    names = [layer.name for layer in backbone.layers]
    assert "norm1" in names and "norm0" not in names and "layers_3_blocks_0" not in names


def test_output_norm_is_the_only_difference_it_makes(rng):
    x = rng.standard_normal((2, 40, 52, 3)).astype("float32")
    normed = randomize(swin_keras.create_backbone(TINY, **SMALL))
    plain = swin_keras.create_backbone(TINY, output_norm=False, **SMALL)
    plain.set_weights([w for v, w in zip(normed.weights, normed.get_weights(), strict=True) if not v.path.startswith("norm")])
    outputs, expected = call(normed, x), call(plain, x)
    for stage in range(4):
        norm = normed.get_layer(f"norm{stage}")
        np.testing.assert_allclose(array(norm(expected[f"stage{stage + 1}"])), array(outputs[f"stage{stage + 1}"]), atol=1e-5)


@pytest.mark.parametrize("name", [TINY, V2])
def test_attention_maps_of_every_block_are_outputs_by_name(name, rng):
    backbone = randomize(swin_keras.create_backbone(name, return_attention=True, **SMALL))
    outputs = call(backbone, rng.standard_normal((2, 52, 71, 3)).astype("float32"))
    attention = [key for key in outputs if key.endswith("_attention")]
    expected = [f"layers_{stage}_blocks_{block}_attention" for stage, depth in enumerate(SMALL["depths"]) for block in range(depth)]
    assert attention == expected
    for key in attention:
        stage = int(key.split("_")[1])
        height, width = (math.ceil(math.ceil(side / (4 * 2**stage)) / 3) for side in (52, 71))
        assert outputs[key].shape == (2, height * width, SMALL["num_heads"][stage], 9, 9)
        np.testing.assert_allclose(array(outputs[key]).sum(-1), 1, rtol=1e-5)


@pytest.mark.parametrize("overrides", [{}, {"out_stages": ["stage2"], "output_norm": False, "return_attention": True}, {"dtype": True}], ids=str)
def test_backbone_saves_and_reloads_as_the_same_class(overrides, rng, tmp_path):
    overrides = dict(overrides)
    with dtype_policy("mixed_bfloat16" if overrides.pop("dtype", False) else "float32"):
        backbone = randomize(swin_keras.create_backbone(V2, **SMALL, **overrides))
    backbone.save(tmp_path / "backbone.keras")
    reloaded = keras.models.load_model(tmp_path / "backbone.keras")
    assert type(reloaded) is swin_keras.models.SwinBackbone
    # JSON has no tuples.
    assert json.dumps(reloaded.get_config()) == json.dumps(backbone.get_config())
    assert list(reloaded.pyramid_outputs) == list(backbone.pyramid_outputs)
    x = rng.standard_normal((2, 40, 52, 3)).astype("float32")
    outputs = call(reloaded, x)
    for key, value in call(backbone, x).items():
        assert outputs[key].dtype == value.dtype
        np.testing.assert_array_equal(array(keras.ops.cast(outputs[key], "float32")), array(keras.ops.cast(value, "float32")))


def test_backbone_trains_inside_a_model_of_ones_own(rng):
    backbone = swin_keras.create_backbone(TINY, **SMALL, drop_path_rate=0.0)
    x = keras.layers.GlobalAveragePooling2D()(backbone.output["stage4"])
    model = keras.Model(backbone.input, keras.layers.Dense(3)(x))
    model.compile(keras.optimizers.SGD(1.0), "mse")
    before = model.get_weights()
    model.fit(rng.standard_normal((2, 40, 52, 3)), rng.standard_normal((2, 3)), verbose=0)
    moved = [np.any(a != b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(moved)


def test_classifier_weights_load_into_a_backbone_and_every_leftover_is_reported():
    overrides = {"embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 3}
    backbone = swin_keras.create_backbone(TINY, **overrides)
    report = swin_keras.load_weights(backbone, GOLDENS / "timm.safetensors")
    assert set(report.ignored) == {"head.weight", "head.bias", "norm.weight", "norm.bias"}
    assert set(report.left_initial) == {f"norm{i}.{leaf}" for i in range(3) for leaf in ("weight", "bias")}
    assert len(report.loaded) + len(report.ignored) == len(load_file(GOLDENS / "timm.safetensors"))
    first = swin_keras.create_backbone(TINY, out_stages=[1], **overrides)
    report = swin_keras.load_weights(first, GOLDENS / "timm.safetensors")
    assert all(name.startswith(("head.", "norm.", "layers.0.downsample.", "layers.1.", "layers.2.")) for name in report.ignored)


def test_a_missing_stage_is_no_leftover_of_a_backbone():
    backbone = swin_keras.create_backbone(TINY, **DETECTION)
    with pytest.raises(ValueError, match=r"the model expects .*layers.2.downsample.norm.bias"):
        swin_keras.load_weights(backbone, GOLDENS / "official_clamped.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"out_stages": ()}, r"`out_stages` must name stages of stage1, stage2, stage3, stage4.*out_stages=\(\)"),
        ({"out_stages": ("stage5",)}, "stage5"),
        ({"out_stages": (0,)}, r"out_stages=\(0,\)"),
        ({"out_stages": (2, "stage2")}, "each once"),
        ({"out_stages": "res2"}, "out_stages='res2'"),
        ({"input_shape": (None, None)}, r"input_shape=\(None, None\)"),
        ({"input_shape": (None, None, None)}, r"input_shape=\(None, None, None\)"),
        ({"output_norm": "no"}, "`output_norm` must be True or False. Received: output_norm='no'"),
        ({"return_attention": None}, "`return_attention` must be True or False"),
        ({"window_fit": "clamp"}, "`window_fit='clamp'` fits the window to a known grid"),
        ({"absolute_position_embedding": True}, "vector for each place of a fixed grid"),
        ({"num_classes": 5}, "The overrides are .*Received: num_classes"),
        ({"out_stages": None, "return_attention": True, "name": "swin_mlp_tiny_c24_patch4_window8_256"}, "Swin-MLP has no attention"),
        ({"embed_dim": 7}, "num_heads=2 for 14 channels in stage 2|num_heads"),
    ],
)
def test_create_backbone_refuses_what_does_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        swin_keras.create_backbone(**{"name": TINY, **SMALL, **arguments})


def test_a_picture_without_the_right_channels_or_rank_is_refused():
    backbone = swin_keras.create_backbone(TINY, **SMALL)
    for shape in [(1, 40, 52, 4), (1, 40, 52), (40, 52, 3)]:
        with pytest.raises(ValueError, match="shape"):
            backbone(np.zeros(shape, "float32"))


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="KerasHub is installed with TensorFlow")
def test_kerashubs_retinanet_takes_the_backbone_and_reloads(rng, tmp_path):
    import keras_hub

    backbone = randomize(swin_keras.create_backbone(TINY, **SMALL))
    retina = keras_hub.models.RetinaNetBackbone(image_encoder=backbone, min_level=3, max_level=7, use_p5=False, image_shape=(None, None, 3))
    x = rng.standard_normal((1, 128, 192, 3)).astype("float32")
    outputs = retina(x)
    assert {level: output.shape[1:3] for level, output in outputs.items()} == {f"P{i}": (128 // 2**i, -(-192 // 2**i)) for i in range(3, 8)}
    retina.save(tmp_path / "retina.keras")
    reloaded = keras.models.load_model(tmp_path / "retina.keras")
    assert type(reloaded.image_encoder) is swin_keras.models.SwinBackbone
    for level, output in reloaded(x).items():
        np.testing.assert_array_equal(array(output), array(outputs[level]))
