"""Reads the zip files that `torch.save` writes, without torch.

Such a file holds a pickle, in which a tensor is a call that rebuilds it from an entry of the archive. A pickle is a program
for a small machine, which may name any function and call it. Python's own machine, even with a list of allowed names, lets a
program change what it has made after it was checked, and can be kept busy or crashed. So the machine here is another: it
makes dictionaries, lists, tuples, numbers and text, and knows a few names; nothing is imported, and nothing is called.
"""

import math
import pickletools
import typing
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
# Several times those of the largest checkpoint of a training run.
_LARGEST_PICKLE, _MOST_OPERATIONS = 2**24, 10**6
_MOST_AXES = 16


def check_entries(archive, file_size):
    """Refuses a zip archive that could be larger than its file.

    Raises:
        ValueError: If an entry is compressed, encrypted or claims more bytes than the file has.
    """
    for entry in archive.infolist():
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
    check_entries(archive, file_size)
    if archive.getinfo(pickles[0]).file_size > _LARGEST_PICKLE:
        raise ValueError("its pickle is larger than that of any checkpoint")
    if f"{folder}byteorder" in archive.namelist() and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    try:
        found = _Machine(archive, folder).run(archive.read(pickles[0]))
    except ValueError:
        raise
    except Exception as error:  # A damaged pickle raises whatever the machine runs into.
        raise ValueError(f"its pickle is damaged: {type(error).__name__}: {error}") from error
    return state_dict(found, Tensor)


def state_dict(found, tensor_class):
    """Finds the state dict in what a file of torch holds: that itself, or under one key of it, such as `"model"`.

    Raises:
        ValueError: If there is none, or several.
    """

    if not isinstance(found, dict):
        raise ValueError("it holds no state dict")

    def tensors(value):
        return {name: tensor for name, tensor in value.items() if isinstance(tensor, tensor_class) and isinstance(name, str)}

    # Each dictionary is looked at once, however many keys lead to it.
    looked_at = {id(value): tensors(value) for value in {id(value): value for value in found.values() if isinstance(value, dict)}.values()}
    inside = {key: looked_at[id(value)] for key, value in found.items() if looked_at.get(id(value))}
    if len(inside) > 1:
        raise ValueError(f"it holds several state dicts, {', '.join(list(map(str, inside))[:4])}: keep the one you want and save it again")
    # A tensor beside a state dict is some measurement.
    if chosen := next(iter(inside.values()), None) or tensors(found):
        return chosen
    raise ValueError("it holds no state dict")


class _Storage(typing.NamedTuple):
    entry: str
    dtype: str
    count: int


class _Name(typing.NamedTuple):
    module: str
    name: str


# What a state dict needs, and yacs' configuration, which the official code saves beside it.
_ORDERED_DICT = _Name("collections", "OrderedDict")
_CONFIG = _Name("yacs.config", "CfgNode")
_SETS = (_Name("__builtin__", "set"), _Name("builtins", "set"))
_TENSOR, _PARAMETER = (_Name("torch._utils", f"_rebuild_{what}") for what in ("tensor_v2", "parameter"))
_KNOWN = {_ORDERED_DICT, _CONFIG, *_SETS, _TENSOR, _PARAMETER, *(_Name("torch", name) for name in _STORAGES)}

