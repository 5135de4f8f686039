"""From anyone's checkpoint to our variables and back, by name and array."""

import dataclasses
import warnings

from swin_keras.weights.assign import CLASSES_MAPPED_TO, HEAD, assign
from swin_keras.weights.buffers import pretrained_window, stored_window
from swin_keras.weights.dialects import DIALECTS, Checkpoint, translate
from swin_keras.weights.files import check_file, is_keras_model, load_keras, read_tensors
from swin_keras.weights.hub import Published, find_weights
from swin_keras.weights.layouts import LAYOUTS, check_destination, official_values, save_weights
from swin_keras.weights.tensor import Tensor
from swin_keras.weights.variables import attention_blocks, official_variables

__all__ = [
    "LAYOUTS",
    "Checkpoint",
    "LoadReport",
    "Published",
    "check_destination",
    "find_weights",
    "is_keras_model",
    "load_checkpoint",
    "load_into_new_model",
    "load_keras",
    "load_weights",
    "pretrained_window",
    "read_checkpoint",
    "save_weights",
    "stored_window",
]


@dataclasses.dataclass(frozen=True, repr=False)
class LoadReport:
    """What `load_weights` did, in official tensor names.

    Attributes:
        source: The dialect that was read.
        loaded: Names assigned to the model.
        resized: Names of these whose tensor was resized on the way, or picked from the classes of ImageNet-22K.
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


def read_checkpoint(path, source="auto"):
    """Reads the names of a checkpoint, and how to read its tensors.

    Args:
        path: A file in the format of safetensors, of `torch.save`, or of Keras, also a `.keras` file of this package.
        source: As in `load_weights`.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: If the file cannot be read or is in no known dialect.
    """
    if not isinstance(source, str) or (source != "auto" and source not in DIALECTS):
        raise ValueError(f"`source` must be 'auto' or one of {', '.join(DIALECTS)}. Received: source={source!r}.")
    path = check_file(path)
    if source == "auto" and is_keras_model(path):
        return Checkpoint("swin_keras", {name: Tensor.of(array) for name, array in official_values(load_keras(path)).items()})
    tensors = read_tensors(path)
    try:
        return translate(tensors, source)
    except ValueError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error}.") from error


def load_weights(model, path, source="auto", skip_head=False):
    """Loads a published checkpoint into a model, or raises and leaves the model as it was.

    Args:
        model: `keras.Model` from `create_model` or `create_backbone`.
        path: A file of any of the dialects below; a folder of Hugging Face; or `"hf://owner/name"`, downloaded.
        source: `"official"`, `"timm"`, `"huggingface"` (transformers 4 or 5), `"torchvision"`, `"mmdet"` (mmdet or mmseg),
            `"keras_hub"`, or `"auto"` to tell from the tensor names.
        skip_head: Boolean. Whether the head keeps its values.

    Returns:
        A `LoadReport`.

    Raises:
        ValueError: If the file cannot be read, or anything on either side is left over or of another shape.
    """
    official_variables(model)  # refuses what is no model before anything is downloaded
    found = find_weights(path)
    return load_checkpoint(model, read_checkpoint(found.path, source), found.path, skip_head, found.pretrained_windows)


def load_checkpoint(model, checkpoint, path, skip_head=False, pretrained_windows=None):
    """`load_weights` for what `read_checkpoint` has read from `path` already, and what stands beside it in `config.json`."""
    note = _other_pretrained_windows(model, checkpoint, path, pretrained_windows)
    loaded, resized, ignored, left_initial = assign(model, checkpoint, path, skip_head)
    if note:
        warnings.warn(note, stacklevel=3)
    return LoadReport(checkpoint.source, loaded, resized, ignored + list(checkpoint.buffers), left_initial)


def load_into_new_model(model, weights):
    """`load_weights` for a fine-tuning start: a head of another class count stays initial. Warnings say so, and what was resized."""
    published = find_weights(weights)
    path = published.path
    checkpoint = read_checkpoint(path)
    found = _head_classes(checkpoint.tensors, path)
    expected = _head_classes(official_variables(model), model.name)
    skip_head = expected is not None and found not in (expected, CLASSES_MAPPED_TO.get(expected, expected))
    report = load_checkpoint(model, checkpoint, path, skip_head, published.pretrained_windows)
    notes = []
    if skip_head:
        notes.append(f"{path} has {'no head' if found is None else f'a head for {found} classes'}; the head for {expected} stays initial.")
    if initial := [name for name in report.left_initial if name not in HEAD]:
        notes.append(f"{path} lacks {', '.join(initial[:2])} and the like, {len(initial)} in all, which stay initial.")
    if resized := [name for name in report.resized if name not in HEAD]:
        notes.append(f"{len(resized)} tensors of {path} were resized to other windows or another grid, such as {resized[0]}.")
    for note in notes:
        warnings.warn(note, stacklevel=3)
    return report


def _head_classes(tensors, where):
    """Returns how many classes a head tells apart, `None` where there is none."""
    found = [tensors[name].shape for name in HEAD if name in tensors]
    if not found:
        return None
    weight, bias = (*found, None) if len(found) == 1 else found
    # Keras has the classes in the last axis.
    if bias is None or len(weight) != 2 or len(bias) != 1 or bias[0] not in weight:
        raise ValueError(f"{where} has a damaged head: {HEAD[0]} and {HEAD[1]} do not belong together.")
    return bias[0]


def _other_pretrained_windows(model, checkpoint, path, configured):
    """Returns what is to be said if a file of V2 scales its position bias by another window than the model."""
    sizes, differ = {}, False
    for name, block in attention_blocks(model):
        own, stage = getattr(block.attn, "scaling_window", None), int(name.split(".")[1])
        stored = pretrained_window(checkpoint, name, path)
        if stored is None and configured and stage < len(configured):
            stored = (configured[stage],) * 2
        differ |= own is not None and stored not in (None, own)
        sizes[stage] = stored[0] if stored and stored[0] == stored[1] else stored
    if not differ:
        return None
    return (
        f"{path} scales its position bias by another window than the model {model.name!r}, whose outputs will be others. "
        f"Build it with pretrained_window_sizes={tuple(sizes.values())}."
    )
