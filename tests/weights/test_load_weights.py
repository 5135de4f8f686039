import json
import struct
import warnings
import zipfile

import keras
import ml_dtypes
import numpy as np
import pytest
from conftest import GOLDENS, dtype_policy
from safetensors.numpy import load_file, save_file

import swin_keras
from swin_keras.weights.variables import official_name

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FILES = {
    "official.safetensors": "official",
    "official.pth": "official",
    "huggingface_v4.safetensors": "huggingface",
    "huggingface_v4.bin": "huggingface",
    "huggingface_v5.safetensors": "huggingface",
}


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


@pytest.mark.parametrize("file", FILES)
def test_logits_agree_with_the_reference_implementation(model, file):
    report = swin_keras.load_weights(model, GOLDENS / file)
    assert report.source == FILES[file]
    stored = np.load((GOLDENS / file).with_suffix(".npz"))
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
    name = "swin.encoder.layers.0.blocks.0.attention.relative_position_bias.relative_position_bias_table"
    path = rewrite(tmp_path, lambda tensors: tensors.update({name: np.ones((24, 2), "float32")}), "huggingface_v5")
    with pytest.raises(
        ValueError, match=r"relative_position_bias_table has shape \(24, 2\) where the model expects \(121, 2\).*`window_fit` decide too"
    ):
        swin_keras.load_weights(golden_model(window_size=6), path)
    with pytest.raises(ValueError, match=r"relative_position_bias_table has shape \(25, 3\) where the model expects \(25, 6\)"):
        swin_keras.load_weights(golden_model(num_heads=(2, 6, 6)), GOLDENS / "official.safetensors")


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
        (b"", "empty.safetensors", "not a readable checkpoint .it is empty"),
        (b"", "empty.pth", "not a readable checkpoint .it is empty"),
        (b"not a checkpoint at all", "text.safetensors", "not a readable checkpoint"),
        (b"PK\x03\x04", "weights.pth", "begins like a zip archive and is none, perhaps cut off"),
        (b"\x89HDF\r\n\x1a\nnonsense", "weights.h5", "not a readable checkpoint"),
        (b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", "old.pth", "before version 1.6|torch refuses it"),
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
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            swin_keras.load_weights(model, tmp_path / "cut.safetensors")


def test_a_folder_without_weights_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="Expected model.safetensors or pytorch_model.bin.*which has no such file"):
        swin_keras.load_weights(model, tmp_path)


def test_a_checkpoint_of_another_architecture_is_refused(model, tmp_path):
    save_file({"conv1.weight": np.ones((3, 5), "float32")}, tmp_path / "resnet.safetensors")
    with pytest.raises(ValueError, match="dialects official, timm, huggingface, torchvision, mmdet, keras_hub.*conv1.weight"):
        swin_keras.load_weights(model, tmp_path / "resnet.safetensors")


def test_an_unknown_source_is_refused(model):
    with pytest.raises(ValueError, match="'auto' or one of official, timm, huggingface, torchvision, mmdet, keras_hub. Received: source='timm3'"):
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


def assert_unchanged(model, before):
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


# Bias tables, position embeddings and heads of other sizes


