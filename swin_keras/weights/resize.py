"""Tables of position biases and embeddings, from one window or grid to another, as the official code resizes them."""

import math

import numpy as np

# torch's; Pillow and TensorFlow have -0.5.
_A = -0.75


def resize_bicubic(array, size):
    """Resizes `(height, width, channels)` to `(*size, channels)`.

    The numbers are those of `torch.nn.functional.interpolate(mode="bicubic")`: samples lie in the middle of their places,
    nothing is smoothed on the way to a smaller size, and beyond the edge its value goes on.
    """
    down, across = (_interpolation(old, new) for old, new in zip(array.shape[:2], size, strict=True))
    return np.einsum("ih,jw,hwc->ijc", down, across, array.astype("float64"), optimize=True).astype("float32")


def _interpolation(old, new):
    """Returns the matrix `(new, old)` that resamples a line."""
    position = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(position).astype(int)
    matrix = np.zeros((new, old))
    for neighbour in range(-1, 3):
        distance = np.abs(position - first - neighbour)
        near = (_A + 2) * distance**3 - (_A + 3) * distance**2 + 1
        far = _A * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        np.add.at(matrix, (np.arange(new), np.clip(first + neighbour, 0, old - 1)), np.where(distance <= 1, near, far))
    return matrix


def resize_bias_table(tensor, window, stored=None):
    """Resizes a table `((2h - 1)(2w - 1), heads)` to that of `window`, a pair.

    Args:
        tensor: `Tensor`.
        window: Pair of integers.
        stored: Pair of integers, the window of the table. `None`: a square one.

    Returns:
        A `Tensor`, or `None` if the table is not that of a square window.
    """
    side = math.isqrt(tensor.shape[0])
    if stored is None and (side**2 != tensor.shape[0] or side % 2 == 0):
        return None
    old = (side, side) if stored is None else tuple(2 * axis - 1 for axis in stored)
    heads, new = tensor.shape[1], tuple(2 * axis - 1 for axis in window)
    return tensor.map(lambda table: resize_bicubic(table.reshape(*old, heads), new).reshape(-1, heads), (math.prod(new), heads))


def resize_position_embedding(tensor, grid):
    """Resizes the embedding of a grid, `(1, rows, columns, channels)` or of a square one `(1, places, channels)`.

    Returns:
        A `Tensor` `(1, *grid, channels)`, or `None` if it is neither.
    """
    if tensor.ndim == 3:
        side, extra = math.isqrt(tensor.shape[1]), 0
        if side**2 != tensor.shape[1]:
            # A further place in front is the class token's of transformers 4, which has none.
            side, extra = math.isqrt(tensor.shape[1] - 1), 1
            if side**2 != tensor.shape[1] - 1:
                return None
        shape = (1, side, side, tensor.shape[2])
        tensor = tensor.map(lambda array: array[:, extra:].reshape(shape), shape)
    return tensor.map(lambda array: resize_bicubic(array[0], grid)[None], (1, *grid, tensor.shape[3]))
