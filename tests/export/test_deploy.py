import keras
import numpy as np
import pytest
from conftest import dtype_policy, randomize
from swin_keras.edge_demo.bench import delegate_coverage
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import tflite, to_deploy
from swin_keras.export.deploy_layers import NORMS, DeployLayerNormalization, DeploySwinBlock, DeploySwinBlockV2, standardize, token_order

import swin_keras
from swin_keras.layers import MLP, PatchEmbedding, PatchMerging, SwinBlock

NANO = "swin_nano_patch4_window4_32"
SMALL = {"input_shape": (32, 48, 3), "embed_dim": 12, "depths": (1, 1), "num_heads": (2, 3), "window_size": 4}


def nano(**overrides):
    return randomize(swin_keras.create_model(NANO, **{"num_classes": 7, **overrides}))


def assert_deploys_equal(model, rng, **options):
    """The deploy graph in each layout gives what the model gives, on each of three pictures. Returns the portable one."""
    deploy = to_deploy(model, **options)
    cpu = to_deploy(model, layout="cpu", **options)
    for picture in rng.standard_normal((3, 1, *deploy.input_shape[1:])).astype("float32"):
        for received in (deploy(picture), cpu(picture)):
            for e, r in zip(keras.tree.flatten(model(picture)), keras.tree.flatten(received), strict=True):
                np.testing.assert_allclose(np.reshape(r, e.shape), e, rtol=0, atol=1e-4 * max(1.0, float(np.abs(e).max())))
    return deploy


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"input_shape": (32, 64, 3)},
        {"input_shape": (48, 80, 3), "window_size": (3, 5)},
        {"qkv_bias": False},
        {"patch_norm": False},
        {"window_size": 9},
        {"window_size": 3},
        {"input_shape": (33, 47, 3), "window_size": (3, 5)},
        {"input_shape": (33, 47, 3), "window_size": (5, 3), "window_fit": "pad"},
        {"relative_position_bias": False},
        {"relative_position_bias": False, "absolute_position_embedding": True, "shifted_windows": False},
        {"gradient_checkpointing": True},
        {"depths": (1, 2, 2), "num_heads": (2, 4, 8), "embed_dim": 24, "input_shape": (64, 32, 3), "window_size": 2},
        {"classifier_activation": "softmax"},
        {"drop_rate": 0.5, "attention_drop_rate": 0.5, "drop_path_rate": 0.5},
    ],
    ids=str,
)
def test_deploy_graph_equals_the_trained_model(overrides, rng):
    assert_deploys_equal(nano(**overrides), rng)


@pytest.mark.parametrize("name", ["swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"], ids=["V2", "MLP"])
@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"window_size": 3},
        {"input_shape": (33, 47, 3), "window_size": (3, 5)},
        {"input_shape": (33, 47, 3), "window_size": (5, 3), "window_fit": "pad"},
        {"patch_norm": False, "absolute_position_embedding": True, "shifted_windows": False},
    ],
    ids=str,
)
def test_deploy_graph_of_other_families_equals_the_trained_model(name, overrides, rng):
    assert_deploys_equal(randomize(swin_keras.create_model(name, **{**SMALL, "depths": (2, 2), "num_classes": 7, **overrides})), rng)


@pytest.mark.parametrize("overrides", [{"qkv_bias": False}, {"relative_position_bias": False}, {"pretrained_window_sizes": (2, 3)}], ids=str)
def test_deploy_graph_of_v2_equals_the_trained_model(overrides, rng):
    model = randomize(swin_keras.create_model("swinv2_tiny_patch4_window8_256", **{**SMALL, "depths": (2, 2), **overrides}))
    for block, scale in [("layers_0_blocks_0", 9.0), ("layers_1_blocks_1", 0.5)]:  # above the limit of log(100), and below
        scales = model.get_layer(block).attn.logit_scale
        scales.assign(np.full(scales.shape, scale))
    deploy = assert_deploys_equal(model, rng)
    assert not any("cpb" in weight.path or "logit_scale" in weight.path for weight in deploy.weights)


