"""The same model for pictures of another size."""

import keras

from swin_keras.layers import AbsolutePositionEmbedding, SwinBlock
from swin_keras.models.backbone import SwinBackbone
from swin_keras.weights.resize import resize_bicubic

# Ends of the names of weights whose entries belong to places in a window.
_OF_A_WINDOW = ("relative_position_bias_table", "spatial_mlp/kernel", "spatial_mlp/bias")


def at_size(model, height, width):
    """Builds a functional model again for pictures of another size, with the same weights.

    Where a window no longer fits the grid, it shrinks with it, as in `create_model`; the table of its position biases, and a position
    embedding, are resized as `load_weights` resizes them.

    Args:
        model: Functional `keras.Model` of one input `(batch, height, width, channels)`; its own size may be open.
        height: Integer, pixels.
        width: Integer, pixels.

    Returns:
        A functional `keras.Model`.

    Raises:
        ValueError: If the model is not functional, or has weights of another shape at this size that cannot be resized.
    """
    if not isinstance(model, keras.Model) or len(getattr(model, "inputs", None) or ()) != 1 or len(model.inputs[0].shape) != 4:
        raise ValueError(f"Expected a functional `keras.Model` with one input, the image. Received: {type(model).__name__}.")
    if isinstance(model, (SwinBackbone, keras.Sequential)):
        model = keras.Model(model.inputs, model.outputs[0] if isinstance(model, keras.Sequential) else model.output, name=model.name)
    image = keras.Input((height, width, model.inputs[0].shape[-1]), dtype=model.inputs[0].dtype, name=model.inputs[0].name)

    def copy(layer):
        return layer if isinstance(layer, keras.Model) else layer.__class__.from_config(layer.get_config())

    def call(layer, *args, **kwargs):
        # A model inside: of pictures, of which the size is known now, or a copy of what does not hang on it.
        if isinstance(layer, keras.Model):
            tensors = keras.tree.flatten(args)
            of_pictures = len(tensors) == 1 and len(tensors[0].shape) == 4
            inner = at_size(layer, *tensors[0].shape[1:3]) if of_pictures else keras.models.clone_model(layer)
            if not of_pictures:
                inner.set_weights(layer.get_weights())
            layer = inner
        return layer(*args, **kwargs)

    try:
        tensors = keras.tree.pack_sequence_as(model.input, [image])
        resized = keras.models.clone_model(model, input_tensors=tensors, clone_function=copy, call_function=call)
    except ValueError as error:
        raise ValueError(f"Expected a model that can be built for pictures of {height}x{width}. Received: {model.name!r}: {error}") from error
    resized = keras.Model(image, resized.output, name=model.name)
    for layer in (layer for layer in model.layers if layer.weights and not isinstance(layer, keras.Model)):
        twin = resized.get_layer(layer.name)
        for old, new in zip(layer.weights, twin.weights, strict=True):
            # Windows of 7x3 and 3x7 have tables of one shape.
            same = old.shape == new.shape and getattr(layer, "fitted_window", None) == getattr(twin, "fitted_window", None)
            new.assign(old if same or (old.shape == new.shape and not old.path.endswith(_OF_A_WINDOW)) else _resize(layer, twin, old, new))
    return resized


def _resize(layer, twin, old, new):
    array = keras.ops.convert_to_numpy(old).astype("float32")
    if isinstance(layer, SwinBlock):
        before, after = ([2 * side - 1 for side in block.fitted_window] for block in (layer, twin))
        return resize_bicubic(array.reshape(*before, -1), after).reshape(new.shape)
    if isinstance(layer, AbsolutePositionEmbedding):
        return resize_bicubic(array[0], new.shape[1:3])[None]
    raise ValueError(
        f"Expected weights that fit any size. Received: {old.path!r} of layer {layer.name!r}, {tuple(old.shape)}, which would have to be "
        f"{tuple(new.shape)}."
    )
