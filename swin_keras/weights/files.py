"""Reads checkpoint files into `{name: array}`."""

import os
import pathlib

import safetensors
from safetensors.numpy import load_file


def read_tensors(path):
    """Returns the tensors of a `.safetensors` file as `{name: array}`.

    Raises:
        ValueError: If the file is missing, is of another kind, or is damaged.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ValueError(f"Expected the path of a checkpoint file. Received: {path!r}.")
    path = pathlib.Path(path)
    try:
        found = path.is_file()
    except OSError as error:
        raise ValueError(f"Expected a checkpoint file. Received: {str(path)[:80]!r}, which is no path ({error.strerror}).") from error
    if not found:
        raise ValueError(f"Expected a checkpoint file. Received: {str(path)!r}, which {'is a folder' if path.is_dir() else 'does not exist'}.")
    if path.suffix != ".safetensors":
        raise ValueError(f"Expected a checkpoint in a .safetensors file. Received: {str(path)!r}. Save the weights as safetensors first.")
    try:
        return load_file(path)
    except (safetensors.SafetensorError, ValueError, KeyError, OSError) as error:
        raise ValueError(f"{str(path)!r} is not a readable .safetensors file ({error}). Download or save it again.") from error
