"""Functional Swin graphs and the table of their released sizes."""

from swin_keras.models.at_size import at_size
from swin_keras.models.backbone import SwinBackbone
from swin_keras.models.from_checkpoint import convert_checkpoint, create_model_from_checkpoint
from swin_keras.models.simmim import SimMIM, random_mask
from swin_keras.models.source import Source, load_source
from swin_keras.models.variants import (
    VARIANTS,
    Variant,
    create_backbone,
    create_model,
    create_simmim,
    get_variant,
    list_models,
    released_tags,
)

__all__ = [
    "VARIANTS",
    "SimMIM",
    "Source",
    "SwinBackbone",
    "Variant",
    "at_size",
    "convert_checkpoint",
    "create_backbone",
    "create_model",
    "create_model_from_checkpoint",
    "create_simmim",
    "get_variant",
    "list_models",
    "load_source",
    "random_mask",
    "released_tags",
]
