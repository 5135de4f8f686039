"""Moves the ranges of activations into weights, where each channel has a scale of its own, before a model is quantized. Exact.

An activation has one scale for all channels: those of small range get few steps. A weight has one for each output. So a channel of an input
is divided by a number, and the row of the weight that it meets multiplied by the same.

References: [Xiao et al., 2023](https://arxiv.org/abs/2211.10438) (SmoothQuant), [Li et al., 2023](https://arxiv.org/abs/2212.08254) (RepQ-ViT).
"""

import numpy as np
from keras import ops
from swin_keras.export.deploy import all_layers
from swin_keras.export.deploy_layers import DeploySwinBlock
from swin_keras.export.folding import is_compressed


def migrate(graphs, pictures, strength=0.5):
    """Changes the weights of deploy graphs, which compute the same as before.

    In attention it costs nothing: query and key share out their ranges, channel by channel, as do value and projection. Of a graph made with
    `scaled=True` also what a norm gives to a product: to query, key and value, to the MLP, to a reduction.

    Args:
        graphs: `keras.Model`s from `to_deploy`, of one model at several sizes. What moves is found on the first, so that their weights stay the same.
        pictures: float32 array `(n, height, width, channels)` of what the first takes, on which the largest magnitude of each channel is found.
        strength: Float from 0 to 1. How much of a range moves from activations into weights.
    """
    twins = zip(*([layer for layer in all_layers(graph) if hasattr(layer, "observer")] for graph in graphs), strict=True)
    twins = {layers[0]: layers for layers in twins}
    inputs, outputs = {}, {}

    def observer_of(layer):
        def observe(name, x, y):
            for found, tensor in ((inputs, x), (outputs, y)):
                largest = ops.convert_to_numpy(ops.max(ops.abs(ops.reshape(tensor, (-1, tensor.shape[-1]))), axis=0))
                found[layer, name] = np.maximum(found.get((layer, name), 0.0), largest)

        return observe

    try:
        for layer in twins:
            layer.observer = observer_of(layer)
        for picture in pictures:
            graphs[0](picture[None], training=False)
    finally:
        for layer in twins:
            layer.observer = None

    for layer, layers in twins.items():
        for name in ("qkv", "fc1", "reduction"):
            if not _dividing(layer, name):
                continue
            divisor = _balance(inputs[layer, name], _largest(getattr(layer, name)), strength)
            # Elsewhere the grid may need padding where it does not here, or the other way round.
            for twin in (twin for twin in layers if len(_dividing(twin, name)) == len(_dividing(layer, name))):
                for weight in _dividing(twin, name):
                    weight.assign(weight.numpy() / divisor)
                kernel = getattr(twin, name)
                kernel.assign(kernel.numpy() * divisor[:, None])
        if hasattr(layer, "projection") and not is_compressed(layer.projection.numpy()):
            _migrate_attention(layers, *np.split(outputs[layer, "qkv"], 3), inputs[layer, "projection"], strength)


def _dividing(layer, name):
    """The weights that can divide the input of a product, if there are any."""
    if name == "qkv" and isinstance(layer, DeploySwinBlock) and layer.padded:
        return [layer.norm1_gamma, layer.norm1_beta]  # Its norm still has scale and shift.
    return [getattr(layer, f"{name}_scale")] if hasattr(layer, f"{name}_scale") else []


def _migrate_attention(layers, query, key, value, attended, strength):
    """`query` to `attended`: the largest magnitude of each channel of the three, and of what goes into the projection, in the first of the layers."""
    layer = layers[0]
    factors = np.ones((3, len(query)), "float32")
    if isinstance(layer, DeploySwinBlock):  # V2 normalizes query and key.
        factors[0] = _power_of_two(np.sqrt(np.maximum(key, 1e-5) / np.maximum(query, 1e-5)))
        factors[1] = 1 / factors[0]
    divisor = _balance(attended, _largest(layer.projection), strength)
    # The three are outputs of one product: no one is to take up the range of the others.
    divisor *= _power_of_two(max((value / divisor).max(), 1e-5) / max((query * factors[0]).max(), 1e-5))
    factors[2] = 1 / divisor
    factors = factors.reshape(-1)
    for layer in layers:
        layer.qkv.assign(layer.qkv.numpy() * factors)
        layer.qkv_bias.assign(layer.qkv_bias.numpy() * factors)
        layer.projection.assign(layer.projection.numpy() * divisor[:, None])


def _largest(kernel):
    return np.abs(kernel.numpy()).max(axis=1)


def _balance(activation, weight, strength):
    """Returns by what to divide each channel, 1 in the geometric mean."""
    divisor = np.maximum(activation, 1e-5) ** strength / np.maximum(weight, 1e-5) ** (1 - strength)
    return _power_of_two(divisor / np.exp(np.log(divisor).mean()))


def _power_of_two(factor):
    # Multiplies without rounding, and does not hang on the last bit of what was measured.
    return np.exp2(np.rint(np.log2(factor))).astype("float32")
