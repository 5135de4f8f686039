"""The released sizes as rows of one table, and the functions that build them by name."""

import dataclasses
import difflib
import os
import re

from swin_keras.models.architecture import Architecture
from swin_keras.models.backbone import SwinBackbone
from swin_keras.models.classifier import classifier
from swin_keras.models.complexity import count
from swin_keras.models.simmim import SimMIM
from swin_keras.weights import load_into_new_model

MODEL_HUB = "https://github.com/microsoft/Swin-Transformer/blob/f82860bfb5225915aca09c3227159ee9e1df874d/MODELHUB.md"

TIMM = "https://github.com/huggingface/pytorch-image-models/blob/main/results/results-imagenet.csv"


@dataclasses.dataclass(frozen=True)
class Variant:
    """A released model: what it is made of, and what was published about it.

    `top1` is the published ImageNet-1K accuracy in percent of the checkpoint trained on `data`, at `source`; `None` where
    nothing is published. `drop_path_rate` is that of its training configuration.
    """

    family: str
    embed_dim: int
    depths: tuple
    num_heads: tuple
    window_size: int | tuple
    image_size: int
    drop_path_rate: float
    data: str
    top1: float | None
    num_classes: int = 1000
    pretrained_window_sizes: tuple | None = None
    patch_size: int = 4
    source: str | None = MODEL_HUB

    @property
    def parameters(self):
        """Integer. Number of weights, counted."""
        return self._count()[0]

    @property
    def flops(self):
        """Integer. Multiply-adds for one image of `image_size`, which the papers call FLOPs, counted."""
        return self._count()[1]

    def _count(self):
        return count(Architecture(**_arguments(self, {})), (self.image_size, self.image_size, 3), self.num_classes)


_T = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_S = {"embed_dim": 96, "depths": (2, 2, 18, 2), "num_heads": (3, 6, 12, 24)}
_B = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_L = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}
_1K, _22K, _BOTH = "ImageNet-1K", "ImageNet-22K", "ImageNet-22K, then 1K"


def _row(family):
    def row(size, window, image, drop_path, data, top1, **kwargs):
        return Variant(family, **size, window_size=window, image_size=image, drop_path_rate=drop_path, data=data, top1=top1, **kwargs)

    return row


_v1, _v2, _mlp = map(_row, ("swin", "swinv2", "swin_mlp"))
_HEAD_22K = {"num_classes": 21841}
_FROM_192 = {"pretrained_window_sizes": (12, 12, 12, 6)}

