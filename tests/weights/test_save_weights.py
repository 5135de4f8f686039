"""Weights go out under the names that other projects load, and come back as they were."""

import json
import struct

import keras
import numpy as np
import pytest
from conftest import GOLDENS, array, randomize
from safetensors.numpy import load_file

import swin_keras
from swin_keras.weights import read_checkpoint

V1, V2, MLP = "swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"
ALL = ("official", "timm", "huggingface")


def golden_config(golden):
    path = GOLDENS / f"{golden}.npz"
    if golden in ("official", "huggingface_v4", "huggingface_v5"):
        return {"input_shape": (48, 96, 3), "embed_dim": 12, "depths": (2, 3, 1), "num_heads": (2, 3, 6), "window_size": 3}
    return json.loads(str(np.load(path)["config"]))


def loaded(golden, file=None):
    """The model of a golden with the weights of one of its files."""
    config = golden_config(golden)
    name = MLP if "mlp" in golden else V2 if "v2" in golden else V1
    if "simmim" in golden:
        model = swin_keras.models.create_simmim(name, **config)
    elif golden in ("detection", "mmdet", "huggingface_backbone"):
        model = swin_keras.create_backbone(name, **config)
    else:
        model = swin_keras.create_model(name, num_classes=7, **config)
    swin_keras.load_weights(model, GOLDENS / (file or f"{golden}.safetensors"))
    return model


# Where a layout has no place for a part of the model, the message says which.
@pytest.mark.parametrize(
    ("file", "layouts"),
    [
        ("official.pth", ALL),
        ("official_options.safetensors", ("official",)),
        ("official_clamped.safetensors", ("official", "timm")),
        ("official_v2.pth", ("official",)),
        ("official_v2_pretrained.safetensors", ALL),
        ("official_v2_no_bias.safetensors", ("official",)),
        ("official_mlp.pth", ("official",)),
        ("official_simmim.pth", ("official", "huggingface")),
        ("official_simmim_v2.pth", ("official", "huggingface")),
        ("detection.pth", ("official", "huggingface")),
        ("mmdet.pth", ("official", "huggingface")),
        ("mmpretrain.pth", ALL),
        ("mmpretrain_v2.pth", ALL),
        ("huggingface_v4.bin", ALL),
        ("huggingface_v5.safetensors", ALL),
        ("huggingface_padded.safetensors", ALL),
        ("huggingface_v2.safetensors", ALL),
        ("huggingface_v2_padded.safetensors", ALL),
        ("huggingface_backbone.safetensors", ("official", "huggingface")),
        ("huggingface_simmim.safetensors", ("official", "huggingface")),
        ("huggingface_position.safetensors", ("official", "huggingface")),
        ("timm.safetensors", ALL),
        ("timm_rectangular_window.safetensors", ("official", "timm")),
        ("timm_windows_of_stages.safetensors", ("official", "timm")),
        ("timm_v2.safetensors", ALL),
        ("torchvision.pth", ALL),
        ("torchvision_v2.pth", ALL),
        ("keras_hub.keras", ALL),
    ],
)
def test_saved_weights_are_read_again_with_identical_arrays(file, layouts, tmp_path):
    model = loaded(file.split(".")[0], file)
    before = [array(weight) for weight in model.weights]
    for layout in ALL:
        path = tmp_path / f"{layout}.safetensors"
        if layout not in layouts:
            with pytest.raises(ValueError, match=r"Use layout='official'"):
                swin_keras.save_weights(model, path, layout=layout)
            assert not path.exists()
            continue
        swin_keras.save_weights(model, path, layout=layout)
        randomize(model, seed=5)
        report = swin_keras.load_weights(model, path)
        assert report.source == layout and len(report.loaded) == len(before) and report.left_initial == report.resized == []
        for old, weight in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(array(weight), old)
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".safetensors"] == []


@pytest.mark.parametrize(
    ("golden", "layout"),
    [
        ("official", "official"),
        ("official_options", "official"),
        ("official_clamped", "official"),
        ("official_v2", "official"),
        ("official_v2_pretrained", "official"),
        ("official_mlp", "official"),
        ("official_simmim", "official"),
        ("official_simmim_v2", "official"),
        ("detection", "official"),
        ("timm", "timm"),
        ("timm_v2", "timm"),
        ("huggingface_v4", "huggingface"),
        ("huggingface_v2", "huggingface"),
        ("huggingface_simmim_v2", "huggingface"),
    ],
)
def test_a_saved_file_has_the_names_shapes_and_values_of_the_project_s_own(golden, layout, tmp_path):
    swin_keras.save_weights(loaded(golden), tmp_path / "saved.safetensors", layout=layout)
    saved, expected = load_file(tmp_path / "saved.safetensors"), load_file(GOLDENS / f"{golden}.safetensors")
    assert set(saved) == set(expected)
    for name, value in expected.items():
        if name.endswith("relative_coords_table"):
            np.testing.assert_allclose(saved[name], value, atol=1e-6, err_msg=name)
        else:
            np.testing.assert_array_equal(saved[name], value, err_msg=name)
            assert saved[name].dtype == ("int64" if value.dtype == "int64" else "float32")


def test_the_names_for_transformers_are_those_of_version_four_and_the_format_is_stated(tmp_path):
    swin_keras.save_weights(loaded("huggingface_v5"), tmp_path / "saved.safetensors", layout="huggingface")
    assert set(load_file(tmp_path / "saved.safetensors")) == set(load_file(GOLDENS / "huggingface_v4.safetensors"))
    content = (tmp_path / "saved.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    assert json.loads(content[8 : 8 + length])["__metadata__"] == {"format": "pt"}


def test_half_precision_weights_keep_their_type(tmp_path):
    from conftest import dtype_policy

    with dtype_policy("bfloat16"):
        model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3))
    swin_keras.save_weights(model, tmp_path / "half.safetensors")
    kinds = {tensor.dtype for name, tensor in read_checkpoint(tmp_path / "half.safetensors").tensors.items() if name != "head.weight"}
    assert "bfloat16" in kinds
    other = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    swin_keras.load_weights(other, tmp_path / "half.safetensors")
    for half, whole in zip(model.weights, other.weights, strict=True):
        np.testing.assert_array_equal(array(keras.ops.cast(half, "float32")), array(whole))


