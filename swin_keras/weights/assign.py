"""Puts tensors with official names into a model's variables, and accounts for both sides."""

import collections
import functools
import pathlib
import re

import numpy as np

from swin_keras.weights.buffers import stored_window
from swin_keras.weights.dialects import last_stage
from swin_keras.weights.resize import resize_bias_table, resize_position_embedding
from swin_keras.weights.tensor import FLOATS, read_tensor
from swin_keras.weights.variables import attention_blocks, official_variables, to_keras

HEAD = ("head.weight", "head.bias")
# What masked image modelling has besides the encoder.
_PRETRAINING = ("mask_token", "decoder.0.weight", "decoder.0.bias")
# The head of ImageNet-22K holds that of ImageNet-1K.
CLASSES_MAPPED_TO = {1000: 21841}


def assign(model, checkpoint, path, skip_head=False):
    """Assigns the tensors of a `Checkpoint` to the variables of a model, all or none.

    A model without a head is a backbone: the file's head, norms and later stages that it lacks are ignored, and its own
    norms of stages that the file lacks stay initial. Tables of another window and position embeddings of another grid are
    resized, and a head of ImageNet-22K becomes that of the 1,000 classes of ImageNet-1K.

    Args:
        model: `keras.Model` made of our layers.
        checkpoint: `Checkpoint`.
        path: Where the tensors come from, for messages.
        skip_head: Boolean. Whether the head is left as it is, on both sides.

    Returns:
        The names that were assigned, those of them that were resized or mapped on the way, those of the file that were
        ignored, and those of the model that stayed initial.

    Raises:
        ValueError: If a variable has no tensor, a tensor has no variable, or shapes differ; the message lists all.
    """
    variables, tensors = official_variables(model), dict(checkpoint.tensors)
    ignored, left_initial = _leave_out(variables, tensors, checkpoint, skip_head)
    variables = {name: v for name, v in variables.items() if name not in left_initial}
    tensors = {name: tensor for name, tensor in tensors.items() if name not in ignored}
    problems = []
    if missing := sorted(set(variables) - set(tensors)):
        problems.append(f"the model expects {_some(missing)}, which the file lacks")
    if extra := sorted(set(tensors) - set(variables)):
        problems.append(f"the file has {_some(extra)}, which the model lacks")
    windows = {name: block.attn.window for name, block in attention_blocks(model)}
    tensors, mapped = _map_head(tensors, variables)
    fitted, resized = {}, []
    for name in sorted(set(variables) & set(tensors)):
        shape = tuple(variables[name].shape)
        fitted[name] = to_keras(tensors[name], variables[name].path, shape)
        other = _resize(name, fitted[name], shape, windows, checkpoint, path)
        if other is not None:
            fitted[name] = other
        if other is not None or name in mapped:
            resized.append(name)
        problems += _problems(name, fitted[name], variables[name], path)
    if problems:
        more = f"; and {len(problems) - 6} more such" if len(problems) > 6 else ""
        raise ValueError(f"{path} does not match the model {model.name!r}: {'; '.join(problems[:6])}{more}. {_hint(problems, variables, tensors)}.")
    # Read once more, now that all are known to be good: a large checkpoint is never in memory as a whole.
    for name, tensor in fitted.items():
        with np.errstate(over="ignore"):
            variables[name].assign(read_tensor(tensor, path).astype("float32", copy=False))
    return list(fitted), resized, ignored, left_initial


def _leave_out(variables, tensors, checkpoint, skip_head):
    """Returns the names of the file and those of the model that need no counterpart."""
    ignored, left_initial = [], []
    if skip_head:
        ignored = [name for name in tensors if name in HEAD or (name not in variables and (name in _PRETRAINING or name in checkpoint.outside))]
        left_initial = [name for name in variables if name in HEAD]
    if not any(name.startswith("head.") for name in variables):
        last = last_stage(variables)
        beyond = [name for name in tensors if name not in variables and (_is_beyond(name, last) or name in checkpoint.outside)]
        ignored += [name for name in beyond if name not in ignored]
        norms = {name.split(".")[0] for name in tensors}
        left_initial += [name for name in variables if re.match(r"norm\d\.", name) and name.split(".")[0] not in norms]
    return ignored, left_initial


