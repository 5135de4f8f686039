import keras
import numpy as np
import pytest
from conftest import array, randomize

import swin_keras
from swin_keras.models import at_size
from swin_keras.preprocessing import Preprocessing
from swin_keras.weights.resize import resize_bicubic

NANO = "swin_nano_patch4_window4_32"
V2 = "swinv2_tiny_patch4_window8_256"
SMALL = {"embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3), "num_classes": 7}


@pytest.mark.parametrize(
    ("name", "overrides", "size"),
    [
        (NANO, {"input_shape": (32, 48, 3)}, (64, 40)),
        (NANO, {"input_shape": (32, 48, 3), "window_size": (4, 6)}, (16, 40)),
        (NANO, {"input_shape": (32, 32, 3), "absolute_position_embedding": True}, (20, 64)),
        (NANO, {"input_shape": (None, None, 3), "window_size": 3}, (33, 47)),
        (V2, {"input_shape": (32, 48, 3), "window_size": 4, "pretrained_window_sizes": (4, 4)}, (16, 40)),
    ],
    ids=str,
)
def test_at_size_has_the_weights_that_a_checkpoint_gives_at_that_size(name, overrides, size, rng, tmp_path):
    model = randomize(swin_keras.create_model(name, **SMALL, **overrides))
    swin_keras.save_weights(model, tmp_path / "model.safetensors")
    expected = swin_keras.create_model(
        name, **SMALL, **{**overrides, "input_shape": (*size, 3)}, window_fit="pad" if None in overrides["input_shape"] else "clamp"
    )
    swin_keras.load_weights(expected, tmp_path / "model.safetensors")
    resized = at_size(model, *size)
    assert resized.input_shape == (None, *size, 3) and resized.name == model.name
    pictures = rng.standard_normal((2, *size, 3)).astype("float32")
    np.testing.assert_allclose(array(resized(pictures)), array(expected(pictures)), rtol=0, atol=1e-5)


def test_a_table_is_resized_where_only_the_sides_of_the_window_change_places(rng, tmp_path):
    overrides = {**SMALL, "window_size": 4}
    model = randomize(swin_keras.create_model(NANO, input_shape=(32, 16, 3), **overrides))  # the last windows are 4x2
    turned = at_size(model, 16, 32)
    block, twin = (m.get_layer("layers_1_blocks_0") for m in (model, turned))
    assert (block.fitted_window, twin.fitted_window) == ((4, 2), (2, 4))
    before, after = (array(b.attn.relative_position_bias_table) for b in (block, twin))
    expected = resize_bicubic(before.reshape(7, 3, -1), (3, 7)).reshape(after.shape)
    np.testing.assert_allclose(after, expected, rtol=0, atol=1e-6)
    mlp = swin_keras.create_model("swin_mlp_tiny_c24_patch4_window8_256", input_shape=(32, 16, 3), **overrides)
    with pytest.raises(ValueError, match="spatial_mlp"):
        at_size(mlp, 16, 32)


def test_a_backbone_at_another_size_keeps_its_outputs():
    backbone = randomize(swin_keras.create_backbone(NANO, input_shape=(32, 32, 3)))
    assert {name: output.shape for name, output in at_size(backbone, 48, 64).output.items()} == {
        "stage1": (None, 12, 16, 48),
        "stage2": (None, 6, 8, 96),
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: swin_keras.create_model("swin_mlp_tiny_c24_patch4_window8_256", input_shape=(64, 64, 3), **{**SMALL, "window_size": 8}),
            "spatial_mlp",
        ),
        (lambda: keras.Sequential([keras.Input((64, 64, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]), "kernel"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "Expected a functional"),
        (lambda: "model.keras", "Expected a functional .* Received: str"),
    ],
    ids=["Swin-MLP", "flattened", "not built", "no model"],
)
def test_what_has_weights_for_one_size_alone_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        at_size(make(), 16, 24)


def test_preprocessing_at_another_size_resizes_in_proportion():
    preprocessing = Preprocessing("cover", (256, 256), (224, 224), "bilinear")
    assert preprocessing.at_size(384, 112) == Preprocessing("cover", (439, 128), (384, 112), "bilinear")
    assert Preprocessing("exact", (7, 9), (7, 9)).at_size(5, 3) == Preprocessing("exact", (5, 3), (5, 3))


def test_models_inside_a_model_are_built_for_the_size_too(rng):
    backbone = swin_keras.create_backbone(NANO, input_shape=(32, 32, 3))
    head = keras.Sequential([keras.Input((96,)), keras.layers.Dense(4)])
    image = keras.Input((32, 32, 3))
    model = randomize(keras.Model(image, head(keras.layers.GlobalAveragePooling2D()(backbone(image)["stage2"]))))
    resized = at_size(model, 48, 64)
    pictures = rng.standard_normal((2, 48, 64, 3)).astype("float32")
    pooled = array(at_size(backbone, 48, 64)(pictures)["stage2"]).mean((1, 2))
    np.testing.assert_allclose(array(resized(pictures)), array(head(pooled)), rtol=0, atol=1e-5)
