"""The geometry of the relative position bias: which offset lies between two tokens of a window. No weights."""

import numpy as np


def relative_position_index(window_size):
    """Returns which row of the bias table belongs to each pair of tokens of a window.

    Args:
        window_size: Pair of integers.

    Returns:
        int32 array `(tokens, tokens)` of rows in `[0, (2 * height - 1) * (2 * width - 1))`; entry `[i, j]` is the
        offset of token `i` from token `j`, rows first, as in the released weights.

    Reference: section 3.2 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """
    height, width = window_size
    row, column = (a.reshape(-1) for a in np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    down = row[:, None] - row[None, :] + height - 1
    across = column[:, None] - column[None, :] + width - 1
    return (down * (2 * width - 1) + across).astype("int32")


def log_spaced_coordinates(window_size, pretrained_window_size=None):
    """Returns the coordinates from which Swin V2 computes the bias of each offset.

    Offsets are divided by the largest one of the window that the weights were trained with, so that a larger window
    reaches a little beyond what is known, and are then spaced logarithmically.

    Args:
        window_size: Pair of integers.
        pretrained_window_size: Pair of integers. `None`: the window itself.

    Returns:
        float32 array `((2 * height - 1) * (2 * width - 1), 2)`, in the order of `relative_position_index`.

    Reference: equation 4 of [Liu et al., 2022](https://arxiv.org/abs/2111.09883).
    """
    axes = []
    for side, pretrained in zip(window_size, pretrained_window_size or window_size, strict=True):
        # A window of 1 has the offset 0 alone, which stays 0.
        offsets = 8 * np.arange(1 - side, side) / max(pretrained - 1, 1)
        axes.append(np.sign(offsets) * np.log2(np.abs(offsets) + 1) / np.log2(8))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype("float32")
