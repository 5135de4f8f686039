"""Masked image modelling: learning, masks, saving. Parity is in test_parity.py."""

import keras
import numpy as np
import pytest
from conftest import dtype_policy

import swin_keras
from swin_keras.models import SimMIM, create_simmim, random_mask

ROWS = {"V1": "swin_tiny_patch4_window7_224", "V2": "swinv2_tiny_patch4_window8_256"}
SMALL = {"embed_dim": 12, "depths": (1, 2), "num_heads": (2, 3), "window_size": 3}


def inputs(rng, size, masked=0.5, count=3):
    grid = [-(-side // 4) for side in size]
    image = rng.standard_normal((count, *size, 3)).astype("float32")
    return {"image": image, "mask": (rng.random((count, *grid)) < masked).astype("float32")}


@pytest.mark.parametrize("version", ROWS)
def test_it_learns_to_paint_what_is_hidden(version, rng):
    keras.utils.set_random_seed(0)
    model = create_simmim(ROWS[version], input_shape=(24, 40, 3), **SMALL)
    # Stripes of one colour in each picture.
    x = inputs(rng, (24, 40), count=16)
    x["image"] = np.broadcast_to(rng.standard_normal((16, 1, 1, 3)), x["image"].shape).astype("float32")
    model.compile(keras.optimizers.AdamW(3e-3))
    model.optimizer.build(model.trainable_variables)  # or TensorFlow traces the step twice
    losses = model.fit(x, batch_size=8, epochs=30, verbose=0).history["loss"]
    assert losses[-1] < 0.4 * losses[0]


def test_only_hidden_pixels_count_and_only_visible_ones_are_seen(rng):
    model = create_simmim(ROWS["V1"], input_shape=(24, 40, 3), **SMALL)
    model.compile("sgd")
    x = inputs(rng, (24, 40))
    hidden = np.kron(x["mask"], np.ones((1, 4, 4)))[..., None] > 0
    other = {"image": np.where(hidden, 7.0, x["image"]).astype("float32"), "mask": x["mask"]}
    first, second = (keras.ops.convert_to_numpy(model(batch)) for batch in (x, other))
    np.testing.assert_allclose(first, second, atol=1e-6)
    expected = np.abs(x["image"] - first)[np.broadcast_to(hidden, x["image"].shape)].mean()
    np.testing.assert_allclose(model.evaluate(x, verbose=0), expected, rtol=1e-5)


def test_any_size_works_and_so_does_none(rng):
    x = inputs(rng, (26, 39))
    static = create_simmim(ROWS["V1"], input_shape=(26, 39, 3), window_fit="pad", **SMALL)
    free = create_simmim(ROWS["V1"], input_shape=(None, None, 3), **SMALL)
    free.set_weights(static.get_weights())
    for model in (static, free):
        model.compile("sgd")
    assert static.output_shape == (None, 26, 39, 3)
    np.testing.assert_allclose(free.evaluate(x, verbose=0), static.evaluate(x, verbose=0), rtol=1e-5)


def test_it_saves_and_reloads(rng, tmp_path):
    model = create_simmim(ROWS["V2"], input_shape=(24, 40, 3), target_norm_size=5, **SMALL)
    model.save(tmp_path / "simmim.keras")
    reloaded = keras.models.load_model(tmp_path / "simmim.keras")
    assert type(reloaded) is SimMIM and reloaded.target_norm_size == 5
    x = inputs(rng, (24, 40))
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(reloaded(x)), keras.ops.convert_to_numpy(model(x)))


def test_its_layers_have_the_names_of_the_classifiers():
    simmim = create_simmim(ROWS["V1"], input_shape=(24, 40, 3), **SMALL)
    classifier = swin_keras.create_model(ROWS["V1"], input_shape=(24, 40, 3), **SMALL)
    shared = {layer.name for layer in classifier.layers if layer.weights} - {"head"}
    assert shared <= {layer.name for layer in simmim.layers}


def test_random_mask_hides_the_right_share_in_squares_and_repeats(rng):
    mask = random_mask(np.random.default_rng((0, 3, 17)), (192, 96), mask_patch_size=32, mask_ratio=0.6, patch_size=4)
    assert mask.shape == (48, 24) and mask.dtype == np.float32
    squares = mask.reshape(6, 8, 3, 8).transpose(0, 2, 1, 3).reshape(18, 64)
    assert np.all(squares.min(1) == squares.max(1))
    assert squares[:, 0].sum() == 11  # 0.6 of 18 squares, rounded up
    np.testing.assert_array_equal(mask, random_mask(np.random.default_rng((0, 3, 17)), (192, 96)))
    assert np.any(mask != random_mask(np.random.default_rng((0, 4, 17)), (192, 96)))


@pytest.mark.parametrize(
    "arguments", [{"image_size": (190, 192)}, {"mask_patch_size": 30, "image_size": (180, 180)}, {"mask_ratio": 1.0}, {"mask_ratio": 0}], ids=str
)
def test_random_mask_refuses_what_does_not_fit(arguments, rng):
    with pytest.raises(ValueError, match="Received: image_size="):
        random_mask(rng, **{"image_size": (192, 192), **arguments})


@pytest.mark.parametrize("arguments", [{"mask_patch_size": 0}, {"patch_size": "4"}, {"image_size": None}, {"image_size": (64.0, 64.0)}], ids=str)
def test_random_mask_refuses_what_is_no_size(arguments, rng):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}` must be a positive integer or a pair"):
        random_mask(rng, **{"image_size": (192, 192), **arguments})


def test_random_mask_refuses_a_seed_in_place_of_a_generator():
    with pytest.raises(ValueError, match="`rng` must be a `numpy.random.Generator`. Received: 0"):
        random_mask(0, (192, 192))


def test_random_mask_takes_patches_that_are_not_square(rng):
    assert random_mask(rng, (64, 96), mask_patch_size=32, patch_size=(2, 4)).shape == (32, 24)


def test_policy_is_saved(rng, tmp_path):
    with dtype_policy("mixed_bfloat16"):
        model = create_simmim(ROWS["V1"], input_shape=(24, 40, 3), **SMALL)
    model.save(tmp_path / "simmim.keras")
    reloaded = keras.models.load_model(tmp_path / "simmim.keras")
    assert reloaded.get_layer("layers_0_blocks_0").compute_dtype == "bfloat16"
    x = inputs(rng, (24, 40))
    assert keras.backend.standardize_dtype(model(x).dtype) == "float32"
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(reloaded(x)), keras.ops.convert_to_numpy(model(x)))


def test_another_loss_is_refused():
    with pytest.raises(ValueError, match="a loss of its own. Received: loss='mse'"):
        create_simmim(ROWS["V1"], input_shape=(24, 40, 3), **SMALL).compile("sgd", loss="mse")


@pytest.mark.parametrize("weighted", [False, True])
def test_targets_and_weights_are_refused(weighted, rng):
    model = create_simmim(ROWS["V1"], input_shape=(24, 40, 3), **SMALL)
    model.compile("sgd")
    x = inputs(rng, (24, 40))
    with pytest.raises(ValueError, match="SimMIM learns from dictionaries"):
        model.evaluate(x, x["image"], sample_weight=np.ones(3) if weighted else None, verbose=0)


@pytest.mark.parametrize("size", [4, 1, "47", 5.0])
def test_a_neighbourhood_that_has_no_centre_is_refused(size):
    with pytest.raises(ValueError, match="`target_norm_size` must be an odd integer"):
        create_simmim(ROWS["V2"], target_norm_size=size)
