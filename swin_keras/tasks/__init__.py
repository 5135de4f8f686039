"""Dense prediction on a backbone."""

from swin_keras.tasks.data import DenseData, load_data
from swin_keras.tasks.detection import BOX_FORMAT, average_precision, create_detector, detection_network, predict
from swin_keras.tasks.evaluation import evaluate
from swin_keras.tasks.scenes import Scenes
from swin_keras.tasks.segmentation import create_segmenter, mean_iou

__all__ = [
    "BOX_FORMAT",
    "DenseData",
    "Scenes",
    "average_precision",
    "create_detector",
    "create_segmenter",
    "detection_network",
    "evaluate",
    "load_data",
    "mean_iou",
    "predict",
]
