"""The geometry of windows: how a grid of tokens is padded, cut, shifted and masked. No weights.

A side of a grid is an integer, or where a graph leaves it open, a tensor.

Reference: section 3.2 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
"""

import numpy as np
from keras import ops

# Added to the logits of two tokens that the cyclic shift brought into one window; the official value.
MASKED_LOGIT = -100.0

WINDOW_FITS = ("clamp", "pad")


def to_pair(value, name):
    """Returns `value`, a positive integer or two of them, as `(height, width)`.

    Raises:
        ValueError: If it is neither.
    """
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and v > 0 for v in pair):
        raise ValueError(f"`{name}` must be a positive integer or a pair (height, width) of them. Received: {name}={value!r}.")
    return int(pair[0]), int(pair[1])


def fit_window(grid, window_size, shift_size, window_fit="clamp"):
    """Fits a window and its shift to a grid.

    With `"clamp"`, on an axis whose grid is not larger than the window, the window becomes the grid and the shift 0: on
    square grids the rule of the official classifiers. With `"pad"` both stay, as in the official detector. Where the
    window then does not divide the grid, the grid is padded.

    Args:
        grid: Pair of integers, tokens along height and width; `None` for a side that is not known.
        window_size: Pair of integers.
        shift_size: Pair of integers, each at least 0 and smaller than the window.
        window_fit: `"clamp"` or `"pad"`.

    Returns:
        Two pairs: the window and the shift to use.

    Raises:
        ValueError: If `window_fit` is neither, or is `"clamp"` and a side is not known, or there is no token.
    """
    if window_fit not in WINDOW_FITS:
        raise ValueError(f"`window_fit` must be one of {WINDOW_FITS}. Received: window_fit={window_fit!r}.")
    if 0 in grid:
        raise ValueError(f"Expected a grid of at least one token. Received: a grid of {tuple(grid)}.")
    if window_fit == "pad":
        return tuple(window_size), tuple(shift_size)
    if None in grid:
        raise ValueError(
            f"`window_fit='clamp'` fits the window to a known grid of tokens. Received: a grid of {tuple(grid)}. "
            "Use `window_fit='pad'`, or give height and width in `input_shape`."
        )
    window = tuple(min(g, w) for g, w in zip(grid, window_size, strict=True))
    shift = tuple(s if g > w else 0 for g, w, s in zip(grid, window_size, shift_size, strict=True))
    return window, shift


def divide_up(size, divisor):
    """Returns how many times `divisor` it takes to cover `size`; `None` for `None`."""
    return None if size is None else -(-size // divisor)


def padded_grid(grid, window_size):
    """Returns the smallest grid that holds `grid` and that windows divide; a side that is `None` stays so."""
    return tuple(None if side is None else divide_up(side, window) * window for side, window in zip(grid, window_size, strict=True))


def pad_to_multiple(x, multiple):
    """Pads `(b, h, w, c)` with zeros at the right and the bottom, until `multiple` divides height and width."""
    _, height, width, _ = ops.shape(x)
    down, across = -height % multiple[0], -width % multiple[1]
    if _known(down, across) and not down and not across:
        return x
    return ops.pad(x, ((0, 0), (0, down), (0, across), (0, 0)))


def window_partition(x, window_size):
    """Cuts a grid into windows: `(b, h, w, c)` to `(b * windows, tokens in a window, c)`, windows in row-major order.

    No tensor is above rank 4, which accelerators require; the usual six-axis form gives the same result.
    """
    window_height, window_width = window_size
    width, channels = ops.shape(x)[2], x.shape[3]
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
        grid: Pair of integers or scalar tensors. Tokens along height and width, padding included.
        window_size: Pair of integers that divide the grid.
        shift_size: Pair of integers.

    Returns:
        float32 `(windows, tokens, tokens)`: 0 where a token may attend, `MASKED_LOGIT` where not. An array, or where
        the grid is not known, a tensor. `None` if nothing is shifted.

    Reference: figure 4 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """
    if not any(shift_size):
        return None
    xp = np if _known(*grid) else ops
    # On each axis three regions: those that no window edge crosses, those before the shift wraps, and those wrapped.
    axes = []
    for size, window, shift in zip(grid, window_size, shift_size, strict=True):
        position = xp.arange(size, dtype="int32")
        region = xp.where(position >= size - shift, 2, xp.where(position >= size - window, 1, 0)) if shift else position * 0
        axes.append(xp.reshape(region, (-1, window)))
    rows, columns = axes
    regions = 3 * rows[:, None, :, None] + columns[None, :, None, :]  # (windows down, windows across, tokens down, tokens across)
    regions = xp.reshape(regions, (-1, window_size[0] * window_size[1]))
    same = regions[:, :, None] == regions[:, None, :]
    return xp.where(same, xp.zeros((), "float32"), xp.full((), MASKED_LOGIT, "float32"))


def _known(*sizes):
    return all(isinstance(size, (int, np.integer)) for size in sizes)
