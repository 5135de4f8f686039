import numpy as np
import pytest

from swin_keras.tasks import Scenes


@pytest.fixture(scope="module")
def scenes():
    return Scenes((72, 96))


def test_a_scene_is_made_of_its_number_alone(scenes):
    first = [scenes.scene("train", number) for number in (3, 4)]
    again = [Scenes((72, 96)).scene("train", number) for number in (4, 3)][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert not np.array_equal(first[0]["picture"], first[1]["picture"])
    assert not np.array_equal(first[0]["picture"], Scenes((72, 96), seed=1).scene("train", 3)["picture"])
    assert not np.array_equal(first[0]["picture"], scenes.scene("test", 3)["picture"])


def test_a_box_holds_the_pixels_of_its_digit_and_touches_them_on_each_side(scenes):
    counts = set()
    for number in range(40):
        scene = scenes.scene("validation", number)
        mask, boxes = scene["mask"], scene["boxes"].astype(int)
        counts.add(len(boxes))
        outside = mask.copy()
        for (top, left, bottom, right), digit in zip(boxes, scene["classes"], strict=True):
            inside = mask[top:bottom, left:right]
            assert set(np.unique(inside)) == {0, 1 + digit}
            assert all(np.any(edge) for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
            outside[top:bottom, left:right] = 0
        assert not outside.any()
    assert {1, 2, 3, 4, 5} <= counts <= set(range(1, 9))


def test_arrays_are_the_normalized_pictures_and_the_masks(scenes):
    pictures, masks = scenes.segmentation("train", 3, start=7)
    assert pictures.shape == (3, 72, 96, 3) and pictures.dtype == "float32" and masks.shape == (3, 72, 96)
    last = scenes.scene("train", 9)
    np.testing.assert_allclose(pictures[2], (last["picture"] / 255.0 - 0.5) / 0.25, atol=1e-6)
    np.testing.assert_array_equal(masks[2], last["mask"])


def test_boxes_and_labels_are_padded_with_minus_one(scenes):
    pictures, truth = scenes.detection("validation", 6, start=2)
    assert pictures.shape == (6, 72, 96, 3) and pictures.dtype == "uint8"
    for number in range(6):
        scene = scenes.scene("validation", 2 + number)
        np.testing.assert_array_equal(pictures[number], scene["picture"])
        count = len(scene["classes"])
        np.testing.assert_array_equal(truth["boxes"][number], np.concatenate([scene["boxes"], np.full((8 - count, 4), -1)]))
        assert truth["labels"][number].tolist() == [*scene["classes"], *[-1] * (8 - count)]


@pytest.mark.parametrize("task", ["detection", "segmentation"])
def test_a_dataset_has_the_scenes_in_their_order(scenes, task):
    pictures, targets = getattr(scenes, task)("train", 6)
    batches = list(scenes.dataset(task, 6, 2).as_numpy_iterator())
    assert len(batches) == 3
    np.testing.assert_array_equal(np.concatenate([batch[0] for batch in batches]), pictures)
    for key, target in targets.items() if task == "detection" else [(None, targets)]:
        np.testing.assert_array_equal(np.concatenate([batch[1] if key is None else batch[1][key] for batch in batches]), target)


def test_a_size_without_room_is_refused():
    with pytest.raises(ValueError, match="at least 48 pixels"):
        Scenes((96, 47))