def test_a_zero_picture_without_biases_stays_finite_in_v2():
    model = randomize(swin_keras.create_model("swinv2_tiny_patch4_window8_256", **SMALL, qkv_bias=False, patch_norm=False))
    model.get_layer("patch_embed").proj.bias.assign(np.zeros(12))
    picture = np.zeros((1, 32, 48, 3), "float32")
    np.testing.assert_allclose(to_deploy(model)(picture), model(picture), rtol=0, atol=1e-5)


def test_deploy_graph_of_a_model_of_unknown_size_equals_it_at_a_given_one(rng):
    model = nano(input_shape=(None, None, 3), window_size=(3, 5))
    deploy = to_deploy(model, input_shape=(33, 47, 3))
    picture = rng.standard_normal((1, 33, 47, 3)).astype("float32")
    np.testing.assert_allclose(deploy(picture), model(picture), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 64), (33, 47)])
def test_deploy_graph_of_a_backbone_equals_it(size, rng):
    backbone = randomize(swin_keras.create_backbone(NANO, input_shape=(*size, 3), window_size=3))
    deploy = assert_deploys_equal(backbone, rng)
    assert set(deploy.output) == {"stage1", "stage2"}


def test_deploy_graph_of_a_reloaded_model_equals_it(rng, tmp_path):
    nano().save(tmp_path / "model.keras")
    assert_deploys_equal(keras.models.load_model(tmp_path / "model.keras"), rng)


def test_deploy_graph_of_a_mixed_precision_model_is_float32(rng):
    with dtype_policy("mixed_float16"):
        half = nano()
    deploy = to_deploy(half)
    assert {layer.compute_dtype for layer in deploy.layers} == {"float32"}
    full = nano()
    full.set_weights(half.get_weights())
    picture = rng.standard_normal((1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(deploy(picture), full(picture), rtol=0, atol=1e-4)


@pytest.mark.parametrize("policy", ["bfloat16", "float16"])
def test_weights_of_half_precision_are_folded_in_float32(policy, rng):
    with dtype_policy(policy):
        half = nano()
    full = nano()
    full.set_weights([weight.astype("float32") for weight in half.get_weights()])
    picture = rng.standard_normal((1, 32, 32, 3)).astype("float32")
    np.testing.assert_allclose(to_deploy(half)(picture), full(picture), rtol=0, atol=1e-4)


def test_the_trained_model_stays_as_it_was(rng):
    model = nano()
    x = rng.standard_normal((3, 32, 32, 3)).astype("float32")
    before, names = np.asarray(model(x)), [layer.name for layer in model.layers]
    to_deploy(model)
    np.testing.assert_array_equal(model(x), before)
    assert [layer.name for layer in model.layers] == names


def test_own_heads_several_outputs_and_other_keras_layers_deploy(rng):
    image = keras.Input((24, 40, 3))
    x = keras.layers.Rescaling(2.0, offset=-1.0)(image)
    x = PatchEmbedding(6, patch_size=2)(x)
    x = SwinBlock(2, window_size=(3, 5), shifted=True)(x)
    middle = keras.layers.LayerNormalization(epsilon=1e-3, name="middle")(x)
    x = PatchMerging()(x)
    x = MLP(9)(x)
    x = keras.layers.LayerNormalization(name="norm")(x)
    top = keras.layers.Dense(5, activation="relu")(keras.layers.GlobalAveragePooling2D()(x))
    model = randomize(keras.Model(image, {"map": middle, "scores": top}))
    assert_deploys_equal(model, rng)


def test_a_norm_with_a_second_use_is_not_folded_into_the_head(rng):
    image = keras.Input((8, 12, 5))
    normed = keras.layers.LayerNormalization(name="norm")(image)
    scores = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(normed))
    model = randomize(keras.Model(image, [scores, keras.layers.GlobalMaxPooling2D()(normed)]))
    assert assert_deploys_equal(model, rng).get_layer("norm").affine
    single = randomize(keras.Model(image, scores))
    assert not assert_deploys_equal(single, rng).get_layer("norm").affine


def test_a_normalization_over_other_axes_is_copied(rng):
    image = keras.Input((4, 6, 5))
    model = randomize(keras.Model(image, keras.layers.LayerNormalization(axis=(1, 2), name="norm")(image)))
    assert not isinstance(assert_deploys_equal(model, rng).get_layer("norm"), DeployLayerNormalization)


def test_a_model_inside_a_model_deploys(rng):
    inner = nano(classifier_activation="tanh")
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.Dense(4, name="top")(inner(image)))
    deploy = assert_deploys_equal(randomize(model), rng)
    assert isinstance(deploy.get_layer(NANO).get_layer("layers_0_blocks_1"), DeploySwinBlock)


