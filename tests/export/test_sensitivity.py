import numpy as np
import pytest
from conftest import randomize
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import sensitivity, tflite, to_deploy
from swin_keras.export.recipes import find_ranges, quantize
from swin_keras.export.verify import VerificationError

import swin_keras


@pytest.fixture(scope="module")
def files():
    """A float32 file, pictures, and the ranges of hybrid_int8 on them."""
    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7))
    pictures = np.random.default_rng(1).standard_normal((5, 32, 32, 3)).astype("float32")
    content = tflite.convert(to_deploy(model), ["logits"])
    return content, pictures, find_ranges(content, "hybrid_int8", pictures)


def noise(content, float32, pictures):
    """Noise over signal power of a file's outputs."""
    received, expected = ([TFLiteModel(file)(picture[None]) for picture in pictures] for file in (content, float32))
    return np.square(np.subtract(received, expected), dtype="float64").sum() / np.square(expected, dtype="float64").sum()


def test_every_product_of_the_network_has_a_name_of_its_own(files):
    names = list(sensitivity.products(files[0]).values())
    block = ["qkv", "scores", "values", "projection", "fc1", "fc2"]
    blocks = [[f"layers_{stage}_blocks_{number}/{product}" for product in block] for stage in (0, 1) for number in (0, 1)]
    assert names == ["patch_embed", *blocks[0], *blocks[1], "layers_0_downsample/reduction", *blocks[2], *blocks[3], "output"]


def test_noise_of_single_products_adds_up_to_that_of_all(files):
    content, pictures, ranges = files
    units = sensitivity.measure(content, "hybrid_int8", ranges, pictures)
    alone = [value for _, value in units.values()]
    assert alone == sorted(alone, reverse=True) and "patch_embed" not in units  # a convolution, which hybrid_int8 leaves alone
    whole = noise(quantize(content, "hybrid_int8", ranges), content, pictures)
    assert 0.6 * whole < sum(alone) < 1.6 * whole
    names, value = next(iter(units.values()))
    others = [name for name, _ in tflite.operators(content) if name not in names]
    np.testing.assert_allclose(noise(quantize(content, "hybrid_int8", ranges, keep_float=others), content, pictures), value, rtol=1e-6)


@pytest.mark.slow
def test_few_products_stay_in_float32_the_noisiest_first(files):
    content, pictures, ranges = files
    whole = noise(quantize(content, "hybrid_int8", ranges), content, pictures)
    chosen, kept = sensitivity.choose(content, "hybrid_int8", ranges, pictures, loss=lambda file: noise(file, content, pictures), budget=0.6 * whole)
    units = list(sensitivity.measure(content, "hybrid_int8", ranges, pictures))
    assert kept == units[: len(kept)] and 0 < len(kept) < len(units) / 2
    assert noise(chosen, content, pictures) <= 0.6 * whole
    assert sensitivity.choose(content, "hybrid_int8", ranges, pictures, lambda file: 0.0, 0.0) == (quantize(content, "hybrid_int8", ranges), [])
    with pytest.raises(VerificationError, match="hybrid_int8 loses 1.00 points with every operator in float32, more than the budget of 0.5"):
        sensitivity.choose(content, "hybrid_int8", ranges, pictures, lambda file: 1.0, 0.5)


def test_errors_of_products_build_up_to_that_of_the_output(files):
    content, pictures, ranges = files
    quantized = quantize(content, "hybrid_int8", ranges)
    errors = sensitivity.product_errors(content, quantized, pictures)
    assert list(errors) == [name for name in sensitivity.products(content).values() if name != "patch_embed"]
    assert errors["layers_0_blocks_0/qkv"] > errors["layers_1_blocks_1/projection"] + 3
    assert errors["output"] == pytest.approx(-10 * np.log10(noise(quantized, content, pictures)), abs=1.5)
