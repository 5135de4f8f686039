"""What the checks against the original libraries share: sizes, pictures and the bound.

`make test-reference` runs the files `check_*.py`; plain `pytest` does not collect files of that name.
"""

import numpy as np
import torch
from conftest import array, randomize
from goldens.make_goldens import declare_torchvision_operators

import swin_keras

# Once, and before timm or transformers import torchvision.
declare_torchvision_operators()

V1, V2, MLP = "swin_tiny_patch4_window7_224", "swinv2_tiny_patch4_window8_256", "swin_mlp_tiny_c24_patch4_window8_256"
CLASSES = 7
# Windows divide every grid, and a grid that is no larger than its window is square or does not shift: elsewhere the
# libraries differ in padding and in shifts, which the goldens hold. The first is not square; the last grid of the second
# is its window, that of the third is smaller.
WIDE = (48, 96), {"embed_dim": 8, "depths": (2, 3, 1), "num_heads": (1, 2, 4), "window_size": 3}
SQUARE = (64, 64), {"embed_dim": 12, "depths": (1, 3, 2), "num_heads": (2, 3, 6), "window_size": 4}
CLAMPED = (32, 32), {**SQUARE[1], "depths": (2, 1, 3)}


def with_options(case, **options):
    return case[0], {**case[1], **options}


def fill(model, scale=0.2):
    """Gives every weight of a model a random value. V2's logit scales come out near 1, far below their limit of 100."""
    return randomize(model, seed=1, scale=scale)


def classifier(name, size, options, num_classes=CLASSES, **kwargs):
    return fill(swin_keras.create_model(name, input_shape=(*size, 3), num_classes=num_classes, **options), **kwargs)


def pictures(size):
    return np.random.default_rng(0).standard_normal((2, *size, 3)).astype("float32")


def masks(size):
    return (np.random.default_rng(1).random((2, *(side // 4 for side in size))) < 0.6).astype("float32")


def channels_first(x):
    return torch.from_numpy(np.ascontiguousarray(np.moveaxis(x, -1, 1)))


def channels_last(x):
    return x.movedim(1, -1)


def assert_close(ours, theirs):
    ours, theirs = array(ours), theirs.detach().numpy()
    assert ours.shape == theirs.shape
    largest = np.abs(theirs).max()
    difference = np.abs(ours - theirs).max()
    print(f"largest value {largest:.3g}, largest difference {difference:.2g}")
    assert difference <= 1e-4 * max(1, largest)
    assert np.abs(theirs - theirs.mean(axis=0)).max() > 1e-2 * largest, "the output hardly depends on the picture"