def test_a_backbone_of_open_size_and_a_head_of_vectors_inside_a_model_deploy(rng):
    backbone = swin_keras.create_backbone(NANO, input_shape=(None, None, 3), window_size=3, output_norm=False)
    head = keras.Sequential([keras.Input((backbone.output["stage2"].shape[-1],)), keras.layers.Dense(5, activation="gelu"), keras.layers.Dense(4)])
    image = keras.Input((40, 24, 3))
    model = randomize(keras.Model(image, head(keras.layers.GlobalAveragePooling2D()(backbone(image)["stage2"]))))
    deploy = assert_deploys_equal(model, rng)
    inner = next(layer for layer in deploy.layers if isinstance(layer, keras.Model) and len(layer.inputs[0].shape) == 4)
    assert isinstance(inner.get_layer("layers_0_blocks_1"), DeploySwinBlock) and inner.input_shape == (1, 40, 24, 3)


def test_another_input_size_uses_the_same_weights(rng):
    model, larger = nano(), nano(input_shape=(32, 64, 3))
    with pytest.raises(ValueError, match=r"window of 'layers_1_blocks_0' becomes \(4, 2\), and it was trained with \(4, 4\)"):
        to_deploy(model, input_shape=(32, 16, 3))
    larger.set_weights(model.get_weights())
    deploy = to_deploy(model, input_shape=(32, 64, 3))
    picture = rng.standard_normal((1, 32, 64, 3)).astype("float32")
    np.testing.assert_allclose(deploy(picture), larger(picture), rtol=0, atol=1e-4)


def test_bias_and_mask_are_one_constant_for_each_block():
    model = nano()
    deploy = to_deploy(model)
    shifted, plain = deploy.get_layer("layers_0_blocks_1"), deploy.get_layer("layers_0_blocks_0")
    assert shifted.bias_and_mask.shape == (4, 3, 16, 16) and plain.bias_and_mask.shape == (1, 3, 16, 16)
    assert shifted.bias_and_mask.numpy().min() < -99 < -1 < plain.bias_and_mask.numpy().min()


@pytest.mark.parametrize("layout", ["portable", "cpu"])
def test_deploy_graph_saves_and_reloads(layout, rng, tmp_path):
    deploy = to_deploy(nano(), layout=layout)
    deploy.save(tmp_path / "deploy.keras")
    picture = rng.standard_normal((1, 32, 32, 3)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "deploy.keras")(picture), deploy(picture))


def test_deploy_layers_round_trip_through_their_config():
    for layer in to_deploy(nano()).layers[1:]:
        assert type(layer).from_config(layer.get_config()).get_config() == layer.get_config()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.Sequential([keras.layers.Dense(3)]), "Expected a functional `keras.Model`. Received: Sequential"),
        (lambda: "model.keras", "Expected a functional `keras.Model`. Received: str"),
    ],
)
def test_to_deploy_refuses_what_it_cannot_export(make, message):
    with pytest.raises(ValueError, match=message):
        to_deploy(make())


def test_to_deploy_refuses_unknown_sizes():
    image = keras.Input((None, 8, 3))
    with pytest.raises(ValueError, match=r"fixed height, width and channels. Received: \(None, 8, 3\). `swin_keras.models.at_size"):
        to_deploy(keras.Model(image, keras.layers.Conv2D(2, 3)(image)))


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256"], ids=["V1", "V2"])
def test_attention_maps_are_outputs_of_rank_4(name, rng):
    overrides = {**SMALL, "depths": (2, 1), "window_size": (4, 3)}
    deploy = assert_deploys_equal(randomize(swin_keras.create_backbone(name, return_attention=True, **overrides)), rng)
    assert deploy.output["layers_0_blocks_1_attention"].shape == (8, 2, 12, 12)