# Names, sizes and drop path rates of the official configurations; accuracies of the model hub.
# fmt: off
VARIANTS = {
    "swinv2_tiny_patch4_window8_256":      _v2(_T, 8, 256, 0.2, _1K, 81.8),
    "swinv2_small_patch4_window8_256":     _v2(_S, 8, 256, 0.3, _1K, 83.7),
    "swinv2_base_patch4_window8_256":      _v2(_B, 8, 256, 0.5, _1K, 84.2),
    "swinv2_tiny_patch4_window16_256":     _v2(_T, 16, 256, 0.2, _1K, 82.8),
    "swinv2_small_patch4_window16_256":    _v2(_S, 16, 256, 0.3, _1K, 84.1),
    "swinv2_base_patch4_window16_256":     _v2(_B, 16, 256, 0.5, _1K, 84.6),
    "swinv2_base_patch4_window12to16_192to256_22kto1k_ft":  _v2(_B, 16, 256, 0.2, _BOTH, 86.2, **_FROM_192),
    "swinv2_base_patch4_window12to24_192to384_22kto1k_ft":  _v2(_B, 24, 384, 0.2, _BOTH, 87.1, **_FROM_192),
    "swinv2_large_patch4_window12to16_192to256_22kto1k_ft": _v2(_L, 16, 256, 0.2, _BOTH, 86.9, **_FROM_192),
    "swinv2_large_patch4_window12to24_192to384_22kto1k_ft": _v2(_L, 24, 384, 0.2, _BOTH, 87.6, **_FROM_192),
    "swinv2_base_patch4_window12_192_22k":  _v2(_B, 12, 192, 0.2, _22K, None, **_HEAD_22K),
    "swinv2_large_patch4_window12_192_22k": _v2(_L, 12, 192, 0.2, _22K, None, **_HEAD_22K),
    "swin_tiny_patch4_window7_224":        _v1(_T, 7, 224, 0.2, _1K, 81.2),
    "swin_small_patch4_window7_224":       _v1(_S, 7, 224, 0.3, _1K, 83.2),
    "swin_base_patch4_window7_224":        _v1(_B, 7, 224, 0.5, _1K, 83.5),
    "swin_base_patch4_window12_384":       _v1(_B, 12, 384, 0.5, _1K, 84.5),
    "swin_large_patch4_window7_224":       _v1(_L, 7, 224, 0.2, _BOTH, 86.3),
    "swin_large_patch4_window12_384":      _v1(_L, 12, 384, 0.2, _BOTH, 87.3),
    "swin_tiny_c24_patch4_window8_256":    _v1({**_T, "num_heads": (4, 8, 16, 32)}, 8, 256, 0.2, _1K, 81.6),
    "swin_tiny_patch4_window7_224_22kto1k_finetune":  _v1(_T, 7, 224, 0.1, _BOTH, 80.9),
    "swin_small_patch4_window7_224_22kto1k_finetune": _v1(_S, 7, 224, 0.2, _BOTH, 83.2),
    "swin_base_patch4_window7_224_22kto1k_finetune":  _v1(_B, 7, 224, 0.2, _BOTH, 85.2),
    "swin_base_patch4_window12_384_22kto1k_finetune": _v1(_B, 12, 384, 0.2, _BOTH, 86.4),
    "swin_tiny_patch4_window7_224_22k":    _v1(_T, 7, 224, 0.1, _22K, None, **_HEAD_22K),
    "swin_small_patch4_window7_224_22k":   _v1(_S, 7, 224, 0.2, _22K, None, **_HEAD_22K),
    "swin_base_patch4_window7_224_22k":    _v1(_B, 7, 224, 0.2, _22K, None, **_HEAD_22K),
    "swin_base_patch4_window12_384_22k":   _v1(_B, 12, 384, 0.2, _22K, None, **_HEAD_22K),
    "swin_large_patch4_window7_224_22k":   _v1(_L, 7, 224, 0.2, _22K, None, **_HEAD_22K),
    "swin_large_patch4_window12_384_22k":  _v1(_L, 12, 384, 0.2, _22K, None, **_HEAD_22K),
    # The windows of S3 (Chen et al., 2021, https://arxiv.org/abs/2111.14725), searched for; timm publishes the weights.
    "swin_s3_tiny_224":  _v1(_T, (7, 7, 14, 7), 224, 0.1, _1K, 82.1, source=TIMM),
    "swin_s3_small_224": _v1(_S, (14, 14, 14, 7), 224, 0.1, _1K, 83.8, source=TIMM),
    "swin_s3_base_224":  _v1({**_T, "depths": (2, 2, 30, 2)}, (7, 7, 14, 7), 224, 0.1, _1K, 83.9, source=TIMM),
    "swin_mlp_tiny_c24_patch4_window8_256": _mlp({**_T, "num_heads": (4, 8, 16, 32)}, 8, 256, 0.2, _1K, 79.4),
    "swin_mlp_tiny_c12_patch4_window8_256": _mlp({**_T, "num_heads": (8, 16, 32, 64)}, 8, 256, 0.2, _1K, 79.6),
    "swin_mlp_tiny_c6_patch4_window8_256":  _mlp({**_T, "num_heads": (16, 32, 64, 128)}, 8, 256, 0.2, _1K, 79.7),
    "swin_mlp_base_patch4_window7_224":     _mlp(_B, 7, 224, 0.5, _1K, 81.3),
    # Ours, for 32x32 images: small enough to train on a CPU. The first stage shifts, the second is one window.
    "swin_nano_patch4_window4_32":         _v1({"embed_dim": 48, "depths": (2, 2), "num_heads": (3, 6)}, 4, 32, 0.05, "digits", None, source=None),
}
# fmt: on

