"""The model that a checkpoint was made for, told from its tensors."""

import math
import re

import keras

from swin_keras.models.architecture import Architecture
from swin_keras.models.backbone import SwinBackbone
from swin_keras.models.classifier import classifier
from swin_keras.models.simmim import SimMIM
from swin_keras.models.variants import VARIANTS, create_model
from swin_keras.weights import (
    LoadReport,
    check_destination,
    find_weights,
    is_keras_model,
    load_checkpoint,
    load_keras,
    pretrained_window,
    read_checkpoint,
    save_weights,
    stored_window,
)
from swin_keras.weights.variables import official_name

_WHAT = {"swin": "Swin V1", "swinv2": "Swin V2", "swin_mlp": "Swin-MLP"}


def create_model_from_checkpoint(path):
    """Builds the released model that a checkpoint was made for, and loads it.

    Args:
        path: A file of a dialect that `load_weights` reads.

    Raises:
        ValueError: If the file cannot be read, fits no row of `VARIANTS`, has no head, or does not match completely.
    """
    checkpoint = read_checkpoint(path)
    arguments, windows, _ = _describe(checkpoint, path)
    if None in windows:
        raise ValueError(
            f"Expected a checkpoint whose tensors tell its window. {str(path)!r} is of {_WHAT[arguments['family']]} and does not. "
            "Build the model with `create_model(name, weights=path)`."
        )
    sizes = {key: arguments[key] for key in ("family", "embed_dim", "depths", "num_heads")}
    names = [name for name, row in VARIANTS.items() if all(getattr(row, key) == value for key, value in sizes.items()) and _windows(row) == windows]
    if not names:
        described = ", ".join(f"{key}={value}" for key, value in {**sizes, "windows": windows}.items())
        raise ValueError(f"Expected the checkpoint of a released model. {str(path)!r} has {described}, which fits no row of `swin-keras models`.")
    if "head.bias" not in checkpoint.tensors or len(checkpoint.tensors["head.bias"].shape) != 1:
        raise ValueError(f"Expected a classifier. {str(path)!r} has no head: no tensor head.bias.")
    classes = checkpoint.tensors["head.bias"].shape[0]
    name = next((name for name in names if VARIANTS[name].num_classes == classes), names[0])
    model = create_model(name, num_classes=classes)
    load_checkpoint(model, checkpoint, path)
    return model


def convert_checkpoint(source, path, layout="official"):
    """Translates a checkpoint of any dialect into another project's, whatever its sizes.

    Args:
        source: As `weights` in `create_model`, but for tags; also a `.keras` file of this package.
        path: As in `save_weights`.
        layout: As in `save_weights`.

    Returns:
        A `LoadReport`; `ignored` names what the new file lacks: buffers, and what stands around a backbone.

    Raises:
        ValueError: If the source cannot be read, is incomplete, or has no place in the layout.
    """
    check_destination(path, layout)  # before the work
    source = find_weights(source).path
    if is_keras_model(source):
        model = load_keras(source)
        save_weights(model, path, layout)
        return LoadReport("swin_keras", [official_name(v.path) for v in model.weights], [], [], [])
    checkpoint = read_checkpoint(source)
    arguments, windows, input_shape = _describe(checkpoint, source)
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    arguments["window_size"] = tuple(window or _any_window(shapes, stage) for stage, window in enumerate(windows))
    model = _build(checkpoint, Architecture(**arguments, window_fit="pad"), input_shape)
    report = load_checkpoint(model, checkpoint, source)
    # Beside the norms of its stages, a backbone of transformers keeps a last one that it never uses.
    spare = {*checkpoint.outside, *checkpoint.buffers, "norm.weight", "norm.bias"}
    if lost := [name for name in report.ignored if name not in spare]:
        raise ValueError(f"{str(source)!r} holds {', '.join(lost[:4])}, which has no place beside its other tensors. Take it out.")
    save_weights(model, path, layout, buffers=None not in windows)
    return report


def _build(checkpoint, architecture, input_shape):
    """Builds a model with a variable for each tensor."""
    tensors = checkpoint.tensors
    norms = sorted(int(match[1]) + 1 for match in map(re.compile(r"norm(\d)\.weight$").match, tensors) if match)
    if "mask_token" in tensors:
        return SimMIM(input_shape, **vars(architecture))
    if norms or "norm.weight" not in tensors:
        return SwinBackbone(input_shape, norms or None, output_norm=bool(norms), **vars(architecture))
    if "head.weight" in tensors:
        return classifier(architecture, input_shape, tensors["head.weight"].shape[0], name="swin")
    model = classifier(architecture, input_shape, num_classes=1, name="swin")
    return keras.Model(model.input, model.get_layer("norm").output)