def gathers(deploy):
    """For each layer of a deploy graph that can gather, whether tokens come and go row by row."""
    return {layer.name: [order is None for order in layer.orders] for layer in deploy.layers if getattr(layer, "orders", None)}


def test_cpu_layout_brings_tokens_back_in_rows_only_where_another_layer_takes_them():
    names = ["layers_0_blocks_0", "layers_0_blocks_1", "layers_0_downsample", "layers_1_blocks_0"]
    classifier = to_deploy(nano(depths=(2, 1)), layout="cpu")
    assert gathers(classifier) == dict(zip(names, [[True, False], [False, False], [False, False], [False, True]], strict=True))
    backbone = to_deploy(randomize(swin_keras.create_backbone(NANO, input_shape=(32, 32, 3), depths=(2, 1))), layout="cpu")
    assert gathers(backbone) == dict(zip(names, [[True, False], [False, True], [True, False], [False, True]], strict=True))
    padded = to_deploy(nano(depths=(2, 1), window_size=3), layout="cpu")
    assert gathers(padded) == {"layers_0_downsample": [True, True]}


def test_token_order_is_that_of_rolled_windows_row_by_row():
    # A 4x6 grid rolled up by 1 and left by 2, in windows of 2x3.
    assert token_order((4, 6), ((2, 3), (1, 2))).tolist() == [
        *(8, 9, 10, 14, 15, 16),
        *(11, 6, 7, 17, 12, 13),
        *(20, 21, 22, 2, 3, 4),
        *(23, 18, 19, 5, 0, 1),
    ]
    assert token_order((2, 3), None).tolist() == [0, 1, 2, 3, 4, 5]


def test_the_tanh_gelu_replaces_the_exact_one(rng):
    model = nano()
    picture = rng.standard_normal((1, 32, 32, 3)).astype("float32")
    difference = np.abs(to_deploy(model, gelu="tanh")(picture) - model(picture)).max()
    assert 1e-6 < difference < 1e-2
    deploy = to_deploy(model, gelu="tanh")
    assert all(layer.approximate_gelu for layer in deploy.layers if isinstance(layer, DeploySwinBlock))


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"], ids=["V1", "V2", "MLP"])
def test_norms_for_half_precision_compute_the_same(name, rng):
    assert_deploys_equal(randomize(swin_keras.create_model(name, **{**SMALL, "depths": (2, 2)})), rng, fp16_safe_norm=True)


def test_only_norms_for_half_precision_hold_large_activations_in_it(rng):
    x = rng.standard_normal((5, 96))
    x[:, 7] = (0, 300, -3000, 30, 20000)  # an outlier, as deep stages have them
    x[0] = 1000 + 300 * x[0]  # and a mean whose sum alone is too large
    x = np.concatenate([x, np.zeros((1, 96))]).astype("float16")
    wide = x.astype("float64")
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    received = {norm: np.asarray(standardize(keras.ops.convert_to_tensor(x), 1e-5, norm), "float64") for norm in NORMS}
    np.testing.assert_allclose(received["fp16_safe"], expected, rtol=0, atol=0.02)
    assert not np.allclose(received["plain"], expected, rtol=0, atol=0.5)


def test_cosines_for_half_precision_hold_large_queries_and_keys(rng):
    def similarity(norm, dtype):
        block = DeploySwinBlockV2(2, (2, 2), (0, 0), "clamp", 8, 1e-5, norm=norm, dtype=dtype)
        block.build((1, 2, 2, 64))
        block.scale.assign(np.full((1, 2, 1, 1), 10 / 32))
        return np.asarray(block._similarity(*(keras.ops.cast(x, dtype) for x in pair)), "float64")

    pair = [np.float16(200 * rng.standard_normal((1, 2, 4, 32))) for _ in range(2)]
    np.testing.assert_allclose(similarity("fp16_safe", "float16"), similarity("plain", "float32"), rtol=0, atol=0.05)
    assert not np.allclose(similarity("plain", "float16"), similarity("plain", "float32"), rtol=0, atol=1)


