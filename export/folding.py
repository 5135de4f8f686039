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


def centre(kernel, bias):
    """Takes the mean over the outputs out of a dense layer: where a normalization follows, nothing changes."""
    return kernel - kernel.mean(axis=-1, keepdims=True), bias - bias.mean()


def is_compressed(kernel):
    """Whether a kernel was pruned or clustered: taking out a mean would undo it."""
    zeros = np.mean(kernel == 0)
    return bool(zeros >= 0.001 or len(np.unique(kernel)) <= min(256, kernel.size // 4))


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


def fold_block(weights, table, block):
    """Folds the weights of a `SwinBlock`.

    Two biases vanish: that of the key adds the same number to a query's logits for every key, which softmax ignores;
    that of the value passes through attention, whose rows sum to one, into the bias of the projection.

    Args:
        weights: Dictionary from paths within the block (`"attn/qkv/kernel"`) to arrays.
        table: Array of position biases, `None` without.
        block: `DeploySwinBlock`, built.

    Returns:
        Dictionary from weight names of `block` to arrays.
    """
    kernel, gamma, beta = weights["attn/qkv/kernel"], weights["norm1/gamma"], weights["norm1/beta"]
    bias = weights.get("attn/qkv/bias", np.zeros(kernel.shape[1], "float32"))
    if not block.padded:
        kernel, bias = fold_norm(gamma, beta, kernel, bias)
    query_bias, _, value_bias = np.split(bias, 3)
    channels = len(kernel)
    scale = np.repeat(np.array([(channels // block.num_heads) ** -0.5, 1, 1], "float32"), channels)
    projection, projection_bias = weights["attn/proj/kernel"], weights["attn/proj/bias"]
    return {
        "qkv": kernel * scale,
        "qkv_bias": np.concatenate([query_bias * scale[0], np.zeros(2 * channels, "float32")]),
        "bias_and_mask": _bias_and_mask(table, block),
        "projection": projection,
        "projection_bias": value_bias @ projection + projection_bias,
        "norm1_gamma": gamma,
        "norm1_beta": beta,
        **_fold_mlp(weights),
    }


def fold_block_v2(weights, table, block):
    """Folds the weights of a `SwinBlockV2`, as `fold_block` does. Its position bias network is in the table."""
    kernel = weights["attn/qkv/kernel"]
    channels, width = len(kernel), len(kernel) // block.num_heads
    zeros = np.zeros(channels, "float32")
    projection, projection_bias = weights["attn/proj/kernel"], weights["attn/proj/bias"]
    projection_bias = weights.get("attn/v_bias", zeros) @ projection + projection_bias
    fc2, fc2_bias = weights["mlp/fc2/kernel"], weights["mlp/fc2/bias"]
    if block.centred:
        projection, projection_bias = centre(projection, projection_bias)
        fc2, fc2_bias = centre(fc2, fc2_bias)
    return {
        "qkv": kernel,
        "qkv_bias": np.concatenate([weights.get("attn/q_bias", zeros), zeros, zeros]),
        "scale": np.exp(np.minimum(weights["attn/logit_scale"], np.log(100.0)))[None] / width,
        "bias_and_mask": _bias_and_mask(table, block),
        "projection": projection,
        "projection_bias": projection_bias,
        "fc1": weights["mlp/fc1/kernel"],
        "fc1_bias": weights["mlp/fc1/bias"],
        "fc2": fc2,
        "fc2_bias": fc2_bias,
        **{f"norm{number}_{name}": weights[f"norm{number}/{name}"] for number in (1, 2) for name in ("gamma", "beta")},
    }


def fold_mlp_block(weights):
    """Folds the weights of a `SwinMLPBlock`: the second norm's."""
    return {
        "spatial": weights["spatial_mlp/kernel"][None],
        "spatial_bias": weights["spatial_mlp/bias"][None, :, None],
        "norm1_gamma": weights["norm1/gamma"],
        "norm1_beta": weights["norm1/beta"],
        **_fold_mlp(weights),
    }


def _fold_mlp(weights):
    fc1, fc1_bias = fold_norm(weights["norm2/gamma"], weights["norm2/beta"], weights["mlp/fc1/kernel"], weights["mlp/fc1/bias"])
    return {"fc1": fc1, "fc1_bias": fc1_bias, "fc2": weights["mlp/fc2/kernel"], "fc2_bias": weights["mlp/fc2/bias"]}


def _bias_and_mask(table, block):
    if table is None:
        offsets = (2 * block.fitted_window[0] - 1) * (2 * block.fitted_window[1] - 1)
        table = np.zeros((offsets, block.num_heads), "float32")
    return fold_bias_and_mask(table, block.fitted_window, block.padded_grid, block.fitted_shift)


def fold_embedding(weights):
    """Folds the weights of a `PatchEmbedding`.

    Args:
        weights: Dictionary with `"proj/kernel"`, `"proj/bias"` and, with a norm, `"norm/gamma"` and `"norm/beta"`.

    Returns:
        Dictionary from weight names of `DeployPatchEmbedding` to arrays.
    """
    kernel, bias = weights["proj/kernel"], weights["proj/bias"]
    if "norm/gamma" not in weights:
        return {"kernel": kernel, "bias": bias}
    kernel, bias = centre(kernel, bias)
    return {"kernel": kernel, "bias": bias, "gamma": weights["norm/gamma"], "beta": weights["norm/beta"]}


def fold_normalization(mean, std, kernel, bias):
    """Moves the normalization of a picture into the convolution that takes it, which must not pad: its zeros would stand for black, not for the mean.

    `conv((x - mean) / std, kernel) + bias = conv(x, kernel / std) + (bias - sum(kernel * mean / std))`

    Args:
        mean, std: float64 arrays `(channels,)`, so that nothing is rounded before the end.
        kernel: Array `(height, width, channels, outputs)`.
        bias: Array `(outputs,)`.

    Returns:
        The kernel and bias to use on pictures that are not normalized.
    """
    kernel = kernel / std[:, None]
    return kernel, bias - (kernel * mean[:, None]).sum(axis=(0, 1, 2))


def fold_merging(weights, post_norm, centred=True):
    """Folds the weights of a `PatchMerging` or `PatchMergingV2`, and puts its rows in the order in which a reshape lays out a 2x2 group.

    The released weights go down, then across; a reshape goes across, then down: the two middle quarters change places.

    Args:
        weights: Dictionary with `"norm/gamma"`, `"norm/beta"`, `"reduction/kernel"`.
        post_norm: Boolean. Whether it is a `PatchMergingV2`.
        centred: Boolean. Whether the norm that follows then finds a mean of 0.

    Returns:
        Dictionary from weight names of `DeployPatchMerging` to arrays.
    """
    kernel, gamma, beta = weights["reduction/kernel"], weights["norm/gamma"], weights["norm/beta"]
    bias = np.zeros(kernel.shape[1], "float32")
    if not post_norm:
        kernel, bias = fold_norm(gamma, beta, kernel, bias)
    elif centred:
        kernel, bias = centre(kernel, bias)
    quarters = np.split(kernel, 4, axis=0)
    kernel = np.concatenate([quarters[i] for i in (0, 2, 1, 3)])
    return {"reduction": kernel, "reduction_bias": bias, "gamma": gamma, "beta": beta}
