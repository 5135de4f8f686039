import numpy as np
import pytest
from conftest import randomize
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import tflite, to_deploy
from swin_keras.export.migration import migrate
from swin_keras.export.recipes import find_ranges, quantize

import swin_keras

NANO = "swin_nano_patch4_window4_32"
SMALL = {"input_shape": (33, 47, 3), "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3), "window_size": (3, 5), "num_classes": 7}


@pytest.mark.parametrize("name", [NANO, "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"], ids=["V1", "V2", "MLP"])
@pytest.mark.parametrize("scaled", [False, True])
def test_a_migrated_graph_computes_the_same_with_other_weights(name, scaled, rng):
    model = randomize(swin_keras.create_model(name, **SMALL))
    for block in (model.get_layer(f"layers_{stage}_blocks_{number}") for stage in (0, 1) for number in (0, 1)):
        gamma = block.norm2.gamma.numpy()
        gamma[::5] *= 20  # channels that the next product knows as much larger
        block.norm2.gamma.assign(gamma)
    pictures = rng.standard_normal((3, 33, 47, 3)).astype("float32")
    deploy = to_deploy(model, scaled=scaled)
    before = [np.asarray(weight) for weight in deploy.get_weights()]
    migrate([deploy], pictures)
    changed = sum(not np.allclose(a, b, rtol=1e-3) for a, b in zip(before, deploy.get_weights(), strict=True))
    assert changed >= 4 or (name.startswith("swin_mlp") and not scaled and not changed)
    for picture in pictures:
        expected = model(picture[None])
        np.testing.assert_allclose(deploy(picture[None]), expected, rtol=0, atol=2e-5 * float(np.abs(expected).max()))


def test_a_value_that_is_zero_everywhere_stays_so(rng):
    model = randomize(swin_keras.create_model(NANO, **SMALL))
    attention = model.get_layer("layers_0_blocks_1").attn
    for weight in (attention.qkv.kernel, attention.qkv.bias):
        values = weight.numpy()
        values[..., -12:] = 0
        weight.assign(values)
    pictures = rng.standard_normal((1, 33, 47, 3)).astype("float32")
    deploy = to_deploy(model)
    migrate([deploy], pictures)
    np.testing.assert_allclose(deploy(pictures), model(pictures), rtol=0, atol=1e-4)


def snr_of_hybrid(deploy, model, pictures):
    content = tflite.convert(deploy, ["logits"])
    run = TFLiteModel(quantize(content, "hybrid_int8", find_ranges(content, "hybrid_int8", pictures)))
    expected = model.predict(pictures, verbose=0).astype("float64")
    received = np.concatenate([run(picture[None]) for picture in pictures])
    return 10 * np.log10(np.square(expected).sum() / np.square(expected - received).sum())


@pytest.mark.slow
def test_migration_makes_good_for_channels_that_are_much_larger_than_others(rng):
    model = randomize(swin_keras.create_model(NANO, num_classes=7))
    # The function stays the same: a few channels of the value are 30 times larger, and their rows of the projection smaller. So are some of the
    # query, and smaller those of the key.
    for block in (model.get_layer(f"layers_{stage}_blocks_{number}") for stage in (0, 1) for number in (0, 1)):
        channels = block.attn.proj.kernel.shape[0]
        factors = np.ones((3, channels), "float32")
        factors[0, 3:5], factors[1, 3:5], factors[2, ::7] = 30, 1 / 30, 30
        block.attn.qkv.kernel.assign(block.attn.qkv.kernel.numpy() * factors.reshape(-1))
        block.attn.qkv.bias.assign(block.attn.qkv.bias.numpy() * factors.reshape(-1))
        block.attn.proj.kernel.assign(block.attn.proj.kernel.numpy() / factors[2][:, None])
    pictures = rng.standard_normal((6, 32, 32, 3)).astype("float32")
    plain, migrated = to_deploy(model), to_deploy(model)
    migrate([migrated], pictures)
    assert snr_of_hybrid(migrated, model, pictures) > snr_of_hybrid(plain, model, pictures) + 6
