"""Files that torch wrote before its version 1.6, for which torch itself is wanted: the one place that imports it."""

from swin_keras.weights.tensor import Tensor
from swin_keras.weights.torch_zip import state_dict

# What `torch.save` begins with: a pickle of a magic number, or a tar archive.
_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"


def is_legacy(start):
    """Whether a file that starts with these 512 bytes is in an older format of torch."""
    return _MAGIC in start[:16] or start[257:262] == b"ustar"


def read(path):
    """Returns the tensors of the file, read by torch in its safe mode.

    Raises:
        ValueError: If torch is not installed, or refuses the file.
    """
    try:
        import torch
    except ImportError as error:
        raise ValueError(
            "it is in the format of torch before version 1.6, which torch alone reads: install torch, as with `pip install 'swin-keras[torch]'`, "
            "or have torch load it and save it again"
        ) from error
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its parts raise on a damaged file.
        raise ValueError(f"torch refuses it: {error}") from error
    return {name: _tensor(value) for name, value in state_dict(found, torch.Tensor).items()}


def _tensor(value):
    value = value.detach()
    # numpy has no bfloat16, of which float32 holds every value.
    return Tensor.of((value.float() if str(value.dtype) == "torch.bfloat16" else value).numpy())
