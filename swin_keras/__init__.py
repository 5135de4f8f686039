"""Swin Transformers in Keras 3, from training to a phone. Importing this package registers every layer, so saved models load."""

from swin_keras.quiet import quiet_native

with quiet_native():
    import keras  # noqa: F401

from swin_keras import layers, models
from swin_keras.models import VARIANTS, create_backbone, create_model, list_models
from swin_keras.version import __version__
from swin_keras.weights import find_weights, load_weights, save_weights

__all__ = [
    "VARIANTS",
    "__version__",
    "create_backbone",
    "create_model",
    "find_weights",
    "layers",
    "list_models",
    "load_weights",
    "models",
    "save_weights",
]