def test_bias_tables_and_position_embeddings_are_resized_as_torch_resizes_them():
    from swin_keras.weights.resize import resize_bias_table, resize_position_embedding
    from swin_keras.weights.tensor import Tensor

    stored = np.load(GOLDENS / "resize.npz")
    checked = 0
    for name in stored:
        if "_to_" not in name:
            continue
        size = tuple(int(side) for side in name.split("_to_")[1].split("x"))
        if name.startswith("table"):
            resized = resize_bias_table(Tensor.of(stored["table"]), [(side + 1) // 2 for side in size])
        else:
            resized = resize_position_embedding(Tensor.of(stored[name.split("_to_")[0]]), size).reshape(stored[name].shape)
        assert resized.shape == resized.read().shape == stored[name].shape
        np.testing.assert_allclose(resized.read(), stored[name], rtol=0, atol=1e-5)
        checked += 1
    assert checked == 7


@pytest.mark.parametrize(("window", "input_shape"), [(6, (48, 96, 3)), (2, (48, 96, 3)), ((3, 5), (48, 120, 3))])
def test_a_model_with_other_windows_takes_the_weights_and_reports_its_tables(window, input_shape):
    from swin_keras.weights.resize import resize_bicubic

    sizes = {**GOLDEN_SIZES, "window_size": window}
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=input_shape, num_classes=7, **sizes)
    report = swin_keras.load_weights(model, GOLDENS / "official.safetensors")
    tensors = load_file(GOLDENS / "official.safetensors")
    tables = [f"layers.{stage}.blocks.{block}.attn.relative_position_bias_table" for stage, depth in enumerate((2, 3, 1)) for block in range(depth)]
    changed = []
    for name in tables:
        _, stage, _, block, *_ = name.split(".")
        attention = model.get_layer(f"layers_{stage}_blocks_{block}").attn
        size = [2 * side - 1 for side in attention.window]
        if size != [5, 5]:
            changed.append(name)
        expected = resize_bicubic(tensors[name].reshape(5, 5, -1), size).reshape(-1, tensors[name].shape[1])
        np.testing.assert_allclose(attention.relative_position_bias_table, expected, atol=1e-6)
    assert report.resized == sorted(changed) and changed
    assert report.left_initial == []


def test_a_position_embedding_of_another_grid_is_resized_and_one_of_transformers_four_loses_its_extra_row(tmp_path):
    from swin_keras.weights.resize import resize_bicubic

    sizes = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 3, "absolute_position_embedding": True, "num_classes": 7}
    original = load_file(GOLDENS / "huggingface_position.safetensors")
    name = "swin.embeddings.position_embeddings"
    embedding = original[name].astype("float32")
    extra = np.concatenate([np.full((1, 1, 8), 9, "float32"), embedding], axis=1)
    save_file({**original, name: extra}, tmp_path / "four.safetensors")
    for path in (GOLDENS / "huggingface_position.safetensors", tmp_path / "four.safetensors"):
        for shape, grid in [((24, 24, 3), (6, 6)), ((36, 60, 3), (9, 15))]:
            model = swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=shape, **sizes)
            report = swin_keras.load_weights(model, path)
            assert ("absolute_pos_embed" in report.resized) == (grid != (6, 6))
            expected = resize_bicubic(embedding.reshape(6, 6, 8), grid)
            np.testing.assert_allclose(model.get_layer("absolute_pos_embed").get_weights()[0][0], expected, atol=1e-6)


