"""Functional Swin graphs and the table of their released sizes."""

from swin_keras.models.swin import swin_transformer
from swin_keras.models.variants import VARIANTS, Variant, create_model, create_model_from_checkpoint, get_variant, list_models

__all__ = ["VARIANTS", "Variant", "create_model", "create_model_from_checkpoint", "get_variant", "list_models", "swin_transformer"]
