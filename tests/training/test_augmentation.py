"""Augmentation against timm and torchvision: pictures they made, and moments of many of their draws."""

import concurrent.futures
import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf
from conftest import GOLDENS
from PIL import Image

from swin_keras.training.augmentation import augment_picture, mix, random_crop_box, random_erase
from swin_keras.training.rand_augment import OPERATIONS, RandAugment, parse_rand_augment
from swin_keras.training.recipes import RECIPES

RECIPE = RECIPES["imagenet_300"]
GOLDEN = dict(np.load(GOLDENS / "augmentation.npz"))
CASES = json.loads(str(GOLDEN["cases"]))
# As in make_augmentation_goldens.py.
GOLDEN_DRAWS, HEIGHT, WIDTH = 20000, 26, 41


def assert_moments(columns, golden, golden_share=1.0):
    """Means and standard deviations of two samples differ by no more than chance: once in 150,000 columns."""
    for column, (mean, std) in zip(columns, golden, strict=True):
        bound = 4.5 * std * np.sqrt(1 / len(column) + 1 / (GOLDEN_DRAWS * golden_share)) + 1e-6
        assert abs(np.mean(column) - mean) < bound and abs(np.std(column) - std) < bound


def assert_share(found, draws, golden):
    assert abs(found - golden) < 4.5 * np.sqrt(golden * (1 - golden) * (1 / draws + 1 / GOLDEN_DRAWS)) + 1e-6


def describe(top, left, down, across, height, width):
    """Area, ratio and place of boxes, as in make_augmentation_goldens.py."""
    place = [np.where(room > 0, start / np.maximum(room, 1), 0.5) for start, room in ((top, height - down), (left, width - across))]
    return [down * across / (height * width), np.log(across / down), *place]


def box_of(changed):
    """Top, left, height and width of where a picture changed, which is a full rectangle."""
    rows, columns = np.nonzero(changed)
    top, left, down, across = rows.min(), columns.min(), np.ptp(rows) + 1, np.ptp(columns) + 1
    assert len(rows) == down * across
    return top, left, down, across


def erase(*arguments):
    return tf.function(random_erase)(*arguments)


def recipe(**values):
    return dataclasses.replace(RECIPE, **{"flip": 0.0, "rand_augment": None, **values})


def seeds(count, first=0):
    return np.stack([np.full(count, 3), first + np.arange(count)], axis=1)


@pytest.mark.parametrize("index", range(len(CASES)), ids=lambda index: "-".join(map(str, CASES[index])))
def test_an_operation_makes_the_picture_that_timm_makes(index):
    name, increasing, magnitude, sign = CASES[index]
    changed = RandAugment(inc=increasing).apply(Image.fromarray(GOLDEN["picture"]), name, magnitude, sign)
    np.testing.assert_array_equal(np.asarray(changed), GOLDEN["changed"][index])


def test_every_operation_of_timm_is_there_and_no_other():
    assert list(OPERATIONS) == json.loads(str(GOLDEN["rand-m9-mstd0.5-inc1/names"]))
    assert {name for name, *_ in CASES} == set(OPERATIONS)


@pytest.mark.parametrize("text", ["rand-m9-mstd0.5-inc1", "rand-m6-n3-mstd101-inc0", "rand-m11-mstd2-mmax12"])
def test_operations_and_magnitudes_are_drawn_as_timm_draws_them(text, rng):
    augment, draws = parse_rand_augment(text), 8000
    drawn = [one for _ in range(draws) for one in augment.draw(rng)]
    for name, share in zip(OPERATIONS, GOLDEN[f"{text}/shares"], strict=True):
        # An operation can come more than once: counts spread like a Poisson's.
        found = sum(one[0] == name for one in drawn) / draws
        assert abs(found - share) < 4.5 * np.sqrt(share / draws + share / GOLDEN_DRAWS)
    magnitudes, limit = np.array([one[1] for one in drawn]), GOLDEN[f"{text}/limit"]
    assert magnitudes.max() == pytest.approx(limit, abs=2e-3)
    assert_moments([magnitudes, magnitudes >= 10], GOLDEN[f"{text}/magnitudes"])
    assert_share(np.mean([one[2] == 1 for one in drawn]), len(drawn), 0.5)
    assert {one[2] for one in drawn} == {-1, 1}