@pytest.mark.parametrize(
    ("path", "layout", "message"),
    [
        ("weights.pth", "official", r"path of a \.safetensors file to write"),
        ("gone/weights.safetensors", "official", "whose folder does not exist"),
        ("folder.safetensors", "official", "which is a folder"),
        ("weights.safetensors", "torchvision", "`layout` must be one of official, timm, huggingface"),
        ("weights.safetensors", ["timm"], "`layout` must be one of"),
        (None, "official", "Received: None"),
    ],
)
def test_wrong_destinations_are_refused_and_nothing_is_written(tmp_path, path, layout, message):
    (tmp_path / "folder.safetensors").mkdir()
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    with pytest.raises(ValueError, match=message):
        swin_keras.save_weights(model, tmp_path / path if path else path, layout=layout)
    assert [found.name for found in tmp_path.iterdir()] == ["folder.safetensors"]


def test_models_that_hold_more_than_a_swin_are_refused(tmp_path):
    backbone = swin_keras.create_backbone("swin_nano_patch4_window4_32", input_shape=(32, 32, 3))
    image = keras.Input((32, 32, 3))
    mine = keras.Model(image, keras.layers.Dense(3, name="mine")(backbone(image)["stage2"]), name="segmenter")
    with pytest.raises(ValueError, match=r"'segmenter', which holds variables that no Swin has: mine.weight"):
        swin_keras.save_weights(mine, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match="Expected a `keras.Model`"):
        swin_keras.save_weights(None, tmp_path / "weights.safetensors")


def test_an_older_file_stays_if_the_new_one_cannot_be_made(tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"precious")
    mlp = swin_keras.create_model(MLP, input_shape=(32, 32, 3), embed_dim=4, depths=(1,), num_heads=(2,), window_size=4, num_classes=2)
    with pytest.raises(ValueError, match="timm has no place for layers.0.blocks.0.spatial_mlp.weight"):
        swin_keras.save_weights(mlp, path, layout="timm")
    assert path.read_bytes() == b"precious"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (V1, {"shifted_windows": False}, "shifts the windows of every second block"),
        (V2, {"shifted_windows": False}, "shifts the windows of every second block"),
        (V1, {"relative_position_bias": False}, "no model without a relative position bias"),
        (V2, {"relative_position_bias": False}, "no model without a relative position bias"),
        (V1, {"patch_norm": False}, "needs patch_embed.norm.weight"),
    ],
)
@pytest.mark.parametrize("layout", ["timm", "huggingface"])
def test_what_a_project_would_compute_otherwise_is_refused(tmp_path, name, options, message, layout):
    sizes = {"embed_dim": 4, "depths": (2,), "num_heads": (2,), "window_size": 3, "input_shape": (24, 24, 3), "num_classes": 3}
    model = swin_keras.create_model(name, **sizes, **options)
    with pytest.raises(ValueError, match=message):
        swin_keras.save_weights(model, tmp_path / "weights.safetensors", layout=layout)
    swin_keras.save_weights(model, tmp_path / "weights.safetensors")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (V2, {}, "transformers has no place for norm0.weight"),
        (V1, {"output_norm": False}, "transformers' backbone of V1 has norms"),
    ],
)
def test_backbones_that_transformers_does_not_have_are_refused(tmp_path, name, options, message):
    sizes = {"embed_dim": 4, "depths": (2, 1), "num_heads": (1, 2), "window_size": 3}
    backbone = swin_keras.create_backbone(name, **sizes, **options)
    with pytest.raises(ValueError, match=message):
        swin_keras.save_weights(backbone, tmp_path / "weights.safetensors", layout="huggingface")
    # Version 1 has the norms, version 2 does not.
    other = swin_keras.create_backbone(name, **sizes, output_norm=name == V1)
    swin_keras.save_weights(other, tmp_path / "weights.safetensors", layout="huggingface")


def test_values_that_nobody_would_load_are_not_written(tmp_path):
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    model.get_layer("norm").set_weights([np.full(96, np.nan), np.zeros(96)])
    with pytest.raises(ValueError, match="not finite, in norm.weight"):
        swin_keras.save_weights(model, tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_file_has_the_mode_of_the_user_s_files_and_stands_where_a_link_leads(tmp_path):
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    (tmp_path / "other").write_text("")
    (tmp_path / "link.safetensors").symlink_to("target.safetensors")
    swin_keras.save_weights(model, tmp_path / "link.safetensors")
    assert (tmp_path / "link.safetensors").is_symlink()
    assert (tmp_path / "target.safetensors").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_threads_that_write_to_one_path_leave_one_whole_file(tmp_path):
    import concurrent.futures

    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    path = tmp_path / ("n" * 240 + ".safetensors")  # as long as the system takes
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: swin_keras.save_weights(model, path), range(12)))
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert len(swin_keras.load_weights(model, path).loaded) == len(model.weights)


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path):
    model = swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)
    for path in ("/proc/weights.safetensors", f"{tmp_path}/{'n' * 300}.safetensors", f"{tmp_path}/a\0b.safetensors"):
        with pytest.raises(ValueError, match=r"cannot be written|which is no path|whose folder does not exist"):
            swin_keras.save_weights(model, path)
    assert list(tmp_path.iterdir()) == []
