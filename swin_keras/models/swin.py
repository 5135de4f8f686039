"""The Swin Transformer classifier as one functional graph."""

import keras
import numpy as np

from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.patch_embedding import PatchEmbedding
from swin_keras.layers.patch_merging import PatchMerging
from swin_keras.layers.swin_block import SwinBlock
from swin_keras.layers.windows import to_pair


def swin_transformer(
    input_shape=(224, 224, 3),
    num_classes=1000,
    embed_dim=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    patch_size=4,
    mlp_ratio=4.0,
    qkv_bias=True,
    patch_norm=True,
    drop_rate=0.0,
    attention_drop_rate=0.0,
    drop_path_rate=0.1,
    classifier_activation=None,
    name="swin_transformer",
):
    """Builds figure 3 of the paper: a Swin V1 classifier. The defaults are those of Swin-T.

    Layer names spell the keys of the official checkpoints, with `_` for `.`: `layers_0_blocks_1`.

    Args:
        input_shape: Height, width and channels of the image, which comes normalized.
        num_classes: Integer. Width of the head.
        embed_dim: Integer. Channels of the first stage; each later stage doubles them.
        depths: Integers. Blocks in each stage; every second one shifts its windows.
        num_heads: Integers. Attention heads in each stage.
        window_size: Integer or pair of integers. In tokens.
        patch_size: Integer or pair of integers. In pixels.
        mlp_ratio: Float. Hidden width of each MLP over its channels.
        qkv_bias: Boolean. Whether query, key and value have a bias.
        patch_norm: Boolean. Whether the patch embedding ends in a norm.
        drop_rate: Float. Dropout after the embedding, after attention and in the MLPs.
        attention_drop_rate: Float. Dropout on the attention weights.
        drop_path_rate: Float. Stochastic depth of the last block; the rate rises linearly from 0 over all blocks.
        classifier_activation: Activation of the head. `None` returns logits.
        name: String.

    Returns:
        A `keras.Model` from `(batch, *input_shape)` to float32 `(batch, num_classes)`.

    Raises:
        ValueError: If an argument is out of its range, or windows, patches and merges do not fit the image.

    Reference: section 3 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """
    _check(input_shape, num_classes, embed_dim, depths, num_heads, mlp_ratio, patch_size)
    for rate_name, rate in [("drop_rate", drop_rate), ("attention_drop_rate", attention_drop_rate), ("drop_path_rate", drop_path_rate)]:
        if not _is_number(rate) or not 0 <= rate < 1:
            raise ValueError(f"`{rate_name}` must be a number at least 0 and less than 1. Received: {rate_name}={rate!r}.")

    image = keras.Input(tuple(map(int, input_shape)), name="image")
    x = PatchEmbedding(int(embed_dim), patch_size, patch_norm, name="patch_embed")(image)
    x = keras.layers.Dropout(drop_rate, name="pos_drop")(x)
    drop_path_rates = iter(np.linspace(0.0, drop_path_rate, sum(depths)).tolist())
    for stage, depth in enumerate(depths):
        for block in range(depth):
            x = SwinBlock(
                int(num_heads[stage]),
                window_size,
                shifted=block % 2 == 1,
                mlp_ratio=mlp_ratio,
                qkv_bias=qkv_bias,
                drop_rate=drop_rate,
                attention_drop_rate=attention_drop_rate,
                drop_path_rate=next(drop_path_rates),
                name=f"layers_{stage}_blocks_{block}",
            )(x)
        if stage < len(depths) - 1:
            x = PatchMerging(name=f"layers_{stage}_downsample")(x)
    x = keras.layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_last", name="avgpool")(x)
    # float32 whatever the policy: a loss on half-precision logits is not worth the memory it saves.
    head = keras.layers.Dense(
        int(num_classes), activation=classifier_activation, kernel_initializer=linear_initializer(), dtype="float32", name="head"
    )
    return keras.Model(image, head(x), name=name)


def _is_number(value):
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def _is_count(value):
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and 0 < value < 2**31


def _check(input_shape, num_classes, embed_dim, depths, num_heads, mlp_ratio, patch_size):
    if not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3 or not all(_is_count(side) for side in input_shape):
        raise ValueError(f"`input_shape` must be three positive integers (height, width, channels). Received: input_shape={input_shape!r}.")
    for argument, value in [("num_classes", num_classes), ("embed_dim", embed_dim)]:
        if not _is_count(value):
            raise ValueError(f"`{argument}` must be a positive integer. Received: {argument}={value!r}.")
    for argument, value in [("depths", depths), ("num_heads", num_heads)]:
        if not isinstance(value, (tuple, list)) or not value or not all(_is_count(v) for v in value):
            raise ValueError(f"`{argument}` must be a tuple of positive integers, one a stage. Received: {argument}={value!r}.")
    if len(depths) != len(num_heads):
        raise ValueError(f"`depths` and `num_heads` must have one entry a stage. Received: depths={depths}, num_heads={num_heads}.")
    if not _is_number(mlp_ratio) or not 1 <= embed_dim * mlp_ratio < 2**31:
        raise ValueError(f"`mlp_ratio` must be a positive number that leaves a width. Received: mlp_ratio={mlp_ratio!r}.")
    for side, patch in zip(input_shape, to_pair(patch_size, "patch_size"), strict=False):
        multiple = patch * 2 ** (len(depths) - 1)
        if side % multiple:
            raise ValueError(
                f"The sides of `input_shape` must be multiples of {multiple} (patch size x 2 for each of the "
                f"{len(depths) - 1} merges). Received: input_shape={tuple(input_shape)}."
            )
