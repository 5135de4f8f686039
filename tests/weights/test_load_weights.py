import keras
import numpy as np
import pytest
from conftest import GOLDENS, dtype_policy
from safetensors.numpy import load_file, save_file

import swin_keras
from swin_keras.weights.assign import official_name

DIALECTS = {"official": "official", "huggingface_v4": "huggingface", "huggingface_v5": "huggingface"}


GOLDEN_SIZES = {"embed_dim": 12, "depths": (2, 3, 1), "num_heads": (2, 3, 6), "window_size": 3}


def golden_model(**overrides):
    arguments = {**GOLDEN_SIZES, "num_classes": 7, **overrides}
    return swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=(48, 96, 3), **arguments)


@pytest.fixture(scope="module")
def model():
    return golden_model()


def rewrite(tmp_path, change, golden="official"):
    """Writes a golden's tensors after `change` and returns the path."""
    tensors = load_file(GOLDENS / f"{golden}.safetensors")
    change(tensors)
    save_file(tensors, tmp_path / "changed.safetensors")
    return tmp_path / "changed.safetensors"


@pytest.mark.parametrize("golden", DIALECTS)
def test_logits_agree_with_the_reference_implementation(model, golden):
    report = swin_keras.load_weights(model, GOLDENS / f"{golden}.safetensors")
    assert report.source == DIALECTS[golden]
    stored = np.load(GOLDENS / f"{golden}.npz")
    logits = model.predict(stored["pictures"].astype("float32"), verbose=0)
    assert np.abs(stored["logits"]).max() > 1.0
    np.testing.assert_allclose(logits, stored["logits"], rtol=0, atol=1e-4 * max(1, np.abs(stored["logits"]).max()))


def test_report_accounts_for_every_tensor_on_both_sides(model):
    report = swin_keras.load_weights(model, GOLDENS / "official.safetensors")
    names = set(load_file(GOLDENS / "official.safetensors"))
    assert set(report.loaded) | set(report.ignored) == names
    assert all(name.endswith(("relative_position_index", "attn_mask")) for name in report.ignored) and report.ignored
    assert len(report.loaded) == len(model.weights)
    assert report.left_initial == report.resized == []
    assert repr(report) == f"LoadReport(official: {len(report.loaded)} loaded, 0 resized, {len(report.ignored)} ignored, 0 left_initial)"


def test_missing_and_extra_tensors_are_all_named_and_nothing_is_assigned(model, tmp_path):
    def change(tensors):
        del tensors["layers.1.blocks.2.mlp.fc1.weight"], tensors["norm.bias"]
        tensors["layers.0.blocks.0.attn.gate"] = np.ones(3, "float32")

    before = model.get_weights()
    with pytest.raises(
        ValueError, match=r"expects 2 tensors \(layers.1.blocks.2.mlp.fc1.weight, norm.bias\).*has 1 tensor \(layers.0.blocks.0.attn.gate\)"
    ):
        swin_keras.load_weights(model, rewrite(tmp_path, change))
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_half_of_a_split_query_key_value_is_an_error(model, tmp_path):
    path = rewrite(tmp_path, lambda tensors: tensors.pop("swin.encoder.layers.0.blocks.0.attention.self.key.weight"), "huggingface_v4")
    with pytest.raises(ValueError, match=r"layers.0.blocks.0.attn.qkv.weight.*layers.0.blocks.0.attn.q.weight"):
        swin_keras.load_weights(model, path)


def test_another_shape_is_an_error_that_gives_both(tmp_path):
    with pytest.raises(
        ValueError, match=r"relative_position_bias_table has shape \(25, 2\) where the model expects \(121, 2\).*`window_fit` decide too"
    ):
        swin_keras.load_weights(golden_model(window_size=6), GOLDENS / "official.safetensors")


