import sys

import keras
import numpy as np
import pytest
from conftest import call, randomize

import swin_keras
from swin_keras.tasks import BOX_FORMAT, average_precision, create_detector, detection_network, evaluate, predict

to_numpy = keras.ops.convert_to_numpy
SMALL = {"embed_dim": 12, "depths": (1, 2, 1), "num_heads": (2, 3, 4), "window_size": 3}
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)


def build(size=(48, 64), num_classes=5, **overrides):
    import keras_hub

    keras.utils.set_random_seed(0)
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(*size, 3), out_stages=(2, 3), **SMALL)
    anchors = keras_hub.layers.AnchorGenerator(BOX_FORMAT, min_level=3, max_level=4, num_scales=2, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=2.0)
    arguments = {"min_level": 3, "max_level": 4, "mean": MEAN, "std": STD, "anchor_generator": anchors, "pre_logits_num_conv_layers": 1, **overrides}
    return create_detector(backbone, num_classes, **arguments)


@pytest.fixture(scope="module")
def detector():
    return build()


@pytest.fixture(scope="module")
def objects():
    """Pictures with bright rectangles, and the boxes of these; the last picture has none."""
    rng = np.random.default_rng(3)
    pictures = rng.integers(0, 60, (6, 48, 64, 3)).astype("uint8")
    boxes, labels = np.full((6, 2, 4), -1.0, "float32"), np.full((6, 2), -1, "int32")
    for image in range(5):
        for number in range(1 + image % 2):
            top, left = rng.integers(0, 30), rng.integers(0, 20) + 24 * number
            boxes[image, number], labels[image, number] = (top, left, top + 17, left + 19), image % 5
            pictures[image, top : top + 17, left : left + 19] = 40 * (1 + image % 5)
    return pictures, {"boxes": boxes, "labels": labels}


def test_kerashub_still_gives_the_prior_to_the_wrong_head():
    # When this fails, KerasHub has been mended, and `create_detector` need not set these biases.
    import keras_hub

    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(48, 64, 3), out_stages=(2, 3), **SMALL)
    pyramid = keras_hub.models.RetinaNetBackbone(image_encoder=backbone, min_level=3, max_level=4, use_p5=False, image_shape=(48, 64, 3))
    plain = keras_hub.models.RetinaNetObjectDetector(pyramid, 5, bounding_box_format=BOX_FORMAT)
    biases = [to_numpy(head.prediction_layer.bias) for head in (plain.classification_head, plain.box_head)]
    np.testing.assert_array_equal(biases[0], 0)
    np.testing.assert_allclose(biases[1], -np.log(99), atol=1e-5)


def test_at_first_each_class_has_its_prior_probability_and_boxes_are_the_anchors(rng):
    detector = build(prior_probability=0.02)
    for head in (detector.classification_head, detector.box_head):
        head.prediction_layer.kernel.assign(np.zeros(head.prediction_layer.kernel.shape))
    outputs = {key: to_numpy(value) for key, value in call(detector, rng.standard_normal((2, 48, 64, 3)).astype("float32")).items()}
    np.testing.assert_allclose(1 / (1 + np.exp(-outputs["cls_logits"])), 0.02, atol=1e-6)
    np.testing.assert_array_equal(outputs["bbox_regression"], 0)


def test_pictures_are_normalized_in_the_model(detector, objects):
    pictures, truth = objects
    normalized, kept = detector.preprocessor(pictures, truth)
    np.testing.assert_allclose(to_numpy(normalized), (pictures / 255 - MEAN) / STD, atol=1e-5)
    real = truth["labels"] >= 0
    np.testing.assert_allclose(to_numpy(kept["boxes"])[real], truth["boxes"][real], atol=1e-4)
    np.testing.assert_array_equal(kept["labels"], truth["labels"])


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="KerasHub prepares pictures for `fit` with TensorFlow or grain")
def test_fit_learns_boxes_also_where_a_picture_has_none_and_a_saved_model_finds_the_same(objects, tmp_path):
    pictures, truth = objects
    detector = build()
    detector.compile(keras.optimizers.Adam(2e-3), jit_compile=False)
    losses = detector.fit(pictures, truth, batch_size=3, epochs=50, verbose=0).history["loss"]
    assert np.all(np.isfinite(losses)) and losses[-1] < 0.1 * losses[0]
    measured = average_precision(predict(detector, pictures), truth)
    assert measured["mAP50"] > 0.5
    detector.save(tmp_path / "detector.keras")
    loaded = keras.models.load_model(tmp_path / "detector.keras", compile=False)
    # Seven pictures are no full batches.
    again = predict(loaded, np.concatenate([pictures, pictures[:1]]), batch_size=3)
    for key, value in predict(detector, pictures, batch_size=3).items():
        np.testing.assert_allclose(again[key][:6], value, atol=1e-4)
        np.testing.assert_allclose(again[key][6], value[0], atol=1e-4)


