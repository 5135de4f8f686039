"""Our variables under official names, and their values in the official layout: in both directions."""

import re

import keras

_LEAVES = {"kernel": "weight", "gamma": "weight", "beta": "bias"}
_STAGE = re.compile(r"^layers_(\d+)_(?:blocks_(\d+)|(downsample))$")


def official_name(path):
    """Returns the official name of a variable: `layers_0_blocks_1/mlp/fc1/kernel` is `layers.0.blocks.1.mlp.fc1.weight`."""
    *modules, leaf = path.split("/")
    modules = [_STAGE.sub(_stage_name, modules[0]), *modules[1:]] if modules else []
    modules = [re.sub(r"^cpb_mlp_(\d)$", r"cpb_mlp.\1", module) for module in modules]
    if modules in (["absolute_pos_embed"], ["mask_token"]):
        return modules[0]
    if modules == ["decoder_0"]:
        modules = ["decoder.0"]
    return ".".join([*modules, _LEAVES.get(leaf, leaf)])


def _stage_name(match):
    stage, block, downsample = match.groups()
    return f"layers.{stage}.{downsample or f'blocks.{block}'}"


def official_variables(model):
    """Returns the variables of a model as `{official name: variable}`.

    Raises:
        ValueError: If it is no model, or two variables have one name.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(f"Expected a `keras.Model`. Received: {model!r}. Build it with `create_model` or `create_backbone`.")
    variables = {official_name(v.path): v for v in model.weights}
    if len(variables) < len(model.weights):
        raise ValueError(f"The model {model.name!r} holds two layers of one name, as two Swins in one model do. Take each by itself.")
    return variables


def attention_blocks(model):
    """Yields the official name and the layer of each block that has an attention, of models inside the model too."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from attention_blocks(layer)
        elif hasattr(layer, "attn"):
            yield _STAGE.sub(_stage_name, layer.name), layer


def to_keras(tensor, path, shape):
    """Returns an official `Tensor` as Keras stores it in a variable of this path and shape, as far as it fits.

    `(out, in)` becomes `(in, out)`, OIHW becomes HWIO, and the position embedding of a row of tokens that of their grid.
    """
    if path == "absolute_pos_embed/embedding":
        if tensor.ndim == 4:  # of the official detector: channels first
            return tensor.transpose(0, 2, 3, 1)
        places = shape[1] * shape[2]
        if tensor.shape == (1, places + 1, shape[3]):  # of transformers 4, which makes room for a class token and has none
            tensor = tensor.map(lambda array: array[:, 1:], (1, places, shape[3]))
        return tensor.reshape(shape) if tensor.shape == (1, places, shape[3]) else tensor
    if path.endswith("/spatial_mlp/kernel") and tensor.shape == (shape[0] * shape[1], shape[2], 1):
        return tensor.reshape(shape).transpose(0, 2, 1)
    if path.endswith("/spatial_mlp/bias") and tensor.shape == (shape[0] * shape[1],):
        return tensor.reshape(shape)
    if path == "mask_token/kernel" and tensor.shape == (1, *shape):
        return tensor.reshape(shape)
    if path == "decoder_0/kernel" and tensor.shape == (*shape[::-1], 1, 1):
        return tensor.reshape(shape[::-1]).transpose(1, 0)
    if not path.endswith("/kernel"):
        return tensor
    return tensor.transpose(2, 3, 1, 0) if tensor.ndim == 4 else tensor.transpose(1, 0) if tensor.ndim == 2 else tensor


def to_official(array, path, detector=False):
    """Returns the value of a variable of this path in the official layout: the inverse of `to_keras`.

    A detector keeps its position embedding as a grid, channels first.
    """
    if path == "absolute_pos_embed/embedding":
        return array.transpose(0, 3, 1, 2) if detector else array.reshape(1, -1, array.shape[3])
    if path.endswith("/spatial_mlp/kernel"):
        return array.transpose(0, 2, 1).reshape(-1, array.shape[1], 1)
    if path.endswith("/spatial_mlp/bias"):
        return array.reshape(-1)
    if path == "mask_token/kernel":
        return array[None]
    if path == "decoder_0/kernel":
        return array.T[:, :, None, None]
    if not path.endswith("/kernel"):
        return array
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T
