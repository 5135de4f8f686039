"""A model at another size, and what keeps some models from it."""

import keras

from swin_keras import models


def at_size(model, height, width):
    """As `swin_keras.models.at_size`, but names the layer that is made for one size only.

    Raises:
        ValueError: If the model cannot be built at that size, or takes one picture of it for several.
    """
    error = None
    try:
        resized = models.at_size(model, height, width)
        misfit = _misfit(resized, height, width, lambda layer: layer)
    except ValueError as problem:
        if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4:
            raise
        error, misfit = problem, _misfit(model, height, width)
    if error is None and misfit is None:
        return resized
    if error is not None and type(misfit).__module__.startswith("swin_keras."):
        raise error  # Our layers say themselves what they take.
    # If each layer takes the size, the weights of one do not, and the error names them.
    what = str(error).partition("Received: ")[2].rstrip(".") if misfit is None else f"{misfit.name!r} ({type(misfit).__name__})"
    raise ValueError(
        f"Expected a model that can be built for pictures of {height}x{width}. Received: {model.name!r} with {what}: it is made for another size. "
        "Replace it by what takes any grid, such as GlobalAveragePooling2D, or leave that size out."
    ) from error


def _misfit(model, height, width, clone_function=None):
    """Returns the layer that cannot be called on one picture of this size, or the first that makes several of it if the outputs are of several."""
    of_several, calling = [], None

    def call(layer, *args, **kwargs):
        nonlocal calling
        calling = layer
        outputs = layer(*args, **kwargs)
        if _batches(outputs) != {1}:
            of_several.append(layer)
        return outputs

    model = keras.Model(model.inputs, model.outputs)
    image = keras.Input(batch_shape=(1, height, width, model.inputs[0].shape[-1]), dtype=model.inputs[0].dtype)
    try:
        clone = keras.models.clone_model(model, input_tensors=[image], clone_function=clone_function, call_function=call)
    except ValueError:
        return calling
    return of_several[0] if _batches(clone.outputs) != {1} else None


def _batches(tensors):
    return {tensor.shape[0] for tensor in keras.tree.flatten(tensors)}