@pytest.mark.parametrize(
    "text", ["m9", "rand-m9.5", "rand-m9-p0.3", "rand-m9-w0", "rand-m9-tweights", "rand-m9-m8", "rand-n0", "rand-m9-inc2", "rand-", "rand-mstdinf", 9]
)
def test_a_rand_augment_of_another_form_is_refused(text):
    with pytest.raises(ValueError, match=f"`rand_augment` must be 'rand' and then.*Received: rand_augment={text!r}"):
        parse_rand_augment(text)


def test_a_rand_augment_without_numbers_has_those_of_timm():
    assert parse_rand_augment("rand") == RandAugment(m=10, n=2, mstd=0.0, mmax=10, inc=False)


@pytest.mark.parametrize(("width", "height"), [(500, 375), (96, 411), (700, 40), (31, 560)])
def test_crops_are_drawn_as_torchvision_draws_them(width, height, rng):
    boxes = np.array([random_crop_box(width, height, (0.08, 1.0), (3 / 4, 4 / 3), rng) for _ in range(6000)])
    left, top, right, bottom = boxes.T
    assert boxes.min() >= 0 and right.max() <= width and bottom.max() <= height
    assert_moments(describe(top, left, bottom - top, right - left, height, width), GOLDEN[f"crop/{width}x{height}"])


def test_a_crop_is_resized_and_flipped_as_in_timm(rng):
    long = Image.fromarray(GOLDEN["long"])
    cropped = augment_picture(long, (22, 17), recipe(crop_scale=(0.9, 1.0)), rng)
    assert cropped.dtype == np.uint8
    np.testing.assert_array_equal(cropped, GOLDEN["cropped"])
    np.testing.assert_array_equal(augment_picture(long, (22, 17), recipe(crop_scale=(0.9, 1.0), flip=1.0), rng), cropped[:, ::-1])
    flips = [augment_picture(long, (22, 17), recipe(crop_scale=(0.9, 1.0), flip=0.3), rng)[0, 0, 0] != cropped[0, 0, 0] for _ in range(600)]
    assert abs(np.mean(flips) - 0.3) < 4.5 * np.sqrt(0.3 * 0.7 / 600)