def test_a_block_that_does_not_fold_is_copied_with_a_warning_that_names_it(rng):
    class Mine(SwinBlock):
        def call(self, x, training=None):
            return 2.0 * super().call(x, training=training)

    image = keras.Input((8, 12, 6))
    model = randomize(keras.Model(image, Mine(2, window_size=4, name="special")(image)))
    with pytest.warns(UserWarning, match="Not folded, but copied: 'special', a Mine"):
        deploy = to_deploy(model)
    picture = rng.standard_normal((1, 8, 12, 6)).astype("float32")
    np.testing.assert_allclose(deploy(picture), model(picture), rtol=0, atol=1e-4)


def test_norms_agree_on_small_and_large_tokens(rng):
    x = rng.standard_normal((6, 33)).astype("float32") * np.float32([[1e-6], [1e-3], [1e-2], [1], [1e2], [1e4]])
    wide = x.astype("float64")
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5)
    for norm in NORMS:
        np.testing.assert_allclose(standardize(keras.ops.convert_to_tensor(x), 1e-5, norm), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(0, -1, 3), ("a", 2.5, 3), (32, 32, 4)])
def test_to_deploy_refuses_an_impossible_size(shape):
    with pytest.raises(ValueError, match="the model's 3 channels. Received: "):
        to_deploy(nano(), input_shape=shape)


def test_to_deploy_refuses_two_inputs():
    a, b = keras.Input((4, 4, 3)), keras.Input((4, 4, 3))
    with pytest.raises(ValueError, match="one input, the image. Received: 2 inputs"):
        to_deploy(keras.Model([a, b], keras.layers.Add()([a, b])))


@pytest.mark.parametrize("option", [{"layout": "npu"}, {"gelu": "fast"}, {"fp16_safe_norm": "yes"}], ids=str)
def test_to_deploy_refuses_an_unknown_option(option):
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=rf"`{name}` must be one of .*Received: {name}='{value}'"):
        to_deploy(nano(), **option)


def test_a_sequential_model_deploys(rng):
    assert_deploys_equal(randomize(keras.Sequential([keras.Input((8, 12, 3)), keras.layers.Flatten(), keras.layers.Dense(3)])), rng)


def test_operations_of_keras_ops_deploy(rng):
    image = keras.Input((8, 12, 3))
    x = keras.layers.Conv2D(4, 2)(image)
    assert_deploys_equal(randomize(keras.Model(image, keras.layers.Dense(3)(keras.ops.mean(keras.ops.relu(x * 2.0 + 1.0), axis=(1, 2))))), rng)


@pytest.mark.parametrize("options", [{"size": (2, 3)}, {"size": 2, "interpolation": "bilinear"}], ids=str)
def test_pixels_are_made_larger_in_operators_of_rank_4_that_xnnpack_takes(options, rng):
    backbone = randomize(swin_keras.create_backbone(NANO, **SMALL))
    x = keras.layers.UpSampling2D(**options)(keras.layers.Conv2D(5, 1)(backbone.output["stage2"]))
    deploy = assert_deploys_equal(keras.Model(backbone.input, x), rng)
    content = tflite.convert(deploy, ["maps"])
    assert delegate_coverage(content)["left"] == {}
    _, largest_rank = tflite.count_operators(content)
    assert largest_rank <= 4


def test_a_norm_whose_other_use_is_an_operation_is_not_folded(rng):
    image = keras.Input((8, 12, 5))
    normed = keras.layers.LayerNormalization(name="norm")(image)
    scores = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(normed))
    assert assert_deploys_equal(randomize(keras.Model(image, [scores, normed + 1.0])), rng).get_layer("norm").affine


def test_a_head_that_is_used_twice_is_not_folded(rng):
    image = keras.Input((8, 12, 5))
    normed = keras.layers.LayerNormalization(name="norm")(image)
    head, average = keras.layers.Dense(3), keras.layers.GlobalAveragePooling2D()
    assert_deploys_equal(randomize(keras.Model(image, head(average(normed)) + head(average(image)))), rng)


@pytest.mark.parametrize("use", ["a layer", "a model"])
def test_a_norm_with_another_use_that_was_first_called_elsewhere_is_not_folded(use, rng):
    image, elsewhere = keras.Input((8, 12, 5)), keras.Input((8, 12, 5))
    other = keras.layers.Conv2D(5, 1)
    other = keras.Model(elsewhere, other(elsewhere)) if use == "a model" else other
    other(elsewhere)
    normed = keras.layers.LayerNormalization()(image)
    scores = keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(normed))
    assert_deploys_equal(randomize(keras.Model(image, {"scores": scores, "maps": other(normed)})), rng)