# What `create_model` and `create_backbone` take besides their own arguments; each replaces a value of the row.
OVERRIDES = tuple(field.name for field in dataclasses.fields(Architecture) if field.name != "family")


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


def _arguments(variant, overrides, input_shape=()):
    """Returns the arguments of `Architecture` for a row and what replaces its values, and for an open `input_shape` padding."""
    unknown = sorted(set(overrides) - set(OVERRIDES))
    if unknown:
        raise ValueError(f"The overrides are {', '.join(OVERRIDES)}. Received: {', '.join(unknown)}.")
    arguments = {key: getattr(variant, key) for key in (*OVERRIDES, "family") if hasattr(variant, key)}
    if isinstance(input_shape, (tuple, list)) and None in input_shape:
        arguments["window_fit"] = "pad"
    depths = overrides.get("depths")
    if isinstance(depths, (tuple, list)) and len(depths) != len(variant.depths):
        # What the row has for each stage does not fit other stages.
        arguments["pretrained_window_sizes"] = None
        if isinstance(variant.window_size, tuple) and "window_size" not in overrides:
            raise ValueError(
                f"The row has a window for each of its {len(variant.depths)} stages: {variant.window_size}. "
                f"Received: depths={depths!r}. Pass `window_size` too."
            )
    return {**arguments, **overrides}


# What timm calls the data that weights were trained on.
_TAGS = {_1K: "ms_in1k", _BOTH: "ms_in22k_ft_in1k", _22K: "ms_in22k"}


def _timm_name(name):
    """Returns what timm calls the architecture of a row, whatever it was trained on; `None` if it has none."""
    if VARIANTS[name].data not in _TAGS or name.startswith("swin_mlp") or "_c24_" in name:
        return None
    name = re.sub(r"_22k(to1k(_ft|_finetune)?)?$", "", name)
    return name.replace("_patch4", "") if name.startswith("swinv2") else name


def released_tags(name):
    """Returns which weights are published for a model: what `weights` of `create_model` takes, by where it is downloaded from.

    Returns:
        `{tag: "hf://owner/name"}`, such as `{"ms_in1k": "hf://timm/swin_tiny_patch4_window7_224.ms_in1k", ...}`.

    Raises:
        ValueError: If the name is unknown.
    """
    get_variant(name)
    architecture = _timm_name(name)
    rows = [] if architecture is None else [row for other, row in VARIANTS.items() if _timm_name(other) == architecture]
    return {_TAGS[row.data]: f"hf://timm/{architecture}.{_TAGS[row.data]}" for row in rows}


def published_weights(name, weights):
    """Returns the address of a released tag of a model, and anything else as it is.

    Raises:
        ValueError: If it is a single word, but no tag of this model and no file.
    """
    if not isinstance(weights, str) or not re.fullmatch(r"[\w-]+", weights) or os.path.exists(weights):
        return weights
    tags = released_tags(name)
    if weights not in tags:
        known = f"Its tags are {', '.join(tags)}" if tags else "No weights of it are on the hub"
        raise ValueError(f"There is no file {weights!r}, and there are no weights {weights!r} of {name}. {known}.")
    return tags[weights]


