"""One entry for each layer: how to make it, what it takes, how many weights it has."""

import dataclasses
from collections.abc import Callable

from swin_keras.layers import (
    MLP,
    AbsolutePositionEmbedding,
    PatchEmbedding,
    PatchMerging,
    PatchMergingV2,
    PixelShuffle,
    SpatialMLP,
    SwinBlock,
    SwinBlockV2,
    SwinMLPBlock,
    WindowAttention,
    WindowAttentionV2,
)


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A layer for the conformance tests: `make(**kwargs)` builds it, `input_shape` is without the batch."""

    name: str
    make: Callable
    input_shape: tuple
    num_weights: int
    # Whether height and width may be None.
    any_size: bool = False


# Every dimension of an entry differs from the others, so that no swapped axis survives.
DESCRIPTORS = [
    Descriptor("mlp", lambda **kw: MLP(hidden_dim=11, drop_rate=0.3, **kw), (3, 5, 7), 4, any_size=True),
    Descriptor("absolute_position_embedding", lambda **kw: AbsolutePositionEmbedding(**kw), (3, 5, 7), 1),
    Descriptor("patch_embedding", lambda **kw: PatchEmbedding(embed_dim=7, patch_size=(3, 2), **kw), (9, 10, 3), 4, any_size=True),
    Descriptor("padded_patch_embedding", lambda **kw: PatchEmbedding(embed_dim=7, patch_size=(4, 3), **kw), (9, 10, 3), 4, any_size=True),
    Descriptor(
        "patch_embedding_without_norm", lambda **kw: PatchEmbedding(embed_dim=7, patch_size=2, patch_norm=False, **kw), (6, 10, 3), 2, any_size=True
    ),
    Descriptor("patch_merging", lambda **kw: PatchMerging(epsilon=1e-4, **kw), (6, 10, 3), 3, any_size=True),
    Descriptor("padded_patch_merging", lambda **kw: PatchMerging(**kw), (5, 9, 3), 3, any_size=True),
    Descriptor("patch_merging_v2", lambda **kw: PatchMergingV2(epsilon=1e-4, **kw), (5, 10, 3), 3, any_size=True),
    Descriptor(
        "window_attention",
        lambda **kw: WindowAttention(window_size=(3, 5), num_heads=2, attention_drop_rate=0.2, drop_rate=0.1, **kw),
        (15, 14),
        5,
    ),
    Descriptor("window_attention_without_bias", lambda **kw: WindowAttention(window_size=3, num_heads=7, qkv_bias=False, **kw), (9, 14), 4),
    Descriptor("window_attention_weights", lambda **kw: WindowAttention(3, 7, relative_position_bias=False, return_attention=True, **kw), (9, 14), 4),
    Descriptor(
        "window_attention_v2",
        lambda **kw: WindowAttentionV2(window_size=(3, 5), num_heads=2, attention_drop_rate=0.2, drop_rate=0.1, pretrained_window_size=(2, 7), **kw),
        (15, 14),
        9,
    ),
    Descriptor(
        "window_attention_v2_without_bias",
        lambda **kw: WindowAttentionV2(window_size=3, num_heads=7, qkv_bias=False, relative_position_bias=False, **kw),
        (9, 14),
        4,
    ),
    Descriptor("swin_block", lambda **kw: SwinBlock(num_heads=2, window_size=3, mlp_ratio=1.5, **kw), (6, 9, 8), 13),
    Descriptor(
        "shifted_swin_block",
        lambda **kw: SwinBlock(
            num_heads=2, window_size=(3, 5), shifted=True, drop_rate=0.1, attention_drop_rate=0.1, drop_path_rate=0.3, epsilon=1e-6, **kw
        ),
        (6, 10, 8),
        13,
    ),
    Descriptor("clamped_swin_block", lambda **kw: SwinBlock(num_heads=3, window_size=7, shifted=True, qkv_bias=False, **kw), (5, 14, 6), 12),
    Descriptor(
        "padded_swin_block",
        lambda **kw: SwinBlock(num_heads=2, window_size=(4, 3), shifted=True, window_fit="pad", **kw),
        (7, 2, 8),
        13,
        any_size=True,
    ),
    Descriptor(
        "checkpointed_swin_block",
        lambda **kw: SwinBlock(
            2, 3, shifted=True, drop_rate=0.1, attention_drop_rate=0.2, drop_path_rate=0.3, gradient_checkpointing=True, return_attention=True, **kw
        ),
        (5, 7, 8),
        13,
    ),
    Descriptor("swin_block_v2", lambda **kw: SwinBlockV2(num_heads=2, window_size=3, mlp_ratio=1.5, **kw), (6, 9, 8), 17),
    Descriptor(
        "padded_swin_block_v2",
        lambda **kw: SwinBlockV2(
            num_heads=2,
            window_size=(4, 3),
            shifted=True,
            drop_rate=0.1,
            attention_drop_rate=0.1,
            drop_path_rate=0.3,
            window_fit="pad",
            pretrained_window_size=5,
            **kw,
        ),
        (7, 2, 8),
        17,
        any_size=True,
    ),
    Descriptor(
        "checkpointed_swin_block_v2",
        lambda **kw: SwinBlockV2(2, 3, shifted=True, drop_path_rate=0.3, gradient_checkpointing=True, qkv_bias=False, **kw),
        (5, 7, 8),
        15,
    ),
    Descriptor("spatial_mlp", lambda **kw: SpatialMLP(num_heads=2, **kw), (15, 14), 2),
    Descriptor("swin_mlp_block", lambda **kw: SwinMLPBlock(num_heads=2, window_size=3, mlp_ratio=1.5, **kw), (6, 9, 8), 10),
    Descriptor(
        "padded_swin_mlp_block",
        lambda **kw: SwinMLPBlock(2, (4, 3), shifted=True, drop_rate=0.1, drop_path_rate=0.3, window_fit="pad", **kw),
        (7, 2, 8),
        10,
        any_size=True,
    ),
    Descriptor(
        "checkpointed_swin_mlp_block",
        lambda **kw: SwinMLPBlock(2, 3, shifted=True, drop_path_rate=0.3, gradient_checkpointing=True, **kw),
        (3, 7, 8),
        10,
    ),
    Descriptor("pixel_shuffle", lambda **kw: PixelShuffle((2, 3), **kw), (5, 7, 24), 0, any_size=True),
]