def _describe(checkpoint, path):
    """Returns the arguments of an `Architecture` but for its window, the window of each stage or `None`, and an input shape."""
    shapes = {name: tensor.shape for name, tensor in checkpoint.tensors.items()}
    try:
        return _read_shapes(checkpoint, shapes, path)
    except (KeyError, IndexError, ValueError, ZeroDivisionError, TypeError) as error:
        raise ValueError(
            f"Expected the checkpoint of a Swin Transformer. {str(path)!r} lacks a tensor, or has one of no such shape: {error}."
        ) from error


def _read_shapes(checkpoint, shapes, path):
    if empty := [name for name, shape in shapes.items() if 0 in shape]:
        raise ValueError(f"{empty[0]} is empty")
    blocks = [(int(match[1]), int(match[2])) for match in map(re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.").match, shapes) if match]
    count = 1 + max((stage for stage, _ in blocks), default=-1)
    if max(map(max, blocks), default=0) > len(blocks):
        raise ValueError("it numbers more stages or blocks than it has")
    first = [f"layers.{stage}.blocks.0" for stage in range(count)]
    if any(name.endswith(".attn.logit_scale") for name in shapes):
        family, heads = "swinv2", [shapes[f"{block}.attn.logit_scale"][0] for block in first]
    elif any(name.endswith(".spatial_mlp.weight") for name in shapes):
        family, heads = "swin_mlp", [shapes[f"{block}.spatial_mlp.weight"][0] // shapes[f"{block}.spatial_mlp.weight"][1] for block in first]
    else:
        family, heads = "swin", [shapes[f"{block}.attn.relative_position_bias_table"][1] for block in first]
    embed_dim, channels, *patch = shapes["patch_embed.proj.weight"]
    arguments = {
        "family": family,
        "embed_dim": embed_dim,
        "depths": tuple(1 + max(block for stage, block in blocks if stage == number) for number in range(count)),
        "num_heads": tuple(heads),
        "patch_size": tuple(patch),
        "mlp_ratio": shapes["layers.0.blocks.0.mlp.fc1.weight"][0] / embed_dim,
        "patch_norm": "patch_embed.norm.weight" in shapes,
        "absolute_position_embedding": "absolute_pos_embed" in shapes,
    }
    if family != "swin_mlp":
        arguments["qkv_bias"] = any(name.endswith((".attn.qkv.bias", ".attn.q_bias")) for name in shapes)
    if family == "swinv2":
        arguments["relative_position_bias"] = any(".attn.cpb_mlp." in name for name in shapes)
        scaling = [pretrained_window(checkpoint, block, path) for block in first]
        if None not in scaling:
            arguments["pretrained_window_sizes"] = tuple(scaling)
    return arguments, tuple(_window(checkpoint, shapes, block, family, path) for block in first), _input_shape(shapes, channels, patch)


def _window(checkpoint, shapes, block, family, path):
    """Returns the window of a stage as a pair, or `None` where weights do not depend on it or several have as many."""
    if family == "swinv2":
        table = checkpoint.buffers.get(f"{block}.attn.relative_coords_table")
        return None if table is None else ((table.shape[1] + 1) // 2, (table.shape[2] + 1) // 2)
    if family == "swin_mlp":
        side = math.isqrt(shapes[f"{block}.spatial_mlp.weight"][1])
        return (side, side)
    # A square window has (2 * side - 1) ** 2 rows; of others, rows do not tell which side is which.
    side = math.isqrt(shapes[f"{block}.attn.relative_position_bias_table"][0])
    square = side**2 == shapes[f"{block}.attn.relative_position_bias_table"][0] and side % 2
    return stored_window(checkpoint, block, path) or (((side + 1) // 2,) * 2 if square else None)


def _any_window(shapes, stage):
    """Returns some window whose weights have the shapes that those of a stage have."""
    rows = shapes.get(f"layers.{stage}.blocks.0.attn.relative_position_bias_table", (49,))[0]
    across = next(side for side in range(math.isqrt(rows), 0, -1) if rows % side == 0)
    return ((across + 1) // 2, (rows // across + 1) // 2)


def _input_shape(shapes, channels, patch):
    if "absolute_pos_embed" not in shapes:
        return (None, None, channels)
    _, *places = shapes["absolute_pos_embed"]
    if len(places) == 3:
        grid = places[1:]
    else:
        side = math.isqrt(places[0])
        if side**2 != places[0]:
            raise ValueError("absolute_pos_embed is of no square grid, so that its rows and columns are not known")
        grid = (side, side)
    return (grid[0] * patch[0], grid[1] * patch[1], channels)


def _windows(row):
    """Returns the window of each stage of a row at its own picture size."""
    sizes = Architecture(
        row.embed_dim, row.depths, row.num_heads, row.window_size, family=row.family, pretrained_window_sizes=row.pretrained_window_sizes
    )
    grid = row.image_size // row.patch_size
    return tuple(tuple(min(side, grid // 2**stage) for side in sizes.window(stage)) for stage in range(len(row.depths)))
