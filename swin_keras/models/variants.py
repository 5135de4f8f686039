"""The released sizes as rows of one table, and the functions that build them by name."""

import dataclasses
import difflib
import math
import re

from swin_keras.models.swin import swin_transformer
from swin_keras.weights import assign_checkpoint, load_into_new_model, read_official_tensors


@dataclasses.dataclass(frozen=True)
class Variant:
    """A released model: what it is made of, and what was published about it.

    `parameters` counts with 1000 classes. `top1` is the published ImageNet-1K accuracy in percent of the
    checkpoint trained on `data`; `None` where nothing is published.
    """

    embed_dim: int
    depths: tuple
    num_heads: tuple
    window_size: int
    image_size: int
    drop_path_rate: float
    parameters: int
    data: str
    top1: float | None
    patch_size: int = 4


# Tiny to Large: table 1 of the paper, and configurations and model hub of https://github.com/microsoft/Swin-Transformer.
# Rows marked 22K were trained on ImageNet-22K, then fine-tuned on ImageNet-1K.
# fmt: off
VARIANTS = {
    "swin_tiny_patch4_window7_224":   Variant( 96, (2, 2, 6, 2),  (3, 6, 12, 24),  7, 224, 0.2,  28_288_354, "ImageNet-1K", 81.2),
    "swin_small_patch4_window7_224":  Variant( 96, (2, 2, 18, 2), (3, 6, 12, 24),  7, 224, 0.3,  49_606_258, "ImageNet-1K", 83.2),
    "swin_base_patch4_window7_224":   Variant(128, (2, 2, 18, 2), (4, 8, 16, 32),  7, 224, 0.5,  87_768_224, "ImageNet-1K", 83.5),
    "swin_base_patch4_window12_384":  Variant(128, (2, 2, 18, 2), (4, 8, 16, 32), 12, 384, 0.5,  87_903_584, "ImageNet-1K", 84.5),
    "swin_large_patch4_window7_224":  Variant(192, (2, 2, 18, 2), (6, 12, 24, 48), 7, 224, 0.2, 196_532_476, "ImageNet-22K", 86.3),
    "swin_large_patch4_window12_384": Variant(192, (2, 2, 18, 2), (6, 12, 24, 48), 12, 384, 0.2, 196_735_516, "ImageNet-22K", 87.3),
    # Ours, for 32x32 images: small enough to train on a CPU. The first stage shifts, the second is one window.
    "swin_nano_patch4_window4_32":    Variant( 48, (2, 2),        (3, 6),          4,  32, 0.05,    399_562, "digits", None),
}
# fmt: on

# What `create_model` takes besides its own arguments; each replaces a value of the row.
OVERRIDES = (
    "embed_dim",
    "depths",
    "num_heads",
    "window_size",
    "patch_size",
    "mlp_ratio",
    "qkv_bias",
    "patch_norm",
    "drop_rate",
    "attention_drop_rate",
    "drop_path_rate",
)


def list_models():
    """Returns the names that `create_model` knows, in the order of the table."""
    return list(VARIANTS)


def get_variant(name):
    """Returns the row of `VARIANTS` called `name`.

    Raises:
        ValueError: If there is none; the message lists names that are close.
    """
    if isinstance(name, str) and name in VARIANTS:
        return VARIANTS[name]
    close = difflib.get_close_matches(str(name), VARIANTS, n=3, cutoff=0.4) or list(VARIANTS)
    raise ValueError(f"Unknown variant {name!r}. Did you mean one of: {', '.join(close)}? `swin-keras models` lists all.")


def create_model(name, weights=None, input_shape=None, num_classes=1000, classifier_activation=None, **overrides):
    """Builds a Swin classifier by its released name.

    Args:
        name: String. A key of `VARIANTS`, such as `"swin_tiny_patch4_window7_224"`.
        weights: `None` for random weights, or the path of a checkpoint that `load_weights` reads. A head of another
            class count stays initial, and a warning says so.
        input_shape: Height, width and channels. Defaults to the row's image size and 3 channels.
        num_classes: Integer. Width of the head.
        classifier_activation: Activation of the head. `None` returns logits.
        **overrides: Any argument of `OVERRIDES`, in place of the row's value.

    Returns:
        A functional `keras.Model` from normalized NHWC images to float32 `(batch, num_classes)`.

    Raises:
        ValueError: If the name or an override is unknown, an argument does not fit, or the weights do not match.
    """
    variant = get_variant(name)
    unknown = sorted(set(overrides) - set(OVERRIDES))
    if unknown:
        raise ValueError(f"`create_model` takes the overrides {', '.join(OVERRIDES)}. Received: {', '.join(unknown)}.")
    arguments = {key: getattr(variant, key) for key in OVERRIDES if hasattr(variant, key)}
    model = swin_transformer(
        input_shape=(variant.image_size, variant.image_size, 3) if input_shape is None else input_shape,
        num_classes=num_classes,
        classifier_activation=classifier_activation,
        name=name,
        **{**arguments, **overrides},
    )
    if weights is not None:
        load_into_new_model(model, weights)
    return model


def create_model_from_checkpoint(path):
    """Builds the released model that a checkpoint was made for, told from its shapes, and loads it.

    Raises:
        ValueError: If the file cannot be read, fits no row of `VARIANTS`, has no head, or does not match completely.
    """
    checkpoint = read_official_tensors(path)
    tensors = checkpoint[1]
    shapes = {name: array.shape for name, array in tensors.items()}
    blocks = [match for match in map(re.compile(r"layers\.(\d+)\.blocks\.(\d+)\.attn\.relative_position_bias_table$").match, shapes) if match]
    stages = sorted({int(match[1]) for match in blocks})
    if any(not shape for shape in shapes.values()):
        raise ValueError(f"Expected the checkpoint of a released model. {str(path)!r} has tensors without any axis.")
    found = {
        "embed_dim": shapes.get("patch_embed.proj.weight", (None,))[0],
        "depths": tuple(1 + max(int(match[2]) for match in blocks if int(match[1]) == stage) for stage in stages),
        "num_heads": tuple(next(shapes[match[0]][-1] for match in blocks if int(match[1]) == stage) for stage in stages),
        # A table has (2 * window - 1) ** 2 rows.
        "window_size": next(((math.isqrt(shapes[match[0]][0]) + 1) // 2 for match in blocks), None),
    }
    name = next((name for name, row in VARIANTS.items() if all(getattr(row, key) == value for key, value in found.items())), None)
    if name is None:
        described = ", ".join(f"{key}={value}" for key, value in found.items())
        raise ValueError(f"Expected the checkpoint of a released model. {str(path)!r} has {described}, which fits no row of `swin-keras models`.")
    if len(shapes.get("head.bias", ())) != 1:
        raise ValueError(f"Expected a classifier. {str(path)!r} has no head: no tensor head.bias.")
    model = create_model(name, num_classes=shapes["head.bias"][0])
    assign_checkpoint(model, checkpoint, path)
    return model
