import json

import keras
import numpy as np
import pytest
from conftest import GOLDENS, call, randomize

import swin_keras
from swin_keras.tasks import create_segmenter, evaluate, mean_iou
from swin_keras.tasks.segmentation import PyramidPooling, Resize

SMALL = {"embed_dim": 12, "depths": (1, 2, 1), "num_heads": (2, 3, 4), "window_size": 3}


def build(size=(48, 64), num_classes=5, **overrides):
    keras.utils.set_random_seed(0)
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(*size, 3), **SMALL)
    return create_segmenter(backbone, num_classes, **{"channels": 16, "pool_scales": (1, 2, 3), **overrides})


def test_a_class_for_each_pixel_of_the_picture(rng):
    model = build()
    assert call(model, rng.standard_normal((2, 48, 64, 3)).astype("float32")).shape == (2, 48, 64, 5)
    assert model.output.dtype == "float32"


def test_the_head_has_the_parameters_of_the_official_one():
    # mmseg's UPerHead on Swin-T with 150 classes: 512 wide, pools 1, 2, 3, 6; convolutions without bias before a norm.
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(64, 64, 3))
    model = create_segmenter(backbone, 150)

    def convolution(inputs, side):
        return inputs * 512 * side**2 + 4 * 512  # scale, shift, and two averages

    expected = 4 * convolution(768, 1) + convolution(768 + 4 * 512, 3) + sum(convolution(width, 1) for width in (96, 192, 384))
    expected += 3 * convolution(512, 3) + convolution(4 * 512, 3) + 512 * 150 + 150
    assert model.count_params() - backbone.count_params() == expected


def test_after_few_steps_the_averages_of_the_norms_are_those_of_the_data(rng):
    shape = {"input_shape": (48, 64, 3), "drop_path_rate": 0.0}
    model = create_segmenter(swin_keras.create_backbone("swin_tiny_patch4_window7_224", **shape, **SMALL), 2, 16, (2, 3), dropout_rate=0.0)
    model.compile(keras.optimizers.SGD(0.0), keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=False)
    x = rng.standard_normal((4, 48, 64, 3)).astype("float32")
    model.fit(x, np.zeros((4, 48, 64), "int32"), batch_size=4, epochs=40, verbose=0)
    trained, used = (keras.ops.convert_to_numpy(model(x, training=training)) for training in (True, False))
    assert np.abs(used - trained).max() < 0.1 * np.abs(trained).max()


def test_the_stages_of_a_segmenter_on_a_checkpoint_of_mmdet_are_those_of_mmdet():
    # The file is a whole detector's; mmseg's backbones have the same names.
    stored = dict(np.load(GOLDENS / "mmdet.npz"))
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", GOLDENS / "mmdet.pth", **json.loads(str(stored.pop("config"))))
    model = create_segmenter(backbone, 5, channels=16, pool_scales=(1, 2))
    stages = call(keras.Model(model.input, backbone.output), stored.pop("pictures").astype("float32"))
    assert set(stages) == set(stored)
    for name, stage in stages.items():
        assert np.abs(keras.ops.convert_to_numpy(stage) - stored[name]).max() < 2e-6 * np.abs(stored[name]).max()


@pytest.mark.parametrize(("side", "bins"), [((7, 9), 3), ((6, 4), 2), ((2, 3), 6), ((5, 8), 1)])
def test_pooling_averages_the_bins_of_torch(side, bins, rng):
    x = rng.standard_normal((2, *side, 5)).astype("float32")
    expected = np.zeros((2, bins, bins, 5))
    for row, column in np.ndindex(bins, bins):
        rows, columns = (slice(int(np.floor(i * n / bins)), int(np.ceil((i + 1) * n / bins))) for i, n in zip((row, column), side, strict=True))
        expected[:, row, column] = x[:, rows, columns].mean((1, 2))
    layer = PyramidPooling(bins)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(x)), expected, atol=1e-6)
    assert layer.compute_output_shape(x.shape) == expected.shape


