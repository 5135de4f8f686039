"""Boxes and masks on the device: what is made of a model's outputs, and how it is shown. The outputs stand in for those of a file."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image
from swin_keras.edge_demo import InputError, dense, folder, overlay
from swin_keras.edge_demo.__main__ import main
from swin_keras.edge_demo.bundle import find_task, read_bundle
from swin_keras.edge_demo.preprocess import Opened, visible_box
from test_serve import DESCRIPTION

SETTINGS = {"mode": "exact", "resize": [30, 50], "crop": [30, 50], "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.25] * 3}
INPUT = {"shape": [1, 30, 50, 3], "dtype": "float32", "layout": "NHWC"}
OUTPUTS = {
    "boxes": [{"name": "boxes", "index": 0, "shape": [1, 7, 4]}, {"name": "scores", "index": 1, "shape": [1, 7, 3]}],
    "masks": [{"name": "logits", "index": 0, "shape": [1, 30, 50, 3]}],
}
LABELS = ["background", "ant", "سبعة"]
FILES = [{"recipe": "float32", "file": "float32.tflite", "bytes": 5, "sha256": "0" * 64}]


def describe(kind, **changes):
    return {
        **DESCRIPTION,
        "output_kind": kind,
        "outputs": OUTPUTS[kind],
        "labels": LABELS,
        "preprocessing": SETTINGS,
        "input": INPUT,
        "files": FILES,
        **changes,
    }


def device(kind, outputs, **changes):
    """A `Detector` or `Segmenter` whose model gives these outputs."""
    model = object.__new__({"boxes": dense.Detector, "masks": dense.Segmenter}[kind])
    model.description, model.labels, model.recipe = describe(kind, **changes), LABELS, "float32"
    model.outputs = lambda x: outputs
    return model


def opened(width, height):
    return Opened(Image.new("RGB", (width, height), "gray"), (width, height))


FIRST = [0.1, 0.2, 0.5]  # top, left and bottom
BOXES = np.array(
    [[[*FIRST, 0.6], [*FIRST, 0.59], [*FIRST, 0.38], [-0.2, 0.5, 0.4, 1.3], [0.6, 0.6, 0.8, 0.7], [0, 0, 0, 0], [0.7, 0.1, 0.9, 0.2]]], "float32"
)
LOGITS = np.full((1, 7, 3), -9, "float32")
for _anchor, _class, _score in [(0, 1, 1.5), (1, 2, 2.0), (2, 0, 1.0), (3, 2, 0.5), (4, 0, -0.1), (6, 1, 0.2)]:
    LOGITS[0, _anchor, _class] = _score


def test_boxes_are_in_pixels_the_most_likely_first_and_none_covers_another_by_half():
    result = device("boxes", [BOXES, LOGITS]).classify_opened("a.png", opened(200, 60), 0.0)
    # The first overlaps the second by 0.975; the third does by 0.46; the fifth is below a half.
    assert [answer["index"] for answer in result["top"]] == [2, 0, 2, 1]
    assert [answer["box"] for answer in result["top"]] == [[40, 6, 118, 30], [40, 6, 76, 30], [100, 0, 200, 24], [20, 42, 40, 54]]
    np.testing.assert_allclose([answer["probability"] for answer in result["top"]], 1 / (1 + np.exp(-np.array([2.0, 1.0, 0.5, 0.2]))), rtol=1e-6)
    assert result["top"][0]["label"] == "سبعة" and result["size"] == [200, 60]
    more = device("boxes", [BOXES, LOGITS]).classify_opened("a.png", opened(200, 60), 0.0, top_k=2, threshold=0.3)
    assert len(more["top"]) == 2
    assert json.loads(json.dumps(result)) == result


def test_boxes_of_a_cropped_picture_are_where_they_are_in_the_whole():
    settings = {**SETTINGS, "mode": "cover", "resize": [40, 60], "crop": [30, 50]}
    model = device("boxes", [BOXES, LOGITS], preprocessing=settings)
    picture = opened(240, 80)
    left, top, right, bottom = visible_box(picture, settings)
    assert (left, top, right, bottom) == (70, 10, 170, 70)  # halved, and 35, 5 cut away
    first = model.classify_opened("a.png", picture, 0.0)["top"][0]
    assert first["box"] == [round(left + 0.2 * 100, 1), round(top + 0.1 * 60, 1), round(left + 0.59 * 100, 1), round(top + 0.5 * 60, 1)]


def test_a_picture_that_was_decoded_smaller_has_its_boxes_in_pixels_of_the_file():
    reduced = Opened(Image.new("RGB", (51, 31)), (203, 121), 4, left=0.25, top=0.75)
    np.testing.assert_allclose(visible_box(reduced, SETTINGS), [0, 0, 203, 121], atol=1e-9)


def test_suppression_is_kerashubs(rng):
    import keras_hub

    boxes = rng.uniform(0, 1, (1, 90, 2, 2)).astype("float32")
    boxes = np.concatenate([boxes.min(2), boxes.max(2)], -1)
    scores = np.sort(rng.uniform(0.1, 1, (1, 90)).astype("float32"))[:, ::-1]
    layer = keras_hub.layers.NonMaxSuppression("yxyx", from_logits=False, confidence_threshold=0.0, max_detections=90)
    found = layer(boxes, scores[..., None].copy())
    count = int(found["num_detections"][0])
    kept = dense.suppress(boxes[0])
    assert 10 < count < 85
    np.testing.assert_array_equal(boxes[0][kept], np.asarray(found["boxes"])[0, :count])


def test_a_box_beside_the_picture_is_no_answer():
    beside = BOXES - np.array([0, 0.6, 0, 0.6], "float32")
    found = device("boxes", [beside, LOGITS]).classify_opened("a.png", opened(200, 60), 0.0)["top"]
    assert [answer["index"] for answer in found] == [2]  # the one that reached beyond the right side


def test_no_box_is_an_answer_too():
    assert device("boxes", [BOXES, np.full((1, 7, 3), -9, "float32")]).classify_opened("a.png", opened(9, 9), 0.0)["top"] == []
    with pytest.raises(InputError, match="NaN or infinity"):
        device("boxes", [BOXES * np.nan, LOGITS]).classify_opened("a.png", opened(9, 9), 0.0)


def test_a_mask_has_the_class_of_each_pixel_and_shares_that_add_up(rng):
    logits = rng.standard_normal((1, 30, 50, 3)).astype("float32")
    result = device("masks", [logits]).classify_opened("a.png", opened(100, 90), 0.0)
    classes = logits[0].argmax(-1)
    np.testing.assert_array_equal(dense.unpack(json.loads(json.dumps(result))["mask"]), classes)
    assert result["mask"]["box"] == [0, 0, 100, 90] and result["size"] == [100, 90]
    assert sum(answer["share"] for answer in result["top"]) == pytest.approx(1)
    for answer in result["top"]:
        assert answer["share"] == pytest.approx(np.mean(classes == answer["index"])) and answer["label"] == LABELS[answer["index"]]
    whole = np.zeros((1, 30, 50, 3), "float32")
    whole[..., 2] = 1
    assert [answer["index"] for answer in device("masks", [whole]).classify_opened("a.png", opened(9, 9), 0.0)["top"]] == [2]


def test_boxes_and_masks_are_drawn_where_they_are():
    result = device("boxes", [BOXES, LOGITS]).classify_opened("a.png", opened(200, 60), 0.0, top_k=1)
    sheet = np.asarray(overlay.draw(Image.new("RGB", (200, 60), "black"), result)).astype(int)
    assert sheet.shape == (192, 640, 3)
    coloured = np.argwhere(sheet[40:].max(-1) > 60) + [40, 0]  # below the label
    np.testing.assert_allclose(coloured.min(0)[1], 128, atol=1)
    np.testing.assert_allclose(coloured.max(0), [96, 377.6], atol=1)
    assert not sheet[60:90, 140:370].any()  # its inside

    logits = np.zeros((1, 30, 50, 3), "float32")
    logits[0, :10, 25:, 1] = 1
    result = device("masks", [logits]).classify_opened("a.png", opened(200, 60), 0.0)
    sheet = np.asarray(overlay.draw(Image.new("RGB", (200, 60), "black"), result)).astype(int)
    assert sheet.shape == (192 + 2 * 26, 640, 3)
    np.testing.assert_array_equal(sheet[:192].max(-1) > 0, np.logical_and.outer(np.arange(192) < 64, np.arange(640) >= 320))


def test_a_table_has_the_places_of_boxes_and_the_shares_of_masks(tmp_path):
    result = device("boxes", [BOXES, LOGITS]).classify_opened("a.png", opened(200, 60), 0.0, top_k=2)
    cells = dict(zip(folder.header(3, "boxes"), folder.row(result, 3, "boxes"), strict=True))
    assert (cells["label_2"], cells["left_2"], cells["bottom_2"], cells["label_3"], cells["right_3"]) == ("background", 40.0, 30.0, "", "")
    result = device("masks", [np.zeros((1, 30, 50, 3), "float32")]).classify_opened("a.png", opened(9, 9), 0.0)
    cells = dict(zip(folder.header(2, "masks"), folder.row(result, 2, "masks"), strict=True))
    assert (cells["label_1"], cells["share_1"], cells["share_2"]) == ("background", "1.000000", "")


@pytest.mark.parametrize(
    ("kind", "change", "expected"),
    [
        ("boxes", {"outputs": OUTPUTS["boxes"][:1]}, "the outputs boxes, of shape"),
        ("boxes", {"outputs": OUTPUTS["boxes"][::-1]}, "the outputs boxes, of shape"),
        ("boxes", {"outputs": [OUTPUTS["boxes"][0], {**OUTPUTS["boxes"][1], "shape": [1, 8, 3]}]}, "the outputs boxes, of shape"),
        ("boxes", {"outputs": [OUTPUTS["boxes"][0], {**OUTPUTS["boxes"][1], "index": -1}]}, "the outputs boxes, of shape"),
        ("boxes", {"labels": ["one"]}, "a name for each class"),
        ("masks", {"outputs": [{**OUTPUTS["masks"][0], "shape": [1, 31, 50, 3]}]}, r"one output of shape \[1, \*crop, classes\]"),
        ("masks", {"outputs": OUTPUTS["masks"] * 2}, r"one output of shape \[1, \*crop, classes\]"),
        ("masks", {"labels": ["one", "two"]}, "a name for each class"),
    ],
)
def test_a_broken_description_is_refused(kind, change, expected, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps(describe(kind)))
    assert read_bundle(tmp_path, kind)["output_kind"] == kind and find_task(tmp_path) == kind
    with pytest.raises(InputError, match="expected a classifier, whose output_kind is logits or probabilities"):
        read_bundle(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(describe(kind, **change)))
    with pytest.raises(InputError, match=f"expected .*{expected}"):
        read_bundle(tmp_path, kind)


def write_bundles(root):
    """Writes the bundles `boxes` and `masks`: a detector and a segmenter of three classes, from layers of Keras alone."""
    import keras
    from swin_keras.export import export_bundle

    from swin_keras.preprocessing import Preprocessing
    from swin_keras.tasks.detection import DecodeBoxes

    keras.utils.set_random_seed(3)
    image = keras.Input((30, 50, 3))
    maps = keras.layers.Conv2D(7, 10, strides=10)(image)
    offsets, scores = keras.layers.Conv2D(4, 1)(maps), keras.layers.Conv2D(3, 1)(maps)
    places = [[row / 3, column / 5, (row + 1) / 3, (column + 1) / 5] for row in range(3) for column in range(5)]
    outputs = DecodeBoxes(places)(keras.layers.Reshape((15, 4))(offsets), keras.layers.Reshape((15, 3))(scores))
    settings = Preprocessing("exact", (30, 50), (30, 50))
    export_bundle(keras.Model(image, outputs), root / "boxes", ["float32"], labels=LABELS, preprocessing=settings)
    masks = keras.layers.Conv2D(3, 3, padding="same")(image)
    export_bundle(keras.Model(image, masks), root / "masks", ["float32"], labels=LABELS, preprocessing=settings, sizes=[(20, 40)])


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    root = tmp_path_factory.mktemp("dense")
    write_bundles(root)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), "uint8")).save(root / "picture.png")
    return root


def test_a_bundle_says_what_its_model_finds(bundles):
    for kind in ("boxes", "masks"):
        description = read_bundle(bundles / kind, kind)
        assert description["output_kind"] == kind and description["labels"] == LABELS
        assert type(dense.open_bundle(bundles / kind)) is {"boxes": dense.Detector, "masks": dense.Segmenter}[kind]
    with pytest.raises(InputError, match="expected a classifier"):
        from swin_keras.edge_demo import Classifier

        Classifier(bundles / "boxes")


def test_the_command_finds_boxes_and_masks(bundles, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    picture = str(bundles / "picture.png")
    assert main([picture, "--bundle", str(bundles / "boxes"), "--threshold", "0.1", "--top-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4 and all("  at " in line for line in lines[1:])
    assert main([picture, "--bundle", str(bundles / "boxes"), "--threshold", "1"]) == 0
    assert capsys.readouterr().out.endswith("  nothing reaches 100 %\n")
    shutil.copytree(bundles, tmp_path / "in", ignore=shutil.ignore_patterns("boxes", "masks"))
    for kind in ("boxes", "masks"):
        arguments = ["--folder", str(tmp_path / "in"), "--bundle", str(bundles / kind), "--threshold", "0.1", "--save-overlay", str(tmp_path / kind)]
        assert main([*arguments, "--top-k", "999999999", "--csv", f"{kind}.csv"]) == 0  # as many columns as answers there can be
        assert "1 pictures" in capsys.readouterr().out
        assert (tmp_path / kind / "picture-overlay.jpg").is_file()
        (row,) = csv.DictReader((tmp_path / f"{kind}.csv").open(encoding="utf-8"))
        assert row["label_1"] in LABELS and row["error"] == "" and ("left_1" in row) == (kind == "boxes")
    assert main([picture, "--bundle", str(bundles / "masks"), "--size", "20", "40", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["mask"]["size"] == [20, 40] and result["size"] == [80, 60]
