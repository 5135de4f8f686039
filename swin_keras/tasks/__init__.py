"""Dense prediction on the backbone: boxes, and a class for each pixel."""

from swin_keras.tasks.detection import BOX_FORMAT, average_precision, create_detector, detection_network, predict
from swin_keras.tasks.scenes import Scenes
from swin_keras.tasks.segmentation import create_segmenter, mean_iou

__all__ = ["BOX_FORMAT", "Scenes", "average_precision", "create_detector", "create_segmenter", "detection_network", "mean_iou", "predict"]
