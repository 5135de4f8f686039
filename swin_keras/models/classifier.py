"""The Swin Transformer classifier as one functional graph."""

import keras

from swin_keras.layers.checks import is_count
from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.models.architecture import input_image


def classifier(architecture, input_shape, num_classes, classifier_activation=None, name=None):
    """Builds figure 3 of the paper: stages, a norm, an average over all places, a dense layer.

    Args:
        architecture: `Architecture`.
        input_shape: Height, width and channels of the image, which comes normalized. Height and width may be `None`.
        num_classes: Integer. Width of the head.
        classifier_activation: Activation of the head. `None` returns logits.
        name: String.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to float32 `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range.

    Reference: section 3 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """
    if not is_count(num_classes):
        raise ValueError(f"`num_classes` must be a positive integer. Received: num_classes={num_classes!r}.")
    image = input_image(input_shape)
    x = architecture.stages(image, len(architecture.depths))[0][-1]
    x = LayerNormalization(epsilon=1e-5, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="avgpool")(x)
    # float32 whatever the policy: a loss on half-precision logits is not worth the memory it saves.
    head = keras.layers.Dense(
        int(num_classes), activation=classifier_activation, kernel_initializer=linear_initializer(), dtype="float32", name="head"
    )
    return keras.Model(image, head(x), name=name)
