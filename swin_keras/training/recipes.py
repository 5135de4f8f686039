"""How to train, as data: each recipe says where it comes from, how to run it and what to expect.

The official files are those of https://github.com/microsoft/Swin-Transformer. Its accuracies are on ImageNet, published for
many GPUs, and were not measured again here.
"""

import dataclasses
import numbers
import typing

from swin_keras.training.augmentation import parse_rand_augment

TASKS = ("classification", "simmim")
SCHEDULES = ("cosine", "multistep")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
INTERPOLATIONS = ("bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything about a run but the data, the model and the seed.

    Attributes:
        name: String.
        epochs: Integer.
        batch_size: Integer. Pictures of a step, over all devices together.
        learning_rate: Float. Highest value, reached after the warm-up.
        warmup_learning_rate: Float. Where the warm-up begins, in a straight line.
        min_learning_rate: Float. Where the cosine ends.
        learning_rate_batch: Integer. The three above are for so many pictures a step, and are multiplied by `batch_size *
            accumulation_steps` over it. `None`: they are what they are.
        warmup_epochs: Integer. At most half of the epochs are taken.
        schedule: `"cosine"`, or `"multistep"`: times `milestone_factor` after each of the epochs `milestones`.
        milestones: Integers.
        milestone_factor: Float.
        weight_decay: Float. Decoupled; not applied to biases, norms, position tables and, in V2, `cpb_mlp` and `logit_scale`.
        clip_norm: Float. Largest global norm of the gradients; `None`: any.
        label_smoothing: Float.
        layer_decay: Float. The head learns at the full rate, each block below at this times the rate of the one above.
            `None`: all alike.
        ema_momentum: Float. Validation, model.keras and final.keras then take the moving average of the weights.
        accumulation_steps: Integer. Steps whose gradients are averaged for one update of the weights.
        drop_path_rate: Float. `None`: the variant's.
        frozen_stages: Integer. Patch embedding and so many stages keep their weights. `None`: all learn.
        image_size: Integer. Side of the input. `None`: the variant's.
        window_size: Integer. In tokens. `None`: the variant's.
        precision: `"float32"`, `"mixed_bfloat16"` or `"mixed_float16"`.
        jit_compile: Boolean. Whether XLA compiles the step.
        gradient_checkpointing: Boolean. Less memory, a longer step.
        crop_scale: Two floats. A random part of the picture of this share of its area becomes the input. `None`: the whole
            picture, prepared as for evaluation.
        crop_ratio: Two floats. Width over height of that part.
        interpolation: `"bicubic"` or `"bilinear"`, of that part's resize.
        flip: Float. Probability of a mirror image.
        rand_augment: String, as timm writes it. `None`: none.
        affine: Dictionary of arguments of `augmentation.random_affine`. `None`: none.
        erasing: Float. Probability that noise covers a rectangle.
        mixup: Float. Alpha; 0: none.
        cutmix: Float. Alpha; 0: none.
        mix_probability: Float. Of a batch to be mixed.
        mix_switch: Float. Probability of CutMix where both are on.
        task: `"classification"`, or `"simmim"`: pictures are painted where a mask hides them, and no labels are used.
        mask_patch_size: Integer. Side in pixels of what the mask hides.
        mask_ratio: Float. Share of the picture that it hides.

    Raises:
        ValueError: If a value is out of its range.
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    warmup_learning_rate: float = 0.0
    min_learning_rate: float = 0.0
    learning_rate_batch: int | None = None
    warmup_epochs: int = 0
    schedule: str = "cosine"
    milestones: tuple = ()
    milestone_factor: float = 0.1
    weight_decay: float = 0.05
    clip_norm: float | None = 5.0
    label_smoothing: float = 0.0
    layer_decay: float | None = None
    ema_momentum: float | None = None
    accumulation_steps: int = 1
    drop_path_rate: float | None = None
    frozen_stages: int | None = None
    image_size: int | None = None
    window_size: int | None = None
    precision: str = "float32"
    jit_compile: bool = False
    gradient_checkpointing: bool = False
    crop_scale: tuple | None = None
    crop_ratio: tuple = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    flip: float = 0.0
    rand_augment: str | None = None
    affine: dict | None = None
    erasing: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_probability: float = 1.0
    mix_switch: float = 0.5
    task: str = "classification"
    mask_patch_size: int = 32
    mask_ratio: float = 0.6

    def __post_init__(self):
        if not isinstance(self.name, str):
            raise ValueError(f"`name` must be a string. Received: name={self.name!r}.")
        for name, (low, high) in _WHOLE.items():
            self._check(name, isinstance(getattr(self, name), numbers.Integral), low, high, "a whole number")
        for name, (low, high) in _REAL.items():
            self._check(name, isinstance(getattr(self, name), numbers.Real), low, high, "a number")
        for name, choices in [("task", TASKS), ("schedule", SCHEDULES), ("precision", PRECISIONS), ("interpolation", INTERPOLATIONS)]:
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {name}={getattr(self, name)!r}.")
        for name in ("jit_compile", "gradient_checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"`{name}` must be True or False. Received: {name}={getattr(self, name)!r}.")
        for name, high in [("crop_scale", 1), ("crop_ratio", 100)]:
            pair = getattr(self, name)
            if pair is None and name == "crop_scale":
                continue
            if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(map(_is_number, pair)) or not 0 < pair[0] <= pair[1] <= high:
                raise ValueError(f"`{name}` must be two numbers above 0 and up to {high}, the smaller first. Received: {name}={pair!r}.")
            object.__setattr__(self, name, tuple(map(float, pair)))
        if not isinstance(self.milestones, (tuple, list)) or not all(isinstance(m, numbers.Integral) and m > 0 for m in self.milestones):
            raise ValueError(f"`milestones` must be whole numbers of epochs. Received: milestones={self.milestones!r}.")
        object.__setattr__(self, "milestones", tuple(map(int, self.milestones)))
        if self.affine is not None:
            known = isinstance(self.affine, dict) and not set(self.affine) - set(_AFFINE)
            if not known or not all(_is_number(value) and 0 <= value <= _AFFINE[key] for key, value in self.affine.items()):
                limits = ", ".join(f"{key} up to {high}" for key, high in _AFFINE.items())
                raise ValueError(f"`affine` must be a dictionary of numbers, {limits}, or None. Received: affine={self.affine!r}.")
            object.__setattr__(self, "affine", {key: float(value) for key, value in self.affine.items()})
        if self.rand_augment is not None:
            parse_rand_augment(self.rand_augment)
        if self.crop_scale is None and (self.flip or self.rand_augment):
            raise ValueError(
                "`flip` and `rand_augment` belong to the crops of `crop_scale`. "
                f"Received: crop_scale=None, flip={self.flip}, rand_augment={self.rand_augment!r}. Set crop_scale too, or leave them off."
            )
        if self.batch_size % 2 and self.mixes:
            raise ValueError(f"`batch_size` must be even for mixup and cutmix, which take pairs. Received: batch_size={self.batch_size}.")

    def _check(self, name, right_type, low, high, what):
        value = getattr(self, name)
        if value is None and name in _MAY_BE_NONE:
            return
        if isinstance(value, bool) or not right_type or not low <= value <= high:
            raise ValueError(f"`{name}` must be {what} from {low:,} to {high:,}. Received: {name}={value!r}.")
        object.__setattr__(self, name, int(value) if what == "a whole number" else float(value))

    @property
    def mixes(self):
        """Boolean. Whether pictures of a batch are mixed."""
        return bool((self.mixup or self.cutmix) and self.mix_probability)


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


# Degrees, degrees and fractions.
_AFFINE = {"rotation": 180, "shear": 80, "zoom": 0.9, "shift": 1}

# Checkpoints are numbered with five digits.
_WHOLE = {
    "epochs": (1, 99_999),
    "batch_size": (1, 99_999),
    "learning_rate_batch": (1, 99_999),
    "warmup_epochs": (0, 99_999),
    "accumulation_steps": (1, 9_999),
    "frozen_stages": (0, 99),
    "image_size": (1, 2**14),
    "window_size": (1, 2**14),
    "mask_patch_size": (1, 2**14),
}
_REAL = {
    "learning_rate": (0, 10),
    "warmup_learning_rate": (0, 10),
    "min_learning_rate": (0, 10),
    "milestone_factor": (0, 1),
    "weight_decay": (0, 10),
    "clip_norm": (1e-6, 1e6),
    "label_smoothing": (0, 0.99),
    "layer_decay": (1e-3, 1),
    "ema_momentum": (0, 0.999999),
    "drop_path_rate": (0, 0.99),
    "flip": (0, 1),
    "erasing": (0, 1),
    "mixup": (0, 100),
    "cutmix": (0, 100),
    "mix_probability": (0, 1),
    "mix_switch": (0, 1),
    "mask_ratio": (0.01, 0.99),
}
_MAY_BE_NONE = {field.name for field in dataclasses.fields(Recipe) if type(None) in typing.get_args(field.type)}

# config.py and data/build.py: what all official classifiers share.
_IMAGENET = {
    "learning_rate_batch": 512,
    "clip_norm": 5.0,
    "label_smoothing": 0.1,
    "crop_scale": (0.08, 1.0),
    "flip": 0.5,
    "rand_augment": "rand-m9-mstd0.5-inc1",
    "erasing": 0.25,
    "mixup": 0.8,
    "cutmix": 1.0,
}

_ALL = [
    # The paper's appendix A2.1, changed for a thousand small pictures: AdamW, linear warm-up, cosine, clipping at 5 and
    # smoothing 0.1 as there; a small batch, a higher learning rate and ten times the weight decay; and small turns, slants
    # and shifts, which leave a digit the same digit, for crops and flips, which do not. Picked from some ten settings by
    # the digits' validation loss and errors, with the test errors in view too: a set of its own would score a little lower.
    # XLA shortens the step by a third on a CPU for a model of this size.
    #   swin-keras train --data digits --variant swin_nano_patch4_window4_32 --recipe small --workdir run
    # README.md has the accuracies it reached and what they cost.
    Recipe(
        "small",
        epochs=100,
        batch_size=64,
        learning_rate=4e-3,
        min_learning_rate=4e-5,
        warmup_epochs=5,
        weight_decay=0.5,
        label_smoothing=0.1,
        affine={"rotation": 10.0, "shear": 7.0, "zoom": 0.07, "shift": 0.07},
        jit_compile=True,
    ),
    # ImageNet-1K from nothing: section 4.1 and appendix A2.1 of the paper; config.py with configs/swin/*.yaml. The official
    # code trains in half precision; here that is `--set precision=mixed_float16`, or mixed_bfloat16 where the device has it.
    #   swin-keras train --data tfds:imagenet2012 --variant swin_tiny_patch4_window7_224 --recipe imagenet_300 --workdir run
    # Published: Swin-T 81.2, Swin-S 83.2, Swin-B 83.5 % top-1; V2 at 256 with windows of 16: 82.8, 84.1, 84.6.
    Recipe(
        "imagenet_300",
        epochs=300,
        batch_size=1024,
        learning_rate=5e-4,
        warmup_learning_rate=5e-7,
        min_learning_rate=5e-6,
        warmup_epochs=20,
        **_IMAGENET,
    ),
    # ImageNet-1K from weights of another size or of 22K: configs/swin/swin_*_22kto1k_finetune.yaml and *_384_finetune.yaml.
    #   swin-keras train --data tfds:imagenet2012 --variant swin_base_patch4_window12_384 --weights ms_in22k --recipe finetune_30 --workdir run
    # Published, from ImageNet-22K: Swin-T 80.9, Swin-S 83.2, Swin-B 85.2 (384: 86.4), Swin-L 86.3 (384: 87.3) % top-1.
    Recipe(
        "finetune_30",
        epochs=30,
        batch_size=1024,
        learning_rate=2e-5,
        warmup_learning_rate=2e-8,
        min_learning_rate=2e-7,
        warmup_epochs=5,
        weight_decay=1e-8,
        **_IMAGENET,
    ),
    # Pictures of one's own, hundreds to some ten thousand, from published weights: `finetune_30` takes so small steps that a new
    # head learns nothing in as few of them. A higher rate whatever the batch, milder crops, no mixing. Not calibrated on
    # published weights, which could not be had where this was written; tests/training/test_fine_tuning.py holds what it does.
    #   swin-keras train --data folder:flowers --variant swin_tiny_patch4_window7_224 --weights ms_in1k --recipe finetune_small --workdir run
    Recipe(
        "finetune_small",
        epochs=20,
        batch_size=32,
        learning_rate=1e-4,
        warmup_epochs=1,
        label_smoothing=0.1,
        drop_path_rate=0.1,
        crop_scale=(0.5, 1.0),
        flip=0.5,
    ),
    # ImageNet-22K from nothing: configs/swin/swin_*_22k.yaml; V2 with `--set weight_decay=0.1`.
    #   swin-keras train --data folder:imagenet22k --variant swin_base_patch4_window7_224_22k --recipe imagenet22k_90 --workdir run
    # Its measure is what `finetune_30` reaches from it.
    Recipe(
        "imagenet22k_90",
        epochs=90,
        batch_size=4096,
        learning_rate=1.25e-4,
        warmup_learning_rate=1.25e-7,
        min_learning_rate=1.25e-6,
        warmup_epochs=5,
        **_IMAGENET,
    ),
    # Masked image modelling: Xie et al., 2022; configs/simmim/simmim_pretrain__swin_base__img192_window6__800ep.yaml. V2, with
    # windows twice as large and targets normalized by their neighbourhood, has drop path 0.1: `--set drop_path_rate=0.1`.
    #   swin-keras train --data tfds:imagenet2012 --variant swin_base_patch4_window7_224 --recipe simmim_pretrain --workdir run
    # Published: what `simmim_finetune` reaches from it.
    Recipe(
        "simmim_pretrain",
        task="simmim",
        epochs=800,
        batch_size=2048,
        learning_rate=1e-4,
        warmup_learning_rate=5e-7,
        learning_rate_batch=512,
        warmup_epochs=10,
        schedule="multistep",
        milestones=(700,),
        drop_path_rate=0.0,
        image_size=192,
        crop_scale=(0.67, 1.0),
        interpolation="bilinear",
        flip=0.5,
    ),
    # From SimMIM's weights: configs/simmim/simmim_finetune__swin_base__img224_window7__800ep.yaml; V2 has layer decay 0.75.
    #   swin-keras train --data tfds:imagenet2012 --variant swin_base_patch4_window7_224 --weights run/final.keras \
    #     --recipe simmim_finetune --workdir tuned
    # Published: Swin-B 84.0 % top-1 after 800 epochs of pre-training.
    Recipe(
        "simmim_finetune",
        epochs=100,
        batch_size=2048,
        learning_rate=1.25e-3,
        warmup_learning_rate=2.5e-7,
        min_learning_rate=2.5e-7,
        warmup_epochs=20,
        layer_decay=0.8,
        drop_path_rate=0.1,
        **_IMAGENET,
    ),
]
RECIPES = {recipe.name: recipe for recipe in _ALL}
