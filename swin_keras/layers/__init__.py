"""The layers of the Swin Transformer, one per file, in `keras.ops` only: they run on every Keras backend."""

from swin_keras.layers.mlp import MLP
from swin_keras.layers.patch_embedding import PatchEmbedding
from swin_keras.layers.patch_merging import PatchMerging
from swin_keras.layers.swin_block import SwinBlock
from swin_keras.layers.window_attention import WindowAttention

__all__ = ["MLP", "PatchEmbedding", "PatchMerging", "SwinBlock", "WindowAttention"]
