"""Files in the format of `torch.save`, written without torch: also such that torch would never write."""

import collections
import contextlib
import pickle
import sys
import types
import zipfile

import numpy as np

_NAMES = {"float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "int64": "LongStorage", "bool": "BoolStorage"}


def _rebuild_tensor_v2():
    raise AssertionError("only its name is wanted")


class Call:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class _Storage:
    def __init__(self, kind, key, count):
        self.identity = ("storage", kind, key, "cpu", count)


class _Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return value.identity if isinstance(value, _Storage) else None


@contextlib.contextmanager
def _stand_ins():
    """Puts modules of torch's names where pickle looks for them."""
    names = ("torch", "torch._utils")
    before = {name: sys.modules.get(name) for name in names}
    torch, utils = map(types.ModuleType, names)
    _rebuild_tensor_v2.__module__ = "torch._utils"
    utils._rebuild_tensor_v2 = _rebuild_tensor_v2
    torch._utils = utils
    for name in _NAMES.values():
        setattr(torch, name, type(name, (), {"__module__": "torch"}))
    sys.modules.update({"torch": torch, "torch._utils": utils})
    try:
        yield torch
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def write(
    path, tensors, wrap=lambda state_dict: {"model": state_dict}, change=lambda name, offset, shape, strides: (offset, shape, strides), **options
):
    """Writes arrays as a checkpoint.

    Args:
        path: Where to write.
        tensors: `{name: array}`.
        wrap: Makes what is pickled of the state dict.
        change: Makes offset, shape and strides of a tensor, from its name and its true ones.
        options: `compression` of the archive, `protocol` of the pickle; `counts`, `{name: number}`, the length that a storage claims.
    """
    import io

    content, data = io.BytesIO(), {}
    with _stand_ins() as torch:
        state = collections.OrderedDict()
        for key, (name, array) in enumerate(tensors.items()):
            array = np.array(array, order="C")
            data[f"{key}"] = array.tobytes()
            count = options.get("counts", {}).get(name, array.size)
            storage = _Storage(getattr(torch, _NAMES[array.dtype.name]), f"{key}", count)
            strides = tuple(stride // array.itemsize for stride in array.strides)
            offset, shape, strides = change(name, 0, array.shape, strides)
            state[name] = Call(_rebuild_tensor_v2, storage, offset, shape, strides, False, collections.OrderedDict())
        _Pickler(content, options.get("protocol", 2)).dump(wrap(state))
    write_archive(path, content.getvalue(), data, options.get("compression", zipfile.ZIP_STORED))


def write_archive(path, pickled, data=(), compression=zipfile.ZIP_STORED):
    """Writes a zip archive as `torch.save` does, around a pickle."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/byteorder", "little")
        for key, content in dict(data).items():
            archive.writestr(f"archive/data/{key}", content)
        archive.writestr("archive/version", "3\n")
