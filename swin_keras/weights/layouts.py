"""From our variables to the names that other projects load."""

import os
import pathlib
import re
import uuid

import keras
import numpy as np
import safetensors
from safetensors.numpy import save_file

from swin_keras.weights.variables import attention_blocks, official_variables, to_official

LAYOUTS = ("official", "timm", "huggingface")

_KNOWN = re.compile(
    r"(patch_embed\.(proj|norm)|layers\.\d+\.(blocks\.\d+\.(norm[12]|attn\.(qkv|proj|cpb_mlp\.[02])|mlp\.fc[12]|spatial_mlp)|downsample\.(norm|reduction))"
    r"|norm\d*|head|decoder\.0)\.(weight|bias)"
    r"|layers\.\d+\.blocks\.\d+\.attn\.(relative_position_bias_table|logit_scale|[qv]_bias)|absolute_pos_embed|mask_token"
)

_HUGGINGFACE = [
    (r"^patch_embed\.proj\.", "embeddings.patch_embeddings.projection."),
    (r"^patch_embed\.norm\.", "embeddings.norm."),
    (r"^absolute_pos_embed$", "embeddings.position_embeddings"),
    (r"^mask_token$", "embeddings.mask_token"),
    (r"^layers\.", "encoder.layers."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.attn\.cpb_mlp\.", ".attention.self.continuous_position_bias_mlp."),
    (r"\.attn\.", ".attention.self."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
    (r"^norm\.", "layernorm."),
    (r"^norm(\d)\.", lambda match: f"hidden_states_norms.stage{int(match[1]) + 1}."),
]


def save_weights(model, path, layout="official", buffers=True):
    """Writes the weights of a model to a `.safetensors` file, under the names of another project, which loads it.

    Args:
        model: `keras.Model` from `create_model`, `create_backbone` or `create_simmim`.
        path: Where to write, ending in `.safetensors`. A file of this name is replaced once the new one is complete.
        layout: `"official"`: microsoft/Swin-Transformer, for a backbone the official detector; takes every model, also
            such as only this package builds. `"timm"`: classifiers. `"huggingface"`: transformers, in the names of
            version 4, which version 5 loads.
        buffers: Boolean. Whether the file holds what other code computes from the window and keeps, as released files do.

    Raises:
        ValueError: If `path` cannot be written, or the project has no place for a part of the model.
    """
    path = check_destination(path, layout)
    tensors = {"official": _official, "timm": _timm, "huggingface": _huggingface}[layout](model, official_values(model), buffers)
    if wrong := [name for name, array in tensors.items() if array.dtype.kind != "i" and not np.all(np.isfinite(array.astype("float32", copy=False)))]:
        raise ValueError(f"The model {model.name!r} holds values that are not finite, in {wrong[0]}, which nobody would load. Train it again.")
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        partial.touch()
        mode = partial.stat().st_mode  # what this user gives a new file; safetensors would make it private
        # transformers asks for the format.
        save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, partial, metadata={"format": "pt"})
        partial.chmod(mode)
        partial.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(f"{str(path)!r} cannot be written ({error}). Choose another place.") from error
    finally:
        partial.unlink(missing_ok=True)


def check_destination(path, layout):
    """Returns the path to write to, behind links.

    Raises:
        ValueError: If there is no such layout, or nothing can be written there.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {', '.join(LAYOUTS)}. Received: layout={layout!r}.")
    if not isinstance(path, (str, os.PathLike)) or pathlib.Path(path).suffix != ".safetensors":
        raise ValueError(f"Expected the path of a .safetensors file to write. Received: {path!r}.")
    try:
        path = pathlib.Path(path).resolve()
        problem = "which is a folder" if path.is_dir() else None if path.parent.is_dir() else "whose folder does not exist"
    except (OSError, ValueError, RuntimeError) as error:
        problem = f"which is no path ({error})"
    if problem:
        raise ValueError(f"Expected the path of a .safetensors file to write. Received: {str(path)[:300]!r}, {problem}.")
    return path


def official_values(model):
    """Returns the variables of a model as `{official name: array}` in the official layout.

    Raises:
        ValueError: If it is no model, or has variables that are not of a Swin Transformer.
    """
    variables = official_variables(model)
    detector = "norm0.weight" in variables or not {"norm.weight", "head.weight", "mask_token"} & set(variables)
    unknown = [name for name in variables if not _KNOWN.fullmatch(name)]
    if unknown or not variables:
        what = f"variables that no Swin has: {', '.join(unknown[:4])}" if unknown else "no variable"
        raise ValueError(f"Expected a Swin Transformer of `create_model` or `create_backbone`. Received: {model.name!r}, which holds {what}.")
    return {name: to_official(keras.ops.convert_to_numpy(v), v.path, detector) for name, v in variables.items()}


def _official(model, tensors, buffers):
    if buffers:
        tensors |= _position_indices(model)
        for name, block in attention_blocks(model):
            if (coordinates := getattr(block.attn, "relative_coordinates", None)) is not None:
                height, width = block.attn.window
                tensors[f"{name}.attn.relative_coords_table"] = coordinates.reshape(1, 2 * height - 1, 2 * width - 1, 2)
            # The detector's code makes masks for each picture.
            if block.attention_mask is not None and "norm.weight" in tensors:
                tensors[f"{name}.attn_mask"] = block.attention_mask
    if "mask_token" in tensors:
        tensors = {name if name.startswith("decoder.") else f"encoder.{name}": array for name, array in tensors.items()}
    return tensors


def _timm(model, tensors, buffers):
    _refuse(tensors, "timm", r"mask_token|norm\d\.|absolute_pos_embed|.*\.spatial_mlp\.")
    _require(tensors, "timm", "head.weight", "patch_embed.norm.weight")
    _check_blocks(model, tensors, "timm")
    later = re.compile(r"^layers\.(\d+)\.downsample\.")
    return {
        re.sub(r"^head\.", "head.fc.", later.sub(lambda match: f"layers.{int(match[1]) + 1}.downsample.", name)): array
        for name, array in tensors.items()
    }


def _huggingface(model, tensors, buffers):
    second = any(name.endswith(".logit_scale") for name in tensors)
    # Its backbone of V2 has no norms, and its position embedding of V2 a row too many, which its own code cannot add.
    _refuse(tensors, "transformers", r".*\.spatial_mlp\." + (r"|norm\d\.|absolute_pos_embed" if second else ""))
    _require(tensors, "transformers", "patch_embed.norm.weight")
    _check_blocks(model, tensors, "transformers")
    rows = {array.shape[0] for name, array in tensors.items() if name.endswith(".relative_position_bias_table")}
    if len(rows) > 1 or any(len(set(block.attn.window)) > 1 for _, block in attention_blocks(model)):
        raise ValueError("transformers has one square window for all stages. Received: a model with others. Use layout='official'.")
    prefix = "swinv2." if second else "swin."
    if not {"head.weight", "decoder.0.weight"} & set(tensors):
        prefix = ""
        if not second and "norm.weight" not in tensors and not any(re.match(r"norm\d\.", name) for name in tensors):
            raise ValueError("transformers' backbone of V1 has norms. Received: one without (`output_norm=False`). Use layout='official'.")
    if buffers and not second:
        tensors |= _position_indices(model)
    renamed = {}
    for name, array in tensors.items():
        if name.startswith(("head.", "decoder.")):
            renamed[name.replace("head.", "classifier.")] = array
            continue
        for pattern, replacement in _HUGGINGFACE:
            name = re.sub(pattern, replacement, name)
        if ".self.qkv." in name:
            for part, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                renamed[prefix + name.replace(".qkv.", f".{part}.")] = third
        else:
            renamed[prefix + name.replace(".self.q_bias", ".self.query.bias").replace(".self.v_bias", ".self.value.bias")] = array
    return renamed


def _refuse(tensors, project, pattern):
    if found := [name for name in tensors if re.match(pattern, name)]:
        raise ValueError(f"{project} has no place for {found[0]}. Received: a model that has it. Use layout='official'.")


def _require(tensors, project, *names):
    if missing := [name for name in names if name not in tensors]:
        raise ValueError(f"{project} needs {missing[0]}. Received: a model without it. Use layout='official'.")


def _check_blocks(model, tensors, project):
    ends = (".relative_position_bias_table", ".cpb_mlp.0.weight")
    if not any(name.endswith(ends) for name in tensors):
        raise ValueError(f"{project} has no model without a relative position bias. Received: one. Use layout='official'.")
    if any(int(name.split(".")[-1]) % 2 and not block.shifted for name, block in attention_blocks(model)):
        raise ValueError(f"{project} shifts the windows of every second block. Received: a model that does not. Use layout='official'.")


def _position_indices(model):
    return {f"{name}.attn.relative_position_index": block.attn.relative_position_index.astype("int64") for name, block in attention_blocks(model)}
