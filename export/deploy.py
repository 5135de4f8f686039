"""The deploy graph: a second model that computes what the trained one does, in a form that devices run."""

import functools
import warnings

import keras
import numpy as np
from swin_keras.export import folding
from swin_keras.export.deploy_layers import (
    DeployLayerNormalization,
    DeployPatchEmbedding,
    DeployPatchMerging,
    DeploySwinBlock,
    DeploySwinBlockV2,
    DeploySwinMLPBlock,
    repeat_pixels,
)

from swin_keras.layers import (
    PatchEmbedding,
    PatchMerging,
    PatchMergingV2,
    SwinBlock,
    SwinBlockV2,
    SwinMLPBlock,
    WindowAttention,
    WindowAttentionV2,
)
from swin_keras.layers.base_swin_block import BaseSwinBlock
from swin_keras.layers.checks import is_count, is_number
from swin_keras.layers.quantized_graph import QuantizedGraph
from swin_keras.layers.windows import to_pair

LAYOUTS = ("portable", "cpu")
GELUS = ("exact", "tanh")

# A subclass of a block computes what we do not know.
_UNFOLDED = (BaseSwinBlock, WindowAttention, WindowAttentionV2)

_BLOCKS = {SwinBlock: DeploySwinBlock, SwinBlockV2: DeploySwinBlockV2, SwinMLPBlock: DeploySwinMLPBlock}


def to_deploy(model, input_shape=None, layout="portable", gelu="exact", fp16_safe_norm=False, scaled=False, normalization=None):
    """Builds the deploy graph of a trained model, which stays as it is.

    Our layers are replaced by folded ones; layer normalizations by a form without subtraction from zero; a
    normalization that only a global average and a dense layer follow is folded into the latter. Other layers are copied.

    Args:
        model: Functional `keras.Model` with one input, the image.
        input_shape: Height, width and channels. Defaults to those of the model.
        layout: `"portable"`: no operator that an accelerator refuses. `"cpu"`: tokens stay in the order of windows, and each
            block gathers them once where the portable form shifts, cuts and puts back; not every accelerator takes that.
        gelu: `"exact"`, or `"tanh"` for the approximation by the hyperbolic tangent, which some accelerators compute anyway.
        fp16_safe_norm: Boolean. Whether normalizations hold in half precision whatever the size of the activations, at the
            price of seven operators each. Accelerators may compute float32 files in half precision.
        scaled: Boolean. Whether the graph has the scales, still 1, that `migration.migrate` sets.
        normalization: Mean and standard deviation, each a number for each channel. The graph then takes pictures of values from 0 to 1, and
            gives what the model gives for `(picture - mean) / std`. Defaults to `None`: it takes what the model takes.

    Returns:
        A float32 functional `keras.Model` for batch 1, with the same outputs; attention maps without the axis of the batch.

    Raises:
        ValueError: If the model is not functional, has several inputs or unknown sizes, or does not fit `input_shape` or `normalization`.

    Warns:
        UserWarning: With the names of blocks and attentions that are copied because nothing is known to fold them.
    """
    switches = [("fp16_safe_norm", fp16_safe_norm, (False, True)), ("scaled", scaled, (False, True))]
    for argument, value, known in [("layout", layout, LAYOUTS), ("gelu", gelu, GELUS), *switches]:
        if value not in known:
            raise ValueError(f"`{argument}` must be one of {known}. Received: {argument}={value!r}.")
    shape = fixed_shape(model, input_shape)
    model = _functional(model)
    if normalization is not None:
        normalization = _mean_and_std(normalization, shape[-1])

    heads = heads_behind_norms(model)  # {norm: dense layer that it is folded into}
    norm = "fp16_safe" if fp16_safe_norm else "short" if layout == "cpu" else "plain"

    def clone(layer):
        own = {"name": layer.name, "dtype": "float32", "norm": norm}
        if isinstance(layer, keras.Model):
            return layer  # until it is called, and the size is known
        if isinstance(layer, PatchEmbedding):
            patch_size = to_pair(layer.patch_size, "patch_size")
            return DeployPatchEmbedding(layer.embed_dim, patch_size, layer.patch_norm, layer.epsilon, **own)
        if isinstance(layer, (PatchMerging, PatchMergingV2)):
            centred = not folding.is_compressed(layer.reduction.kernel.numpy())
            return DeployPatchMerging(layer.epsilon, isinstance(layer, PatchMergingV2), centred, scaled=scaled, **own)
        if type(layer) in _BLOCKS:
            fit = (*layer.requested_window, layer.window_fit)
            own |= {"approximate_gelu": gelu == "tanh", "scaled": scaled}
            if not isinstance(layer, SwinMLPBlock):
                own["return_attention"] = layer.return_attention
            if isinstance(layer, SwinBlockV2):
                own["centred"] = not any(folding.is_compressed(dense.kernel.numpy()) for dense in (layer.attn.proj, layer.mlp.fc2))
            return _BLOCKS[type(layer)](layer.num_heads, *fit, layer.mlp.hidden_dim, layer.epsilon, **own)
        if isinstance(layer, QuantizedGraph):
            return QuantizedGraph(layer.graph, deployed=True, name=layer.name)
        if _is_plain_norm(layer):
            return DeployLayerNormalization(layer.epsilon, affine=layer not in heads, **own)
        if isinstance(layer, _UNFOLDED):
            unfolded.append(f"{layer.name!r}, a {type(layer).__name__}")
        return _copy(layer)

    def call(layer, *args, **kwargs):
        if isinstance(layer, keras.Model):
            tensors = keras.tree.flatten(args)
            if len(tensors) == 1 and len(tensors[0].shape) == 4:
                form = {"layout": layout, "gelu": gelu, "fp16_safe_norm": fp16_safe_norm, "scaled": scaled}
                layer = to_deploy(layer, input_shape=tensors[0].shape[1:], **form)
            else:
                layer = _copy_model(layer)
        return layer(*args, **kwargs)

    unfolded = []
    deploy = _clone(model, (1, *shape), clone, call)
    if layout == "cpu":
        orders = plan_orders(deploy)
        deploy = _clone(
            deploy, (1, *shape), lambda layer: type(layer).from_config({**layer.get_config(), "orders": orders[layer]}) if layer in orders else layer
        )
    if unfolded:
        warnings.warn(
            f"Not folded, but copied: {'; '.join(unfolded)}. Accelerators may refuse their operators. Blocks of `swin_keras.layers` fold.",
            stacklevel=2,
        )
    for layer in deploy.layers:
        _repeat_by_concatenation(layer)
    norms = {head: norm for norm, head in heads.items()}
    for layer in model.layers:
        if layer.weights and not isinstance(layer, keras.Model):
            _set_folded_weights(layer, deploy.get_layer(layer.name), norms.get(layer))
    return deploy if normalization is None else _normalize_inside(deploy, *normalization)


