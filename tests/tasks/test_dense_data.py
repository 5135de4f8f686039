import json
import shutil

import numpy as np
import pytest
from PIL import Image

from swin_keras import tasks

SIZE = (40, 56)
CATEGORIES = [{"id": 7, "name": "cow"}, {"id": 3, "name": "ant"}, {"id": 12, "name": "bee"}]
RECTANGLES = {3: (250, 0, 0), 7: (0, 250, 0), 12: (0, 0, 250)}  # category to colour


def picture_with(rng, height, width, count):
    """Returns a dark picture with coloured rectangles, which do not overlap, and (category, left, top, width, height) of each."""
    pixels, found = np.zeros((height, width, 3), "uint8"), []
    for column in range(count):
        category = int(rng.choice(list(RECTANGLES)))
        left, top = int(width * column // count + rng.integers(0, 3)), int(rng.integers(0, height // 3))
        across, down = int(rng.integers(8, width // count - 4)), int(rng.integers(8, height // 2))
        pixels[top : top + down, left : left + across] = RECTANGLES[category]
        found.append((category, left, top, across, down))
    return pixels, found


def run_lengths(mask):
    """COCO's uncompressed form: column by column, outside first."""
    flat = mask.T.ravel()
    changes = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return {"counts": [0, *counts] if flat[0] else counts, "size": list(mask.shape)}


def write_split(folder, json_path, names, rng, form="polygon"):
    """Writes pictures and their json. Returns what is in each, by name."""
    images, annotations, written = [], [], {}
    json_path.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        pixels, found = picture_with(rng, 50 + 3 * number, 70 + 5 * number, 1 + number % 3)
        Image.fromarray(pixels).save(folder / name)
        written[name] = pixels, found
        images.append({"id": 100 + number, "file_name": name, "height": pixels.shape[0], "width": pixels.shape[1]})
        for category, left, top, across, down in found:
            right, bottom = left + across, top + down
            segmentation = [[left, top, right, top, right, bottom, left, bottom]]
            if form != "polygon":
                mask = np.zeros(pixels.shape[:2], "uint8")
                mask[top:bottom, left:right] = 1
                segmentation = run_lengths(mask)
                if form == "compressed":
                    from pycocotools import mask as coco

                    segmentation = {"counts": coco.encode(np.asfortranarray(mask))["counts"].decode(), "size": list(mask.shape)}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + number,
                    "category_id": category,
                    "bbox": [left, top, across, down],
                    "area": across * down,
                    "segmentation": segmentation,
                    "iscrowd": 0,
                }
            )
    json_path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES}))
    return written


