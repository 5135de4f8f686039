"""Reads the zip files that `torch.save` writes, without torch.

Such a file holds a pickle, in which a tensor is a call that rebuilds it from an entry of the archive. A pickle may name
any function and call it, so only the names below are known here, each by a stand-in of ours; nothing is imported.
"""

import collections
import dataclasses
import io
import math
import pickle
import pickletools
import zipfile

import numpy as np

from swin_keras.weights.tensor import Tensor

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}
# The largest checkpoint of a training run has a pickle of a few MB.
_LARGEST_PICKLE = 2**26
_MOST_AXES = 16


def check_entry(entry, file_size):
    """Refuses an entry of a zip archive that could be larger than the archive.

    Raises:
        ValueError: If the entry is compressed, encrypted or claims more bytes than the file has.
    """
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise ValueError(f"its entry {entry.filename} is compressed or encrypted, which torch and Keras never do: unpack it and save it again")
    if entry.file_size > file_size:
        raise ValueError(f"its entry {entry.filename} claims {entry.file_size} bytes, the file has {file_size}")


def read(archive, file_size):
    """Returns the tensors of an open `zipfile.ZipFile` as `{name: Tensor}`; it stays open for them.

    Raises:
        ValueError: If it is no checkpoint, is damaged, or names what no state dict needs.
    """
    pickles = [name for name in archive.namelist() if name.split("/")[1:] == ["data.pkl"]]
    if len(pickles) != 1:
        raise ValueError("it is a zip archive, but holds no checkpoint of torch or Keras")
    folder = pickles[0].removesuffix("data.pkl")
    for entry in archive.infolist():
        check_entry(entry, file_size)
    if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:
        raise ValueError("its pickle is larger than that of any checkpoint")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    content = archive.read(pickles[0])
    try:
        _check_memo(content)
        found = _Unpickler(content, archive, folder).load()
    except ValueError:
        raise
    except Exception as error:  # A damaged pickle raises whatever the stand-ins and the machine raise.
        raise ValueError(f"its pickle is damaged: {type(error).__name__}: {error}") from error
    return state_dict(found, Tensor)


def state_dict(found, tensor_class):
    """Finds the state dict in what a file of torch holds: that itself, or under one key of it, such as `"model"`.

    Raises:
        ValueError: If there is none, or several.
    """

    def tensors(value):
        if not isinstance(value, dict):
            return {}
        return {name: tensor for name, tensor in value.items() if isinstance(tensor, tensor_class) and isinstance(name, str)}

    if tensors(found):
        return tensors(found)
    inside = {key: tensors(value) for key, value in found.items() if tensors(value)} if isinstance(found, dict) else {}
    if len(inside) > 1:
        raise ValueError(f"it holds several state dicts, {', '.join(map(str, inside))}: keep the one you want and save it again")
    if not inside:
        raise ValueError("it holds no state dict")
    return next(iter(inside.values()))


def _check_memo(content):
    # A place in the memo is a number in the pickle, and the machine makes room for all numbers below it.
    for operation, argument, _ in pickletools.genops(content):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(content):
            raise ValueError("its pickle is damaged: it numbers more objects than it has bytes")


@dataclasses.dataclass(frozen=True)
class _Storage:
    entry: str
    dtype: str
    count: int


class _Unpickler(pickle.Unpickler):
    """Knows the names that a state dict needs, and yacs' configuration, which the official code saves beside it."""

    def __init__(self, content, archive, folder):
        super().__init__(io.BytesIO(content))
        self._archive, self._folder = archive, folder
        # Made anew for each file: a pickle may set attributes of what it names.
        self._known = {
            ("collections", "OrderedDict"): type("OrderedDict", (collections.OrderedDict,), {}),
            ("yacs.config", "CfgNode"): type("CfgNode", (dict,), {}),
            ("__builtin__", "set"): set,
            ("builtins", "set"): set,
            ("torch._utils", "_rebuild_tensor_v2"): lambda *arguments: self._rebuild_tensor(*arguments),
            ("torch._utils", "_rebuild_parameter"): lambda data, *_: data,
            **{("torch", name): dtype for name, dtype in _STORAGES.items()},
        }

    def find_class(self, module, name):
        if (module, name) not in self._known:
            raise ValueError(
                f"it names {module}.{name}, which no state dict needs and which is not run here: "
                "if you trust the file, let torch load it and save the state dict alone"
            )
        return self._known[module, name]

    def persistent_load(self, key):
        kind, dtype, entry, _, count = key
        if kind != "storage" or dtype not in _STORAGES.values() or not isinstance(entry, str) or not _is_size(count):
            raise ValueError("its pickle is damaged: a tensor without data")
        entry = self._archive.getinfo(f"{self._folder}data/{entry}")
        if entry.file_size < count * np.dtype(dtype).itemsize:
            raise ValueError(f"its pickle is damaged: {entry.filename} is shorter than its tensor")
        return _Storage(entry.filename, dtype, count)

    def _rebuild_tensor(self, storage, offset, shape, strides, *_):
        sizes = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or len(shape) != len(strides) or len(shape) > _MOST_AXES or not all(map(_is_size, sizes)):
            raise ValueError("its pickle is damaged: a tensor of no shape")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        # Strides of 0 repeat what is stored, without end: a model of such a size would be built in vain.
        if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
            raise ValueError(f"its pickle is damaged: a tensor that reaches beyond {storage.entry}")

        def read():
            flat = np.frombuffer(self._archive.read(storage.entry), storage.dtype, storage.count)[offset:]
            return np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides], writeable=False)

        return Tensor(tuple(shape), storage.dtype, read)


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