def fixed_shape(model, input_shape=None):
    """Returns the height, width and channels of a model that can be deployed, or raises `ValueError`, as `to_deploy` says."""
    inputs = getattr(model, "inputs", None)
    if not isinstance(model, keras.Model) or not inputs:
        raise ValueError(f"Expected a functional `keras.Model`. Received: {type(model).__name__}. Build it with `keras.Model(inputs, outputs)`.")
    if len(inputs) != 1:
        raise ValueError(f"Expected a model with one input, the image. Received: {len(inputs)} inputs.")
    if not inputs[0].dtype.startswith(("float", "bfloat")):
        raise ValueError(f"Expected a model of float pictures, already normalized. Received: an input of {inputs[0].dtype}.")
    shape = inputs[0].shape[1:] if input_shape is None else input_shape
    shape = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    if len(shape) != 3 or None in shape:
        raise ValueError(
            f"A deploy graph has a fixed height, width and channels. Received: {shape}. "
            "`swin_keras.models.at_size(model, height, width)` builds it at the size that you ship; on the command line, --size HEIGHT WIDTH."
        )
    if not all(is_count(side) for side in shape) or inputs[0].shape[-1] not in (None, shape[-1]):
        raise ValueError(f"`input_shape` must be a height, a width and the model's {inputs[0].shape[-1]} channels. Received: {shape}.")
    return shape


def _clone(model, shape, clone_function, call_function=None):
    image = keras.Input(batch_shape=shape, dtype="float32", name=model.inputs[0].name)
    # A model that was reloaded from a file has a list of inputs where the same model as built has one tensor.
    tensors = keras.tree.pack_sequence_as(model.input, [image])
    clone = keras.models.clone_model(model, input_tensors=tensors, clone_function=clone_function, call_function=call_function)
    return keras.Model(image, clone.output, name=model.name)


