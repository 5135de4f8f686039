"""What a step of training sees: which pictures, in which order, changed how, on how many devices."""

import dataclasses

import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import open_picture, preprocess

from swin_keras import training
from swin_keras.training.augmentation import augment_picture
from swin_keras.training.pipeline import training_batches, validation_batches, validation_steps

PLAIN = dataclasses.replace(training.RECIPES["small"], affine=None, epochs=2, batch_size=12)
FULL = dataclasses.replace(training.RECIPES["imagenet_300"], epochs=2, batch_size=12)


@pytest.fixture(scope="module")
def digits():
    return training.load_data("digits", (32, 32, 3), log=None)


@pytest.fixture(scope="module")
def flowers(tmp_path_factory):
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("flowers")
    for label, count in {"aster": 23, "rose": 20, "tulip": 18}.items():
        (folder / label).mkdir()
        for number in range(count):
            ramp = np.linspace(0, rng.integers(90, 256), 47)[None, :, None] * rng.random((1, 1, 3)) * np.ones((35, 1, 1))
            Image.fromarray(ramp.astype("uint8")).save(folder / label / f"{number:02}.png")
    return training.load_data(f"folder:{folder}", (28, 36, 3), log=lambda line: None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Streamed(training.ImageData):
    """Data in memory that is read as data which does not fit."""

    fits = False


def arrays(batches):
    return [[np.asarray(part) for part in batch] for batch in batches]


def in_order(parts):
    """The batches of a step's replicas as one, its pictures sorted, so that it does not matter who had which."""
    pixels, targets = (np.concatenate(pieces) for pieces in zip(*parts, strict=True))
    order = np.lexsort(pixels.reshape(len(pixels), -1)[:, ::37].T)
    return pixels[order], targets[order]


def test_each_epoch_takes_every_picture_once_in_an_order_of_its_own(digits):
    numbered = np.tile(np.arange(1078, dtype="uint8")[:, None, None, None], (1, 8, 8, 3))
    numbered[:, :, :, 1] = (np.arange(1078) // 256)[:, None, None]  # each picture is its own number
    images = dataclasses.replace(digits, splits={"train": (numbered, digits.splits["train"][1])})
    recipe = dataclasses.replace(PLAIN, batch_size=77)
    seen, targets = (np.concatenate(part) for part in zip(*arrays(training_batches(images, recipe, 3, 14)), strict=True))
    values = np.round((seen[:, 16, 16] * images.preprocessing.std[0] + images.preprocessing.mean[0]) * 255).astype(int)
    numbers = values[:, 0] + 256 * values[:, 1]
    np.testing.assert_array_equal(targets.argmax(-1), digits.splits["train"][1][numbers])
    first, second = numbers[:1078], numbers[1078:]
    np.testing.assert_array_equal(np.sort(first), np.arange(1078))
    np.testing.assert_array_equal(np.sort(second), np.arange(1078))
    assert np.mean(first == second) < 0.05 and np.mean(first == np.arange(1078)) < 0.05
    later = training_batches(images, recipe, 3, 14, first_epoch=1)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in arrays(later)]), seen[1078:])


def test_data_that_does_not_fit_into_memory_gives_the_same_batches(digits):
    streamed = Streamed(**{field.name: getattr(digits, field.name) for field in dataclasses.fields(digits)})
    for one, other in zip(arrays(training_batches(digits, PLAIN, 5, 2)), arrays(training_batches(streamed, PLAIN, 5, 2)), strict=True):
        # Pillow's resize against TensorFlow's: one of 255 levels.
        np.testing.assert_allclose(one[0], other[0], atol=1.01 / 255 / 0.349)
        np.testing.assert_array_equal(one[1], other[1])