@pytest.fixture(scope="module")
def coco(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("coco"), np.random.default_rng(5)
    train = write_split(path / "train2017", path / "annotations" / "instances_train2017.json", [f"{n}.png" for n in range(7)], rng)
    val = write_split(path / "val2017", path / "annotations" / "instances_val2017.json", ["x.png", "y.png", "z.png"], rng)
    (path / "annotations" / "captions_train2017.json").write_text("{}")
    return path, {**train, **val}


def load(data, task="detection", size=SIZE, **arguments):
    lines = []
    return tasks.load_data(data, task, size, log=lines.append, **arguments), lines


def read(data, split, **arguments):
    return [[np.asarray(part) for part in batch] for batch in data.dataset(split, 1, **arguments).as_numpy_iterator()]


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_boxes_of_coco_stand_where_the_objects_are_after_resizing(coco):
    path, written = coco
    data, lines = load(f"coco:{path}")
    assert data.labels == ["ant", "cow", "bee"]  # in the order of their numbers
    assert lines == [f"{path}: 3 classes; pictures: 3 for validation, 3 for test, 7 for train"]
    assert [data.count(split) for split in ("train", "validation", "test")] == [7, 3, 3]
    assert len(data.dataset("train", 2)) == 4 and len(repr(data)) < 500
    assert (data.preprocessing.mode, data.preprocessing.crop) == ("exact", SIZE)
    colours = [RECTANGLES[number] for number in sorted(RECTANGLES)]
    batches = list(data.dataset("validation", 2).as_numpy_iterator())
    assert [len(pictures) for pictures, _ in batches] == [2, 1]
    pictures, boxes, labels = (np.concatenate(parts) for parts in zip(*[(p, t["boxes"], t["labels"]) for p, t in batches], strict=True))
    assert pictures.dtype == "uint8" and boxes.shape == (3, 100, 4) and labels.dtype == "int32"
    for number, name in enumerate(["x.png", "y.png", "z.png"]):
        pixels, found = written[name]
        assert (labels[number] >= 0).sum() == len(found)
        expected = np.array(Image.fromarray(pixels).resize(SIZE[::-1], Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(pictures[number], expected)
        for box, label in zip(boxes[number][: len(found)], labels[number], strict=False):
            top, left, bottom, right = np.rint(box).astype(int)
            inside = pictures[number, top + 1 : bottom - 1, left + 1 : right - 1].reshape(-1, 3)
            np.testing.assert_allclose(inside, np.broadcast_to(colours[label], inside.shape), atol=1)
        scale = np.array(SIZE * 2) / np.array(pixels.shape[:2] * 2)
        truth = sorted([top, left, top + down, left + across] * scale for _, left, top, across, down in found) if len(found) == 1 else None
        if truth:
            np.testing.assert_allclose(boxes[number][:1], truth, rtol=1e-5)


@pytest.mark.parametrize("form", ["polygon", "run lengths", "compressed"])
def test_masks_of_coco_are_the_objects(form, tmp_path):
    written = write_split(
        tmp_path / "train", tmp_path / "train" / "_annotations.coco.json", [f"{n}.png" for n in range(5)], np.random.default_rng(2), form
    )
    data, _ = load(f"coco:{tmp_path}", "segmentation", mean=(0, 0, 0), std=(1, 1, 1))
    assert data.labels == ["background", "ant", "cow", "bee"]
    assert [data.count(split) for split in ("train", "validation", "test")] == [3, 1, 1]
    masks = [mask for split in ("train", "validation", "test") for _, (mask,) in read(data, split)]
    colours = np.array([(0, 0, 0), *(RECTANGLES[number] for number in sorted(RECTANGLES))])
    for number in range(5):
        pixels = np.asarray(Image.fromarray(written[f"{number}.png"][0]).resize(SIZE[::-1], Image.Resampling.NEAREST)).astype(int)
        expected = np.abs(pixels[..., None, :] - colours).sum(-1).argmin(-1)
        np.testing.assert_array_equal(masks[number], expected)
    pictures, _ = read(data, "test")[0]
    assert pictures.dtype == "float32" and pictures.max() <= 1


def test_small_objects_lie_above_large_ones_and_crowds_are_in_no_box(coco, tmp_path):
    shutil.copytree(coco[0], tmp_path / "set")
    file = tmp_path / "set" / "annotations" / "instances_val2017.json"

    def change(content):
        image = content["images"][0]
        height, width = image["height"], image["width"]
        whole = [[0, 0, width, 0, width, height, 0, height]]
        crowd = run_lengths(np.ones((height, width), "uint8"))
        content["annotations"] += [
            {"image_id": 100, "category_id": 12, "bbox": [0, 0, width, height], "area": width * height, "segmentation": whole},
            {
                "image_id": 101,
                "category_id": 3,
                "bbox": [0, 0, 9, 9],
                "segmentation": crowd | {"size": [53, 75], "counts": [0, 53 * 75]},
                "iscrowd": 1,
            },
            {"image_id": 102, "category_id": 3, "bbox": [5, 5, 0, 7], "area": 0},
            {"image_id": 102, "category_id": 3, "bbox": [-5, -5, 20, 500], "area": 10000},
        ]

    before = [mask for _, mask in read(load(f"coco:{tmp_path / 'set'}", "segmentation")[0], "validation")]
    edit(file, change)
    after = [mask for _, mask in read(load(f"coco:{tmp_path / 'set'}", "segmentation")[0], "validation")]
    np.testing.assert_array_equal(after[0], np.where(before[0] > 0, before[0], 3))
    np.testing.assert_array_equal(after[1] > 0, True)
    np.testing.assert_array_equal(after[2], before[2])
    data, _ = load(f"coco:{tmp_path / 'set'}")
    counts = [(batch["labels"] >= 0).sum() for _, batch in data.dataset("validation", 1).as_numpy_iterator()]
    assert counts == [2, 2, 4]  # one more than drawn; the crowd is none; of two, one has no width
    assert load(f"coco:{tmp_path / 'set'}")[1][0].endswith("left out 1 of 10 annotations, which have neither a bbox nor a segmentation of some size")
    boxes = list(data.dataset("validation", 1).as_numpy_iterator())[2][1]["boxes"][0, 0]  # the largest first
    np.testing.assert_allclose(boxes, [0, 0, 40, 15 * 56 / 80], rtol=1e-5)


def test_training_pictures_come_in_an_order_of_the_seed_each_once_an_epoch_and_half_of_them_mirrored(coco):
    data, _ = load(f"coco:{coco[0]}")
    plain = {}
    for number, (picture, target) in enumerate(data.dataset("train", 1).as_numpy_iterator()):
        plain[picture[0].tobytes()] = number, False, target["boxes"][0]
        plain[picture[0][:, ::-1].tobytes()] = number, True, target["boxes"][0]

    def order(seed):
        rows = []
        for picture, target in data.dataset("train", 1, seed=seed).take(21).as_numpy_iterator():
            number, mirrored, boxes = plain[picture[0].tobytes()]
            real = boxes[:, 0] >= 0
            expected = boxes.copy()
            if mirrored:
                expected[real] = np.stack([boxes[real, 0], 56 - boxes[real, 3], boxes[real, 2], 56 - boxes[real, 1]], -1)
            np.testing.assert_allclose(target["boxes"][0], expected, atol=1e-4)
            rows.append((number, mirrored))
        return rows

    first, again, other = order(3), order(3), order(4)
    assert first == again != other
    epochs = [[number for number, _ in first[at : at + 7]] for at in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and epochs[0] != epochs[1]
    assert 4 < sum(mirrored for _, mirrored in first) < 17
    unmirrored = data.dataset("train", 1, seed=3, flip=False).take(7).as_numpy_iterator()
    assert not any(plain[picture[0].tobytes()][1] for picture, _ in unmirrored)


def test_a_mirrored_picture_has_its_mask_mirrored(coco):
    data, _ = load(f"coco:{coco[0]}", "segmentation", mean=(0, 0, 0), std=(1, 1, 1))
    colours = np.array([(0, 0, 0), *(RECTANGLES[number] for number in sorted(RECTANGLES))]) / 255
    pictures, masks = next(data.dataset("train", 7, seed=1).as_numpy_iterator())
    wrong = np.abs(pictures[..., None, :] - colours).sum(-1).argmin(-1) != masks
    assert wrong.mean() < 0.05  # the edges, which are mixed
    _, straight = next(data.dataset("train", 7, seed=1, flip=False).as_numpy_iterator())
    assert 0 < sum(not np.array_equal(one, other) for one, other in zip(masks, straight, strict=True)) < 7


def test_of_too_many_objects_the_largest_are_kept(coco):
    data, _ = load(f"coco:{coco[0]}", max_objects=1)
    everything, _ = load(f"coco:{coco[0]}")
    for (_, one), (_, all_of_them) in zip(data.dataset("train", 1), everything.dataset("train", 1), strict=True):
        boxes = all_of_them["boxes"].numpy()[0]
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        np.testing.assert_array_equal(one["boxes"].numpy()[0, 0], boxes[areas.argmax()])


def test_a_picture_is_turned_only_where_its_annotations_are(coco, tmp_path):
    shutil.copytree(coco[0], tmp_path / "set")
    pixels = coco[1]["y.png"][0]
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    expected, _ = load(f"coco:{tmp_path / 'set'}")
    (straight, boxes) = list(expected.dataset("validation", 1).as_numpy_iterator())[1]
    Image.fromarray(pixels).save(tmp_path / "set" / "val2017" / "y.png", exif=exif)
    (stored, same) = list(expected.dataset("validation", 1).as_numpy_iterator())[1]
    np.testing.assert_array_equal(stored, straight)
    np.testing.assert_array_equal(same["boxes"], boxes["boxes"])
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "set" / "val2017" / "y.png", exif=exif)
    (turned, _) = list(expected.dataset("validation", 1).as_numpy_iterator())[1]
    np.testing.assert_array_equal(turned, straight)


def test_a_picture_of_sixteen_bits_keeps_its_greys_where_it_is_not_turned(coco, tmp_path):
    shutil.copytree(coco[0], tmp_path / "set")
    pixels = coco[1]["y.png"][0][..., 0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels.astype("uint16") * 257).save(tmp_path / "set" / "val2017" / "y.png", exif=exif)
    data, _ = load(f"coco:{tmp_path / 'set'}")
    received = list(data.dataset("validation", 1).as_numpy_iterator())[1][0][0]
    expected = np.asarray(Image.fromarray(pixels).convert("RGB").resize(SIZE[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(received, expected)


def test_a_damaged_picture_is_black_and_without_objects_and_too_many_stop(coco, tmp_path):
    shutil.copytree(coco[0], tmp_path / "set")
    (tmp_path / "set" / "val2017" / "y.png").write_bytes(b"no picture")
    data, lines = load(f"coco:{tmp_path / 'set'}")
    for _ in range(2):
        pictures, target = next(iter(data.dataset("validation", 3).as_numpy_iterator()))
        assert [picture.any() for picture in pictures] == [True, False, True]
        assert [np.any(labels >= 0) for labels in target["labels"]] == [True, False, True]
    masks, _ = load(f"coco:{tmp_path / 'set'}", "segmentation")
    assert [np.all(mask == 255) for _, mask in read(masks, "validation")] == [False, True, False]
    assert len(lines) == 2 and lines[1].startswith("skipped ") and "y.png" in lines[1]
    Image.new("RGB", (9, 7)).save(tmp_path / "set" / "val2017" / "z.png")
    with pytest.raises(Exception, match="9x7 pixels, but its annotations are for 80x56"):
        read(data, "validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("categories"), "Expected COCO's json with images, annotations and categories. Received: .*no 'categories'"),
        (lambda content: content.update(images=[], annotations=[]), "Expected COCO's json with images and categories. Received: .*which has none"),
        (lambda content: content.update(annotations=None), "Expected COCO's json with .*not iterable"),
        (lambda content: content["images"][1].update(id=100.0), "two have the id 100"),
        (lambda content: content["categories"][1].update(id="7"), "two have the id 7"),
        (lambda content: content["categories"][1].update(name="cow"), "categories need names of their own"),
        (lambda content: content["categories"][1].update(name=None), "categories need names of their own"),
        (lambda content: content["images"][0].pop("file_name"), "no 'file_name'"),
        (lambda content: [image.update(file_name="q.png") for image in content["images"]], "Expected the pictures of .*Received: no 'q.png' in "),
        (lambda content: content["annotations"][0].update(image_id=5), "Expected annotations with .*annotation 0 .there is none with the image_id 5"),
        (lambda content: content["annotations"][0].update(category_id=5), "Expected annotations with .*there is none with the category_id 5"),
        (lambda content: content["annotations"][0].update(iscrowd="perhaps"), "Expected annotations with .*iscrowd 'perhaps'"),
        (lambda content: content["annotations"][0].update(bbox=[10**400, 0, 1, 1]), "Expected annotations with .*too large"),
        (lambda content: content["annotations"][0].update(bbox=[1e30, 0, 1, 1]), "Expected annotations with .*bbox .1e.30"),
        (lambda content: content["annotations"][0].update(bbox=[1, 2, 3]), "Expected annotations with .*not enough values"),
        (lambda content: content["annotations"][0].update(bbox=[1, float("nan"), 3, 4]), "Expected annotations with .*bbox .*nan"),
        (lambda content: content["annotations"][0].update(bbox="abcd"), "Expected annotations with .*could not convert"),
        (lambda content: content.update(annotations=[]), "Expected annotations with a `bbox`. Received: none"),
        (
            lambda content: [one.update(bbox=None, segmentation=None) for one in content["annotations"]],
            "Expected annotations with a `bbox`. Received: none",
        ),
        (lambda content: content.update(annotations=[3]), "Expected annotations with "),
        (lambda content: content["categories"].append({"id": 99, "name": "yak"}), "Expected the same categories in each file"),
    ],
)
def test_wrong_json_is_refused_with_the_file(coco, tmp_path, change, message):
    shutil.copytree(coco[0], tmp_path / "set")
    edit(tmp_path / "set" / "annotations" / "instances_train2017.json", change)
    with pytest.raises(ValueError, match=f"(?s){message}") as raised:
        load(f"coco:{tmp_path / 'set'}")
    assert "instances_train2017.json" in str(raised.value)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[1, 2, 3, 4, 5]], "no list of pairs"),
        ([[1, 2, 3, 4, float("inf"), 6]], "no list of pairs"),
        ({"counts": [5, 7], "size": [50, 70]}, "do not fill"),
        ({"counts": [3505, -5], "size": [50, 70]}, "do not fill"),
        ({"counts": [2**62] * 4 + [3500], "size": [50, 70]}, "do not fill"),
        ({"counts": [3500], "size": [50, 70, 1]}, "too many values"),
        ({"counts": "~~~~", "size": [50, 70]}, "no numbers|do not fill"),
        ({"counts": "o" * 400_000, "size": [50, 70]}, "no numbers"),
        ([[10**400] * 6], "too large"),
        ({"size": [50, 70]}, "no 'counts'"),
        ("text", "could not convert"),
    ],
)
def test_wrong_regions_are_refused(coco, tmp_path, segmentation, message):
    shutil.copytree(coco[0], tmp_path / "set")
    edit(tmp_path / "set" / "annotations" / "instances_train2017.json", lambda content: content["annotations"][0].update(segmentation=segmentation))
    with pytest.raises(ValueError, match=f"instances_train2017.json.*{message}"):
        load(f"coco:{tmp_path / 'set'}", "segmentation")


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ([[0, 0, 1e9, 0, 1e9, 1e9, 0, 1e9]], "a polygon reaches far beyond its 70x50 pixels"),
        ({"counts": [0, 3500], "size": [70, 50]}, "it has 70x50 pixels, but the run lengths of a region are for 50x70"),
        ({"counts": [16 * 10**8], "size": [40000, 40000]}, None),
        ({"counts": [0, 16 * 10**8], "size": [40000, 40000]}, "it has 70x50 pixels, but the run lengths of a region are for 40000x40000"),
    ],
)
def test_regions_that_are_not_of_the_picture_are_no_regions_of_it(coco, tmp_path, segmentation, message):
    # pycocotools takes memory for all of it, and the process ends.
    shutil.copytree(coco[0], tmp_path / "set")
    change = {"segmentation": segmentation}
    edit(tmp_path / "set" / "annotations" / "instances_train2017.json", lambda content: content["annotations"][0].update(change))
    data, lines = load(f"coco:{tmp_path / 'set'}", "segmentation")
    assert np.all(read(data, "train")[0][1] == 255) == (message is not None)
    assert message is None or message in lines[-1]