def test_v2_takes_weights_of_another_window_as_they_are_and_says_if_its_scale_differs():
    config = {"input_shape": (48, 48, 3), "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "num_classes": 7}
    model = swin_keras.create_model("swinv2_tiny_patch4_window8_256", window_size=3, **config)
    with pytest.warns(UserWarning, match=r"Build it with pretrained_window_sizes=\(4, 4, 2\)"):
        report = swin_keras.load_weights(model, GOLDENS / "official_v2_pretrained.safetensors")
    assert report.resized == [] and report.left_initial == []
    model = swin_keras.create_model("swinv2_tiny_patch4_window8_256", window_size=3, pretrained_window_sizes=(4, 4, 2), **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swin_keras.load_weights(model, GOLDENS / "official_v2_pretrained.safetensors")


def big_head(tmp_path, classes, rng):
    head = {"head.weight": rng.standard_normal((classes, 48)).astype("float16"), "head.bias": rng.standard_normal(classes).astype("float16")}
    return rewrite(tmp_path, lambda tensors: tensors.update(head)), head


def test_the_head_of_imagenet_22k_becomes_that_of_1k_by_the_official_list(tmp_path, rng):
    path, head = big_head(tmp_path, 21841, rng)
    # The first and last lines of the official list: tench and toilet tissue.
    ends = {0: 359, 1: 368, 2: 460, 998: 21369, 999: 21817}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = golden_model(num_classes=1000, weights=path)
    report = swin_keras.load_weights(model, path)
    assert report.resized == ["head.bias", "head.weight"] and report.left_initial == []
    kernel, bias = model.get_layer("head").get_weights()
    for small, large in ends.items():
        np.testing.assert_array_equal(kernel[:, small], head["head.weight"][large].astype("float32"))
        assert bias[small] == head["head.bias"][large]
    assert len({bytes(column) for column in kernel.T}) == 1000


@pytest.mark.parametrize("classes", [1000, 21841])
def test_fine_tuning_starts_from_either_head_with_its_own_left_initial(tmp_path, rng, classes):
    path, _ = big_head(tmp_path, classes, rng)
    with pytest.warns(UserWarning, match=f"has a head for {classes} classes; the head for 5 stays initial"):
        model = golden_model(num_classes=5, weights=path)
    np.testing.assert_array_equal(model.get_layer("norm").get_weights()[0], load_file(path)["norm.weight"])
    # Weights of a new head: none of the file's, and a bias of zero.
    assert np.all(model.get_layer("head").get_weights()[1] == 0)
    report = swin_keras.load_weights(model, path, skip_head=True)
    assert sorted(report.left_initial) == ["head.bias", "head.weight"] and {"head.bias", "head.weight"} <= set(report.ignored)
    with pytest.raises(ValueError, match="`skip_head=True` leaves the head initial"):
        swin_keras.load_weights(model, path)


def test_a_pre_trained_encoder_is_a_start_for_classifiers_and_backbones():
    sizes = {"input_shape": (48, 48, 3), "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 3}
    path = GOLDENS / "official_simmim.pth"
    with pytest.warns(UserWarning, match="has no head; the head for 5 stays initial"):
        model = swin_keras.create_model("swin_tiny_patch4_window7_224", weights=path, num_classes=5, **sizes)
    report = swin_keras.load_weights(model, path, skip_head=True)
    assert {"mask_token", "decoder.0.weight", "decoder.0.bias"} <= set(report.ignored)
    assert sorted(report.left_initial) == ["head.bias", "head.weight"]
    with pytest.raises(ValueError, match=r"expects 2 tensors \(head.bias, head.weight\).*the file has 3 tensors \(decoder.0.bias"):
        swin_keras.load_weights(model, path)
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", **sizes)
    report = swin_keras.load_weights(backbone, path)
    assert {"mask_token", "decoder.0.weight", "decoder.0.bias", "norm.weight"} <= set(report.ignored)
    assert report.left_initial == [f"norm{stage}.{leaf}" for stage in range(3) for leaf in ("weight", "bias")]


def test_what_stands_around_a_backbone_is_reported_and_is_no_part_of_a_classifier():
    config = {"embed_dim": 8, "depths": (2, 2, 2, 2), "num_heads": (1, 2, 4, 8), "window_size": 7, "input_shape": (56, 56, 3)}
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", **config)
    report = swin_keras.load_weights(backbone, GOLDENS / "detection.pth")
    outside = [name for name in report.ignored if not name.startswith("layers.")]
    assert outside and all(name.startswith(("neck.", "rpn_head.", "roi_head.")) for name in outside)
    model = swin_keras.create_model("swin_tiny_patch4_window7_224", num_classes=5, **config)
    with pytest.raises(ValueError, match=r"norm.weight\), which the file lacks.*neck"):
        swin_keras.load_weights(model, GOLDENS / "detection.pth")


def test_a_model_saved_by_keras_is_a_checkpoint_too(tmp_path):
    from conftest import randomize

    nano = "swin_nano_patch4_window4_32"
    trained = randomize(swin_keras.create_model(nano, num_classes=3))
    trained.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="a head for 3 classes; the head for 5 stays initial"):
        model = swin_keras.create_model(nano, weights=tmp_path / "model.keras", num_classes=5)
    for old, new in zip(trained.get_layer("norm").get_weights(), model.get_layer("norm").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert swin_keras.load_weights(trained, tmp_path / "model.keras").source == "swin_keras"


def test_a_prefix_of_data_parallel_training_is_taken_off(model, tmp_path):
    path = tmp_path / "parallel.safetensors"
    save_file({f"module.{name}": array for name, array in load_file(GOLDENS / "official.safetensors").items()}, path)
    assert len(swin_keras.load_weights(model, path).loaded) == len(model.weights)


# Checkpoints that are wrong


def test_tensors_of_two_dialects_in_one_file_are_refused(model, tmp_path):
    before = model.get_weights()
    path = rewrite(tmp_path, lambda tensors: tensors.update(load_file(GOLDENS / "huggingface_v4.safetensors")))
    with pytest.raises(ValueError, match="tensor names of one dialect. Received a file with those of huggingface and official"):
        swin_keras.load_weights(model, path)
    # One block under the names of another project.
    other = {name: array for name, array in load_file(GOLDENS / "huggingface_v4.safetensors").items() if "layers.0.blocks.0" in name}
    path = rewrite(tmp_path, lambda tensors: tensors.update(other))
    with pytest.raises(ValueError, match=r"the file has \d+ tensors \(swin.encoder.layers.0.blocks.0"):
        swin_keras.load_weights(model, path)
    assert_unchanged(model, before)


def test_a_backbone_s_tensor_with_and_without_its_prefix_is_refused(tmp_path):
    tensors = {f"backbone.{name}": array for name, array in load_file(GOLDENS / "detection.safetensors").items()}
    save_file({**tensors, "norm0.weight": np.ones(8, "float32")}, tmp_path / "doubled.safetensors")
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224")
    with pytest.raises(ValueError, match="two tensors of the file are norm0.weight"):
        swin_keras.load_weights(backbone, tmp_path / "doubled.safetensors")


def _header(content, change):
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    data = content[8 + length :]
    text = change(header)
    text = json.dumps(header if text is None else text).encode() if not isinstance(text, bytes) else text
    return struct.pack("<Q", len(text)) + text + data


def _longer(header):
    header["norm.bias"]["data_offsets"][1] += 4


def _wider(header):
    header["norm.bias"]["shape"] = [10**9, 10**9]


def _overlapping(header):
    header["norm.bias"]["data_offsets"] = header["norm.weight"]["data_offsets"]


def _doubled(header):
    text = json.dumps(header)
    return (text[:-1] + ', "norm.bias": ' + json.dumps(header["norm.weight"]) + "}").encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda content: struct.pack("<Q", 2**40) + content[8:],
        lambda content: struct.pack("<Q", 10) + content[8:],
        lambda content: struct.pack("<Q", 2**64 - 1) + content[8:],
        lambda content: content + b"more",
        lambda content: _header(content, _longer),
        lambda content: _header(content, _wider),
        lambda content: _header(content, _overlapping),
        lambda content: _header(content, _doubled),
    ],
    ids=["length beyond the file", "length too short", "largest length", "bytes behind", "longer", "wider", "overlapping", "doubled"],
)
def test_headers_that_lie_are_refused_and_the_model_stays(model, tmp_path, change):
    path = tmp_path / "lie.safetensors"
    path.write_bytes(change((GOLDENS / "official.safetensors").read_bytes()))
    before = model.get_weights()
    with pytest.raises(ValueError, match="lie.safetensors"):
        swin_keras.load_weights(model, path)
    assert_unchanged(model, before)


def test_hdf5_data_in_another_file_is_refused(model, tmp_path):
    import h5py

    (tmp_path / "secret").write_bytes(bytes(64))
    with h5py.File(tmp_path / "weights.h5", "w") as file:
        file.create_dataset("layers/patch_embedding/proj/vars/0", (4, 4), "float32", external=[(str(tmp_path / "secret"), 0, 64)])
    with pytest.raises(ValueError, match="keeps its data in another file"):
        swin_keras.load_weights(model, tmp_path / "weights.h5")


def test_hdf5_data_that_would_grow_when_read_is_refused(model, tmp_path):
    import h5py

    for options in ({"compression": "gzip"}, {"chunks": (100, 100)}):
        with h5py.File(tmp_path / "weights.h5", "w") as file:
            file.create_dataset("layers/patch_embedding/proj/vars/0", (10**4, 10**4), "float32", **options)
        with pytest.raises(ValueError, match="is compressed or holds no data"):
            swin_keras.load_weights(model, tmp_path / "weights.h5")


def test_names_that_count_to_infinity_cost_nothing(tmp_path):
    from swin_keras.models import convert_checkpoint

    for name in ("layers.999999999.blocks.0.norm1.weight", "layers.0.blocks.999999999.norm1.weight", f"layers.{'9' * 5000}.blocks.0.norm1.weight"):
        path = rewrite(tmp_path, lambda tensors, name=name: tensors.update({name: np.ones(12, "float32")}))
        with pytest.raises(ValueError, match="numbers more stages or blocks than it has|cannot be read"):
            convert_checkpoint(path, tmp_path / "out.safetensors")


def test_the_older_names_of_the_first_pre_trained_v2_are_read(tmp_path):
    def change(tensors):
        for name in [name for name in tensors if ".cpb_mlp." in name]:
            tensors[name.replace(".cpb_mlp.", ".rpe_mlp.")] = tensors.pop(name)

    sizes = {**GOLDEN_SIZES, "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4)}
    simmim = swin_keras.models.create_simmim("swinv2_tiny_patch4_window8_256", input_shape=(48, 48, 3), **sizes)
    report = swin_keras.load_weights(simmim, rewrite(tmp_path, change, "official_simmim_v2"))
    assert len(report.loaded) == len(simmim.weights) and not any("rpe_mlp" in name for name in report.loaded)


def test_what_create_model_does_besides_loading_is_said_in_warnings():
    with pytest.warns(UserWarning, match=r"6 tensors of .*official.pth were resized to other windows or another grid, such as layers.0"):
        golden_model(window_size=6, weights=GOLDENS / "official.pth")
    with pytest.warns(UserWarning, match="lacks norm0.weight, norm0.bias and the like, 6 in all, which stay initial"):
        swin_keras.create_backbone("swin_tiny_patch4_window7_224", weights=GOLDENS / "official.pth", **GOLDEN_SIZES)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: np.zeros_like(table),
        lambda table: np.full_like(table, np.nan),
        lambda table: np.full_like(table, np.inf),
        lambda table: table[:0],
        lambda table: table[:, :-1],
        lambda table: table[0],
    ],
    ids=["zeros", "NaN", "infinite", "empty", "even", "rank"],
)
def test_a_damaged_table_of_coordinates_is_refused_before_anything_is_assigned(tmp_path, change):
    config = {"input_shape": (48, 48, 3), "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "num_classes": 7, "window_size": 3}
    model = swin_keras.create_model("swinv2_tiny_patch4_window8_256", **config)
    name = "layers.1.blocks.1.attn.relative_coords_table"
    path = rewrite(tmp_path, lambda tensors: tensors.update({name: change(tensors[name])}), "official_v2_pretrained")
    before = model.get_weights()
    with pytest.raises(ValueError, match="relative_coords_table in layers.1.blocks.1 that holds no coordinates"):
        swin_keras.load_weights(model, path)
    assert_unchanged(model, before)


def test_a_position_index_of_another_table_is_refused_before_anything_is_assigned(model, tmp_path):
    name = "layers.0.blocks.0.attn.relative_position_index"
    before = model.get_weights()
    for change in (lambda index: index[:-1], lambda index: np.zeros((4, 4), "int64"), lambda index: np.zeros((0, 0), "int64")):
        path = rewrite(tmp_path, lambda tensors, change=change: tensors.update({name: change(tensors[name])}))
        try:
            swin_keras.load_weights(model, path)
        except ValueError as error:
            assert "does not belong to its bias table" in str(error)
            assert_unchanged(model, before)
        else:
            assert change(np.ones((9, 9))).size == 0  # nothing is stored


def test_windows_of_as_many_biases_are_told_apart_by_what_official_files_store(tmp_path):
    from conftest import randomize

    from swin_keras.weights.resize import resize_bicubic

    sizes = {"embed_dim": 4, "depths": (2,), "num_heads": (2,), "num_classes": 3}

    def build(window):
        return swin_keras.create_model("swin_tiny_patch4_window7_224", input_shape=(4 * 13, 4 * 15, 3), window_size=window, **sizes)

    high = randomize(build((2, 5)))
    swin_keras.save_weights(high, tmp_path / "high.safetensors")
    table = high.get_layer("layers_0_blocks_0").attn.relative_position_bias_table
    for window in ((5, 2), (3, 4)):
        other = build(window)
        report = swin_keras.load_weights(other, tmp_path / "high.safetensors")
        assert len(report.resized) == 2
        size = [2 * side - 1 for side in window]
        expected = resize_bicubic(np.asarray(keras.ops.convert_to_numpy(table)).reshape(3, 9, 2), size).reshape(-1, 2)
        received = keras.ops.convert_to_numpy(other.get_layer("layers_0_blocks_0").attn.relative_position_bias_table)
        np.testing.assert_allclose(received, expected, atol=1e-6)
    again = build((2, 5))
    assert swin_keras.load_weights(again, tmp_path / "high.safetensors").resized == []
    from swin_keras.models import convert_checkpoint

    convert_checkpoint(tmp_path / "high.safetensors", tmp_path / "again.safetensors")
    first, second = (load_file(tmp_path / f"{name}.safetensors") for name in ("high", "again"))
    for name in second:
        np.testing.assert_array_equal(second[name], first[name], err_msg=name)
    assert set(first) - set(second) == {"layers.0.blocks.1.attn_mask"}  # of a size of picture, which a checkpoint does not tell


def test_a_query_a_key_and_a_value_of_unequal_widths_or_types_are_refused(model, tmp_path):
    query, key, value = (f"swin.encoder.layers.0.blocks.0.attention.self.{part}.weight" for part in ("query", "key", "value"))

    def uneven(tensors):
        rows = np.concatenate([tensors[query], tensors[key], tensors[value]])
        tensors[query], tensors[key], tensors[value] = rows[:4], rows[4:24], rows[24:]

    with pytest.raises(ValueError, match=r"layers.0.blocks.0.attn.q.weight"):
        swin_keras.load_weights(model, rewrite(tmp_path, uneven, "huggingface_v4"))
    path = rewrite(tmp_path, lambda tensors: tensors.update({key: tensors[key].astype("int32")}), "huggingface_v4")
    with pytest.raises(ValueError, match="layers.0.blocks.0.attn.qkv.weight holds int32"):
        swin_keras.load_weights(model, path)
    # Floats of several types are all good.
    path = rewrite(
        tmp_path, lambda tensors: tensors.update({key: tensors[key].astype("float16"), value: tensors[value].astype(BFLOAT16)}), "huggingface_v4"
    )
    swin_keras.load_weights(model, path)
    kernel = model.get_layer("layers_0_blocks_0").attn.qkv.get_weights()[0]
    np.testing.assert_array_equal(kernel[:, 12:24].T, load_file(path)[key].astype("float32"))


def test_a_head_whose_parts_do_not_belong_together_is_refused(tmp_path, rng):
    for weight, bias, classes in [(21841, 1000, 1000), (1000, 21841, 1000), (7, 5, 7), (7, None, 7), (None, 7, 7)]:

        def change(tensors, weight=weight, bias=bias):
            del tensors["head.weight"], tensors["head.bias"]
            if weight:
                tensors["head.weight"] = rng.standard_normal((weight, 48)).astype("float16")
            if bias:
                tensors["head.bias"] = rng.standard_normal(bias).astype("float16")

        path = rewrite(tmp_path, change)
        with pytest.raises(ValueError, match=r"head\.(weight|bias)"):
            swin_keras.load_weights(golden_model(num_classes=classes), path)
        with pytest.raises(ValueError, match="has a damaged head"):
            golden_model(num_classes=3, weights=path)


def test_a_half_of_a_stage_s_norm_is_missed(tmp_path):
    path = rewrite(tmp_path, lambda tensors: tensors.pop("norm1.bias"), "detection")
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", embed_dim=8, num_heads=(1, 2, 4, 8), depths=(2, 2, 2, 2))
    with pytest.raises(ValueError, match=r"expects 1 tensor \(norm1.bias\)"):
        swin_keras.load_weights(backbone, path)


def test_what_a_bfloat16_model_cannot_hold_is_refused(tmp_path):
    with dtype_policy("bfloat16"):
        half = golden_model()
    path = rewrite(tmp_path, lambda tensors: tensors.update({"norm.bias": np.full(48, 3.4e38, "float32")}))
    with pytest.raises(ValueError, match="norm.bias holds values that are not finite in bfloat16"):
        swin_keras.load_weights(half, path)


def test_a_detector_whose_heads_have_names_like_the_backbone_s_is_read(tmp_path):
    tensors = {f"backbone.{name}": array for name, array in load_file(GOLDENS / "detection.safetensors").items()}
    others = ["encoder.layers.0.ffn.layers.0.0.weight", "panoptic_head.layers.0.ffn.layers.1.bias", "roi_head.stages.0.weight", "head.fc.weight"]
    save_file({**tensors, **{name: np.ones(3, "float32") for name in others}}, tmp_path / "detector.safetensors")
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", embed_dim=8, num_heads=(1, 2, 4, 8), depths=(2, 2, 2, 2))
    report = swin_keras.load_weights(backbone, tmp_path / "detector.safetensors")
    assert set(others) <= set(report.ignored) and report.left_initial == []


def test_a_header_as_long_as_the_letters_of_a_zip_archive_is_no_archive(model, tmp_path):
    content = (GOLDENS / "official.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    longer = 0x4B50 if length <= 0x4B50 else 0x14B50
    (tmp_path / "padded.safetensors").write_bytes(struct.pack("<Q", longer) + content[8 : 8 + length].ljust(longer) + content[8 + length :])
    assert (tmp_path / "padded.safetensors").read_bytes()[:2] == b"PK"
    assert len(swin_keras.load_weights(model, tmp_path / "padded.safetensors").loaded) == len(model.weights)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<!DOCTYPE html><html>Not Found</html>", "a page of HTML"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
        (b"\x80\x04]\x94.", "a pickle without the data of tensors"),
    ],
)
def test_what_is_downloaded_by_mistake_is_called_by_its_name(model, tmp_path, content, message):
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        swin_keras.load_weights(model, tmp_path / "weights.pth")


