"""Classifies pictures on a device from a bundle. Needs ai-edge-litert, numpy and Pillow, and nothing else: this folder may be copied alone."""

from .classifier import Classifier
from .errors import InputError
from .preprocess import open_picture, preprocess

__all__ = ["Classifier", "InputError", "open_picture", "preprocess"]
