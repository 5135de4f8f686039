import numpy as np
import pytest

from swin_keras import training
from swin_keras.training.augmentation import random_affine


@pytest.fixture(scope="module")
def digits():
    return training.load_data("digits", (32, 32, 3))


def test_digits_are_split_60_20_20_by_class_without_overlap(digits):
    from sklearn.datasets import load_digits

    sizes = {split: len(classes) for split, (_, classes) in digits.splits.items()}
    assert sizes == {"train": 1078, "validation": 359, "test": 360}
    whole = np.bincount(load_digits().target)
    for pictures, classes in digits.splits.values():
        np.testing.assert_allclose(np.bincount(classes) / len(classes), whole / 1797, atol=0.003)
        assert pictures.shape == (len(classes), 8, 8, 3) and pictures.dtype == np.uint8
    scans = np.concatenate([pictures[..., 0].reshape(len(pictures), -1) for pictures, _ in digits.splits.values()])
    original = np.round(load_digits().data * 255 / 16)
    np.testing.assert_array_equal(np.sort(scans.view("V64").ravel()), np.sort(original.astype("uint8").view("V64").ravel()))


def test_the_split_is_always_the_same(digits):
    again = training.load_data("digits", (32, 32, 3))
    for split, (pictures, classes) in digits.splits.items():
        np.testing.assert_array_equal(again.splits[split][0], pictures)
        np.testing.assert_array_equal(again.splits[split][1], classes)


def test_inputs_are_resized_and_nearly_standard(digits):
    inputs, classes = digits.inputs("train")
    assert inputs.shape == (1078, 32, 32, 3) and inputs.dtype == np.float32 and len(classes) == 1078
    assert abs(inputs.mean()) < 0.05 and abs(inputs.std() - 1) < 0.05


def test_inputs_are_what_the_device_makes_of_the_written_scan(digits):
    from PIL import Image
    from swin_keras.edge_demo import preprocess

    device = np.concatenate([preprocess(Image.fromarray(picture), digits.preprocessing.to_dict()) for picture in digits.splits["test"][0]])
    levels = np.abs(device - digits.inputs("test")[0]) * digits.preprocessing.std[0] * 255
    assert levels.max() < 1.01


def test_unknown_data_is_refused():
    with pytest.raises(ValueError, match="Expected data='digits'.*Received: data='cats'"):
        training.load_data("cats", (32, 32, 3))


def picture_with_a_dot(row, column, size=33):
    picture = np.zeros((1, size, size, 3), "float32")
    picture[0, row, column] = 255.0
    return picture


def test_affine_without_ranges_changes_nothing(rng):
    pixels = rng.uniform(0, 255, (3, 20, 32, 3)).astype("float32")
    np.testing.assert_allclose(random_affine(pixels, (1, 2), rotation=0.0, shear=0.0, zoom=0.0, shift=0.0), pixels, atol=1e-2)


def test_affine_is_stateless_and_each_picture_has_its_own_change(rng):
    pixels = np.repeat(rng.uniform(0, 255, (1, 20, 32, 3)).astype("float32"), 5, axis=0)
    first = random_affine(pixels, (3, 4)).numpy()
    np.testing.assert_array_equal(random_affine(pixels, (3, 4)), first)
    assert np.abs(random_affine(pixels, (3, 5)).numpy() - first).max() > 10
    assert all(np.abs(first[i] - first[j]).max() > 10 for i in range(5) for j in range(i))


@pytest.mark.parametrize(
    ("ranges", "start", "expected"),
    [
        # A dot on the right turns on a circle; slants and shifts move it as far as they say, and both ways.
        ({"rotation": 30.0}, (16, 28), lambda d: (np.abs(np.hypot(*d) - 12).max() < 1, np.degrees(np.arctan2(d[0], d[1])), 30)),
        ({"shift": 0.2}, (16, 16), lambda d: (True, d[1] / 33, 0.2)),
        ({"shift": 0.2}, (16, 16), lambda d: (True, d[0] / 33, 0.2)),
        ({"zoom": 0.25}, (16, 28), lambda d: (np.abs(d[0]).max() < 0.5, 12 / d[1] - 1, 0.25)),
        ({"shear": 20.0}, (26, 16), lambda d: (np.abs(d[0] - 10).max() < 1, np.degrees(np.arctan2(d[1], d[0])), 20)),
    ],
    ids=["rotation", "shift across", "shift down", "zoom", "shear"],
)
def test_affine_moves_a_dot_by_the_range_it_was_given(ranges, start, expected):
    pixels = np.repeat(picture_with_a_dot(*start), 400, axis=0)
    still = {"rotation": 0.0, "shear": 0.0, "zoom": 0.0, "shift": 0.0}
    moved = random_affine(pixels, (5, 6), **{**still, **ranges}).numpy()[..., 0]
    rows, columns = np.indices(moved.shape[1:])
    total = moved.sum((1, 2))
    down = (moved * rows).sum((1, 2)) / total - 16
    across = (moved * columns).sum((1, 2)) / total - 16
    holds, amounts, limit = expected((down, across))
    assert holds
    # Uniform between both limits: extremes near them, mean near nothing.
    assert 0.9 * limit < amounts.max() < 1.15 * limit and -1.15 * limit < amounts.min() < -0.9 * limit
    assert abs(amounts.mean()) < 0.15 * limit
