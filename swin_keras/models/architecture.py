"""What a Swin Transformer is made of, checked, and the graph of its stages."""

import dataclasses

import keras
import numpy as np

from swin_keras.layers import (
    AbsolutePositionEmbedding,
    PatchEmbedding,
    PatchMerging,
    PatchMergingV2,
    SwinBlock,
    SwinBlockV2,
    SwinMLPBlock,
)
from swin_keras.layers.checks import check_heads, is_count, is_number
from swin_keras.layers.initializers import linear_initializer
from swin_keras.layers.windows import to_pair

# Beyond it no memory holds a layer's weights.
_WIDEST = 2**20

# Blocks and patch merging of each family.
_LAYERS = {
    "swin": (SwinBlock, PatchMerging),
    "swinv2": (SwinBlockV2, PatchMergingV2),
    "swin_mlp": (SwinMLPBlock, PatchMerging),
}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The arguments of a model, but for its input and output.

    Args:
        embed_dim: Integer. Channels of the first stage; each later stage doubles them.
        depths: Integers. Blocks in each stage; every second one shifts its windows.
        num_heads: Integers. Attention heads in each stage.
        window_size: Integer or pair of integers, in tokens; or a tuple with one of these for each stage (two integers are a
            pair).
        patch_size: Integer or pair of integers. In pixels.
        mlp_ratio: Float. Hidden width of each MLP over its channels.
        qkv_bias: Boolean. Whether query, key and value have a bias; in V2 the key never has.
        patch_norm: Boolean. Whether the patch embedding ends in a norm.
        absolute_position_embedding: Boolean. Whether a learned vector is added to each token of the first stage.
        relative_position_bias: Boolean. Whether attention has its bias.
        shifted_windows: Boolean. Whether every second block shifts its windows.
        drop_rate: Float. Dropout after the embedding, after attention and in the MLPs.
        attention_drop_rate: Float. Dropout on the attention weights.
        drop_path_rate: Float. Stochastic depth of the last block; the rate rises linearly from 0 over all blocks.
        pretrained_window_sizes: V2 only: for each stage an integer or a pair, the window that the weights were trained
            with, or `None` where it is this one. Defaults to `None`: in no stage another.
        window_fit: `"clamp"`: a window larger than the grid becomes the grid and does not shift. `"pad"`: windows stay and
            the grid is padded, as in detection.
        gradient_checkpointing: Boolean. Whether training keeps only what lies between blocks, and computes the inside
            of each once more for its gradient.
        family: `"swin"`, `"swinv2"` or `"swin_mlp"`; the last has no attention, and so none of its arguments.

    Raises:
        ValueError: If an argument is out of its range.
    """

    embed_dim: int
    depths: tuple
    num_heads: tuple
    window_size: int | tuple
    patch_size: int | tuple = 4
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    patch_norm: bool = True
    absolute_position_embedding: bool = False
    relative_position_bias: bool = True
    shifted_windows: bool = True
    drop_rate: float = 0.0
    attention_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    pretrained_window_sizes: tuple | None = None
    window_fit: str = "clamp"
    gradient_checkpointing: bool = False
    family: str = "swin"

    def __post_init__(self):
        if self.family not in _LAYERS:
            raise ValueError(f"`family` must be one of {', '.join(_LAYERS)}. Received: family={self.family!r}.")
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        if not is_count(self.embed_dim):
            raise ValueError(f"`embed_dim` must be a positive integer. Received: embed_dim={self.embed_dim!r}.")
        for name in ("depths", "num_heads"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or not all(is_count(v) for v in value):
                raise ValueError(f"`{name}` must be a tuple of positive integers, one a stage. Received: {name}={value!r}.")
        if len(self.depths) != len(self.num_heads):
            raise ValueError(f"`depths` and `num_heads` must have one entry a stage. Received: depths={self.depths}, num_heads={self.num_heads}.")
        for stage, heads in enumerate(self.num_heads):
            check_heads(heads, self.channels(stage), where=f" in stage {stage + 1}")
        for stage in range(len(self.depths)):
            self.window(stage)
        to_pair(self.patch_size, "patch_size")
        if not is_number(self.mlp_ratio) or self.embed_dim * self.mlp_ratio < 1:
            raise ValueError(f"`mlp_ratio` must be a positive number that leaves a width. Received: mlp_ratio={self.mlp_ratio!r}.")
        widest = self.channels(len(self.depths) - 1) * max(self.mlp_ratio, 3)
        if widest > _WIDEST:
            raise ValueError(
                f"A layer must be no wider than {_WIDEST:,}. Received: {widest:,.0f} in the last stage, from embed_dim={self.embed_dim}, "
                f"{len(self.depths)} stages and mlp_ratio={self.mlp_ratio}. Choose less."
            )
        for name in ("drop_rate", "attention_drop_rate", "drop_path_rate"):
            rate = getattr(self, name)
            if not is_number(rate) or not 0 <= rate < 1:
                raise ValueError(f"`{name}` must be a number at least 0 and less than 1. Received: {name}={rate!r}.")
        for field in dataclasses.fields(self):
            if field.type is bool and not isinstance(getattr(self, field.name), bool):
                raise ValueError(f"`{field.name}` must be True or False. Received: {field.name}={getattr(self, field.name)!r}.")
        if self.pretrained_window_sizes is not None:
            self._check_pretrained_window_sizes()
        if self.family == "swin_mlp":
            for name, default in [("qkv_bias", True), ("relative_position_bias", True), ("attention_drop_rate", 0.0)]:
                if getattr(self, name) != default:
                    raise ValueError(f"Swin-MLP has no attention. Received: {name}={getattr(self, name)}. Leave it at {default}.")

    def _check_pretrained_window_sizes(self):
        sizes = self.pretrained_window_sizes
        if self.family != "swinv2":
            raise ValueError(f"`pretrained_window_sizes` belongs to Swin V2, which computes its bias. Received: pretrained_window_sizes={sizes!r}.")
        if not isinstance(sizes, tuple) or len(sizes) != len(self.depths):
            raise ValueError(
                f"`pretrained_window_sizes` must have one entry for each of the {len(self.depths)} stages. "
                f"Received: pretrained_window_sizes={sizes!r}."
            )
        for size in sizes:
            # The official configurations write 0 for none.
            if size is None or (size == 0 and not isinstance(size, bool)):
                continue
            to_pair(size, "pretrained_window_sizes")

    def channels(self, stage):
        """Returns the width of a stage, counted from 0."""
        return self.embed_dim * 2**stage

    def window(self, stage):
        """Returns the window of a stage, counted from 0, as (height, width)."""
        size = self.window_size
        # Two integers are a pair, also where there are two stages.
        if isinstance(size, tuple) and len(size) == len(self.depths) and (len(size) != 2 or any(isinstance(side, tuple) for side in size)):
            size = size[stage]
        return to_pair(size, "window_size")

    def stages(self, image, count, dtype=None, return_attention=False, mask=None):
        """Adds the first `count` stages to a graph.

        Layer names spell the keys of the official checkpoints, with `_` for `.`: `layers_0_blocks_1`. A `mask`
        `(batch, rows, columns)` is 1 for each patch in whose place a learned token stands.

        Returns:
            A list of the stages' outputs, each before patch merging, and `{block name: attention weights}`.

        Raises:
            ValueError: If attention is asked of Swin-MLP.
        """
        if return_attention and self.family == "swin_mlp":
            raise ValueError("Swin-MLP has no attention. Received: return_attention=True. Leave it off.")
        block_class, merging_class = _LAYERS[self.family]
        x = PatchEmbedding(self.embed_dim, self.patch_size, self.patch_norm, name="patch_embed", dtype=dtype)(image)
        if mask is not None:
            hidden = keras.ops.cast(keras.ops.expand_dims(mask, -1), x.dtype)
            token = keras.layers.Dense(self.channels(0), use_bias=False, kernel_initializer=linear_initializer(), name="mask_token", dtype=dtype)
            x = x * (1 - hidden) + token(hidden)
        if self.absolute_position_embedding:
            x = AbsolutePositionEmbedding(name="absolute_pos_embed", dtype=dtype)(x)
        x = keras.layers.Dropout(self.drop_rate, name="pos_drop", dtype=dtype)(x)
        drop_path_rates = iter(np.linspace(0.0, self.drop_path_rate, sum(self.depths)).tolist())
        outputs, attention = [], {}
        for stage, depth in enumerate(self.depths[:count]):
            if stage:
                x = merging_class(name=f"layers_{stage - 1}_downsample", dtype=dtype)(x)
            own = {}
            if self.family != "swin_mlp":
                own.update(
                    qkv_bias=self.qkv_bias,
                    attention_drop_rate=self.attention_drop_rate,
                    relative_position_bias=self.relative_position_bias,
                    return_attention=return_attention,
                )
            if self.pretrained_window_sizes is not None:
                own.update(pretrained_window_size=self.pretrained_window_sizes[stage] or None)
            for block in range(depth):
                name = f"layers_{stage}_blocks_{block}"
                x = block_class(
                    self.num_heads[stage],
                    self.window(stage),
                    shifted=self.shifted_windows and block % 2 == 1,
                    mlp_ratio=self.mlp_ratio,
                    drop_rate=self.drop_rate,
                    drop_path_rate=next(drop_path_rates),
                    window_fit=self.window_fit,
                    gradient_checkpointing=self.gradient_checkpointing,
                    name=name,
                    dtype=dtype,
                    **own,
                )(x)
                if return_attention:
                    x, attention[f"{name}_attention"] = x
            outputs.append(x)
        return outputs, attention


def input_image(input_shape):
    """Returns the `keras.Input` of a model.

    Raises:
        ValueError: If `input_shape` is not height, width and channels, of which only the first two may be `None`.
    """
    wrong = not isinstance(input_shape, (tuple, list)) or len(input_shape) != 3
    if wrong or not all(is_count(side) or side is None for side in input_shape) or input_shape[2] is None:
        raise ValueError(
            "`input_shape` must be three positive integers (height, width, channels), of which height and width may be None. "
            f"Received: input_shape={input_shape!r}."
        )
    return keras.Input(tuple(None if side is None else int(side) for side in input_shape), name="image")


def _plain(value):
    """Returns a value in Python's own types, which a configuration can be saved in."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        return tuple(map(_plain, value))
    return value.item() if isinstance(value, np.generic) else value
