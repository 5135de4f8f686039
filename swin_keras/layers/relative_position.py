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
