"""Which weights are pruned and clustered: the kernels of dense layers, which are nearly all of a Swin."""

import re

import keras

from swin_keras.export.simulation import trained_graph

# Network for position biases: nothing of it remains in a file.
_LEFT_OUT = re.compile(r"(^|/)cpb_mlp_\d/")


def kernels(model):
    """Returns the variables of a model that are kernels of dense layers, `(inputs, outputs)` each, in its order."""
    found = [weight for weight in model.weights if weight.name == "kernel" and len(weight.shape) == 2 and not _LEFT_OUT.search(weight.path)]
    if (layer := trained_graph(model)) is not None:
        found += [layer.weight(entry["inputs"][1]["weight"]) for entry in layer.graph["operators"] if entry["kind"] == "FULLY_CONNECTED"]
    if not found:
        raise ValueError(f"Expected a model with dense layers. Received: {model.name!r}, which has none to compress.")
    return found


def sparsity(model):
    """Returns the fraction of zeros among the kernels of a model."""
    arrays = [keras.ops.convert_to_numpy(kernel) for kernel in kernels(model)]
    return float(sum((array == 0).sum() for array in arrays) / sum(array.size for array in arrays))
