"""Everything `model.fit` needs: data, augmentation, recipes, and the run that keeps its own record."""

from swin_keras.training.data import ImageData, load_data
from swin_keras.training.recipes import RECIPES, Recipe
from swin_keras.training.run import evaluate, train

__all__ = ["RECIPES", "ImageData", "Recipe", "evaluate", "load_data", "train"]