# Operations that push what stands behind them in the pickle, as `pickletools` reads it.
_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """Runs a pickle that holds tensors. What is hashable in it are numbers and text alone; a set becomes a list."""

    def __init__(self, archive, folder):
        self._archive, self._folder = archive, folder
        self._stack, self._marks, self._memo = [], [], {}

    def run(self, content):
        """Returns what the pickle makes.

        Raises:
            ValueError: If it does what no state dict needs.
        """
        for count, (operation, argument, _) in enumerate(pickletools.genops(content)):
            if count > _MOST_OPERATIONS:
                raise ValueError("its pickle is longer than that of any checkpoint")
            if operation.name == "STOP":
                return self._stack.pop()
            self._step(operation.name, argument)
        raise ValueError("its pickle is damaged: it has no end")

    def _step(self, name, argument):
        stack = self._stack
        if name in _LITERALS:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            stack.append(_EMPTY[name]())
        elif name in _TUPLES:
            stack[-_TUPLES[name] :] = [tuple(stack[-_TUPLES[name] :])]
        elif name == "MARK":
            self._marks.append(len(stack))
        elif name == "TUPLE":
            stack.append(tuple(self._above_mark()))
        elif name == "LIST":
            stack.append(self._above_mark())
        elif name == "DICT":
            stack.append(self._fill({}, self._above_mark()))
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = self._above_mark() if name != "APPEND" else [stack.pop()]
            self._top(list).extend(items)
        elif name in ("SETITEM", "SETITEMS"):
            items = self._above_mark() if name == "SETITEMS" else [stack.pop(-2), stack.pop()]
            self._fill(self._top(dict), items)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name == "GLOBAL":
            stack.append(self._name(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            attribute, module = stack.pop(), stack.pop()
            stack.append(self._name(module, attribute))
        elif name == "BINPERSID":
            stack.append(self._storage(*stack.pop()))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._make(function, arguments))
        elif name == "BUILD":
            # Attributes of a dictionary, such as the versions of a state dict's modules: not wanted.
            stack.pop()
            self._top(dict)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle does what no state dict needs: {name}")

    def _above_mark(self):
        mark = self._marks.pop()
        items = self._stack[mark:]
        del self._stack[mark:]
        return items

    def _top(self, kind):
        if type(self._stack[-1]) is not kind:
            raise ValueError(f"its pickle does what no state dict needs: it changes something other than a {kind.__name__}")
        return self._stack[-1]

    def _fill(self, target, items):
        if not all(isinstance(key, (str, bytes, int, float)) or key is None for key in items[::2]):
            raise ValueError("its pickle does what no state dict needs: a key that is neither text nor a number")
        target.update(zip(items[::2], items[1::2], strict=True))
        return target

    def _name(self, module, name):
        if not isinstance(module, str) or not isinstance(name, str) or _Name(module, name) not in _KNOWN:
            raise ValueError(
                f"it names {module}.{name}, which no state dict needs and which is not run here: "
                "if you trust the file, let torch load it and save the state dict alone"
            )
        return _Name(module, name)

    def _make(self, function, arguments):
        if not isinstance(function, _Name) or not isinstance(arguments, tuple):
            raise ValueError("its pickle is damaged: a call of something that has no name")
        if function == _TENSOR:
            return self._tensor(*arguments)
        if function == _PARAMETER:
            return arguments[0]
        if function in _SETS:
            return []  # what is in it, nobody asks
        if function in (_ORDERED_DICT, _CONFIG) and not arguments:
            return {}
        raise ValueError(f"its pickle is damaged: a call of {function.module}.{function.name}")

    def _storage(self, kind, storage, entry, _, count):
        known = isinstance(storage, _Name) and storage.module == "torch" and storage.name in _STORAGES
        if kind != "storage" or not known or not isinstance(entry, str) or not _is_size(count):
            raise ValueError("its pickle is damaged: a tensor without data")
        entry, dtype = self._archive.getinfo(f"{self._folder}data/{entry}"), _STORAGES[storage.name]
        if entry.file_size < count * np.dtype(dtype).itemsize:
            raise ValueError(f"its pickle is damaged: {entry.filename} is shorter than its tensor")
        return _Storage(entry.filename, dtype, count)

    def _tensor(self, storage, offset, shape, strides, *_):
        # A list could be changed after it was looked at.
        tuples = isinstance(shape, tuple) and isinstance(strides, tuple)
        if not isinstance(storage, _Storage) or not tuples or len(shape) != len(strides) or len(shape) > _MOST_AXES:
            raise ValueError("its pickle is damaged: a tensor of no shape")
        if not all(map(_is_size, (offset, *shape, *strides))):
            raise ValueError("its pickle is damaged: a tensor of no shape")
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides, strict=True))
        # Strides of 0 repeat what is stored, without end: a model of such a size would be built in vain.
        if 0 not in shape and (last >= storage.count or math.prod(shape) > storage.count):
            raise ValueError(f"its pickle is damaged: a tensor that reaches beyond {storage.entry}")
        archive = self._archive

        def read():
            flat = np.frombuffer(archive.read(storage.entry), storage.dtype, storage.count)[offset:]
            return np.lib.stride_tricks.as_strided(flat, shape, [stride * flat.itemsize for stride in strides], writeable=False)

        return Tensor(shape, storage.dtype, read)


def _is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**40
