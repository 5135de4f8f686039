"""Parameters and multiply-adds of a classifier, counted from its arguments alone: no graph is built."""

import math

from swin_keras.layers.windows import divide_up, fit_window, padded_grid, to_pair

# Hidden width of the MLP that computes V2's position bias.
_BIAS_HIDDEN = 512


def count(architecture, input_shape, num_classes):
    """Counts what a classifier costs.

    Args:
        architecture: `Architecture`.
        input_shape: Height, width and channels.
        num_classes: Integer.

    Returns:
        The number of parameters, and of multiply-adds of all matrix products and convolutions for one image. The papers
        call the latter FLOPs. As there, V2's position bias is not counted: it is the same for every image.
    """
    a = architecture
    patch = to_pair(a.patch_size, "patch_size")
    grid = tuple(map(divide_up, input_shape[:2], patch))
    kernel = math.prod(patch) * input_shape[2] * a.channels(0)
    parameters = kernel + a.channels(0) + (2 * a.channels(0) if a.patch_norm else 0)
    products = math.prod(grid) * kernel
    if a.absolute_position_embedding:
        parameters += math.prod(grid) * a.channels(0)
    for stage, (depth, heads) in enumerate(zip(a.depths, a.num_heads, strict=True)):
        width = a.channels(stage)
        if stage:
            grid = tuple(divide_up(side, 2) for side in grid)
            parameters += 2 * width * width + (2 * width if a.family == "swinv2" else 4 * width)
            products += math.prod(grid) * 2 * width * width
        for block in range(depth):
            requested = a.window(stage)
            shift = tuple(side // 2 if a.shifted_windows and block % 2 else 0 for side in requested)
            window, shift = fit_window(grid, requested, shift, a.window_fit)
            tokens = math.prod(window)
            # Swin-MLP shifts by one more window on an axis.
            reached = tuple(g + w if s and a.family == "swin_mlp" else g for g, w, s in zip(grid, window, shift, strict=True))
            padded = math.prod(padded_grid(reached, window))
            hidden = int(width * a.mlp_ratio)
            parameters += 4 * width + 2 * width * hidden + hidden + width
            products += math.prod(grid) * 2 * width * hidden
            if a.family == "swin_mlp":
                parameters += heads * tokens * (tokens + 1)
                products += padded * tokens * width
                continue
            parameters += 4 * width * width + width
            products += padded * (4 * width * width + 2 * tokens * width)
            if a.qkv_bias:
                parameters += 3 * width if a.family == "swin" else 2 * width
            if a.family == "swinv2":
                parameters += heads
            if a.relative_position_bias:
                offsets = math.prod(2 * side - 1 for side in window)
                parameters += offsets * heads if a.family == "swin" else _BIAS_HIDDEN * (3 + heads)
    return parameters + 2 * width + width * num_classes + num_classes, products + width * num_classes
