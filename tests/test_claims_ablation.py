"""The variants of benchmarks/claims/ablation.py are what they say: each differs from the whole model in that and nothing else."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import ROOT, load_script

SIDE = 32


@pytest.fixture(scope="module")
def ablation():
    return load_script(ROOT / "benchmarks" / "claims" / "ablation.py")


@pytest.fixture(scope="module")
def data(ablation):
    """The digits' model, its first stage alone: a grid of 8x8 tokens, windows of 4x4."""
    return dataclasses.replace(ablation.DATA["digits"], changes={"embed_dim": 8, "depths": (2,), "num_heads": (2,)})


@pytest.fixture(scope="module")
def models(ablation, data):
    keras.utils.set_random_seed(0)
    return {variant: ablation.build(variant, data) for variant in ablation.VARIANTS}


def reached_from(model, row, column):
    """Returns on which of the 8x8 tokens after the stage the pixels of another token have an influence."""
    stage = keras.Model(model.inputs, model.get_layer("layers_0_blocks_1").output)
    picture = np.random.default_rng(0).normal(size=(1, SIDE, SIDE, 3)).astype("float32")
    other = picture.copy()
    other[:, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 1
    outputs = [np.asarray(stage({"image": pixels})) for pixels in (picture, other)]
    return np.abs(outputs[0] - outputs[1]).max(axis=(0, 3)) > 0


def test_full_model_reaches_the_next_window_but_not_the_opposite_end_of_the_picture(models):
    reached = reached_from(models["full"], 0, 3)
    assert reached[:4, 4:6].all()
    assert not reached[6:].any()


def test_without_a_shift_a_window_does_not_depend_on_another(models):
    window = np.zeros((8, 8), bool)
    window[:4, :4] = True
    np.testing.assert_array_equal(reached_from(models["not shifted"], 0, 3), window)


def test_without_a_mask_opposite_ends_of_the_picture_attend_to_each_other(models):
    assert reached_from(models["no mask"], 0, 3)[6:].all()


def test_a_variant_learns_the_positions_that_it_names_and_no_others(models):
    found = {}
    for variant, model in models.items():
        paths = [variable.path for variable in model.trainable_variables]
        found[variant] = sum("relative_position_bias_table" in path for path in paths), sum("absolute_pos_embed" in path for path in paths)
    expected = dict.fromkeys(models, (2, 0)) | {"no position": (0, 0), "absolute": (0, 1), "absolute and relative": (2, 1)}
    assert found == expected


def test_the_bias_alone_decides_where_there_is_no_query_and_key(ablation, models):
    assert all(isinstance(models["relative without q k"].get_layer(f"layers_0_blocks_{block}").attn, ablation.BiasAttention) for block in (0, 1))
    windows = np.random.default_rng(2).normal(size=(2, 16, 8)).astype("float32")
    weights = np.asarray(ablation.BiasAttention(4, 2, return_attention=True)(windows)[1])
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.ptp(weights) > 1e-3


def test_every_variant_finds_its_first_weights_in_the_one_that_has_all(ablation, data, models, monkeypatch):
    monkeypatch.setattr(ablation, "SEEDS", 2)
    weights = ablation.initial_weights(data)
    shapes = {path: array.shape for path, array in weights.items()}
    for model in models.values():
        assert {variable.path: (2, *variable.shape) for variable in model.trainable_variables}.items() <= shapes.items()
    kernel = next(array for path, array in weights.items() if path.endswith("qkv/kernel"))
    assert (kernel[0] != kernel[1]).all()


def test_pictures_are_moved_a_little(ablation):
    pictures = np.zeros((3, SIDE, SIDE, 1), "float32")
    pictures[:, 10:22, 12:20] = 1
    random = np.array([[0] * 6, [1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0]], "float32")
    still, *moved = np.asarray(ablation.moved(pictures, random))
    np.testing.assert_allclose(still, pictures[0], atol=1e-5)
    for picture in moved:
        assert 0.01 < np.abs(picture - still).mean() < 0.1
        assert 0.9 < picture.sum() / still.sum() < 1.1


def test_an_interval_is_students(ablation):
    mean, half = ablation.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3
    assert abs(half - 2.776445 * 2.5**0.5 / 5**0.5) < 1e-5
