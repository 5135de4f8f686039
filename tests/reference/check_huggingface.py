"""transformers loads what we write: a folder with our file and the configuration that transformers saves."""

import pytest
from comparison import (
    CLAMPED,
    CLASSES,
    SQUARE,
    V1,
    V2,
    WIDE,
    assert_close,
    channels_first,
    channels_last,
    classifier,
    fill,
    masks,
    pictures,
    with_options,
)

# isort: split
# After `comparison`, which makes torchvision importable.
import transformers

import swin_keras

# transformers adds the mask of shifted windows twice in V2. It makes no difference here: with logit scales near 1, as
# `fill` makes them, 100 leaves nothing of a hidden token in float32, and 200 no less.
PREFIX = {V1: "Swin", V2: "Swinv2"}


def load(model, name, what, folder, size, options):
    """Writes our weights and a configuration, loads them, asserts that every tensor had its place, and returns the model."""
    names = {"absolute_position_embedding": "use_absolute_embeddings"}
    options = {names.get(key, key): value for key, value in options.items()}
    swin_keras.save_weights(model, folder / "model.safetensors", layout="huggingface")
    getattr(transformers, f"{PREFIX[name]}Config")(image_size=size, drop_path_rate=0.0, **options).save_pretrained(folder)
    reference, information = getattr(transformers, f"{PREFIX[name]}{what}").from_pretrained(folder, output_loading_info=True)
    assert {"missing_keys", "unexpected_keys", "mismatched_keys"} <= set(information)
    assert not any(information.values()), information
    return reference.eval()


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (V1, WIDE),
        (V1, with_options(SQUARE, absolute_position_embedding=True)),
        (V1, with_options(SQUARE, qkv_bias=False)),
        (V2, WIDE),
        (V2, CLAMPED),
        (V2, with_options(SQUARE, pretrained_window_sizes=(6, 3, 0))),
        (V2, with_options(SQUARE, qkv_bias=False)),
    ],
)
def test_transformers_classifier_loads_every_tensor_and_gives_our_logits(name, case, tmp_path):
    model, x = classifier(name, *case), pictures(case[0])
    reference = load(model, name, "ForImageClassification", tmp_path, case[0], {"num_labels": CLASSES, **case[1]})
    assert_close(model(x), reference(channels_first(x)).logits)


@pytest.mark.parametrize(("name", "side", "window"), [(V1, 224, 7), (V2, 256, 8)])
def test_transformers_loads_the_full_size_model_from_our_file(name, side, window, tmp_path):
    size = (side, side)
    model, x = classifier(name, size, {}, num_classes=1000, scale=0.05), pictures(size)
    reference = load(model, name, "ForImageClassification", tmp_path, side, {"num_labels": 1000, "window_size": window})
    assert_close(model(x), reference(channels_first(x)).logits)


@pytest.mark.parametrize("name", [V1, V2])
def test_transformers_simmim_loads_every_tensor_and_reconstructs_as_ours(name, tmp_path):
    size, options = SQUARE
    model, x, mask = fill(swin_keras.models.create_simmim(name, (*size, 3), **options)), pictures(size), masks(size)
    reference = load(model, name, "ForMaskedImageModeling", tmp_path, size[0], {"encoder_stride": 16, **options})
    output = reference(channels_first(x), bool_masked_pos=channels_first(mask[..., None]).flatten(1).bool())
    assert_close(model({"image": x, "mask": mask}), channels_last(output.reconstruction))


@pytest.mark.parametrize(("name", "output_norm"), [(V1, True), (V2, False)])
def test_transformers_backbone_loads_every_tensor_and_gives_our_stages(name, output_norm, tmp_path):
    stages, x = ["stage2", "stage3"], pictures((52, 71))
    model = fill(swin_keras.create_backbone(name, out_stages=stages, output_norm=output_norm, **WIDE[1]))
    # V2 there has no norms. takes from its configuration which grids have shifts, so the last one there must be larger than the window.
    reference = load(model, name, "Backbone", tmp_path, (64, 96), {"out_features": stages, **WIDE[1]})
    for stage, theirs in zip(stages, reference(channels_first(x)).feature_maps, strict=True):
        assert_close(model(x)[stage], channels_last(theirs))