def test_crops_are_those_of_the_pictures_own_seed_and_resumption_repeats_them(flowers):
    recipe = dataclasses.replace(FULL, mixup=0.0, cutmix=0.0, erasing=0.0)
    batches = arrays(training_batches(flowers, recipe, 7, 2))
    # Each is a crop of some picture, drawn from the seed and the number of its place in the run.
    paths, classes = flowers.splits["train"]
    for place in (0, 5, 13, 47):
        pixels, target = (part[place % 12] for part in batches[place // 12])
        crops = [augment_picture(open_picture(path), (28, 36), recipe, np.random.default_rng((7, place))) for path in paths]
        distances = [np.abs((crop / 255 - flowers.preprocessing.mean) / flowers.preprocessing.std - pixels).max() for crop in crops]
        assert min(distances) < 1e-5 and classes[int(np.argmin(distances))] == target.argmax()
    later = arrays(training_batches(flowers, recipe, 7, 2, first_epoch=1))
    for one, other in zip(batches[2:], later, strict=True):
        np.testing.assert_array_equal(one[0], other[0])
    assert np.abs(batches[0][0] - arrays(training_batches(flowers, recipe, 8, 2))[0][0]).max() > 0.1


@pytest.mark.parametrize(
    "recipe", [FULL, PLAIN, dataclasses.replace(FULL, crop_scale=None, flip=0.0, rand_augment=None)], ids=["full", "plain", "in memory, mixed"]
)
@pytest.mark.parametrize(("workers", "each"), [(1, 2), (2, 1), (3, 2)])
def test_replicas_together_see_what_one_alone_sees(flowers, recipe, workers, each):
    if recipe is PLAIN:
        recipe = dataclasses.replace(training.RECIPES["small"], epochs=2, batch_size=12)
    count = workers * each
    alone = arrays(training_batches(flowers, recipe, 3, 2))
    parts = [arrays(training_batches(flowers, recipe, 3, 2, 0, range(w * each, (w + 1) * each), count)) for w in range(workers)]
    assert all(len(batches) == len(alone) * each for batches in parts)
    for step, whole in enumerate(alone):
        together = [parts[w][step * each + r] for w in range(workers) for r in range(each)]
        assert {len(part[0]) for part in together} == {12 // count}
        for one, other in zip(in_order(together), in_order([whole]), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def test_mixed_targets_add_up_to_one_and_pairs_share_them(flowers):
    pixels, targets = arrays(training_batches(flowers, dataclasses.replace(FULL, cutmix=0.0, erasing=0.0), 3, 2))[0]
    np.testing.assert_allclose(targets.sum(-1), 1, atol=1e-6)
    assert ((targets > 0.01).sum(-1) == 2).any()
    unmixed = arrays(training_batches(flowers, dataclasses.replace(FULL, mixup=0.0, cutmix=0.0, erasing=0.0), 3, 2))[0][0]
    difference = unmixed - unmixed[::-1]
    share = np.sum((pixels - unmixed[::-1]) * difference) / np.sum(difference**2)
    np.testing.assert_allclose(pixels, share * unmixed + (1 - share) * unmixed[::-1], atol=1e-4)


def with_torn(images, folder, split, count=None, log=None):
    """The first pictures of a split, all if no number is given; the very first is damaged. The other splits are as they were."""
    (folder / "torn.png").write_bytes(b"no picture")
    paths, classes = images.splits[split]
    splits = {**images.splits, split: ([folder / "torn.png", *paths[1:count]], classes[:count])}
    return dataclasses.replace(images, splits=splits, path=str(folder), log=log or images.log)


def test_a_damaged_picture_leaves_its_place_to_another_of_the_batch(flowers, tmp_path):
    lines = []
    damaged = with_torn(flowers, tmp_path, "train", log=lines.append)
    recipe = dataclasses.replace(FULL, mixup=0.0, cutmix=0.0, erasing=0.0)
    for one, other in zip(arrays(training_batches(flowers, recipe, 7, 2)), arrays(training_batches(damaged, recipe, 7, 2)), strict=True):
        differing = np.flatnonzero(np.abs(one[0] - other[0]).max((1, 2, 3)) > 0)
        assert len(differing) <= 1
        for place in differing:
            same = [other_place for other_place in range(12) if other_place != place and np.array_equal(other[0][place], other[0][other_place])]
            assert len(same) == 1 and np.array_equal(other[1][place], other[1][same[0]])
    assert [line.split(":")[0] for line in lines] == ["skipped 'torn.png'"] and list(damaged.damage.problems) == ["'torn.png'"]


def test_a_batch_of_damaged_pictures_stops_the_run(flowers, tmp_path):
    damaged = with_torn(flowers, tmp_path, "train")
    recipe = dataclasses.replace(FULL, mixup=0.0, cutmix=0.0, erasing=0.0, batch_size=1)
    with pytest.raises(ValueError, match="a picture that can be opened in each batch. Received: 1 damaged"), damaged.reading():
        arrays(training_batches(damaged, recipe, 7, damaged.count("train")))


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("task", ["classification", "simmim"])
def test_a_damaged_validation_picture_leaves_each_replica_as_many_batches(flowers, tmp_path, monkeypatch, fits, task):
    monkeypatch.setattr("swin_keras.training.folder.check_damage", lambda *arguments: None)
    damaged = with_torn(flowers, tmp_path, "validation", 9)
    if not fits:
        monkeypatch.setattr("swin_keras.training.folder.MAX_PIXEL_BYTES", 0)
    recipe = dataclasses.replace(PLAIN, task=task, mask_patch_size=4)
    parts = [list(validation_batches(damaged, recipe, 3, (worker,), 2).as_numpy_iterator()) for worker in range(2)]
    assert len(parts[0]) == len(parts[1]) == validation_steps(damaged, recipe, 3, 2) > 0
    if task == "classification":
        assert sum((weights > 0).sum() for part in parts for _, _, weights in part) == 8


@pytest.mark.parametrize(("size", "workers", "each"), [(4, 1, 1), (4, 1, 2), (2, 2, 2), (5, 3, 1)])
def test_validation_on_replicas_weighs_each_picture_alike_and_gives_each_as_many_batches(flowers, size, workers, each):
    parts = [arrays(validation_batches(flowers, PLAIN, size, range(w * each, (w + 1) * each), workers * each)) for w in range(workers)]
    assert len({len(part) for part in parts}) == 1 and len(parts[0]) % each == 0
    if workers * each == 1:
        weighted = [(pixels, targets, np.ones(len(pixels))) for pixels, targets in parts[0]]
    else:
        weighted = [batch for part in parts for batch in part]
        assert all(len(weights) == size for _, _, weights in weighted)
    pixels, targets, weights = (np.concatenate(pieces) for pieces in zip(*weighted, strict=True))
    inputs, classes = flowers.inputs("validation")
    assert sorted(pixels[weights > 0].tolist()) == sorted(inputs.tolist())
    np.testing.assert_array_equal(np.sort(targets[weights > 0].argmax(-1)), np.sort(classes))
    # Keras divides by the pictures of all batches: the mean is that of the real ones.
    np.testing.assert_allclose(weights.sum() / len(weights), 1, rtol=1e-6)
    assert len(set(weights[weights > 0])) == 1


def test_simmim_sees_pictures_and_masks_of_their_own_and_validates_on_the_same_each_time(flowers):
    recipe = dataclasses.replace(training.RECIPES["simmim_pretrain"], epochs=2, batch_size=6, mask_patch_size=4, mask_ratio=0.4)
    batches = list(training_batches(flowers, recipe, 3, 2).as_numpy_iterator())
    masks = np.concatenate([batch["mask"] for batch in batches])
    assert masks.shape == (24, 7, 9) and all(mask.sum() == np.ceil(63 * 0.4) for mask in masks)
    assert len({mask.tobytes() for mask in masks}) == 24
    once, again = (list(validation_batches(flowers, recipe, 5).as_numpy_iterator()) for _ in range(2))
    assert len(once) == 2 and all(np.array_equal(a["mask"], b["mask"]) for a, b in zip(once, again, strict=True))
    device = np.concatenate([preprocess(open_picture(path), flowers.preprocessing.to_dict()) for path in flowers.splits["validation"][0][:10]])
    np.testing.assert_allclose(np.concatenate([batch["image"] for batch in once]), device, atol=1e-5)
