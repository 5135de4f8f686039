import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import preprocess

from swin_keras.preprocessing import Preprocessing


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [
        (224, 224, ("cover", (256, 256), (224, 224))),
        (256, 256, ("cover", (292, 292), (256, 256))),
        (192, 192, ("cover", (219, 219), (192, 192))),
        (384, 384, ("exact", (384, 384), (384, 384))),
        (32, 64, ("cover", (36, 73), (32, 64))),
    ],
)
def test_official_protocol_is_that_of_the_released_configurations(height, width, expected):
    settings = Preprocessing.official(height, width)
    assert (settings.mode, settings.resize, settings.crop) == expected
    assert settings.interpolation == "bicubic" and settings.mean == (0.485, 0.456, 0.406) and settings.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize("size", [(8, 8), (300, 411), (411, 300), (97, 1203), (32, 32), (33, 61)])
@pytest.mark.parametrize(
    "settings",
    [Preprocessing("exact", (32, 40), (32, 40)), Preprocessing.official(32, 32), Preprocessing("cover", (50, 41), (48, 32), "bilinear")],
    ids=lambda s: f"{s.mode}-{s.interpolation}-{s.crop}",
)
def test_device_and_training_agree_within_one_level_of_256(size, settings, rng):
    # Smooth and noisy at once: edges, flat areas and single pixels.
    noise = rng.integers(0, 256, (*size, 3))
    ramp = np.linspace(0, 255, size[1])[None, :, None]
    picture = np.where(rng.random((*size, 1)) < 0.3, noise, ramp).astype("uint8")
    training = settings.normalize(settings.pixels(picture)).numpy()
    device = preprocess(Image.fromarray(picture), settings.to_dict())[0]
    assert device.shape == training.shape == (*settings.crop, 3)
    levels = np.abs(device - training) * np.array(settings.std) * 255
    assert levels.max() < 1.01 and levels.mean() < 0.1


def test_to_dict_round_trips_through_json():
    import json

    settings = Preprocessing("cover", (50, 41), (48, 32), "bilinear", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert Preprocessing.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "squash"}, "mode='squash'"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"resize": (40,)}, r"resize=\(40,\)"),
        ({"crop": (50, 32)}, r"crop=\(50, 32\), resize=\(40, 40\)"),
        ({"crop": (0, 32)}, r"crop=\(0, 32\)"),
        ({"mean": (0.5,)}, r"mean=\(0.5,\)"),
        ({"std": (0.5, 0.0, 0.5)}, r"std=\(0.5, 0.0, 0.5\)"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**{"mode": "exact", "resize": (40, 40), "crop": (32, 32), **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"mean": (float("nan"),) * 3},
        {"mean": ("a", "b", "c")},
        {"mean": None},
        {"std": (float("inf"),) * 3},
        {"std": (1e-320,) * 3},
        {"resize": 40},
        {"resize": (40.5, 40.5)},
        {"resize": (2**15, 2**15)},
        {"crop": (True, 8)},
    ],
    ids=str,
)
def test_numbers_that_no_device_could_use_are_refused(arguments):
    (field,) = arguments
    with pytest.raises(ValueError, match=f"`{field}` must be"):
        Preprocessing(**{"mode": "exact", "resize": (40, 40), "crop": (32, 32), **arguments})


def test_numpy_numbers_become_plain_ones():
    import json

    settings = Preprocessing("exact", np.array([40, 48]), np.array([32, 32]), mean=np.array([0.5, 0.25, 0.125], "float32"))
    assert json.loads(json.dumps(settings.to_dict()))["mean"] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("values", [{}, [], None, {"mode": "exact"}, {"colour": 1}])
def test_from_dict_refuses_other_keys(values):
    with pytest.raises(ValueError, match="must be a dictionary with the keys"):
        Preprocessing.from_dict(values)
