"""microsoft/Swin-Transformer loads what we write: `make test-reference OFFICIAL=PATH_OF_A_CLONE`."""

import os
import pathlib
import sys
import types

import pytest
from comparison import (
    CLAMPED,
    CLASSES,
    MLP,
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
from safetensors.torch import load_file

import swin_keras

if not os.environ.get("SWIN_OFFICIAL"):
    pytest.skip("needs OFFICIAL=PATH_OF_A_CLONE of microsoft/Swin-Transformer", allow_module_level=True)

sys.path.insert(0, str(pathlib.Path(os.environ["SWIN_OFFICIAL"]).resolve()))
from models import simmim
from models.swin_mlp import SwinMLP
from models.swin_transformer import SwinTransformer
from models.swin_transformer_v2 import SwinTransformerV2

OFFICIAL = {V1: SwinTransformer, V2: SwinTransformerV2, MLP: SwinMLP}


def arguments(size, options):
    names = {"absolute_position_embedding": "ape"}
    return {"img_size": size, "drop_path_rate": 0.0, **{names.get(key, key): value for key, value in options.items()}}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (V1, WIDE),
        (V1, CLAMPED),
        (V1, with_options(SQUARE, absolute_position_embedding=True)),
        (V1, with_options(WIDE, qkv_bias=False, patch_norm=False)),
        (V2, WIDE),
        (V2, CLAMPED),
        (V2, with_options(SQUARE, absolute_position_embedding=True, pretrained_window_sizes=(6, 3, 0))),
        (V2, with_options(SQUARE, qkv_bias=False, patch_norm=False)),
        (MLP, WIDE),
        (MLP, CLAMPED),
        (MLP, with_options(SQUARE, absolute_position_embedding=True)),
    ],
)
def test_official_classifier_loads_strictly_and_gives_our_logits(name, case, tmp_path):
    model, path, x = classifier(name, *case), tmp_path / "model.safetensors", pictures(case[0])
    swin_keras.save_weights(model, path, layout="official")
    official = OFFICIAL[name](num_classes=CLASSES, **arguments(*case)).eval()
    official.load_state_dict(load_file(path), strict=True)
    assert_close(model(x), official(channels_first(x)))


@pytest.mark.parametrize(("name", "build"), [(V1, simmim.SwinTransformerForSimMIM), (V2, simmim.SwinTransformerV2ForSimMIM)])
def test_official_simmim_loads_strictly_and_reconstructs_as_ours(name, build, tmp_path):
    size, options = SQUARE
    model, path, x, mask = (
        fill(swin_keras.models.create_simmim(name, (*size, 3), **options)),
        tmp_path / "model.safetensors",
        pictures(size),
        masks(size),
    )
    swin_keras.save_weights(model, path, layout="official")
    encoder = build(num_classes=0, **arguments(size, options))
    official = simmim.SimMIM(types.SimpleNamespace(NORM_TARGET=None), encoder, encoder_stride=16, in_chans=3, patch_size=4).eval()
    official.load_state_dict(load_file(path), strict=True)
    reconstruction = official.decoder(official.encoder(channels_first(x), channels_first(mask[..., None])))
    assert_close(model({"image": x, "mask": mask}), channels_last(reconstruction))