def test_a_picture_is_cropped_then_flipped_then_changed_by_the_recipe_alone():
    picture = Image.fromarray(GOLDEN["picture"])
    rng, expected = np.random.default_rng(8), np.random.default_rng(8)
    changed = augment_picture(picture, (12, 17), recipe(flip=1.0, rand_augment="rand-m6-n9-mstd1", interpolation="bilinear"), rng)
    by_hand = picture.crop(random_crop_box(29, 19, (0.08, 1.0), (3 / 4, 4 / 3), expected)).resize((17, 12), Image.Resampling.BILINEAR)
    expected.random()
    by_hand = by_hand.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    augment = RandAugment(m=6, n=9, mstd=1.0)
    for drawn in augment.draw(expected):
        by_hand = augment.apply(by_hand, *drawn, Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(changed, np.asarray(by_hand))


def test_without_a_crop_the_picture_keeps_its_size(rng):
    uncropped = recipe(crop_scale=None)
    np.testing.assert_array_equal(augment_picture(Image.fromarray(GOLDEN["picture"]), (19, 29), uncropped, rng), GOLDEN["picture"])


def test_a_seed_gives_one_picture_in_any_order_and_thread():
    picture = Image.fromarray(GOLDEN["picture"])

    def augment(number):
        return augment_picture(picture, (12, 17), RECIPE, np.random.default_rng((5, number)))

    once = [augment(number) for number in range(60)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        again = list(pool.map(augment, reversed(range(60))))
    np.testing.assert_array_equal(once, again[::-1])
    assert len({pixels.tobytes() for pixels in once}) == 60


def test_erasing_covers_boxes_as_timm_draws_them():
    erased = erase(np.zeros((3000, HEIGHT, WIDTH, 3), "float32"), seeds(3000), 1.0).numpy()
    boxes = np.array([box_of(picture[..., 0]) for picture in erased])
    described = describe(*boxes.T, HEIGHT, WIDTH)
    assert_moments(described, GOLDEN["erasing/boxes"], GOLDEN["erasing/share"])
    # From 0.02 to 1/3 before sides become whole.
    assert 0.014 < described[0].min() < 0.02 and 0.325 < described[0].max() < 0.345
    # Independent normal noise, in each pixel and channel.
    noise = erased[erased[..., 0] != 0].astype("float64")
    bound = 4.5 / np.sqrt(len(noise))
    assert np.abs(noise.mean(0)).max() < bound and np.abs(noise.std(0) - 1).max() < bound
    assert np.abs(np.mean(noise[1:] * noise[:-1], axis=0)).max() < bound
    assert np.abs(np.corrcoef(noise.T) - np.eye(3)).max() < bound


def test_erasing_changes_its_share_of_pictures_and_nothing_else_of_them(rng):
    pixels = rng.standard_normal((3000, 7, 9, 2)).astype("float32")
    erased = erase(pixels, seeds(3000), 0.25).numpy()
    changed = (erased != pixels).all(-1)
    np.testing.assert_array_equal((erased != pixels).any(-1), changed)
    assert_share(changed.any((1, 2)).mean(), 3000, 0.25)
    for picture in changed[changed.any((1, 2))]:
        box_of(picture)
    np.testing.assert_array_equal(erase(pixels[:4], seeds(4), 0.0), pixels[:4])


def test_erasing_depends_on_the_seed_of_the_picture_alone():
    pixels = tf.zeros((12, 14, 15, 3))
    whole = erase(pixels, seeds(12), 0.8)
    chosen = np.array([7, 2, 11])
    np.testing.assert_array_equal(erase(pixels[:3], seeds(12)[chosen], 0.8), tf.gather(whole, chosen))
    batches = tf.data.Dataset.from_tensor_slices((pixels, seeds(12))).batch(5)
    batches = batches.map(lambda pixels, seeds: random_erase(pixels, seeds, 0.8), num_parallel_calls=3)
    np.testing.assert_array_equal(np.concatenate(list(batches.as_numpy_iterator())), whole)
    assert len({picture.numpy().tobytes() for picture in whole}) > 6


@pytest.mark.parametrize("setting", [[0.8, 1.0, 1.0, 0.3], [0.2, 0.0, 0.7, 0.5], [0.0, 1.0, 0.6, 0.5]])
def test_mixing_draws_shares_and_boxes_as_timm_does(setting):
    draws, pixels, targets = 2500, tf.stack([tf.zeros((HEIGHT, WIDTH, 1)), tf.ones((HEIGHT, WIDTH, 1))]), tf.eye(2)
    batches = tf.data.Dataset.from_tensor_slices(seeds(draws)).map(lambda seed: mix(pixels, targets, seed, *setting), num_parallel_calls=2)
    mixed = next(iter(batches.batch(draws)))
    gone, share = mixed[0].numpy()[:, 0, ..., 0], mixed[1].numpy()[:, 0, 0]
    evenly = gone.all((1, 2))
    in_box = ~evenly & gone.any((1, 2))
    np.testing.assert_allclose(share, 1 - gone.mean((1, 2)), atol=1e-6)
    golden = {key.split("/")[2]: value for key, value in GOLDEN.items() if key.startswith(f"mix/{json.dumps(setting)}/")}
    for found, expected in zip((evenly, in_box), golden["shares"], strict=True):
        assert_share(found.mean(), draws, expected)
    if "evenly" in golden:
        assert_moments([share[evenly], np.abs(share[evenly] - 0.5)], golden["evenly"], golden["shares"][0])
    if "in_box" in golden:
        boxes = np.array([box_of(picture) for picture in gone[in_box]])
        assert_moments([share[in_box], *describe(*boxes.T, HEIGHT, WIDTH)], golden["in_box"], golden["shares"][1])


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_pictures_and_targets_are_mixed_by_one_share_with_the_reversed_batch(mixup, cutmix, rng):
    pixels, targets = rng.standard_normal((6, 11, 7, 3)).astype("float32"), np.eye(5, dtype="float32")[[4, 0, 3, 2, 1, 0]]
    for number in range(20):
        mixed, mixed_targets = (tensor.numpy() for tensor in mix(pixels, targets, (9, number), mixup, cutmix))
        share = mixed_targets[0, 4]
        np.testing.assert_allclose(mixed_targets, share * targets + (1 - share) * targets[::-1], atol=1e-6)
        if mixup:
            np.testing.assert_allclose(mixed, share * pixels + (1 - share) * pixels[::-1], atol=1e-5)
        else:
            inside = (mixed != pixels).any((0, 3))
            assert share == pytest.approx(1 - inside.mean(), abs=1e-6)
            np.testing.assert_array_equal(mixed, np.where(inside[..., None], pixels[::-1], pixels))


def test_without_alphas_or_luck_nothing_is_mixed(rng):
    pixels, targets = rng.standard_normal((4, 5, 6, 3)).astype("float32"), np.eye(4, dtype="float32")
    for alphas in [(0.0, 0.0), (0.8, 1.0, 0.0)]:
        mixed = mix(pixels, targets, (1, 2), *alphas)
        np.testing.assert_array_equal(mixed[0], pixels)
        np.testing.assert_array_equal(mixed[1], targets)


def test_rows_that_hold_their_partners_are_mixed_as_in_the_whole_batch(rng):
    pixels, targets = rng.standard_normal((8, 9, 7, 3)).astype("float32"), np.eye(8, dtype="float32")

    def mixed(rows):
        batches = tf.data.Dataset.from_tensor_slices(seeds(12)).map(lambda seed: mix(pixels[rows], targets[rows], seed, 0.8, 1.0), 2)
        return next(iter(batches.batch(12).as_numpy_iterator()))

    whole = mixed(np.arange(8))
    for rows in ([0, 1, 6, 7], [2, 3, 4, 5]):
        for part, expected in zip(mixed(rows), whole, strict=True):
            np.testing.assert_allclose(part, expected[:, rows], atol=1e-6)


def test_smoothing_in_the_loss_equals_timms_in_the_mixed_targets():
    import keras

    targets = np.eye(7)[GOLDEN["classes"]]
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    np.testing.assert_allclose(loss(0.3 * targets + 0.7 * targets[::-1], GOLDEN["logits"]), GOLDEN["loss"], rtol=1e-6)


def test_keras_own_layers_still_are_others(rng):
    """Where one of these fails, Keras may have become what the recipes need: then use it."""
    import keras

    pixels, targets = rng.uniform(0, 1, (16, 9, 7, 3)).astype("float32"), np.eye(16, dtype="float32")
    for layer in (keras.layers.MixUp(0.8, seed=1), keras.layers.CutMix(1.0, seed=1)):
        mixed = layer({"images": pixels, "labels": targets}, training=True)["labels"]
        # Ours draws one share for a batch.
        assert len(np.unique(np.round(np.max(mixed, axis=1), 4))) > 4
    noise = np.asarray(keras.layers.RandomErasing(1.0, scale=(0.2, 0.2), value_range=(0, 1), seed=1)(pixels, training=True))
    assert (noise != pixels).any() and noise.min() == 0.0
    # With equal chances to apply each of two operations, a quarter of the pictures would stay as they are.
    changed = np.asarray(keras.layers.RandAugment(value_range=(0, 1), seed=1)(pixels, training=True)) != pixels
    assert changed.any((1, 2, 3)).all()
