"""Puts tensors with official names into a model's variables, and accounts for both sides."""

import re

import numpy as np

_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}


def official_name(path):
    """Returns the official name of a variable: `layers_0_blocks_1/mlp/fc1/kernel` is `layers.0.blocks.1.mlp.fc1.weight`."""
    *modules, leaf = path.split("/")
    modules[0] = re.sub(r"^layers_(\d+)_(?:blocks_(\d+)|(downsample))$", _stage_name, modules[0])
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _stage_name(match):
    stage, block, downsample = match.groups()
    return f"layers.{stage}.{downsample or f'blocks.{block}'}"


def to_keras(array, path):
    """Returns an official tensor as Keras stores it: `(out, in)` becomes `(in, out)`, OIHW becomes HWIO."""
    if not path.endswith("/kernel"):
        return array
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def assign(model, tensors, source, skip):
    """Assigns `tensors` to the variables of `model`, all or none.

    Args:
        model: `keras.Model` made of our layers.
        tensors: Dictionary from official names to arrays.
        source: String. Where the tensors come from, for messages.
        skip: Names that are left as they are, on both sides.

    Returns:
        The names that were assigned.

    Raises:
        ValueError: If a variable has no tensor, a tensor has no variable, or shapes differ; the message lists all.
    """
    variables = {official_name(v.path): v for v in model.weights}
    variables = {name: v for name, v in variables.items() if name not in skip}
    tensors = {name: array for name, array in tensors.items() if name not in skip}
    problems = []
    if missing := sorted(set(variables) - set(tensors)):
        problems.append(f"the model expects {_some(missing)}, which the file lacks")
    if extra := sorted(set(tensors) - set(variables)):
        problems.append(f"the file has {_some(extra)}, which the model lacks")
    values = {}
    for name in sorted(set(variables) & set(tensors)):
        values[name] = to_keras(tensors[name], variables[name].path)
        if values[name].shape != tuple(variables[name].shape):
            problems.append(f"{name} has shape {values[name].shape} where the model expects {tuple(variables[name].shape)}")
        elif values[name].dtype.kind != "f" and values[name].dtype.name != "bfloat16":
            problems.append(f"{name} holds {values[name].dtype} where the model expects floating-point numbers")
        else:
            with np.errstate(over="ignore"):
                values[name] = values[name].astype("float32")
            if not np.all(np.isfinite(values[name])):
                problems.append(f"{name} holds values that are not finite in float32")
    if problems:
        hint = "Build the variant that the checkpoint was made for, with its `num_classes` and `window_size`"
        raise ValueError(f"{source} does not match the model {model.name!r}: {'; '.join(problems[:6])}. {hint}.")
    for name, value in values.items():
        variables[name].assign(value)
    return list(values)


def _some(names, limit=8):
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return f"{len(names)} tensor{'s' if len(names) > 1 else ''} ({', '.join(names[:limit])}{more})"
