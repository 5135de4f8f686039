"""What a checkpoint stores beside its weights tells its windows."""

import math

import numpy as np

from swin_keras.weights.tensor import read_tensor


def stored_window(checkpoint, block, path):
    """Returns the window of a block of V1, as far as the checkpoint stores it.

    Args:
        checkpoint: `Checkpoint`.
        block: Official name of a block, such as `"layers.0.blocks.0"`.
        path: Where it comes from, for messages.

    Returns:
        A pair of integers, or `None`.

    Raises:
        ValueError: If what is stored belongs to another table of biases.
    """
    index = checkpoint.buffers.get(f"{block}.attn.relative_position_index")
    table = checkpoint.tensors.get(f"{block}.attn.relative_position_bias_table")
    if index is None or table is None or not table.ndim or not index.size:
        return None
    tokens = math.isqrt(index.size)
    # How far token 0 is from each other: one less for each place in its row.
    first = read_tensor(index, path).reshape(-1)[:tokens].astype("int64")
    along = np.flatnonzero(first != first[0] - np.arange(tokens))
    width = int(along[0]) if len(along) else tokens
    window = (tokens // width, width)
    # A window that is one token high or wide is a line either way.
    if tokens**2 != index.size or tokens % width or (2 * window[0] - 1) * (2 * window[1] - 1) != table.shape[0]:
        raise ValueError(
            f"{str(path)!r} stores a relative_position_index in {block} that does not belong to its bias table of {table.shape[0]} rows."
        )
    return window


def pretrained_window(checkpoint, block, path):
    """Returns the window by which V2 scales its position bias in a block, as far as the checkpoint stores it.

    Arguments and result are those of `stored_window`.

    Raises:
        ValueError: If what is stored are no coordinates.
    """
    table = checkpoint.buffers.get(f"{block}.attn.relative_coords_table")
    if table is None:
        return None
    good = table.ndim == 4 and table.shape[0] == 1 and table.shape[-1] == 2 and table.shape[1] % 2 and table.shape[2] % 2
    if good:
        # The inverse of `layers.relative_position.log_spaced_coordinates`, at its last entry.
        last = np.abs(read_tensor(table, path)[0, -1, -1].astype("float64"))
        sides = [(side + 1) // 2 for side in table.shape[1:3]]
        if all(side == 1 or 0.01 < value < 3 for side, value in zip(sides, last, strict=True)):
            return tuple(1 if side == 1 else round(8 * (side - 1) / (8**value - 1) + 1) for side, value in zip(sides, last, strict=True))
    raise ValueError(f"{str(path)!r} stores a relative_coords_table in {block} that holds no coordinates.")
