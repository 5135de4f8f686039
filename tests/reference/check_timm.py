"""timm loads what we write."""

import pytest
from comparison import CLAMPED, CLASSES, SQUARE, V1, V2, WIDE, assert_close, channels_first, classifier, pictures, with_options

# isort: split
# After `comparison`, which makes torchvision importable.
import timm
from safetensors.torch import load_file
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2

import swin_keras

TIMM = {V1: SwinTransformer, V2: SwinTransformerV2}


@pytest.mark.parametrize(
    ("name", "case"),
    [
        (V1, WIDE),
        (V1, CLAMPED),
        (V1, with_options(SQUARE, qkv_bias=False)),
        (V1, with_options(WIDE, window_size=(3, 6))),
        (V1, with_options(WIDE, window_size=(3, 6, 3))),
        (V2, WIDE),
        (V2, CLAMPED),
        (V2, with_options(SQUARE, pretrained_window_sizes=(6, 3, 0))),
        (V2, with_options(SQUARE, qkv_bias=False)),
    ],
)
def test_timm_loads_strictly_and_gives_our_logits(name, case, tmp_path):
    model, path, x = classifier(name, *case), tmp_path / "model.safetensors", pictures(case[0])
    swin_keras.save_weights(model, path, layout="timm")
    reference = TIMM[name](img_size=case[0], num_classes=CLASSES, drop_path_rate=0.0, **case[1]).eval()
    reference.load_state_dict(load_file(path), strict=True)
    assert_close(model(x), reference(channels_first(x)))


@pytest.mark.parametrize(("name", "timm_name", "size"), [(V1, V1, (224, 224)), (V2, "swinv2_tiny_window8_256", (256, 256))])
def test_timm_creates_the_full_size_model_from_our_file(name, timm_name, size, tmp_path):
    model, path, x = classifier(name, size, {}, num_classes=1000, scale=0.05), tmp_path / "model.safetensors", pictures(size)
    swin_keras.save_weights(model, path, layout="timm")
    reference = timm.create_model(timm_name, checkpoint_path=str(path)).eval()
    assert_close(model(x), reference(channels_first(x)))