def test_the_network_gives_the_boxes_that_kerashub_decodes(rng):
    detector = randomize(build(), scale=0.1)
    network = detection_network(detector)
    x = rng.standard_normal((2, 48, 64, 3)).astype("float32")
    # In one call: compiled and eager, numbers differ in their last bits.
    offsets, scores = network.get_layer("boxes").input
    outputs = call(keras.Model(network.input, {**network.output, "bbox_regression": offsets, "cls_logits": scores}), x)
    received = raw = {key: to_numpy(value) for key, value in outputs.items()}
    decoded = keras.utils.bounding_boxes.decode_deltas_to_boxes(
        anchors=keras.ops.concatenate(list(detector.anchor_generator(x).values())),
        boxes_delta=keras.ops.convert_to_tensor(raw["bbox_regression"]),
        encoded_format="center_xywh",
        anchor_format=BOX_FORMAT,
        box_format=BOX_FORMAT,
        image_shape=(48, 64, 3),
    )
    # KerasHub has no largest size.
    usual = np.all(to_numpy(raw["bbox_regression"])[..., 2:] < 4, axis=-1)
    assert 0.1 < usual.mean() < 1
    np.testing.assert_allclose((received["boxes"] * [48, 64, 48, 64])[usual], to_numpy(decoded)[usual], rtol=1e-4, atol=1e-3)
    assert np.all(np.isfinite(received["boxes"]))
    np.testing.assert_array_equal(received["scores"], to_numpy(raw["cls_logits"]))


def test_average_precision_is_that_of_an_example_by_hand():
    truth = {"boxes": np.array([[[0, 0, 10, 20], [-1] * 4], [[5, 5, 25, 15], [30, 30, 40, 40]]], "float32"), "labels": np.array([[2, -1], [2, 2]])}
    # Two of three are found, one of them with an overlap of 0.6, and between them stands a wrong one.
    predicted = {
        "boxes": np.array([[[0, 0, 10, 20], [0, 0, 0, 0]], [[50, 50, 60, 60], [5, 5, 25, 11]]], "float32"),
        "labels": np.array([[2, -1], [2, 2]]),
        "confidence": np.array([[0.9, 0], [0.8, 0.7]]),
        "num_detections": np.array([1, 2]),
    }
    measured = average_precision(predicted, truth)
    # Precision is 1 up to a recall of 1/3 (34 of COCO's 101 points), then 2/3 up to 2/3 (33 points more).
    assert measured["mAP50"] == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert measured["mAP75"] == pytest.approx(34 / 101)
    assert average_precision({**predicted, "num_detections": np.array([0, 0])}, truth) == {"mAP": 0, "mAP50": 0, "mAP75": 0}
    with pytest.raises(ValueError, match="Expected pictures with objects. Received: none"):
        average_precision(predicted, {**truth, "labels": np.full((2, 2), -1)})
    # Places without an object may stand anywhere.
    moved = {"boxes": truth["boxes"][:, ::-1], "labels": truth["labels"][:, ::-1]}
    assert average_precision(predicted, moved) == measured


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_detections": np.array([1])}, "Expected boxes for the same pictures"),
        ({"confidence": np.array([[np.nan, 0], [0.8, 0.7]])}, "Expected boxes and confidences that are numbers"),
        ({"boxes": np.full((2, 2, 4), np.inf)}, "Expected boxes and confidences that are numbers"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, message):
    truth = {"boxes": np.array([[[0, 0, 10, 20]], [[5, 5, 25, 15]]], "float32"), "labels": np.array([[2], [2]])}
    predicted = {"boxes": np.ones((2, 2, 4)), "labels": np.ones((2, 2)), "confidence": np.ones((2, 2)), "num_detections": np.array([1, 2])}
    with pytest.raises(ValueError, match=message):
        average_precision({**predicted, **change}, truth)


def test_wrong_pictures_and_models_are_refused(detector):
    pictures = np.zeros((2, 48, 64, 3), "uint8")
    for wrong in (pictures[0], pictures[:0], pictures[..., :2]):
        with pytest.raises(ValueError, match="Expected an array of pictures"):
            predict(detector, wrong)
    with pytest.raises(ValueError, match="`batch_size` must be a positive integer. Received: batch_size=0"):
        predict(detector, pictures, batch_size=0)
    with pytest.raises(ValueError, match="Expected what `create_detector` makes"):
        predict(None, pictures)