def test_skip_head_leaves_the_head_initial_and_says_so():
    model = golden_model(num_classes=5)
    head = model.get_layer("head").get_weights()
    report = swin_keras.load_weights(model, GOLDENS / "official.safetensors", skip_head=True)
    assert sorted(report.left_initial) == ["head.bias", "head.weight"]
    assert {"head.bias", "head.weight"} <= set(report.ignored)
    for old, new in zip(head, model.get_layer("head").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_load_weights_refuses_a_head_of_another_class_count():
    with pytest.raises(ValueError, match=r"head.bias has shape \(7,\) where the model expects \(5,\)"):
        swin_keras.load_weights(golden_model(num_classes=5), GOLDENS / "official.safetensors")


def test_create_model_starts_fine_tuning_from_another_class_count_with_a_warning():
    with pytest.warns(UserWarning, match="head for 7 classes; the head for 5 stays initial"):
        model = golden_model(num_classes=5, weights=GOLDENS / "official.safetensors")
    expected = golden_model(weights=GOLDENS / "official.safetensors")
    np.testing.assert_array_equal(model.get_layer("norm").get_weights()[0], expected.get_layer("norm").get_weights()[0])


def test_half_precision_checkpoints_load(model, tmp_path):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].astype("float16")

    swin_keras.load_weights(model, rewrite(tmp_path, change))
    assert all(weight.dtype == "float32" for weight in model.weights)


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (None, "gone.safetensors", "does not exist"),
        (b"", "empty.safetensors", "not a readable .safetensors file"),
        (b"not a checkpoint at all", "text.safetensors", "not a readable .safetensors file"),
        (b"PK", "weights.pth", "Expected a checkpoint in a .safetensors file"),
    ],
)
def test_unreadable_files_are_refused(model, tmp_path, content, name, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        swin_keras.load_weights(model, tmp_path / name)


def test_a_truncated_checkpoint_is_refused(model, tmp_path):
    content = (GOLDENS / "official.safetensors").read_bytes()
    for kept in (5, 1000, len(content) // 2, len(content) - 1):
        (tmp_path / "cut.safetensors").write_bytes(content[:kept])
        with pytest.raises(ValueError, match="not a readable .safetensors file"):
            swin_keras.load_weights(model, tmp_path / "cut.safetensors")


def test_a_folder_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        swin_keras.load_weights(model, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(model, tmp_path):
    save_file({"conv1.weight": np.ones((3, 5), "float32")}, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match="dialects official, timm, huggingface, torchvision.*conv1.weight"):
        swin_keras.load_weights(model, tmp_path / "resnet.safetensors")


def test_an_unknown_source_is_refused(model):
    with pytest.raises(ValueError, match="'auto' or one of official, timm, huggingface, torchvision. Received: source='timm3'"):
        swin_keras.load_weights(model, GOLDENS / "official.safetensors", source="timm3")
    with pytest.raises(ValueError, match=r"Received: source=\['official'\]"):
        swin_keras.load_weights(model, GOLDENS / "official.safetensors", source=["official"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: array.astype("int32"), "norm.weight holds int32 where the model expects floating-point numbers"),
        (lambda array: array * np.float32("nan"), "norm.weight holds values that are not finite"),
        (lambda array: array.astype("float64") * 1e300, "norm.weight holds values that are not finite in float32"),
        (lambda array: np.array(3.0, "float32"), r"norm.weight has shape \(\)"),
    ],
    ids=["integers", "NaN", "too large", "no axis"],
)
def test_tensors_that_are_no_weights_are_refused(model, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        swin_keras.load_weights(model, rewrite(tmp_path, lambda tensors: tensors.update({"norm.weight": change(tensors["norm.weight"])})))


def test_one_tensor_under_two_spellings_is_refused(model, tmp_path):
    def change(tensors):
        tensors["embeddings.norm.weight"] = tensors["swin.embeddings.norm.weight"] + 1

    with pytest.raises(ValueError, match=r"two tensors of the file are patch_embed.norm.weight, one of them (swin\.)?embeddings.norm.weight"):
        swin_keras.load_weights(model, rewrite(tmp_path, change, "huggingface_v4"))


def test_a_query_of_another_width_is_named(model, tmp_path):
    def change(tensors):
        tensors["swin.encoder.layers.0.blocks.0.attention.self.query.weight"] = np.ones((12, 7), "float32")

    with pytest.raises(ValueError, match=r"layers.0.blocks.0.attn.q.weight"):
        swin_keras.load_weights(model, rewrite(tmp_path, change, "huggingface_v4"))


@pytest.mark.parametrize("layout", ["classifier", "detector"])
def test_position_embeddings_of_classifiers_and_detectors_load_in_their_own_layouts(layout, tmp_path, rng):
    # As many rows and columns as channels: shapes alone do not tell the layouts apart.
    sizes = {"embed_dim": 6, "depths": (1,), "num_heads": (2,), "window_size": 3, "input_shape": (24, 24, 3), "absolute_position_embedding": True}
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", num_classes=7, **sizes)
    embedding = rng.standard_normal((1, 6, 6, 6)).astype("float32")  # rows, columns, channels
    tensors = {
        official_name(v.path): rng.standard_normal(v.shape[::-1] if v.path.endswith("kernel") else v.shape).astype("float32") for v in model.weights
    }
    tensors["patch_embed.proj.weight"] = rng.standard_normal((6, 3, 4, 4)).astype("float32")
    stored = embedding.reshape(1, 36, 6) if layout == "classifier" else embedding.transpose(0, 3, 1, 2)
    save_file({**tensors, "absolute_pos_embed": np.ascontiguousarray(stored)}, tmp_path / "weights.safetensors")
    swin_keras.load_weights(model, tmp_path / "weights.safetensors")
    np.testing.assert_array_equal(model.get_layer("absolute_pos_embed").get_weights()[0], embedding)


def test_two_swins_in_one_model_are_refused_and_neither_changes():
    backbones = [swin_keras.models.SwinBackbone((48, 96, 3), name=name, **GOLDEN_SIZES, window_fit="clamp") for name in ("a", "b")]
    image = keras.Input((48, 96, 3))
    both = keras.Model(image, [backbone(image)["stage3"] for backbone in backbones])
    before = both.get_weights()
    with pytest.raises(ValueError, match="holds two layers of one name"):
        swin_keras.load_weights(both, GOLDENS / "official.safetensors")
    for old, new in zip(before, both.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_values_that_a_half_precision_model_cannot_hold_are_refused(tmp_path):
    with dtype_policy("float16"):
        half = golden_model()

    def change(tensors):
        tensors["norm.weight"] = tensors["norm.weight"] * np.float32(1e6)

    with pytest.raises(ValueError, match="norm.weight holds values that are not finite in float16"):
        swin_keras.load_weights(half, rewrite(tmp_path, change))


def test_a_name_with_and_without_the_prefix_of_simmim_is_refused(tmp_path):
    def change(tensors):
        tensors["patch_embed.proj.weight"] = tensors["encoder.patch_embed.proj.weight"] + 1

    simmim = swin_keras.models.create_simmim("swin_tiny_patch4_window7_224", input_shape=(48, 48, 3), **GOLDEN_SIZES)
    with pytest.raises(ValueError, match="two tensors of the file are patch_embed.proj.weight"):
        swin_keras.load_weights(simmim, rewrite(tmp_path, change, "official_simmim"))


@pytest.mark.parametrize("wrong", [None, 5, "model"])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ValueError, match="Expected a `keras.Model`. Received: "):
        swin_keras.load_weights(wrong, GOLDENS / "official.safetensors")


def test_a_path_too_long_for_the_system_is_refused(model):
    with pytest.raises(ValueError, match="Expected a checkpoint file"):
        swin_keras.load_weights(model, "x" * 5000)