def test_keras_own_weights_of_a_model_are_left_to_keras(tmp_path):
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    model.save_weights(tmp_path / "mine.weights.h5")
    with pytest.raises(ValueError, match=r"Keras' own `model.load_weights\(path\)` reads them"):
        swin_keras.load_weights(model, tmp_path / "mine.weights.h5")


def test_a_compressed_keras_file_is_refused(model, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", bytes(2**24))
    with pytest.raises(ValueError, match="is compressed or encrypted"):
        swin_keras.load_weights(model, tmp_path / "bomb.keras")


def test_a_mismatch_says_what_the_file_and_the_model_are(model):
    message = r"The file is of Swin V2 with 8 channels and \[2, 2, 2\] blocks, the model of Swin V1 with 12 channels and \[2, 3, 1\] blocks"
    with pytest.raises(ValueError, match=message):
        swin_keras.load_weights(model, GOLDENS / "timm_v2.safetensors")


def test_the_backbone_inside_a_segmenter_of_transformers_is_read(tmp_path):
    tensors = {f"backbone.{name}": array for name, array in load_file(GOLDENS / "huggingface_backbone.safetensors").items()}
    others = ["decode_head.psp_modules.0.1.conv.weight", "decode_head.classifier.bias", "auxiliary_head.convs.0.conv.weight"]
    save_file({**tensors, **{name: np.ones(3, "float32") for name in others}}, tmp_path / "upernet.safetensors")
    sizes = {"input_shape": (27, 38, 3), "embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "window_size": 3}
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", **sizes)
    report = swin_keras.load_weights(backbone, tmp_path / "upernet.safetensors")
    assert report.source == "huggingface" and set(others) <= set(report.ignored) and report.left_initial == []
    stored = np.load(GOLDENS / "huggingface_backbone.npz")
    outputs = backbone(stored["pictures"].astype("float32"))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(outputs["stage2"]), stored["stage2"], rtol=0, atol=1e-5)
