"""Swin Transformers in Keras 3, from training to a phone. Importing this package registers every layer, so saved models load."""

# ruff: noqa: E402
import os
import platform

from swin_keras import interrupt

interrupt.end_at_once()

from swin_keras.quiet import quiet_native

# TensorFlow reads this when it is imported. By itself it takes oneDNN's kernels only on CPUs with instructions for neural networks;
# on others of this architecture too they shorten a training step by three tenths.
if platform.machine() in ("x86_64", "AMD64"):
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

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