def create_model(name, weights=None, input_shape=None, num_classes=None, classifier_activation=None, **overrides):
    """Builds a Swin classifier by its released name.

    Args:
        name: String. A key of `VARIANTS`, such as `"swin_tiny_patch4_window7_224"`.
        weights: `None` for random weights; the path of a checkpoint that `load_weights` reads; `"hf://owner/name"`, a
            repository of the Hugging Face hub; or a tag of `released_tags(name)`, such as `"ms_in1k"`. A head of another
            class count stays initial, and a warning says so; of ImageNet-22K's head, the classes of ImageNet-1K are taken.
        input_shape: Height, width and channels. Height and width may be any size that holds a patch, or `None`. Defaults
            to the row's image size and 3 channels.
        num_classes: Integer. Width of the head. Defaults to that of the row: 1000, or 21841 where the name ends in `_22k`.
        classifier_activation: Activation of the head. `None` returns logits.
        **overrides: Any argument of `Architecture` but `family`, in place of the row's value. `window_fit` defaults to
            `"clamp"`, or to `"pad"` where height or width is `None`.

    Returns:
        A functional `keras.Model` from normalized NHWC images to float32 `(batch, num_classes)`.

    Raises:
        ValueError: If the name or an override is unknown, an argument does not fit, or the weights do not match.
    """
    variant, weights = get_variant(name), published_weights(name, weights)
    input_shape = (variant.image_size, variant.image_size, 3) if input_shape is None else input_shape
    model = classifier(
        Architecture(**_arguments(variant, overrides, input_shape)),
        input_shape,
        variant.num_classes if num_classes is None else num_classes,
        classifier_activation,
        name=name,
    )
    if weights is not None:
        load_into_new_model(model, weights)
    return model


def create_backbone(name, weights=None, input_shape=(None, None, 3), out_stages=None, output_norm=True, return_attention=False, **overrides):
    """Builds the stages of a released Swin as a feature pyramid.

    Args:
        name: String. A key of `VARIANTS`.
        weights: As in `create_model`. The head and final norm of a checkpoint have no place here; output norms that it
            lacks stay initial.
        input_shape: Height, width and channels. Height and width may be `None`.
        out_stages: Names (`"stage2"`) or numbers from 1 of the stages to return; later ones are not built. `None`: all.
        output_norm: Boolean. Whether each output has a norm of its own, as in the official detector.
        return_attention: Boolean. Whether the attention weights of every block are outputs too, under
            `"layers_0_blocks_0_attention"` and so on: `(batch, windows, num_heads, tokens, tokens)`.
        **overrides: As in `create_model`. `window_fit` defaults to `"pad"`, as in the official detector.

    Returns:
        A `SwinBackbone`: a functional `keras.Model` from normalized NHWC images to a dictionary `{"stage1":
        (batch, ceil(height / 4), ceil(width / 4), embed_dim), ...}`, each later stage half as large and twice as wide.

    Raises:
        ValueError: If the name or an override is unknown, an argument does not fit, or the weights do not match.
    """
    weights = published_weights(name, weights)
    arguments = _arguments(get_variant(name), {"window_fit": "pad", **overrides})
    backbone = SwinBackbone(input_shape, out_stages, output_norm, return_attention, name=f"{name}_backbone", **arguments)
    if weights is not None:
        load_into_new_model(backbone, weights)
    return backbone


def create_simmim(name, input_shape=(192, 192, 3), target_norm_size=None, **overrides):
    """Builds a released Swin for masked image modelling, to be pre-trained on pictures without labels.

    Args:
        name: String. A key of `VARIANTS` of V1 or V2.
        input_shape: Height, width and channels; height and width may be `None`.
        target_norm_size: Odd integer, 47 for the official V2. `None`: targets are the pictures as they are.
        **overrides: As in `create_model`. The official runs at 192 pixels have windows of 6 in V1 and 12 in V2.

    Returns:
        A `SimMIM`. Its layers have the names that those of `create_model` have.

    Raises:
        ValueError: If the name or an override is unknown, or an argument does not fit.
    """
    return SimMIM(input_shape, target_norm_size, name=f"{name}_simmim", **_arguments(get_variant(name), overrides, input_shape))
