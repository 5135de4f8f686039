"""One entry for each layer: how to make it, what it takes, how many weights it has."""

import dataclasses
from collections.abc import Callable

from swin_keras.layers import MLP, PatchEmbedding, PatchMerging, SwinBlock, WindowAttention


@dataclasses.dataclass(frozen=True)
class Descriptor:
    """A layer for the conformance tests: `make(**kwargs)` builds it, `input_shape` is without the batch."""

    name: str
    make: Callable
    input_shape: tuple
    num_weights: int


# Every dimension of an entry differs from the others, so that no swapped axis survives.
DESCRIPTORS = [
    Descriptor("mlp", lambda **kw: MLP(hidden_dim=11, drop_rate=0.3, **kw), (3, 5, 7), 4),
    Descriptor("patch_embedding", lambda **kw: PatchEmbedding(embed_dim=7, patch_size=(3, 2), **kw), (9, 10, 3), 4),
    Descriptor("patch_embedding_without_norm", lambda **kw: PatchEmbedding(embed_dim=7, patch_size=2, patch_norm=False, **kw), (6, 10, 3), 2),
    Descriptor("patch_merging", lambda **kw: PatchMerging(epsilon=1e-4, **kw), (6, 10, 3), 3),
    Descriptor(
        "window_attention",
        lambda **kw: WindowAttention(window_size=(3, 5), num_heads=2, attention_drop_rate=0.2, drop_rate=0.1, **kw),
        (15, 14),
        5,
    ),
    Descriptor("window_attention_without_bias", lambda **kw: WindowAttention(window_size=3, num_heads=7, qkv_bias=False, **kw), (9, 14), 4),
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
]