def plan_orders(deploy):
    """Chooses in which order each layer of a deploy graph takes and gives the tokens, so that they are gathered as seldom as can be.

    Tokens stay in the order of a block's windows until a block or merging takes them that gathers them in any case; to all other
    layers they come row by row, and so they do around padding.

    Returns:
        Dictionary from layers to pairs of orders, as `deploy_layers.token_order` takes them.
    """
    if _has_shared_layers(deploy):
        return {}
    consumers = _consumers(deploy)
    gathering = [layer for layer in deploy.layers if isinstance(layer, (DeployPatchMerging, *_BLOCKS.values())) and not layer.padded]

    def given(layer):
        tokens = keras.tree.flatten(layer.output)[0]
        following = consumers[id(tokens)]
        if not all(consumer in gathering for consumer in following):
            return None
        if isinstance(layer, DeployPatchMerging):
            return following[0].own_order if len(following) == 1 and not isinstance(following[0], DeployPatchMerging) else None
        return layer.own_order

    gives = {id(keras.tree.flatten(layer.output)[0]): given(layer) for layer in gathering}
    return {layer: (gives.get(id(layer.input)), gives[id(keras.tree.flatten(layer.output)[0])]) for layer in gathering}


def in_float32(model):
    """Returns a functional model as it is, or a float32 copy if any of its layers computes in less."""
    model = _functional(model)
    if all(layer.compute_dtype == "float32" for layer in all_layers(model)):
        return model
    return _copy_model(model)


def _copy_model(model):
    model = _functional(model)
    copy = keras.models.clone_model(model, clone_function=lambda layer: _copy_model(layer) if isinstance(layer, keras.Model) else _copy(layer))
    copy.set_weights(model.get_weights())
    return copy


def _functional(model):
    """Returns a subclass of the functional model, such as Sequential, a backbone or a detector, as a plain one, and any other as it is."""
    plain = keras.Model(model.inputs, model.outputs if isinstance(model, keras.Sequential) else model.output, name=model.name)
    return model if type(model) is type(plain) else plain


def all_layers(model):
    """Yields the layers of a model, and in place of a model inside it that one's."""
    for layer in model.layers:
        yield from all_layers(layer) if isinstance(layer, keras.Model) else (layer,)


def _copy(operation):
    """Makes a float32 layer of the same configuration, or the same `keras.ops` operation."""
    config = operation.get_config()
    return operation.__class__.from_config({**config, "dtype": "float32"} if isinstance(operation, keras.layers.Layer) else config)


def _repeat_by_concatenation(layer):
    """Changes how a copied layer, and what it holds, such as KerasHub's feature pyramid, makes pixels larger: to the same in other operators."""
    for part in (layer, *vars(layer).values()):
        if type(part) is keras.layers.UpSampling2D and (part.interpolation, part.data_format) == ("nearest", "channels_last"):
            part.call = functools.partial(repeat_pixels, size=part.size)


def _is_plain_norm(layer):
    """Whether the layer is a Keras normalization over the last axis, with scale and shift."""
    if not isinstance(layer, keras.layers.LayerNormalization) or not (layer.center and layer.scale) or layer.get_config().get("rms_scaling"):
        return False
    return layer.gamma.shape == (layer.input.shape[-1],) and layer.axis in (-1, [-1], len(layer.input.shape) - 1, [len(layer.input.shape) - 1])


def _has_shared_layers(model):
    """Whether a layer of the model is used more than once."""
    return any(len(entry["inbound_nodes"]) > 1 for entry in model.get_config()["layers"])


def _consumers(model):
    """Returns, for the id of each tensor, the operations that take it; `None` stands for the model's own output."""
    consumers = {}
    for operation in model.operations:
        for tensor in keras.tree.flatten(operation.input):
            consumers.setdefault(id(tensor), []).append(operation)
    for tensor in keras.tree.flatten(model.output):
        consumers.setdefault(id(tensor), []).append(None)
    return consumers


def _takers(model):
    """Returns, for the name of each operation, the names of those that take what it gives; `None` stands for the model's own output.

    By the configuration: `input` knows an operation's first call only, which may have been in another model.
    """
    config = model.get_config()
    takers = {entry["name"]: [] for entry in config["layers"]}
    for name, tensors in [*((entry["name"], entry["inbound_nodes"]) for entry in config["layers"]), (None, config["output_layers"])]:
        for leaf in keras.tree.flatten(tensors):
            if isinstance(leaf, str) and leaf in takers:
                takers[leaf].append(name)
    return takers


def _operation(model, name):
    return next((operation for operation in model.operations if operation.name == name), None)


def heads_behind_norms(model):
    """Finds normalizations whose only use is a global average whose only use is a dense layer."""
    if _has_shared_layers(model):
        return {}  # A shared layer's weights cannot hold a norm that stands before one use only.
    takers = _takers(model)

    def only_consumer(layer, kind):
        found = takers.get(layer.name, [])
        operation = _operation(model, found[0]) if len(found) == 1 else None
        return operation if isinstance(operation, kind) else None

    heads = {}
    for norm in filter(_is_plain_norm, model.layers):
        average = only_consumer(norm, keras.layers.GlobalAveragePooling2D)
        head = average and only_consumer(average, keras.layers.Dense)
        if head and head.use_bias and average.data_format == "channels_last":
            heads[norm] = head
    return heads


