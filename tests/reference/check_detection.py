"""SwinTransformer/Swin-Transformer-Object-Detection loads the backbone that we write: `make test-reference DETECTION=PATH_OF_A_CLONE`."""

import os
import pathlib
import sys
from unittest import mock

import pytest
from comparison import V1, WIDE, assert_close, channels_first, channels_last, fill, pictures
from goldens.make_goldens import load
from safetensors.torch import load_file

import swin_keras

if not os.environ.get("SWIN_DETECTION"):
    pytest.skip("needs DETECTION=PATH_OF_A_CLONE of SwinTransformer/Swin-Transformer-Object-Detection", allow_module_level=True)


@pytest.mark.parametrize(
    ("input_shape", "size", "options"),
    [
        ((None, None, 3), (52, 71), {}),
        ((48, 96, 3), (48, 96), {}),
        ((48, 96, 3), (48, 96), {"absolute_position_embedding": True}),
    ],
)
def test_official_detector_loads_our_backbone_strictly_and_gives_our_stages(input_shape, size, options, tmp_path):
    path, x = tmp_path / "model.safetensors", pictures(size)
    model = fill(swin_keras.create_backbone(V1, input_shape=input_shape, out_stages=(2, 3), **WIDE[1], **options))
    swin_keras.save_weights(model, path, layout="official")
    source = pathlib.Path(os.environ["SWIN_DETECTION"]) / "mmdet" / "models" / "backbones" / "swin_transformer.py"
    with mock.patch.dict(sys.modules):  # `load` puts stand-ins for timm and mmdet there
        build = load(source, "mmdet.models.backbones.").SwinTransformer
    official = build(pretrain_img_size=size, ape=bool(options), drop_path_rate=0.0, out_indices=(1, 2), **WIDE[1])
    official.eval()  # its own, which returns nothing
    official.load_state_dict(load_file(path), strict=True)
    for ours, theirs in zip(model(x).values(), official(channels_first(x)), strict=True):
        assert_close(ours, channels_last(theirs))
