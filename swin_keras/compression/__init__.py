"""Compression while training: pruning, weight clustering and quantization-aware training.

Importing it does not import tensorflow-model-optimization: `Pruning` does, when training begins.
"""

from swin_keras.compression.choices import Compression, find_compression
from swin_keras.compression.clustering import Clustering
from swin_keras.compression.kernels import sparsity
from swin_keras.compression.pruning import Pruning
from swin_keras.compression.quantization import quantization_aware

__all__ = ["Clustering", "Compression", "Pruning", "find_compression", "quantization_aware", "sparsity"]
