"""Puts tensors with official names into a model's variables, and accounts for both sides."""

import re

import numpy as np

from swin_keras.weights.dialects import last_stage

_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def official_name(path):
    """Returns the official name of a variable: `layers_0_blocks_1/mlp/fc1/kernel` is `layers.0.blocks.1.mlp.fc1.weight`."""
    *modules, leaf = path.split("/")
    modules[0] = re.sub(r"^layers_(\d+)_(?:blocks_(\d+)|(downsample))$", _stage_name, modules[0])
    modules = [re.sub(r"^cpb_mlp_(\d)$", r"cpb_mlp.\1", module) for module in modules]
    if modules in (["absolute_pos_embed"], ["mask_token"]):
        return modules[0]
    if modules == ["decoder_0"]:
        modules = ["decoder.0"]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _stage_name(match):
    stage, block, downsample = match.groups()
    return f"layers.{stage}.{downsample or f'blocks.{block}'}"


def to_keras(array, path, shape):
    """Returns an official tensor as Keras stores it in a variable of this path and shape.

    `(out, in)` becomes `(in, out)`, OIHW becomes HWIO, and the position embedding of a row of tokens that of their grid.
    """
    if path == "absolute_pos_embed/embedding":
        if array.ndim == 4:  # of the official detector: channels first
            return array.transpose(0, 2, 3, 1)
        return array.reshape(shape) if array.shape == (1, shape[1] * shape[2], shape[3]) else array
    if path.endswith("/spatial_mlp/kernel") and array.shape == (shape[0] * shape[1], shape[2], 1):
        return array.reshape(shape).transpose(0, 2, 1)
    if path.endswith("/spatial_mlp/bias") and array.shape == (shape[0] * shape[1],):
        return array.reshape(shape)
    if path == "mask_token/kernel" and array.shape == (1, *shape):
        return array.reshape(shape)
    if path == "decoder_0/kernel" and array.shape == (*shape[::-1], 1, 1):
        return array.reshape(shape[::-1]).T
    if not path.endswith("/kernel"):
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def assign(model, tensors, source, skip):
    """Assigns `tensors` to the variables of `model`, all or none.

    A model without a head is a backbone: the file's head, norms and later stages that it lacks are ignored, and its own
    norms of stages that the file lacks stay initial.

    Args:
        model: `keras.Model` made of our layers.
        tensors: Dictionary from official names to arrays.
        source: String. Where the tensors come from, for messages.
        skip: Names that are left as they are, on both sides.

    Returns:
        The names that were assigned, those of the file that were ignored, and those of the model that stayed initial.

    Raises:
        ValueError: If a variable has no tensor, a tensor has no variable, or shapes differ; the message lists all.
    """
    variables = {official_name(v.path): v for v in model.weights}
    if len(variables) < len(model.weights):
        raise ValueError(f"The model {model.name!r} holds two layers of one name, as two Swins in one model do. Load each by itself.")
    ignored, left_initial = [name for name in tensors if name in skip], [name for name in variables if name in skip]
    if not any(name.startswith("head.") for name in variables):
        last = last_stage(variables)
        ignored += [name for name in tensors if name not in variables and _is_beyond(name, last)]
        left_initial += [name for name in variables if name not in tensors and re.match(r"norm\d\.", name)]
    variables = {name: v for name, v in variables.items() if name not in left_initial}
    tensors = {name: array for name, array in tensors.items() if name not in ignored}
    problems = []
    if missing := sorted(set(variables) - set(tensors)):
        problems.append(f"the model expects {_some(missing)}, which the file lacks")
    if extra := sorted(set(tensors) - set(variables)):
        problems.append(f"the file has {_some(extra)}, which the model lacks")
    values = {}
    for name in sorted(set(variables) & set(tensors)):
        values[name] = to_keras(tensors[name], variables[name].path, tuple(variables[name].shape))
        if values[name].shape != tuple(variables[name].shape):
            problems.append(f"{name} has shape {values[name].shape} where the model expects {tuple(variables[name].shape)}")
        elif values[name].dtype.kind != "f" and values[name].dtype.name != "bfloat16":
            problems.append(f"{name} holds {values[name].dtype} where the model expects floating-point numbers")
        else:
            with np.errstate(over="ignore"):
                values[name] = values[name].astype("float32")
                # A variable may hold less.
                narrow = "float16" if variables[name].dtype == "float16" else "float32"
                finite = np.all(np.isfinite(values[name].astype(narrow)))
            if not finite:
                problems.append(f"{name} holds values that are not finite in {narrow}")
    if problems:
        hint = "Build the variant that the checkpoint was made for, with its `num_classes` and `window_size`"
        if "relative_position_bias_table has shape" in "; ".join(problems[:6]):
            hint += "; `input_shape` and `window_fit` decide too how large a window and its bias table are"
        raise ValueError(f"{source} does not match the model {model.name!r}: {'; '.join(problems[:6])}. {hint}.")
    for name, value in values.items():
        variables[name].assign(value)
    return list(values), ignored, left_initial


def _is_beyond(name, last):
    """Whether a tensor belongs behind the last stage of a backbone: a norm, the head, a later stage, the way there."""
    stage = re.match(r"layers\.(\d+)\.(downsample\.)?", name)
    return bool(re.match(r"(head|norm\d*)\.", name)) or (bool(stage) and (int(stage[1]) > last or (bool(stage[2]) and int(stage[1]) == last)))


def _some(names, limit=8):
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({', '.join(names[:limit])}{more})"