MEAN, STD = (0.5, 0.4, 0.6), (0.2, 0.3, 0.25)


def assert_normalizes(model, rng, folded, **options):
    """The deploy graph in each layout gives for three pictures what the model gives for them normalized, and folded that, or did not.

    Returns the portable one.
    """
    channels = model.inputs[0].shape[-1]
    deploys = [to_deploy(model, normalization=(MEAN[:channels], STD[:channels]), layout=layout, **options) for layout in ("portable", "cpu")]
    for picture in rng.random((3, 1, *deploys[0].inputs[0].shape[1:])).astype("float32"):
        expected = model(((picture - np.array(MEAN[:channels])) / np.array(STD[:channels])).astype("float32"))
        for deploy in deploys:
            for e, r in zip(keras.tree.flatten(expected), keras.tree.flatten(deploy(picture)), strict=True):
                np.testing.assert_allclose(np.reshape(r, e.shape), e, rtol=0, atol=1e-4 * max(1.0, float(np.abs(e).max())))
    for deploy in deploys:
        assert folded != any(isinstance(layer, keras.layers.Rescaling) for layer in deploy.layers)
    return deploys[0]


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"], ids=["V1", "V2", "MLP"])
@pytest.mark.parametrize(
    ("overrides", "folded"),
    [
        ({}, True),
        ({"patch_norm": False, "input_shape": (30, 48, 1), "patch_size": (3, 4), "window_size": 3}, True),
        ({"input_shape": (33, 48, 3), "window_size": 3}, False),
        ({"input_shape": (32, 47, 1), "window_size": 3}, False),
    ],
    ids=str,
)
def test_a_normalization_is_in_the_graph_and_in_the_embedding_where_that_does_not_pad(name, overrides, folded, rng):
    model = randomize(swin_keras.create_model(name, **{**SMALL, "num_classes": 7, **overrides}))
    assert_normalizes(model, rng, folded)


@pytest.mark.parametrize("options", [{"scaled": True}, {"fp16_safe_norm": True}, {"input_shape": (32, 48, 3)}], ids=str)
def test_a_normalization_folds_into_a_pyramid_of_other_forms(options, rng):
    size = (None, None) if "input_shape" in options else (32, 48)
    model = randomize(swin_keras.create_backbone(NANO, **{**SMALL, "input_shape": (*size, 3), "window_fit": "pad"}))
    assert set(assert_normalizes(model, rng, True, **options).output) == {"stage1", "stage2"}


def test_a_normalization_folds_beside_the_tanh_gelu(rng):
    model, picture = nano(), rng.random((1, 32, 32, 3)).astype("float32")
    deploy, plain = to_deploy(model, gelu="tanh", normalization=(MEAN, STD)), to_deploy(model, gelu="tanh")
    np.testing.assert_allclose(deploy(picture), plain((picture - np.float32(MEAN)) / np.float32(STD)), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("size", "folded"), [((32, 48), True), ((33, 47), False)], ids=str)
def test_a_normalization_folds_into_a_model_inside_a_model(size, folded, rng):
    image = keras.Input((*size, 3))
    inner = nano(input_shape=(*size, 3), window_size=3)
    assert_normalizes(randomize(keras.Model(image, keras.layers.Dense(4)(inner(image)))), rng, folded)


def uses_beside_an_embedding():
    """Other uses of a picture, by what they are."""
    earlier = keras.layers.Conv2D(5, 3)
    earlier(keras.Input((8, 12, 3)))
    inner = keras.Input((8, 12, 3))
    inside = keras.Model(inner, PatchEmbedding(7)(inner))
    return {
        "a layer": keras.layers.Conv2D(5, 3),
        "a layer that took another tensor before": earlier,
        "a model": inside,
        "an operation": lambda image: keras.ops.mean(image, axis=(1, 2)),
        "by keyword": lambda image: keras.ops.concatenate(xs=[image, image]),
        "an output": lambda image: image,
    }