def test_resizing_takes_pixels_as_areas():
    x = np.arange(4, dtype="float32").reshape(1, 1, 4, 1)
    received = keras.ops.convert_to_numpy(Resize((1, 8))(x)).ravel()
    # Half a pixel in from each end nothing is known beyond.
    np.testing.assert_allclose(received, [0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3], atol=1e-6)


def test_fit_lowers_the_loss_and_a_saved_model_says_the_same(rng, tmp_path):
    model = build(num_classes=3)
    model.compile(keras.optimizers.Adam(3e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)  # Else TensorFlow traces the step twice.
    x = rng.standard_normal((4, 48, 64, 3)).astype("float32")
    masks = (x[..., 0] > 0).astype("int32") + (x[..., 1] > 1)
    losses = model.fit(x, masks, batch_size=2, epochs=6, verbose=0).history["loss"]
    assert losses[-1] < 0.9 * losses[0]
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded.predict(x, verbose=0), model.predict(x, verbose=0), atol=1e-6)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the export is TensorFlow's")
def test_the_file_has_one_partition_no_tensor_above_rank_4_and_the_same_logits(rng, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    from swin_keras import export

    model = randomize(build())
    for weight in model.weights:
        if weight.path.endswith("moving_variance"):
            weight.assign(rng.uniform(0.5, 2.0, weight.shape))
    recipes = ["float32", "float16", "dynamic_int8", "hybrid_int8", "full_int8"]
    report = export.export_bundle(model, tmp_path / "bundle", recipes=recipes, calibration=rng.standard_normal((9, 48, 64, 3)).astype("float32"))
    for recipe in recipes[:-1]:
        delegate = report["recipes"][recipe]["delegate"]
        assert (delegate["partitions"], delegate["left"]) == (1, {})
        interpreter = Interpreter(str(tmp_path / "bundle" / f"{recipe}.tflite"))
        assert max(len(detail["shape"]) for detail in interpreter.get_tensor_details()) <= 4
    assert report["recipes"]["float32"]["fidelity"]["snr_db"] > 90


def test_mean_iou_is_that_of_an_example_by_hand_without_pixels_of_which_nothing_is_known():
    masks, predicted = np.array([[0, 0, 1], [2, 255, 1]]), np.array([[0, 1, 1], [2, 2, 0]])
    # Of class 0 one of three pixels is common, of 1 one of three, of 2 its only one; class 3 is in neither.
    assert mean_iou(predicted, masks, 4) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)


@pytest.mark.parametrize(
    ("predicted", "masks", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), "Expected a class for each pixel"),
        (np.zeros((2, 3), int), np.full((2, 3), 3), "Expected classes from 0 to 2, and 255 in masks .*Received: 3"),
        (np.zeros((2, 3), int), np.full((2, 3), -1), "Received: -1"),
        (np.full((2, 3), 255), np.zeros((2, 3), int), "Received: 255"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(predicted, masks, message):
    with pytest.raises(ValueError, match=message):
        mean_iou(predicted, masks, 3)


def test_a_model_that_diverged_is_not_measured(rng):
    model = build(num_classes=3)
    with pytest.raises(ValueError, match="Expected a model whose outputs are numbers"):
        evaluate(model, [(np.full((1, 48, 64, 3), np.nan, "float32"), np.zeros((1, 48, 64), int))])


def test_what_cannot_be_built_is_refused():
    backbone = swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(48, 64, 3), **SMALL)
    with pytest.raises(ValueError, match="with a fixed `input_shape`"):
        create_segmenter(swin_keras.create_backbone("swin_tiny_patch4_window7_224", **SMALL), 5)
    with pytest.raises(ValueError, match="`num_classes` must be positive integers. Received: num_classes=0"):
        create_segmenter(backbone, 0)
    with pytest.raises(ValueError, match="`dropout_rate` must be from 0"):
        create_segmenter(backbone, 5, dropout_rate=1.0)
    with pytest.raises(ValueError, match="at least two stages"):
        create_segmenter(swin_keras.create_backbone("swin_tiny_patch4_window7_224", input_shape=(48, 64, 3), out_stages=(3,), **SMALL), 5)
