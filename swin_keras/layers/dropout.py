"""Dropout apart from what it drops: gradient checkpointing replays a computation, and must drop the same again.

A layer with dropout draws a dictionary of masks for one call; where nothing is dropped, it has no entry.
"""

from keras import ops


def dropout_mask(dropout, shape, dtype):
    """Returns what a `keras.layers.Dropout` multiplies a tensor of this shape with: 0, or `1 / (1 - rate)`."""
    return dropout(ops.ones(shape, dtype), training=True)


def apply_mask(x, masks, name):
    """Returns `x` times the mask of that name, if there is one."""
    return x * masks[name] if name in masks else x
