import keras
import numpy as np
import pytest
from conftest import randomize

import swin_keras

TINY = {"embed_dim": 12, "depths": (1, 2), "num_heads": (2, 3), "window_size": 2, "num_classes": 5}


def build(name="swin_tiny_patch4_window7_224", size=(16, 24), **overrides):
    keras.utils.set_random_seed(0)
    create = swin_keras.create_backbone if overrides.pop("backbone", False) else swin_keras.create_model
    own = {key: value for key, value in TINY.items() if key != "num_classes"} if create is swin_keras.create_backbone else TINY
    return randomize(create(name, input_shape=(*size, 3), **{**own, **overrides}))


@pytest.fixture
def pictures(rng):
    return rng.standard_normal((24, 16, 24, 3)).astype("float32")


def train(model, pictures, rng, steps=6):
    model.compile(keras.optimizers.Adam(2e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.optimizer.build(model.trainable_variables)  # Else TensorFlow traces the step twice.
    return model.fit(pictures[: 4 * steps], rng.integers(0, 5, 4 * steps), batch_size=4, verbose=0).history["loss"]


@pytest.mark.parametrize(
    "recipe", ["hybrid_int8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("dynamic_int4", "dynamic_int8", "full_int8"))]
)
def test_the_file_computes_what_training_simulated(recipe, pictures, rng, tmp_path):
    from swin_keras import compression, export

    model = build()
    rounding = compression.quantization_aware(model, recipe, pictures)
    train(rounding, pictures, rng)
    report = export.export_bundle(rounding, tmp_path / "bundle", calibration=[pictures])
    assert list(report["recipes"]) == [recipe]
    measured = report["recipes"][recipe]
    assert measured["fidelity"]["snr_db"] >= 35
    assert measured["fidelity"]["top1_agreement"] >= 0.995
    if recipe != "full_int8":
        assert measured["delegate"]["partitions"] == 1 and measured["delegate"]["left"] == {}


@pytest.mark.slow
def test_it_begins_where_the_model_is_and_the_ranges_follow_what_training_sees(pictures, rng):
    from swin_keras import compression

    model = build()
    rounding = compression.quantization_aware(model, "hybrid_int8", pictures, momentum=0.5)
    expected, received = model.predict(pictures, verbose=0), rounding.predict(pictures, verbose=0)
    assert 10 * np.log10(np.square(expected).sum() / np.square(expected - received).sum()) > 25
    layer = rounding.layers[-1]
    before = np.array(layer.ranges)
    train(rounding, 3 * pictures, rng)
    widths = np.ptp(np.array(layer.ranges), axis=1) / np.ptp(before, axis=1)
    assert np.all(np.isfinite(widths)) and np.any(np.abs(widths - 1) > 0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, overrides",
    [("swinv2_tiny_patch4_window8_256", {"window_fit": "pad", "window_size": 3}), ("swin_tiny_patch4_window7_224", {"backbone": True})],
    ids=["padded V2", "backbone"],
)
def test_other_families_and_outputs_round_as_their_file_does(name, overrides, pictures, tmp_path):
    from swin_keras import compression, export

    model = build(name, **overrides)
    rounding = compression.quantization_aware(model, "hybrid_int8", pictures)
    assert keras.tree.map_structure(lambda output: output.shape, rounding.output) == keras.tree.map_structure(
        lambda output: output.shape, model.output
    )
    report = export.export_bundle(rounding, tmp_path / "bundle", calibration=[pictures])
    assert report["recipes"]["hybrid_int8"]["fidelity"]["snr_db"] >= 35


@pytest.mark.slow
def test_heads_alike_keep_their_own_ranges(pictures, tmp_path):
    from swin_keras import compression, export

    body = build()
    features = body.layers[-2].output
    outputs = [keras.layers.Dense(5, kernel_initializer=keras.initializers.RandomNormal(stddev=scale, seed=1))(features) for scale in (0.1, 10.0)]
    for order in (outputs, outputs[::-1]):
        model = keras.Model(body.input, order)
        rounding = compression.quantization_aware(model, "full_int8", pictures)
        report = export.export_bundle(rounding, tmp_path / "bundle", calibration=[pictures])
        assert report["recipes"]["full_int8"]["fidelity"]["snr_db"] >= 35


@pytest.mark.parametrize("recipe", ["hybrid_int8", pytest.param("full_int8", marks=pytest.mark.slow)])
def test_ranges_of_blank_pictures_leave_numbers_finite(recipe, pictures):
    from swin_keras import compression

    rounding = compression.quantization_aware(build(), recipe, np.zeros_like(pictures))
    assert np.all(np.isfinite(rounding.predict(pictures, verbose=0)))


@pytest.mark.slow
def test_a_saved_model_in_training_is_loaded_trained_on_and_exported_alike(pictures, rng, tmp_path):
    from swin_keras import compression, export

    rounding = compression.quantization_aware(build(), "dynamic_int8")
    train(rounding, pictures, rng, steps=2)
    rounding.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.predict(pictures, verbose=0), rounding.predict(pictures, verbose=0))
    files = []
    for index, model in enumerate((rounding, loaded)):
        export.export_bundle(model, tmp_path / str(index))
        files.append((tmp_path / str(index) / "dynamic_int8.tflite").read_bytes())
    assert files[0] == files[1]


def test_an_export_takes_no_other_recipe_and_nothing_that_changes_the_operators(pictures, tmp_path):
    from swin_keras import compression, export

    rounding = compression.quantization_aware(build(), "dynamic_int8")
    for given, message in [
        ({"recipes": ["float32"]}, "trained for dynamic_int8"),
        ({"recipes": ["dynamic_int8", "float16"]}, "trained for dynamic_int8"),
        ({"layout": "cpu"}, "Received: layout"),
        ({"uint8_input": True, "gelu": "tanh"}, "gelu, uint8_input|uint8_input, gelu"),
        ({"accuracy_budget": 1.0, "calibration": [pictures]}, "Received: accuracy_budget"),
        ({"sizes": [(32, 32)]}, "Received: sizes"),
    ]:
        with pytest.raises(ValueError, match=message):
            export.export_bundle(rounding, tmp_path / "bundle", **given)
    assert not (tmp_path / "bundle").exists()


def test_what_cannot_be_trained_for_integers_is_refused_with_what_to_do(pictures):
    from swin_keras import compression

    model = build()
    with pytest.raises(ValueError, match="`recipe` must be one of dynamic_int8, .*dynamic_int4.* Received: recipe='float16'"):
        compression.quantization_aware(model, "float16")
    with pytest.raises(ValueError, match=r"full_int8 needs `calibration`.*\(n, 16, 24, 3\).*Received: none"):
        compression.quantization_aware(model, "full_int8")
    with pytest.raises(ValueError, match=r"Received: float32 \(24, 16, 12, 3\)"):
        compression.quantization_aware(model, "full_int8", pictures[:, :, :12])
    with pytest.raises(ValueError, match="numbers that are not finite"):
        compression.quantization_aware(model, "full_int8", pictures * np.nan)
    with pytest.raises(ValueError, match="fixed height"):
        compression.quantization_aware(build(size=(None, None)), "dynamic_int8")
    image = keras.Input((16, 24, 3))
    other = keras.Model(image, keras.layers.Dense(5)(keras.layers.Flatten()(keras.ops.exp(image))))
    with pytest.raises(ValueError, match="knows the operators .* Received: a model with EXP"):
        compression.quantization_aware(other, "dynamic_int8")
    rounding = compression.quantization_aware(model, "dynamic_int8")
    with pytest.raises(ValueError, match="rounds already"):
        compression.quantization_aware(rounding, "dynamic_int8")