@pytest.mark.parametrize("use", uses_beside_an_embedding())
def test_a_normalization_stands_in_front_where_the_picture_has_another_use(use, rng):
    other, image = uses_beside_an_embedding()[use], keras.Input((8, 12, 3))
    assert_normalizes(randomize(keras.Model(image, {"tokens": PatchEmbedding(6)(image), "other": other(image)})), rng, False)


def test_a_normalization_stands_in_front_of_another_layer_and_of_a_shared_embedding(rng):
    image, embedding = keras.Input((8, 12, 3)), PatchEmbedding(48)
    assert_normalizes(randomize(keras.Model(image, PatchEmbedding(5)(keras.layers.Conv2D(4, 1)(image)))), rng, False)
    assert_normalizes(randomize(keras.Model(image, embedding(keras.layers.Reshape((8, 12, 3))(embedding(image))))), rng, False)


@pytest.mark.parametrize(("size", "more"), [((32, 48), {}), ((33, 47), {"ADD": 1, "MUL": 1})], ids=str)
def test_a_normalization_costs_no_operator_folded_and_two_in_front(size, more, rng):
    from ai_edge_litert import schema_py_generated as schema

    model = nano(input_shape=(*size, 3), window_size=3)
    content = tflite.convert(to_deploy(model, normalization=(MEAN, STD)), ["logits"])
    plain, _ = tflite.count_operators(tflite.convert(to_deploy(model), ["logits"]))
    counted, rank = tflite.count_operators(content)
    assert {kind: count - plain.get(kind, 0) for kind, count in counted.items() if count != plain.get(kind, 0)} == more
    coverage = delegate_coverage(content)
    assert (coverage["partitions"], coverage["left"], rank) == (1, {}, 4)
    graph = schema.Model.GetRootAs(content).Subgraphs(0)
    ranks = [graph.Tensors(tensor).ShapeLength() for i in range(2) for tensor in graph.Operators(i).InputsAsNumpy()]
    assert 3 not in ranks and (not more or ranks == [4, 4, 4, 4])  # LiteRT's GPU delegate computes something else with constants of rank 3.
    picture = rng.random((1, *size, 3)).astype("float32")
    expected = model((picture - np.float32(MEAN)) / np.float32(STD)).numpy()
    np.testing.assert_allclose(TFLiteModel(content)(picture), expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_a_graph_that_normalizes_in_front_saves_and_reloads(rng, tmp_path):
    deploy = to_deploy(nano(input_shape=(33, 47, 3), window_size=3), normalization=(MEAN, STD))
    deploy.save(tmp_path / "deploy.keras")
    picture = rng.random((1, 33, 47, 3)).astype("float32")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "deploy.keras")(picture), deploy(picture))


def test_a_normalization_is_taken_as_arrays_and_leaves_the_trained_model_as_it_was(rng):
    model, picture = nano(), rng.random((1, 32, 32, 3)).astype("float32")
    before = model(picture)
    deploy, same = to_deploy(model, normalization=np.float64([MEAN, STD])), to_deploy(model, normalization=[list(MEAN), STD])
    np.testing.assert_array_equal(deploy(picture), same(picture))
    np.testing.assert_array_equal(model(picture), before)


@pytest.mark.parametrize(
    "wrong",
    [
        0.5,
        "imagenet",
        (0.5, 0.2),
        MEAN,
        (MEAN, STD, STD),
        (MEAN, STD[:2]),
        (MEAN[:1], STD[:1]),
        (MEAN, (0.2, 0.0, 0.2)),
        (MEAN, (0.2, -0.1, 0.2)),
        ((0.5, float("nan"), 0.5), STD),
        (MEAN, (0.2, float("inf"), 0.2)),
        (("0.5", "0.5", "0.5"), STD),
        (MEAN, None),
        (MEAN, (STD, STD, STD)),
    ],
    ids=str,
)
def test_to_deploy_refuses_a_normalization_that_is_none(wrong):
    with pytest.raises(ValueError, match=r"`normalization` must be a mean and .* each with 3 finite numbers.*Received: normalization="):
        to_deploy(nano(), normalization=wrong)
