"""Whether an argument is what it should be."""

import math

import numpy as np


def is_count(value):
    """Whether the value is a positive integer of a sensible size."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < value < 2**31


def is_number(value):
    """Whether the value is a finite number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def check_heads(num_heads, channels, where=""):
    """Raises `ValueError` unless the heads divide the channels; `where` ends what came in the message."""
    if channels % num_heads:
        raise ValueError(
            f"`num_heads` must divide the channels. Received: num_heads={num_heads} for {channels} channels{where}. "
            "Choose `embed_dim` and `num_heads` so that each stage's width is a multiple of its heads."
        )
