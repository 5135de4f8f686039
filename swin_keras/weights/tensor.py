"""A tensor of a checkpoint that is read when it is wanted: of a large file, one is in memory at a time."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """What is known of a tensor before it is read, and how to read it.

    Attributes:
        shape: Tuple of integers.
        dtype: String. numpy's name, `"bfloat16"`, or the file's own name of what numpy lacks.
        read: Function that returns the array.
    """

    shape: tuple
    dtype: str
    read: Callable

    @classmethod
    def of(cls, array):
        """Wraps an array that is in memory already."""
        return cls(tuple(array.shape), array.dtype.name, lambda: array)

    @property
    def ndim(self):
        return len(self.shape)

    @property
    def size(self):
        return math.prod(self.shape)

    def map(self, function, shape):
        """Returns the tensor of `shape` that `function` makes of this one once it is read."""
        return Tensor(tuple(shape), self.dtype, lambda: function(self.read()))

    def reshape(self, shape):
        return self.map(lambda array: array.reshape(shape), shape)

    def transpose(self, *axes):
        return self.map(lambda array: array.transpose(axes), [self.shape[axis] for axis in axes])

    def take(self, rows):
        """Returns the tensor of these rows, a slice or a list of indices."""
        return self.map(lambda array: array[rows], (len(range(self.shape[0])[rows]) if isinstance(rows, slice) else len(rows), *self.shape[1:]))


def concatenate(tensors):
    """Joins tensors along their first axis; the others are equal."""
    rows = sum(tensor.shape[0] for tensor in tensors)
    return Tensor((rows, *tensors[0].shape[1:]), tensors[0].dtype, lambda: np.concatenate([tensor.read() for tensor in tensors]))
