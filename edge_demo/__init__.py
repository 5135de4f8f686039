"""Classifies pictures on a device from a bundle. Needs ai-edge-litert, numpy and Pillow, and nothing else: this folder may be copied alone."""

# ruff: noqa: E402
from . import interrupt

interrupt.end_at_once(__name__)

from .classifier import Classifier
from .errors import InputError
from .preprocess import open_picture, preprocess

__all__ = ["Classifier", "InputError", "open_picture", "preprocess"]
