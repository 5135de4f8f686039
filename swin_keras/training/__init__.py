"""Everything `model.fit` needs: data, augmentation, recipes, and the run that keeps its own record."""

from swin_keras.training.data import load_data
from swin_keras.training.evaluation import evaluate, format_report, measure_throughput, write_evaluation
from swin_keras.training.image_data import ImageData
from swin_keras.training.recipes import RECIPES, Recipe
from swin_keras.training.run import build_model, find_recipe, train
from swin_keras.training.strategy import WorkerLost

__all__ = [
    "RECIPES",
    "ImageData",
    "Recipe",
    "WorkerLost",
    "build_model",
    "evaluate",
    "find_recipe",
    "format_report",
    "load_data",
    "measure_throughput",
    "train",
    "write_evaluation",
]
