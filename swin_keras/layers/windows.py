"""The geometry of windows: how a grid of tokens is cut, shifted and masked. No weights.

Reference: section 3.2 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
"""

import numpy as np
from keras import ops

# Added to the logits of two tokens that the cyclic shift brought into one window; the official value.
MASKED_LOGIT = -100.0


def to_pair(value, name):
    """Returns `value`, a positive integer or two of them, as `(height, width)`.

    Raises:
        ValueError: If it is neither.
    """
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v > 0 for v in pair):
        raise ValueError(f"`{name}` must be a positive integer or a pair (height, width) of them. Received: {name}={value!r}.")
    return int(pair[0]), int(pair[1])


def fit_window(grid, window_size, shift_size):
    """Fits a window and its shift to a grid: the rule of the official code, applied to each axis.

    On an axis whose grid is not larger than the window, the window becomes the grid and the shift 0.

    Args:
        grid: Pair of integers. Tokens along height and width.
        window_size: Pair of integers.
        shift_size: Pair of integers, each at least 0 and smaller than the window.

    Returns:
        Two pairs: the window and the shift to use.

    Raises:
        ValueError: If an axis of the grid is larger than the window and not a multiple of it.
    """
    window = tuple(min(g, w) for g, w in zip(grid, window_size, strict=True))
    shift = tuple(s if g > w else 0 for g, w, s in zip(grid, window_size, shift_size, strict=True))
    if any(g % w for g, w in zip(grid, window, strict=True)):
        raise ValueError(
            f"`window_size` must divide the grid of tokens on each axis, or be at least as large. Received: "
            f"window_size={tuple(window_size)} for a grid of {tuple(grid)} tokens. Choose another `window_size` or `input_shape`."
        )
    return window, shift


def window_partition(x, window_size):
    """Cuts a grid into windows: `(b, h, w, c)` to `(b * windows, tokens in a window, c)`, windows in row-major order.

    No tensor is above rank 4, which accelerators require; the usual six-axis form gives the same result.
    """
    window_height, window_width = window_size
    width, channels = x.shape[2], x.shape[3]
    x = ops.reshape(x, (-1, window_height, width // window_width, window_width * channels))
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (-1, window_height * window_width, channels))


def window_reverse(windows, window_size, grid):
    """Puts windows back into their grid, the inverse of `window_partition`: the result is `(b, *grid, c)`."""
    window_height, window_width = window_size
    height, width = grid
    channels = windows.shape[-1]
    x = ops.reshape(windows, (-1, width // window_width, window_height, window_width * channels))
    x = ops.transpose(x, (0, 2, 1, 3))
    return ops.reshape(x, (-1, height, width, channels))


def shift_mask(grid, window_size, shift_size):
    """Says which tokens of a shifted window were not neighbours before the shift.

    Args:
        grid: Pair of integers. Tokens along height and width.
        window_size: Pair of integers that divide the grid.
        shift_size: Pair of integers.

    Returns:
        float32 array `(windows, tokens, tokens)`: 0 where a token may attend, `MASKED_LOGIT` where not.
        `None` if nothing is shifted.

    Reference: figure 4 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """
    if not any(shift_size):
        return None
    # On each axis three regions: those that no window edge crosses, those before the shift wraps, and those wrapped.
    axes = []
    for size, window, shift in zip(grid, window_size, shift_size, strict=True):
        region = np.zeros(size, np.int32)
        if shift:
            region[-window:] = 1
            region[-shift:] = 2
        axes.append(region.reshape(size // window, window))
    rows, columns = axes
    regions = 3 * rows[:, None, :, None] + columns[None, :, None, :]  # (windows down, windows across, tokens down, tokens across)
    regions = regions.reshape(-1, window_size[0] * window_size[1])
    return np.where(regions[:, :, None] == regions[:, None, :], 0.0, MASKED_LOGIT).astype("float32")