@pytest.mark.parametrize("form", ["polygon", "compressed"])
def test_where_there_is_no_box_that_of_the_region_is_taken(form, tmp_path):
    file = tmp_path / "train" / "_annotations.coco.json"
    write_split(tmp_path / "train", file, [f"{n}.png" for n in range(5)], np.random.default_rng(2), form)
    expected = [target["boxes"] for _, target in load(f"coco:{tmp_path}")[0].dataset("train", 1).as_numpy_iterator()]
    edit(file, lambda content: [annotation.pop("bbox") for annotation in content["annotations"]])
    data, lines = load(f"coco:{tmp_path}")
    assert len(lines) == 1
    for (_, target), boxes in zip(data.dataset("train", 1).as_numpy_iterator(), expected, strict=True):
        np.testing.assert_allclose(target["boxes"], boxes, atol=1e-4)


def test_a_set_as_other_tools_write_it_is_the_same(coco, tmp_path):
    """Where they keep pictures, and how they write numbers and names."""

    def boxes(path):
        return [target["boxes"] for _, target in load(f"coco:{path}")[0].dataset("train", 1).as_numpy_iterator()]

    expected = boxes(coco[0])
    annotations = coco[0] / "annotations"
    for layout, (json_name, pictures) in enumerate(
        [
            ("train/_annotations.coco.json", "train/images"),
            ("train/labels.json", "train/data"),
            ("annotations/instances_train.json", "train2017"),
            ("instances_Train.json", "images/train"),
            ("annotations/instances_train.JSON", "images"),
        ]
    ):
        path = tmp_path / str(layout)
        (path / json_name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(coco[0] / "train2017", path / pictures, dirs_exist_ok=True)
        shutil.copy(annotations / "instances_train2017.json", path / json_name)

        def change(content):
            for image in content["images"]:
                image.update(id=str(image["id"]), width=float(image["width"]), height=str(image["height"]))
            for category in content["categories"]:
                category["id"] = str(category["id"])
            for annotation in content["annotations"]:
                annotation.update(image_id=float(annotation["image_id"]), iscrowd="0")
                annotation.pop("area")

        edit(path / json_name, change)
        (path / json_name).write_text("\ufeff" + (path / json_name).read_text())
        (path / "folder.json").mkdir()
        (path / "loop").symlink_to(path / "loop")
        data, _ = load(f"coco:{path}")
        assert data.labels == ["ant", "cow", "bee"] and data.count("train") == 5
        # Of seven pictures every fourth and fifth of five is held out.
        for received, wanted in zip(boxes(path), [expected[row] for row in (0, 1, 2, 5, 6)], strict=True):
            np.testing.assert_allclose(received, wanted, atol=1e-4)


def test_files_that_cannot_be_told_apart_or_are_missing_are_refused(coco, tmp_path):
    shutil.copytree(coco[0], tmp_path / "set")
    annotations = tmp_path / "set" / "annotations"
    shutil.copy(annotations / "instances_val2017.json", annotations / "instances_val2014.json")
    with pytest.raises(ValueError, match="Expected one json file for validation.*instances_val2014.json.*instances_val2017.json"):
        load(f"coco:{tmp_path / 'set'}")
    (annotations / "instances_val2014.json").unlink()
    (annotations / "instances_train2017.json").unlink()
    with pytest.raises(ValueError, match="Received: only files for validation"):
        load(f"coco:{tmp_path / 'set'}")
    with pytest.raises(ValueError, match="Expected COCO's json in .*Received: none"):
        load(f"coco:{tmp_path / 'set' / 'val2017'}")
    with pytest.raises(ValueError, match="of a folder. Received"):
        load(f"coco:{tmp_path / 'nothing'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": "digits"}, "Expected data='coco:PATH'"),
        ({"data": None}, "Expected data='coco:PATH'"),
        ({"data": "coco:"}, "Expected data='coco:PATH'"),
        ({"task": "depth"}, "`task` must be 'detection' or 'segmentation'"),
        ({"size": (0, 5)}, "`size` must be two whole numbers"),
        ({"size": 64}, "`size` must be two whole numbers"),
        ({"max_objects": 0}, "`max_objects` must be a positive integer"),
        ({"labels": "cat"}, "`labels` must be a list of names"),
        ({"labels": ["cat"]}, "Expected `labels` for data='tfds:NAME' only"),
    ],
)
def test_wrong_arguments_are_refused(coco, arguments, message):
    with pytest.raises(ValueError, match=message):
        load(**{"data": f"coco:{coco[0]}", **arguments})


