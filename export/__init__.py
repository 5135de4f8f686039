"""From a trained model to files that run on a device: deploy graph, conversion, quantization, verification, bundle."""

if __name__ != "swin_keras.export":
    raise ImportError(f"This folder is `swin_keras.export`, imported here as `{__name__}`. Run `pip install -e .`, then `import swin_keras.export`.")

from swin_keras.export.bundle import export_bundle
from swin_keras.export.deploy import to_deploy
from swin_keras.export.recipes import RECIPES
from swin_keras.export.verify import VerificationError

from swin_keras.models import load_source

__all__ = ["RECIPES", "VerificationError", "export_bundle", "load_source", "to_deploy"]