def _mean_and_std(normalization, channels):
    """Returns both as float64 arrays `(channels,)`, or raises `ValueError`."""
    pair = [_as_list(values) for values in _as_list(normalization)]
    fits = [len(values) for values in pair] == [channels, channels] and all(is_number(value) for values in pair for value in values)
    if not fits or min(pair[1]) <= 0:
        raise ValueError(
            f"`normalization` must be a mean and a standard deviation above 0, each with {channels} finite numbers, one for each channel. "
            f"Received: normalization={normalization!r}. Take those that the model was trained with, of values from 0 to 1."
        )
    return np.asarray(pair, "float64")


def _as_list(value):
    return list(value) if isinstance(value, (tuple, list)) or getattr(value, "ndim", 0) else [value]


def _normalize_inside(deploy, mean, std):
    """Lets a deploy graph take pictures of values from 0 to 1: by the weights of its patch embedding where that is exact, else by two operators."""
    embedding = _embedding_of_picture(deploy)
    if embedding is not None:
        kernel, bias = folding.fold_normalization(mean, std, embedding.kernel.numpy(), embedding.bias.numpy())
        embedding.kernel.assign(kernel)
        embedding.bias.assign(bias)
        return deploy
    # Of rank 4, as LiteRT's GPU delegate computes something else with constants of rank 3.
    scale, offset = (values.reshape(1, 1, 1, -1).tolist() for values in (1 / std, -mean / std))
    image = keras.Input(batch_shape=deploy.inputs[0].shape, dtype="float32", name=deploy.inputs[0].name)
    normalized = keras.layers.Rescaling(scale, offset, dtype="float32", name="normalization")(image)
    return keras.Model(image, deploy(normalized), name=deploy.name)


def _embedding_of_picture(deploy):
    """Finds the patch embedding, also in a model inside the graph, that alone takes the picture.

    Returns:
        `None` if there is none, or if it pads: with zeros, which stand for the mean.
    """
    takers = _takers(deploy)[deploy.inputs[0].name]
    if len(takers) != 1 or _has_shared_layers(deploy):
        return None
    taker = _operation(deploy, takers[0])
    if isinstance(taker, keras.Model):
        return _embedding_of_picture(taker)
    if not isinstance(taker, DeployPatchEmbedding) or any(np.mod(deploy.inputs[0].shape[1:3], taker.patch_size)):
        return None
    return taker


def _set_folded_weights(layer, twin, norm):
    """Gives `twin`, the deploy form of `layer`, its weights. `norm` is a normalization to fold into a dense layer."""
    weights = {w.path.removeprefix(f"{layer.path}/"): w.numpy().astype("float32") for w in layer.weights}
    if type(layer) in _BLOCKS:
        if twin.fitted_window != layer.fitted_window:
            raise ValueError(
                f"At this input_shape the window of {layer.name!r} becomes {twin.fitted_window}, and it was trained with "
                f"{layer.fitted_window}. Build the model at that size, load its weights, and export it."
            )
        if isinstance(layer, SwinMLPBlock):
            weights = folding.fold_mlp_block(weights)
        else:
            fold = folding.fold_block if isinstance(layer, SwinBlock) else folding.fold_block_v2
            table = keras.ops.convert_to_numpy(layer.attn.position_bias_table()) if layer.relative_position_bias else None
            weights = fold(weights, table, twin)
    elif isinstance(twin, DeployPatchMerging):
        weights = folding.fold_merging(weights, twin.post_norm, twin.centred)
    elif isinstance(twin, DeployPatchEmbedding):
        weights = folding.fold_embedding(weights)
    elif isinstance(twin, DeployLayerNormalization) and not twin.affine:
        weights = {}
    elif isinstance(layer, QuantizedGraph):
        pass  # Only ranges are not the twin's too.
    elif norm is not None:
        gamma, beta = (weight.numpy().astype("float32") for weight in (norm.gamma, norm.beta))
        kernel, bias = folding.fold_norm(gamma, beta, weights["kernel"], weights["bias"])
        weights = {"kernel": kernel, "bias": bias}
    else:
        return twin.set_weights(layer.get_weights())
    for variable in twin.weights:
        if not variable.name.endswith("_scale"):  # those of `migration` stay 1
            variable.assign(weights[variable.name])