def test_wrong_arguments_of_a_dataset_are_refused(coco):
    data, _ = load(f"coco:{coco[0]}")
    with pytest.raises(ValueError, match="`split` must be one of"):
        data.dataset("val", 4)
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer"):
        data.dataset("train", 0)
    with pytest.raises(ValueError, match="`split` must be one of"):
        data.count(["train"])
    for seed in (-1, 1.5, "a", True, 2**70, np.array([3])):
        with pytest.raises(ValueError, match="`seed` must be a positive integer or 0, or None"):
            data.dataset("train", 2, seed=seed)
    with pytest.raises(ValueError, match="`flip` must be True or False"):
        data.dataset("train", 2, seed=1, flip="no")
    assert len(next(data.dataset("train", 2, seed=np.int64(3)).as_numpy_iterator())[0]) == 2


def write_tfds(folder, name, version, config, features, examples):
    """Prepares a data set as the code of tensorflow-datasets would: `examples` holds a list for each split."""
    import tensorflow_datasets as tfds

    def info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features(tfds)))

    members = {
        "VERSION": tfds.core.Version(version),
        "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=config)] if config else [],
        "name": name,
        "_info": info,
        "_split_generators": lambda self, manager: {split: enumerate(rows) for split, rows in examples(tfds).items()},
        "_generate_examples": lambda self: (),
    }
    type(name.title(), (tfds.core.GeneratorBasedBuilder,), members, skip_registration=True)(data_dir=folder).download_and_prepare()


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Sets as those of tensorflow-datasets: the features of coco, oxford_iiit_pet and scene_parse150."""
    folder, rng = tmp_path_factory.mktemp("tensorflow_datasets"), np.random.default_rng(8)
    pictures = [picture_with(rng, 50 + number, 66, 2) for number in range(10)]

    def boxes(tfds, number):
        pixels, found = pictures[number]
        height, width = pixels.shape[:2]
        return [tfds.features.BBox(t / height, x / width, (t + d) / height, (x + a) / width) for _, x, t, a, d in found]

    def mask(number, first):
        pixels, found = pictures[number]
        values = np.full((*pixels.shape[:2], 1), 0, "uint8")
        for category, left, top, across, down in found:
            values[top : top + down, left : left + across] = first + sorted(RECTANGLES).index(category)
        return values

    def coco_objects(tfds, number):
        rows = [
            {"id": n, "area": 5, "bbox": box, "label": sorted(RECTANGLES).index(pictures[number][1][n][0]), "is_crowd": number == 3 and n == 0}
            for n, box in enumerate(boxes(tfds, number))
        ]
        return {"image": pictures[number][0], "image/filename": "a", "image/id": number, "objects": rows}

    def coco_features(tfds):
        box = {"id": np.int64, "area": np.int64, "bbox": tfds.features.BBoxFeature(), "label": tfds.features.ClassLabel(names=["ant", "cow", "bee"])}
        return {
            "image": tfds.features.Image(encoding_format="png"),
            "image/filename": tfds.features.Text(),
            "image/id": np.int64,
            "objects": tfds.features.Sequence({**box, "is_crowd": np.bool_}),
        }

    write_tfds(
        folder,
        "coco",
        "1.1.0",
        "2017",
        coco_features,
        lambda tfds: {
            "train": [coco_objects(tfds, n) for n in range(6)],
            "validation": [coco_objects(tfds, n) for n in (6, 7)],
            "test": [{**coco_objects(tfds, n), "objects": []} for n in (8, 9)],
        },
    )
    write_tfds(
        folder,
        "oxford_iiit_pet",
        "4.0.0",
        None,
        lambda tfds: {
            "image": tfds.features.Image(encoding_format="png"),
            "label": tfds.features.ClassLabel(names=["ant", "cow", "bee"]),
            "species": tfds.features.ClassLabel(names=["Cat", "Dog"]),
            "file_name": tfds.features.Text(),
            "segmentation_mask": tfds.features.Image(shape=(None, None, 1), use_colormap=True),
            "head_bbox": tfds.features.BBoxFeature(),
        },
        lambda tfds: {
            split: [
                {
                    "image": pictures[n][0],
                    "label": sorted(RECTANGLES).index(pictures[n][1][0][0]),
                    "species": 1,
                    "file_name": f"{n}.jpg",
                    "segmentation_mask": np.where(mask(n, 1) > 0, 1, 2).astype("uint8"),
                    "head_bbox": boxes(tfds, n)[0] if split == "train" else tfds.features.BBox(0.0, 0.0, 0.0, 0.0),
                }
                for n in rows
            ]
            for split, rows in {"train": range(7), "test": range(7, 10)}.items()
        },
    )
    write_tfds(
        folder,
        "scene_parse150",
        "1.0.0",
        None,
        lambda tfds: {"image": tfds.features.Image(encoding_format="png"), "annotation": tfds.features.Image(encoding_format="png")},
        lambda tfds: {
            split: [{"image": pictures[n][0], "annotation": np.repeat(mask(n, 148), 3, -1)} for n in rows]
            for split, rows in {"train": range(7), "test": range(7, 10)}.items()
        },
    )
    return folder, pictures


def test_objects_of_a_set_like_coco_are_those_that_are_no_crowd_and_test_pictures_those_of_validation(sets):
    folder, _ = sets
    data, lines = load("tfds:coco/2017", data_dir=folder)
    assert data.labels == ["ant", "cow", "bee"]
    assert lines == ["coco/2017/1.1.0: 3 classes; pictures: 6 for train (train), 2 for validation (validation), 2 for test (validation)"]
    colours = [RECTANGLES[number] for number in sorted(RECTANGLES)]
    counts = []
    for split in ("train", "validation"):
        for picture, target in data.dataset(split, 1).as_numpy_iterator():
            real = target["labels"][0] >= 0
            counts.append(real.sum())
            for box, label in zip(target["boxes"][0][real], target["labels"][0], strict=False):
                top, left, bottom, right = np.rint(box).astype(int)
                inside = picture[0, top + 1 : bottom - 1, left + 1 : right - 1].reshape(-1, 3)
                np.testing.assert_allclose(inside, np.broadcast_to(colours[label], inside.shape), atol=1)
    assert sorted(counts) == [1, *[2] * 7]


def test_training_pictures_of_a_stream_come_in_an_order_of_the_seed_each_once_an_epoch(sets):
    data, _ = load("tfds:coco/2017", data_dir=sets[0])
    plain = {picture[0].tobytes(): number for number, (picture, _) in enumerate(data.dataset("train", 1).as_numpy_iterator())}

    def order(seed):
        batches = data.dataset("train", 2, seed=seed, flip=False).take(6).as_numpy_iterator()
        return [plain[picture.tobytes()] for pictures, _ in batches for picture in pictures]

    first, again, other = order(3), order(3), order(4)
    assert first == again != other
    assert sorted(first[:6]) == sorted(first[6:]) == list(range(6)) and first[:6] != first[6:]


def test_heads_and_trimaps_of_a_set_like_the_pets_are_read(sets):
    folder, _ = sets
    data, lines = load("tfds:oxford_iiit_pet", data_dir=folder)
    assert "4 for train (train[:60%]), 2 for validation (train[60%:80%]), 1 for test (train[80%:])" in lines[0]
    assert all(
        (target["labels"] >= 0).sum() == 1 for split in ("train", "validation", "test") for _, target in data.dataset(split, 1).as_numpy_iterator()
    )
    data, _ = load("tfds:oxford_iiit_pet", "segmentation", data_dir=folder, mean=(0, 0, 0), std=(1, 1, 1))
    assert data.labels == ["pet", "background", "border"] and data.count("test") == 3
    picture, mask = next(data.dataset("test", 3).as_numpy_iterator())
    assert set(np.unique(mask)) == {0, 1} and np.mean((picture.max(-1) > 0.5) == (mask == 0)) > 0.95


def test_of_ade20k_what_is_not_labelled_is_ignored(sets):
    folder, _ = sets
    data, _ = load("tfds:scene_parse150", "segmentation", data_dir=folder, mean=(0, 0, 0), std=(1, 1, 1))
    assert len(data.labels) == 150 and data.labels[-1] == "class 150"
    picture, mask = next(data.dataset("test", 3).as_numpy_iterator())
    assert set(np.unique(mask)) <= {147, 148, 149, 255} and np.mean((picture.max(-1) < 0.5) == (mask == 255)) > 0.95
    named, _ = load("tfds:scene_parse150", "segmentation", data_dir=folder, labels=[f"name {n}" for n in range(148)])
    assert named.labels[147] == "name 147"
    with pytest.raises(Exception, match="Expected masks with values up to 148 in 'tfds:scene_parse150'. Received: 1(49|50). Give more `labels`"):
        read(named, "train")


def test_a_set_without_boxes_or_masks_is_refused(sets):
    folder, _ = sets
    with pytest.raises(
        ValueError, match="Expected a data set with boxes and their classes. Received: data='tfds:scene_parse150', which has image, annotation"
    ):
        load("tfds:scene_parse150", data_dir=folder)
    with pytest.raises(ValueError, match="Expected a data set with a mask for each picture. Received: data='tfds:coco/2017'"):
        load("tfds:coco/2017", "segmentation", data_dir=folder)
    with pytest.raises(ValueError, match="Expected data='tfds:NAME' of a set"):
        load("tfds:no_such_set", data_dir=folder)


def test_a_segmenter_is_measured_without_what_is_ignored(sets):
    import keras

    folder, _ = sets
    data, _ = load("tfds:oxford_iiit_pet", "segmentation", size=(32, 32), data_dir=folder)
    inputs = keras.Input((32, 32, 3))
    model = keras.Model(inputs, keras.ops.one_hot(keras.ops.cast(inputs[..., 0] * 0 + 1, "int32"), 3))  # background everywhere
    batches = list(data.dataset("test", 2).as_numpy_iterator())
    masks = np.concatenate([mask for _, mask in batches])
    share = np.mean(masks == 1)
    assert tasks.evaluate(model, batches) == pytest.approx({"mean IoU": (share + 0) / 2, "pixel accuracy": share})
    ignored = [(pictures, np.where(masks == 0, 255, masks)) for pictures, masks in batches]
    assert tasks.evaluate(model, ignored) == pytest.approx({"mean IoU": 1, "pixel accuracy": 1})
    with pytest.raises(ValueError, match="no batch"):
        tasks.evaluate(model, [])


def test_compressed_run_lengths_are_those_of_pycocotools():
    from pycocotools import mask as coco

    from swin_keras.tasks.coco import RunLengths, _run_lengths

    rng = np.random.default_rng(4)
    for _ in range(20):
        mask = (rng.random(tuple(rng.integers(3, 300, 2))) < rng.uniform(0.01, 0.9)).astype("uint8")
        text = coco.encode(np.asfortranarray(mask))["counts"].decode()
        counts = np.array(_run_lengths(text))
        assert counts.tolist() == run_lengths(mask)["counts"]
        left, top, width, height = coco.toBbox(coco.encode(np.asfortranarray(mask)))
        assert RunLengths(counts, mask.shape[::-1]).box == (top, left, top + height, left + width)
