"""Reads checkpoint files into `{name: Tensor}`. What a file is, its first bytes say, not its name."""

import io
import os
import pathlib
import re
import zipfile

import h5py
import keras
import ml_dtypes  # noqa: F401, teaches numpy bfloat16
import safetensors

from swin_keras.weights import legacy_torch, torch_zip
from swin_keras.weights.tensor import Tensor

_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
# What is downloaded or named by mistake.
_OTHERS = {
    b"<": "a page of HTML or XML",
    b"version https://git-lfs": "a pointer of Git LFS, not the file itself",
    b"\x80": "a pickle without the data of tensors",
    b"\x93NUMPY": "an array of numpy",
}
_WEIGHTS_IN_KERAS = "model.weights.h5"


def check_file(path):
    """Returns `path` as a `pathlib.Path`.

    Raises:
        ValueError: If it is not the path of a file.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"Expected the path of a checkpoint file. Received: {path!r}.")
    path = pathlib.Path(path)
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:
        raise ValueError(f"Expected a checkpoint file. Received: {str(path)[:80]!r}, which is no path ({error}).") from error
    if not found:
        problem = "is a folder" if path.is_dir() else "does not exist (a repository of the Hugging Face hub begins with hf://)"
        raise ValueError(f"Expected a checkpoint file. Received: {str(path)!r}, which {problem}.")
    return path


def read_tensors(path):
    """Returns the tensors of a checkpoint as `{name: Tensor}`, unread.

    Args:
        path: A file in the format of safetensors, of `torch.save`, or of Keras (`.keras`, `.weights.h5`).

    Raises:
        ValueError: If the file is missing, is of another kind, or is damaged.
    """
    path = check_file(path)
    try:
        with path.open("rb") as file:
            start = file.read(512)
        if not start:
            raise ValueError("it is empty")
        if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
            return _read_zip(path)
        if start.startswith(b"\x89HDF\r\n\x1a\n"):
            return _read_hdf5(path)
        if legacy_torch.is_legacy(start):
            return legacy_torch.read(path)
        try:
            return _read_safetensors(path)
        except safetensors.SafetensorError as error:
            # Not before: a safetensors file begins with a number, which may look like anything.
            kind = next((kind for magic, kind in _OTHERS.items() if start.lstrip().startswith(magic)), None)
            if start[4:8] == b"TFL3":
                kind = "a .tflite file, from which no layers can be read"
            # The first bytes of any other file, taken for a length, are nearly always too large.
            foreign = "it is of none of these kinds" if "header too large" in str(error).lower() else str(error)
            raise ValueError(f"it is {kind}" if kind else foreign) from error
    except (safetensors.SafetensorError, zipfile.BadZipFile, ValueError, KeyError, OSError, RuntimeError, NotImplementedError, EOFError) as error:
        raise ValueError(
            f"{str(path)!r} is not a readable checkpoint ({_line(error)}). Expected safetensors, or a file of torch.save or of Keras."
        ) from error


def load_keras(path):
    """Loads a `.keras` file without its optimizer and loss.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        if missing := re.search(r"Could not locate (?:class|function) '(\w+)'", str(error)):
            problem = f"it needs {missing[1]}, which is not known here). Import what registers it, load the model in Python, and give that"
        elif "`Lambda` layer" in str(error):
            problem = "it has a Lambda layer, whose code is not loaded from a file). Load the model in Python, and give that"
        else:
            problem = f"{type(error).__name__}: {_line(error)}). Save the model again"
        raise ValueError(f"{str(path)!r} is not a readable .keras file ({problem}.") from error


def is_keras_model(path):
    """Whether a file is a `.keras` file that Keras itself is to load: any but KerasHub's, whose classes are not here."""
    try:
        with zipfile.ZipFile(path) as archive:
            if not {"config.json", _WEIGHTS_IN_KERAS} <= set(archive.namelist()):
                return False
            torch_zip.check_entries(archive, os.path.getsize(path))
            return b'"keras_hub>' not in archive.read("config.json")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError):
        return False  # Whoever opens it says so.


def _read_safetensors(path):
    # Opened anew for each tensor: what stays open keeps the pages of all that was read.
    def reader(name):
        def read():
            with safetensors.safe_open(path, "np") as file:
                return file.get_tensor(name)

        return read

    with safetensors.safe_open(path, "np") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        return {
            name: Tensor(tuple(part.get_shape()), _SAFETENSORS_DTYPES.get(part.get_dtype(), part.get_dtype()), reader(name))
            for name, part in slices.items()
        }


def _read_zip(path):
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise ValueError(f"it begins like a zip archive and is none, perhaps cut off: {error}") from error
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("two entries of the archive have one name")
    size = path.stat().st_size
    if _WEIGHTS_IN_KERAS in names:
        torch_zip.check_entries(archive, size)
        archive.read("config.json")  # A damaged one is why Keras was not asked.
        return _read_hdf5(io.BytesIO(archive.read(_WEIGHTS_IN_KERAS)))
    return torch_zip.read(archive, size)


def _read_hdf5(source):
    def reader(name):
        def read():
            with h5py.File(source, "r") as file:
                return file[name][()]

        return read

    tensors = {}

    def collect(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        # Either would read another file than the one that was named.
        if item.external or item.is_virtual:
            raise ValueError(f"{name} keeps its data in another file")
        if item.id.get_storage_size() < item.nbytes:
            raise ValueError(f"{name} is compressed or holds no data, as Keras never leaves it")
        tensors[name] = Tensor(tuple(item.shape or ()), item.dtype.name, reader(name))

    with h5py.File(source, "r") as file:
        if "model_config" in file.attrs:
            raise ValueError("it is a model in Keras' old format. Load it by `keras.models.load_model`, and save it as .keras")
        file.visititems(collect)
    return tensors


def _line(error):
    return " ".join(str(error).split())[:300] or type(error).__name__
