"""From anyone's checkpoint to our variables, by name and array."""

import dataclasses
import warnings

from swin_keras.weights.assign import assign, official_name
from swin_keras.weights.dialects import DIALECTS, detect
from swin_keras.weights.files import read_tensors

__all__ = ["LoadReport", "assign_checkpoint", "load_into_new_model", "load_weights", "read_official_tensors"]

HEAD = ("head.weight", "head.bias")


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What `load_weights` did, in official tensor names.

    Attributes:
        source: The dialect that was read.
        loaded: Names assigned to the model.
        resized: Names whose tensor was resized on the way. Empty: no dialect needs it yet.
        ignored: Names in the file that are known to carry nothing, a head that was skipped, and what a backbone lacks.
        left_initial: Names of the model that kept their values.
    """

    source: str
    loaded: list
    resized: list
    ignored: list
    left_initial: list

    def __repr__(self):
        counts = ", ".join(f"{len(names)} {field}" for field, names in list(vars(self).items())[1:])
        return f"LoadReport({self.source}: {counts})"


def read_official_tensors(path, source="auto"):
    """Reads a checkpoint into official names.

    Returns:
        The dialect, `{official name: array}`, and the names of buffers that were dropped.

    Raises:
        ValueError: If the file cannot be read or is in no known dialect.
    """
    if not isinstance(source, str) or (source != "auto" and source not in DIALECTS):
        raise ValueError(f"`source` must be 'auto' or one of {', '.join(DIALECTS)}. Received: source={source!r}.")
    tensors = read_tensors(path)
    try:
        dialect = detect(tensors) if source == "auto" else source
        return dialect, *DIALECTS[dialect](tensors)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}.") from error


def load_weights(model, path, source="auto", skip_head=False):
    """Loads a published checkpoint into a model, or raises and leaves the model as it was.

    Args:
        model: `keras.Model` from `create_model` or `create_backbone`.
        path: A `.safetensors` file.
        source: `"official"`, `"timm"`, `"huggingface"` (transformers 4 or 5), `"torchvision"`, or `"auto"` to tell from the
            tensor names.
        skip_head: Boolean. Whether the head keeps its values.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: If the file cannot be read, or anything on either side is left over or of another shape.
    """
    return assign_checkpoint(model, read_official_tensors(path, source), path, skip_head)


def assign_checkpoint(model, checkpoint, path, skip_head=False):
    """`load_weights` for what `read_official_tensors` has read from `path` already."""
    if not hasattr(model, "weights"):
        raise ValueError(f"Expected a `keras.Model`. Received: {model!r}. Build it with `create_model` or `create_backbone`.")
    dialect, tensors, ignored = checkpoint
    loaded, skipped, left_initial = assign(model, tensors, source=str(path), skip=HEAD if skip_head else ())
    return LoadReport(source=dialect, loaded=loaded, resized=[], ignored=ignored + skipped, left_initial=left_initial)


def load_into_new_model(model, path):
    """`load_weights` for a fine-tuning start: a head of another class count stays initial, with a warning."""
    checkpoint = read_official_tensors(path)
    tensors = checkpoint[1]
    classes = {official_name(v.path): v.shape[0] for v in model.weights}.get("head.bias")
    found = tensors["head.bias"].size if "head.bias" in tensors and classes else classes
    report = assign_checkpoint(model, checkpoint, path, skip_head=found != classes)
    if found != classes:
        warnings.warn(f"{path} has a head for {found} classes; the head for {classes} stays initial.", stacklevel=3)
    return report
