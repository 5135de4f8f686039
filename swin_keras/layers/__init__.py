"""The layers of the Swin Transformer, one per file, in `keras.ops` only: they run on every Keras backend."""

from swin_keras.layers.absolute_position_embedding import AbsolutePositionEmbedding
from swin_keras.layers.mlp import MLP
from swin_keras.layers.patch_embedding import PatchEmbedding
from swin_keras.layers.patch_merging import PatchMerging, PatchMergingV2
from swin_keras.layers.pixel_shuffle import PixelShuffle
from swin_keras.layers.quantized_graph import QuantizedGraph  # noqa: F401  no layer of the Swin Transformer; registered here, so that its models load
from swin_keras.layers.swin_block import SwinBlock
from swin_keras.layers.swin_block_v2 import SwinBlockV2
from swin_keras.layers.swin_mlp_block import SpatialMLP, SwinMLPBlock
from swin_keras.layers.window_attention import WindowAttention
from swin_keras.layers.window_attention_v2 import WindowAttentionV2

__all__ = [
    "MLP",
    "AbsolutePositionEmbedding",
    "PatchEmbedding",
    "PatchMerging",
    "PatchMergingV2",
    "PixelShuffle",
    "SpatialMLP",
    "SwinBlock",
    "SwinBlockV2",
    "SwinMLPBlock",
    "WindowAttention",
    "WindowAttentionV2",
]
