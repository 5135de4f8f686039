"""Dense prediction on the backbone: a class for each pixel."""

from swin_keras.tasks.scenes import Scenes
from swin_keras.tasks.segmentation import create_segmenter

__all__ = ["Scenes", "create_segmenter"]
