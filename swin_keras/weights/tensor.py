"""A tensor of a checkpoint that is read when it is wanted: of a large file, one is in memory at a time."""

import dataclasses
import math
import zipfile
import zlib
from collections.abc import Callable

import numpy as np
import safetensors


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


FLOATS = ("float16", "bfloat16", "float32", "float64")


def concatenate(tensors):
    """Joins tensors of one shape along their first axis. Of several types of floats it makes float32."""
    dtypes = list(dict.fromkeys(tensor.dtype for tensor in tensors))
    # A type that is wrong stays, for whoever judges it.
    dtype = next((dtype for dtype in dtypes if dtype not in FLOATS), dtypes[0] if len(dtypes) == 1 else "float32")
    shape = (len(tensors) * tensors[0].shape[0], *tensors[0].shape[1:])
    if len(dtypes) == 1:
        return Tensor(shape, dtype, lambda: np.concatenate([tensor.read() for tensor in tensors]))
    return Tensor(shape, dtype, lambda: np.concatenate([tensor.read().astype("float32") for tensor in tensors]))


def read_tensor(tensor, path):
    """Reads a tensor of the file at `path`.

    Raises:
        ValueError: If the file is damaged there.
    """
    try:
        array = tensor.read()
    except (safetensors.SafetensorError, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(f"{str(path)!r} is damaged: its tensors cannot be read ({error}). Download or save it again.") from error
    if tuple(array.shape) != tensor.shape:
        raise ValueError(f"{str(path)!r} is damaged: a tensor has shape {array.shape}, not {tensor.shape}. Download or save it again.")
    return array