def _is_beyond(name, last):
    """Whether a tensor belongs behind the last stage of a backbone: a norm, a head, a later stage, the way there."""
    stage = re.match(r"layers\.(\d+)\.(downsample\.)?", name)
    later = bool(stage) and (int(stage[1]) > last or (bool(stage[2]) and int(stage[1]) == last))
    return later or name in _PRETRAINING or bool(re.fullmatch(r"(head|norm\d?)\.(weight|bias)", name))


def _map_head(tensors, variables):
    """Returns the tensors, a head of ImageNet-22K replaced by that of ImageNet-1K if the model has one, and which were."""
    heads = [tensors[name] for name in HEAD if name in tensors and name in variables]
    classes = variables["head.bias"].shape[0] if "head.bias" in variables else None
    if len(heads) < len(HEAD) or not all(head.ndim and head.shape[0] == CLASSES_MAPPED_TO.get(classes) for head in heads):
        return tensors, ()
    return {**tensors, **{name: tensors[name].take(classes_1k_in_22k()) for name in HEAD}}, HEAD


def _resize(name, tensor, shape, windows, checkpoint, path):
    """Returns a tensor for another window or grid than the file's; `None` if it is the same, or none can be made."""
    if name.endswith(".relative_position_bias_table") and tensor.ndim == 2 and tensor.shape[1] == shape[1]:
        block = name.split(".attn.")[0]
        window = stored_window(checkpoint, block, path)
        if window == windows[block] or (window is None and tensor.shape == shape):
            return None
        return resize_bias_table(tensor, windows[block], window)
    is_other_grid = name == "absolute_pos_embed" and tensor.shape != shape and tensor.ndim in (3, 4)
    if is_other_grid and tensor.shape[0] == 1 and tensor.shape[-1] == shape[-1]:
        return resize_position_embedding(tensor, shape[1:3])
    return None


@functools.cache
def classes_1k_in_22k():
    """Returns the index in ImageNet-22K of each class of ImageNet-1K, from the official list."""
    lines = (pathlib.Path(__file__).parent / "imagenet_22k_to_1k.txt").read_text(encoding="ascii").splitlines()
    return [int(line) for line in lines if not line.startswith("#")]


def _problems(name, tensor, variable, path):
    """Returns what keeps a tensor from being assigned to a variable, in a list of at most one."""
    expected = tuple(variable.shape)
    if tensor.shape != expected:
        return [f"{name} has shape {tensor.shape} where the model expects {expected}"]
    if tensor.dtype not in FLOATS:
        return [f"{name} holds {tensor.dtype} where the model expects floating-point numbers"]
    # A variable may hold less.
    narrow = variable.dtype if variable.dtype in FLOATS else "float32"
    with np.errstate(over="ignore"):
        finite = np.all(np.isfinite(read_tensor(tensor, path).astype(narrow, copy=False)))
    return [] if finite else [f"{name} holds values that are not finite in {narrow}"]


def _hint(problems, variables, tensors):
    if all(" holds " in problem for problem in problems):
        return "It is damaged, or its training went wrong: take another"
    hint = "Build the variant that the checkpoint was made for, with its `num_classes` and `window_size`"
    theirs, ours = map(_kind, (tensors, variables))
    if theirs != ours:
        hint = f"The file is of {theirs}, the model of {ours}. {hint}"
    if any("relative_position_bias_table has shape" in problem for problem in problems):
        hint += "; `input_shape` and `window_fit` decide too how large a window and its bias table are"
    if "head.bias" in variables and ("head.bias" not in tensors or tensors["head.bias"].shape != tuple(variables["head.bias"].shape)):
        hint += "; `skip_head=True` leaves the head initial"
    return hint


def _kind(named):
    """Describes the Swin Transformer that tensors or variables with official names belong to."""
    family = "Swin V2" if any(name.endswith(".attn.logit_scale") for name in named) else "Swin V1"
    if any(".spatial_mlp." in name for name in named):
        family = "Swin-MLP"
    blocks = sorted({(int(match[1]), int(match[2])) for match in map(re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.").match, named) if match})
    depths = list(collections.Counter(stage for stage, _ in blocks).values())
    bias = named.get("patch_embed.proj.bias")
    return f"{family} with {bias.shape[0] if bias is not None and len(bias.shape) else 'unknown'} channels and {depths} blocks"


def _some(names, limit=8):
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({', '.join(names[:limit])}{more})"
