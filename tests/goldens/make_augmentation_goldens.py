"""Makes augmentation.npz from timm and torchvision. README.md says in which environment.

Pillow has to be older than 13, which refuses to keep no bit of a pixel: timm's strongest `PosterizeIncreasing` fails there.
"""

import json
import random

import numpy as np
import torch
from make_goldens import HERE, declare_torchvision_operators
from PIL import Image

DRAWS = 20000
MAGNITUDES = (2.7, 9.0, 10.0)
RAND_AUGMENTS = ("rand-m9-mstd0.5-inc1", "rand-m6-n3-mstd101-inc0", "rand-m11-mstd2-mmax12")
CROPS = ((500, 375), (96, 411), (700, 40), (31, 560))
HEIGHT, WIDTH = 26, 41
MIXES = ((0.8, 1.0, 1.0, 0.3), (0.2, 0.0, 0.7, 0.5), (0.0, 1.0, 0.6, 0.5))


def moments(columns):
    return np.array([[np.mean(column), np.std(column)] for column in columns])


def official_transform(text, size=(19, 29)):
    """What data/build.py of the official code asks timm for."""
    import timm.data

    erasing = {"re_prob": 0.25, "re_mode": "pixel", "re_count": 1}
    return timm.data.create_transform(
        input_size=(3, *size), is_training=True, color_jitter=0.4, auto_augment=text, interpolation="bicubic", **erasing
    ).transforms


def our_name(operation):
    return operation.name.removesuffix("Increasing").removesuffix("Rel")


def operations(picture):
    import timm.data.auto_augment as auto_augment

    cases, changed = [], []
    for increasing in (True, False):
        for operation in official_transform(f"rand-m9-inc{int(increasing)}")[2].ops:
            for magnitude in MAGNITUDES:
                for sign in (1, -1):
                    auto_augment._randomly_negate = lambda value, sign=sign: value * sign
                    operation.prob, operation.magnitude = 1.0, magnitude
                    result = np.asarray(operation(picture))
                    # What depends on neither sign nor magnitude is kept once.
                    if not any(case[0] == our_name(operation) and np.array_equal(result, other) for case, other in zip(cases, changed, strict=True)):
                        cases.append([our_name(operation), increasing, magnitude, sign])
                        changed.append(result)
    return {"cases": json.dumps(cases), "changed": np.stack(changed)}


def rand_augment(text):
    """How often each operation is applied in a draw, and the magnitudes of those that have one."""
    transform, applied, magnitudes = official_transform(text)[2], [], []
    names = [our_name(operation) for operation in transform.ops]
    for name, operation in zip(names, transform.ops, strict=True):
        operation.aug_fn = lambda picture, *arguments, name=name, **named: applied.append(name)
        if operation.level_fn is not None:
            operation.level_fn = lambda magnitude, _: magnitudes.append(magnitude) or ()
    for _ in range(DRAWS):
        transform(None)
    return {
        "names": json.dumps(names),
        "shares": [applied.count(name) / DRAWS for name in names],
        "magnitudes": moments([magnitudes, np.greater_equal(magnitudes, 10)]),
        "limit": max(magnitudes),
    }


def describe(top, left, down, across, height, width):
    """Area, ratio and place of boxes; where there is but one place, that is in the middle."""
    place = [np.where(room > 0, start / np.maximum(room, 1), 0.5) for start, room in ((top, height - down), (left, width - across))]
    return [down * across / (height * width), np.log(across / down), *place]


def crops(width, height):
    from torchvision.transforms import RandomResizedCrop

    picture = Image.new("RGB", (width, height))
    boxes = np.array([RandomResizedCrop.get_params(picture, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(DRAWS)])
    return moments(describe(*boxes.T, height, width))


def erasing():
    from timm.data.random_erasing import RandomErasing

    erase, boxes = RandomErasing(0.25, mode="pixel", device="cpu"), []
    for _ in range(DRAWS):
        rows, columns = np.nonzero(erase(torch.zeros(3, HEIGHT, WIDTH))[0].numpy())
        if len(rows):
            boxes.append([rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1])
    return {"share": len(boxes) / DRAWS, "boxes": moments(describe(*np.array(boxes).T, HEIGHT, WIDTH))}


def mixing(mixup, cutmix, probability, switch):
    """Shares of batches that are mixed evenly and in a box; what is kept of each picture; area, ratio and place of the boxes."""
    from timm.data import Mixup

    mix = Mixup(mixup, cutmix, prob=probability, switch_prob=switch, label_smoothing=0.0, num_classes=2)
    evenly, in_box, boxes = [], [], []
    for _ in range(DRAWS):
        pixels, targets = mix(torch.stack([torch.zeros(1, HEIGHT, WIDTH), torch.ones(1, HEIGHT, WIDTH)]), torch.tensor([0, 1]))
        rows, columns = np.nonzero(pixels[0, 0].numpy())
        # A box never is the whole picture.
        if len(rows) == HEIGHT * WIDTH:
            evenly.append(float(targets[0, 0]))
        elif len(rows):
            in_box.append(float(targets[0, 0]))
            boxes.append([rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1])
    found = {"shares": [len(evenly) / DRAWS, len(in_box) / DRAWS]}
    if evenly:
        found["evenly"] = moments([evenly, np.abs(np.array(evenly) - 0.5)])
    if in_box:
        found["in_box"] = moments([in_box, *describe(*np.array(boxes).T, HEIGHT, WIDTH)])
    return found


def smoothed_loss(rng):
    from timm.data.mixup import mixup_target
    from timm.loss import SoftTargetCrossEntropy

    classes, logits = np.array([4, 0, 6, 4, 2, 1]), rng.standard_normal((6, 7)).astype("float32")
    targets = mixup_target(torch.tensor(classes), 7, lam=0.3, smoothing=0.1)
    return {"classes": classes, "logits": logits, "loss": float(SoftTargetCrossEntropy()(torch.tensor(logits), targets))}


def main():
    declare_torchvision_operators()
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    # Colours that hang together, of narrow range, so that contrast has something to do; and some noise.
    coarse = Image.fromarray(rng.integers(40, 200, (4, 5, 3), "uint8")).resize((29, 19), Image.Resampling.BICUBIC)
    picture = Image.fromarray(np.asarray(coarse) + rng.integers(0, 30, (19, 29, 3), "uint8"))
    goldens = {"picture": np.asarray(picture), **operations(picture)}
    # Too wide for any crop of nine tenths of its area: always the same one.
    long = Image.fromarray(rng.integers(0, 256, (13, 71, 3), "uint8"))
    crop = official_transform("rand-m9-inc1", size=(22, 17))[0]
    crop.scale = (0.9, 1.0)
    goldens |= {"long": np.asarray(long), "cropped": np.asarray(crop(long))}
    for text in RAND_AUGMENTS:
        goldens |= {f"{text}/{key}": value for key, value in rand_augment(text).items()}
    for width, height in CROPS:
        goldens[f"crop/{width}x{height}"] = crops(width, height)
    goldens |= {f"erasing/{key}": value for key, value in erasing().items()}
    for setting in MIXES:
        goldens |= {f"mix/{json.dumps(setting)}/{key}": value for key, value in mixing(*setting).items()}
    np.savez_compressed(HERE / "augmentation.npz", **goldens, **smoothed_loss(rng))


if __name__ == "__main__":
    main()
