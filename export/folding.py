"""The arithmetic of the deploy graph: what can be computed once is folded into weights. Pure numpy.

Each function takes arrays as the trained layers hold them, and is exact up to rounding.
"""

import numpy as np

from swin_keras.layers.relative_position import relative_position_index
from swin_keras.layers.windows import shift_mask


def fold_norm(gamma, beta, kernel, bias):
    """Moves the scale and shift of a layer normalization into the dense layer that follows.

    `(x * gamma + beta) @ kernel + bias = x @ (gamma * kernel) + (beta @ kernel + bias)`

    Returns:
        The kernel and bias to use after a normalization without scale and shift.
    """
    return gamma[:, None] * kernel, beta @ kernel + bias


def fold_qkv(kernel, bias, num_heads):
    """Takes query, key and value apart, with the softmax scale in the query.

    Returns:
        Three pairs of kernel `(channels, channels)` and bias `(channels,)`.
    """
    channels = kernel.shape[0]
    scale = (channels // num_heads) ** -0.5
    kernels, biases = np.split(kernel, 3, axis=1), np.split(bias, 3)
    return (kernels[0] * scale, biases[0] * scale), (kernels[1], biases[1]), (kernels[2], biases[2])


def fold_bias_and_mask(table, window_size, grid, shift_size):
    """Adds the relative position bias and the shift mask into one constant.

    Args:
        table: Array `((2 * height - 1) * (2 * width - 1), num_heads)`.
        window_size, grid, shift_size: Pairs of integers; the window divides the grid.

    Returns:
        float32 array `(windows, num_heads, tokens, tokens)`; without a shift `(1, num_heads, tokens, tokens)`.
    """
    bias = table[relative_position_index(window_size)].transpose(2, 0, 1)[None]
    mask = shift_mask(grid, window_size, shift_size)
    return bias if mask is None else bias + mask[:, None]


def fold_block(weights, grid, window_size, shift_size, num_heads, padded):
    """Folds the weights of a `SwinBlock`.

    Two biases vanish: that of the key adds the same number to a query's logits for every key, which softmax ignores;
    that of the value passes through attention, whose rows sum to one, into the bias of the projection.

    Args:
        weights: Dictionary from paths within the block (`"attn/qkv/kernel"`) to arrays.
        grid, window_size, shift_size: Pairs of integers; the window divides the grid.
        num_heads: Integer.
        padded: Boolean. Whether the grid is a padded one, whose zeros come behind the first norm.

    Returns:
        Dictionary from weight names of `DeploySwinBlock` to arrays.
    """
    kernel, gamma, beta = weights["attn/qkv/kernel"], weights["norm1/gamma"], weights["norm1/beta"]
    bias = weights.get("attn/qkv/bias", np.zeros(kernel.shape[1], "float32"))
    if not padded:
        kernel, bias = fold_norm(gamma, beta, kernel, bias)
    (query, query_bias), (key, _), (value, value_bias) = fold_qkv(kernel, bias, num_heads)
    projection, projection_bias = weights["attn/proj/kernel"], weights["attn/proj/bias"]
    offsets = (2 * window_size[0] - 1) * (2 * window_size[1] - 1)
    table = weights.get("attn/relative_position_bias_table", np.zeros((offsets, num_heads), "float32"))
    fc1, fc1_bias = fold_norm(weights["norm2/gamma"], weights["norm2/beta"], weights["mlp/fc1/kernel"], weights["mlp/fc1/bias"])
    return {
        "query": query,
        "query_bias": query_bias,
        "key": key,
        "value": value,
        "bias_and_mask": fold_bias_and_mask(table, window_size, grid, shift_size),
        "projection": projection,
        "projection_bias": value_bias @ projection + projection_bias,
        "fc1": fc1,
        "fc1_bias": fc1_bias,
        "fc2": weights["mlp/fc2/kernel"],
        "fc2_bias": weights["mlp/fc2/bias"],
        **({"norm1_gamma": gamma, "norm1_beta": beta} if padded else {}),
    }


def fold_merging(weights):
    """Folds the weights of a `PatchMerging`, and puts its rows in the order in which a reshape lays out a 2x2 group.

    The released weights go down, then across; a reshape goes across, then down: the two middle quarters change places.

    Args:
        weights: Dictionary with `"norm/gamma"`, `"norm/beta"`, `"reduction/kernel"`.

    Returns:
        Dictionary from weight names of `DeployPatchMerging` to arrays.
    """
    kernel = weights["reduction/kernel"]
    kernel, bias = fold_norm(weights["norm/gamma"], weights["norm/beta"], kernel, np.zeros(kernel.shape[1], "float32"))
    quarters = np.split(kernel, 4, axis=0)
    return {"reduction": np.concatenate([quarters[i] for i in (0, 2, 1, 3)]), "reduction_bias": bias}