def test_a_detector_is_measured_batch_by_batch_however_many_boxes_a_batch_has(detector, objects):
    pictures, truth = objects
    pictures, truth = pictures[:5], {key: value[:5] for key, value in truth.items()}
    expected = average_precision(predict(detector, pictures, batch_size=3), truth)
    first = (
        pictures[:3],
        {"boxes": np.pad(truth["boxes"][:3], [(0, 0), (0, 2), (0, 0)]), "labels": np.pad(truth["labels"][:3], [(0, 0), (0, 2)], constant_values=-1)},
    )
    received = evaluate(detector, iter([first, (pictures[3:], {key: value[3:] for key, value in truth.items()})]))
    assert received == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="Expected pictures to measure"):
        evaluate(detector, [])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the export is TensorFlow's")
def test_the_file_has_one_partition_no_tensor_above_rank_4_and_the_device_finds_what_keras_does(objects, tmp_path):
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image
    from swin_keras.edge_demo.dense import open_bundle

    from swin_keras import export
    from swin_keras.preprocessing import Preprocessing

    detector = randomize(build(), scale=0.05)
    pictures, _ = objects
    # Where probabilities are 1 to the last bit, none is the most likely; and boxes are to be in the picture.
    raw = detector(detector.preprocessor(pictures))
    for head, values, spread in [(detector.classification_head, raw["cls_logits"], 1.0), (detector.box_head, raw["bbox_regression"], 0.1)]:
        for weight in head.prediction_layer.weights:
            weight.assign(weight * spread / np.std(values))
    settings = Preprocessing("exact", (48, 64), (48, 64), mean=MEAN, std=STD)
    labels = list("abcde")
    report = export.export_bundle(detection_network(detector), tmp_path / "bundle", ["float32", "float16"], labels=labels, preprocessing=settings)
    for recipe in ("float32", "float16"):
        delegate = report["recipes"][recipe]["delegate"]
        assert (delegate["partitions"], delegate["left"]) == (1, {})
        interpreter = Interpreter(str(tmp_path / "bundle" / f"{recipe}.tflite"))
        assert max(len(detail["shape"]) for detail in interpreter.get_tensor_details()) <= 4
    assert report["recipes"]["float32"]["fidelity"]["snr_db"] > 90

    predicted, device = predict(detector, pictures), open_bundle(tmp_path / "bundle", "float32")
    for image, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "picture.png")
        top = device.classify(tmp_path / "picture.png", threshold=0.05)["top"]
        # The less likely may differ: anchors overlap by just a half here and there, where rounding decides.
        count = min(int(predicted["num_detections"][image]), 20)
        assert count > 10
        top = top[:count]
        np.testing.assert_allclose([answer["probability"] for answer in top], predicted["confidence"][image, :count], atol=1e-3)
        assert [answer["index"] for answer in top] == predicted["labels"][image, :count].tolist()
        top_left = np.array([[answer["box"][at] for at in (1, 0, 3, 2)] for answer in top])
        np.testing.assert_allclose(top_left, np.clip(predicted["boxes"][image, :count], 0, [48, 64, 48, 64]), atol=0.1)
        assert all(answer["label"] == labels[answer["index"]] for answer in top)


def test_what_cannot_be_built_is_refused(detector):
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(48, 64, 3), out_stages=(2, 3), **SMALL)
    with pytest.raises(ValueError, match="with a fixed `input_shape`"):
        create_detector(swin_keras.create_backbone("swin_tiny_patch4_window7_224", **SMALL), 5)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer. Received: num_classes=0"):
        create_detector(backbone, 0)
    with pytest.raises(ValueError, match=r"one of the levels of the backbone, \[3, 4\], and at most `max_level`. Received: min_level=2"):
        create_detector(backbone, 5, min_level=2)
    with pytest.raises(ValueError, match="`prior_probability` must be between 0 and 1"):
        create_detector(backbone, 5, max_level=4, prior_probability=1)
    with pytest.raises(ValueError, match="Expected what `create_detector` makes"):
        detection_network(backbone)


def test_what_is_not_installed_is_said_with_its_remedy(monkeypatch):
    from swin_keras.tasks.detection import extra

    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ValueError, match=r"Detection needs keras-hub. .*Install it: pip install 'swin-keras\[detection\]'"):
        extra("keras_hub")
    assert extra("pycocotools.coco").COCO
