import keras
import numpy as np
import pytest

from swin_keras.layers.relative_position import log_spaced_coordinates, relative_position_index
from swin_keras.layers.windows import (
    MASKED_LOGIT,
    fit_window,
    pad_to_multiple,
    shift_mask,
    to_pair,
    window_partition,
    window_reverse,
)


def official_partition(x, window_size):
    """The six-axis form of the official code, for any window."""
    b, h, w, c = x.shape
    wh, ww = window_size
    return x.reshape(b, h // wh, wh, w // ww, ww, c).transpose(0, 1, 3, 2, 4, 5).reshape(-1, wh * ww, c)


def test_window_partition_equals_the_official_six_axis_form(rng):
    x = rng.standard_normal((2, 9, 20, 7)).astype("float32")
    np.testing.assert_array_equal(window_partition(x, (3, 5)), official_partition(x, (3, 5)))


def test_window_reverse_undoes_window_partition(rng):
    x = rng.standard_normal((2, 9, 20, 7)).astype("float32")
    np.testing.assert_array_equal(window_reverse(window_partition(x, (3, 5)), (3, 5), (9, 20)), x)


def official_mask(grid, window_size, shift_size):
    """The official construction: number nine regions of the image, cut it into windows, compare."""
    regions = np.zeros((1, *grid, 1))
    number = 0
    for rows in (slice(0, -window_size[0]), slice(-window_size[0], -shift_size[0]), slice(-shift_size[0], None)):
        for columns in (slice(0, -window_size[1]), slice(-window_size[1], -shift_size[1]), slice(-shift_size[1], None)):
            regions[:, rows, columns, :] = number
            number += 1
    windows = official_partition(regions, window_size)[..., 0]
    return np.where(windows[:, None, :] != windows[:, :, None], -100.0, 0.0)


@pytest.mark.parametrize(("grid", "window", "shift"), [((8, 8), (4, 4), (2, 2)), ((9, 20), (3, 5), (1, 2)), ((14, 21), (7, 7), (3, 3))])
def test_shift_mask_equals_the_official_construction(grid, window, shift):
    np.testing.assert_array_equal(shift_mask(grid, window, shift), official_mask(grid, window, shift))


def test_shift_mask_lets_a_token_see_exactly_its_unwrapped_neighbours():
    # From the definition: after the shift two tokens of a window may attend if neither, or both, came around the edge.
    grid, window, shift = (6, 10), (3, 5), (1, 2)
    rows, columns = np.meshgrid(np.arange(6), np.arange(10), indexing="ij")
    position = np.stack([np.roll(rows, (-1, -2), (0, 1)), np.roll(columns, (-1, -2), (0, 1))], -1)[None]
    windows = official_partition(position, window)
    distance = np.abs(windows[:, :, None] - windows[:, None, :])
    near = np.all(distance < np.array(window), axis=-1)
    np.testing.assert_array_equal(shift_mask(grid, window, shift) == 0.0, near)


def test_shift_on_one_axis_masks_that_axis_only():
    mask = shift_mask((4, 6), (4, 3), (0, 1)).reshape(2, 4, 3, 4, 3)
    assert not mask[0].any()
    np.testing.assert_array_equal(mask[1, 0, :, 3, :], [[0, 0, MASKED_LOGIT], [0, 0, MASKED_LOGIT], [MASKED_LOGIT, MASKED_LOGIT, 0]])


def test_no_shift_needs_no_mask():
    assert shift_mask((8, 12), (4, 3), (0, 0)) is None


@pytest.mark.parametrize(
    ("grid", "window", "shift", "expected"),
    [
        ((8, 12), (4, 3), (2, 1), ((4, 3), (2, 1))),
        ((4, 8), (4, 4), (2, 2), ((4, 4), (0, 2))),
        ((5, 21), (7, 7), (3, 3), ((5, 7), (0, 3))),
        ((2, 3), (7, 7), (3, 3), ((2, 3), (0, 0))),
    ],
)
def test_fit_window_clamps_and_stops_the_shift_on_each_axis(grid, window, shift, expected):
    assert fit_window(grid, window, shift) == expected


@pytest.mark.parametrize("grid", [(5, 21), (2, None)])
def test_fit_window_pads_around_the_same_window_and_shift(grid):
    assert fit_window(grid, (7, 6), (3, 0), "pad") == ((7, 6), (3, 0))


def test_fit_window_refuses_to_clamp_to_an_unknown_grid():
    with pytest.raises(ValueError, match=r"Received: a grid of \(9, None\)"):
        fit_window((9, None), (3, 5), (1, 2), "clamp")


def test_padding_is_at_the_end_and_as_little_as_possible(rng):
    x = rng.standard_normal((2, 5, 9, 3)).astype("float32")
    padded = keras.ops.convert_to_numpy(pad_to_multiple(x, (4, 3)))
    assert padded.shape == (2, 8, 9, 3)
    np.testing.assert_array_equal(padded[:, :5], x)
    assert not padded[:, 5:].any()
    assert pad_to_multiple(x, (5, 3)) is x


@pytest.mark.parametrize("shift", [(2, 1), (0, 1), (2, 0)])
def test_mask_of_an_unknown_grid_equals_that_of_the_known_one(shift):
    grid = [keras.ops.convert_to_tensor(side) for side in (8, 9)]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(shift_mask(grid, (4, 3), shift)), shift_mask((8, 9), (4, 3), shift))


def test_log_spaced_coordinates_are_the_official_ones():
    table = log_spaced_coordinates((2, 3)).reshape(3, 5, 2)
    # Offsets over the largest, times 8, then sign(x) * log2(1 + |x|) / 3.
    np.testing.assert_allclose(table[:, 0, 0], [-np.log2(9) / 3, 0, np.log2(9) / 3], rtol=1e-6)
    np.testing.assert_allclose(table[0, :, 1], np.array([-np.log2(9), -np.log2(5), 0, np.log2(5), np.log2(9)]) / 3, rtol=1e-6)
    wider = log_spaced_coordinates((2, 3), (3, 5)).reshape(3, 5, 2)
    np.testing.assert_allclose(wider[2, 4], [np.log2(5) / 3, np.log2(5) / 3], rtol=1e-6)


@pytest.mark.parametrize("pretrained", [None, (1, 1)])
def test_log_spaced_coordinates_of_one_token_are_zero(pretrained):
    assert log_spaced_coordinates((1, 1), pretrained).tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("value", [0, -3, 2.0, True, (3,), (3, 4, 5), (3, 0), "7", None])
def test_to_pair_refuses_what_is_no_window(value):
    with pytest.raises(ValueError, match="`window_size` must be a positive integer or a pair"):
        to_pair(value, "window_size")


def test_relative_position_index_numbers_offsets_row_by_row():
    index = relative_position_index((2, 3))
    for i, (row_i, column_i) in enumerate(np.ndindex(2, 3)):
        for j, (row_j, column_j) in enumerate(np.ndindex(2, 3)):
            assert index[i, j] == (row_i - row_j + 1) * 5 + (column_i - column_j + 2)
