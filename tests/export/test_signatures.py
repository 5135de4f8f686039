"""Files that take pictures of several sizes and types."""

import json

import keras
import numpy as np
import pytest
from conftest import randomize
from swin_keras.edge_demo.bench import delegate_coverage
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import bundle as bundles
from swin_keras.export import sensitivity, tflite, verify

import swin_keras
from swin_keras import export
from swin_keras.models import at_size
from swin_keras.preprocessing import Preprocessing

RECIPES = ["float32", "float16", "dynamic_int8", "hybrid_int8", "full_int8", "int16x8"]
# 64x32 divides into windows of 4 as 32x32 does; 36x52 needs padding.
SIZES = [(64, 32), (36, 52)]
KEYS = ["serving_default", "size_64x32", "size_36x52", "uint8", "uint8_64x32", "uint8_36x52"]
PREPROCESSING = Preprocessing("exact", (32, 32), (32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def model():
    return randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7))


@pytest.fixture(scope="module")
def pictures():
    return np.random.default_rng(0).standard_normal((9, 32, 32, 3)).astype("float32")


@pytest.fixture(scope="module")
def bundle(model, pictures, tmp_path_factory):
    folder = tmp_path_factory.mktemp("signatures") / "bundle"
    report = export.export_bundle(
        model, folder, RECIPES, calibration=pictures, preprocessing=PREPROCESSING, sizes=SIZES, uint8_input=True, labels=list("abcdefg")
    )
    return folder, report


def run_signature(folder, recipe, key, picture):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / f"{recipe}.tflite"))
    return interpreter.get_signature_runner(key)(image=picture)["logits"]


def schema_of(folder, recipe):
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs((folder / f"{recipe}.tflite").read_bytes())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_each_signature_computes_what_keras_does_at_its_size(bundle, model, rng, recipe):
    pixels = {size: rng.integers(0, 256, (1, *size, 3)).astype("uint8") for size in [(32, 32), *SIZES]}
    for key, (size, dtype) in zip(KEYS, [(size, dtype) for dtype in ("float32", "uint8") for size in pixels], strict=True):
        normalized = ((pixels[size] / 255 - np.array(PREPROCESSING.mean)) / np.array(PREPROCESSING.std)).astype("float32")
        expected = np.asarray(at_size(model, *size)(normalized))
        received = run_signature(bundle[0], recipe, key, normalized if dtype == "float32" else pixels[size])
        if recipe == "float32":
            np.testing.assert_allclose(received, expected, atol=1e-4)
        else:
            assert 10 * np.log10(np.sum(expected**2) / np.sum((received - expected) ** 2)) > (20 if recipe == "full_int8" else 25), key


@pytest.mark.slow
def test_model_json_says_what_each_signature_takes_and_gives(bundle):
    description = json.loads((bundle[0] / "model.json").read_text())
    signatures = description["signatures"]
    assert [signature["key"] for signature in signatures] == KEYS
    assert signatures[0]["input"] == description["input"] and signatures[0]["preprocessing"] == description["preprocessing"]
    assert signatures[4]["input"] == {"shape": [1, 64, 32, 3], "dtype": "uint8", "layout": "NHWC"}
    of_pixels = Preprocessing.from_dict(signatures[4]["preprocessing"])
    assert of_pixels == Preprocessing("exact", (64, 32), (64, 32), mean=(0, 0, 0), std=(1 / 255,) * 3)
    assert all(signature["outputs"] == [{"name": "logits", "shape": [1, 7]}] for signature in signatures)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_who_names_no_signature_gets_the_main_one(bundle, model, pictures, recipe):
    file = schema_of(bundle[0], recipe)
    keys = {file.SignatureDefs(i).SignatureKey().decode(): file.SignatureDefs(i).SubgraphIndex() for i in range(file.SignatureDefsLength())}
    assert set(keys) == set(KEYS) and keys["serving_default"] == 0
    runner = TFLiteModel((bundle[0] / f"{recipe}.tflite").read_bytes())
    assert runner.input_shape == [1, 32, 32, 3]
    np.testing.assert_array_equal(runner(pictures[:1]), run_signature(bundle[0], recipe, "serving_default", pictures[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_signatures_share_the_weights_of_products_but_for_those_behind_padding(bundle, recipe):
    file = schema_of(bundle[0], recipe)

    def buffers(key):
        index = next(s.SubgraphIndex() for s in map(file.SignatureDefs, range(6)) if s.SignatureKey() == key.encode())
        graph = file.Subgraphs(index)
        tensors = [graph.Tensors(i) for i in range(graph.TensorsLength())]
        constant = [t for t in tensors if file.Buffers(t.Buffer()).DataLength() or file.Buffers(t.Buffer()).Size()]
        return {t.Buffer() for t in constant if t.ShapeLength() == 2 and np.prod(t.ShapeAsNumpy()) > 1000}

    main = buffers("serving_default")
    assert len(main) == 17  # of 4 blocks of 4 products, and of the merging
    for key in ("size_64x32", "uint8", "uint8_64x32"):
        assert buffers(key) == main, key
    for key in ("size_36x52", "uint8_36x52"):
        assert len(main - buffers(key)) <= 4, key


@pytest.mark.slow
def test_the_report_measures_each_signature(bundle):
    for recipe in RECIPES:
        measured = bundle[1]["recipes"][recipe]
        assert list(measured["signatures"]) == KEYS[1:]
        for row in measured["signatures"].values():
            assert row["fidelity"]["snr_db"] > 15 and row["fidelity"]["samples"] == 9 and row["latency_ms"]["median"] > 0
    assert "| uint8_36x52 |" in (bundle[0] / "report.md").read_text()


@pytest.mark.slow
def test_xnnpack_runs_the_main_signature_whole(bundle):
    for recipe in ("float32", "float16", "dynamic_int8", "hybrid_int8"):
        coverage = delegate_coverage((bundle[0] / f"{recipe}.tflite").read_bytes())
        assert coverage["nodes"] == coverage["delegated"] and coverage["partitions"] == 1


@pytest.mark.parametrize("whole", [pytest.param(True, marks=pytest.mark.slow), False])
def test_keras_predicts_pictures_of_whole_pixels_once_for_both_types(model, tmp_path, monkeypatch, whole):
    of_signatures = []
    predict = keras.Model.predict
    monkeypatch.setattr(keras.Model, "predict", lambda self, x, **options: of_signatures.append(len(x)) or predict(self, x, **options))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3))
    pictures = ((pixels / 255 - PREPROCESSING.mean) / PREPROCESSING.std).astype("float32") + (0 if whole else 1e-3)
    arguments = {"calibration": pictures, "preprocessing": PREPROCESSING, "sizes": SIZES[:1], "uint8_input": True}
    report = export.export_bundle(model, tmp_path / "bundle", ["float32"], **arguments)
    # At each size the pictures and noise; and what the signature for pixels rounds.
    assert of_signatures == ([5, 32] if whole else [5, 32, 5]) * 2
    measured = report["recipes"]["float32"]
    assert all(row["fidelity"]["max_abs_diff"] < 1e-4 for row in (measured, *measured["signatures"].values()))


@pytest.mark.slow
def test_two_exports_with_signatures_are_the_same(bundle, model, pictures, tmp_path):
    arguments = {"calibration": pictures, "preprocessing": PREPROCESSING, "sizes": SIZES, "uint8_input": True, "labels": list("abcdefg")}
    export.export_bundle(model, tmp_path / "bundle", ["hybrid_int8"], **arguments)
    assert (tmp_path / "bundle" / "hybrid_int8.tflite").read_bytes() == (bundle[0] / "hybrid_int8.tflite").read_bytes()


@pytest.mark.slow
def test_what_stays_in_float32_does_so_in_each_signature_and_migration_and_percentiles_serve_all(model, pictures, tmp_path, monkeypatch):
    losses = iter([1.0] + [0.0] * 20)  # The first file is over the budget, the others are not: one unit stays.
    monkeypatch.setattr(bundles._Export, "_points_lost", lambda self, content: next(losses))
    arguments = {"calibration": pictures, "sizes": SIZES[:1], "uint8_input": True, "migrate": True, "percentile": 99.9, "accuracy_budget": 0}
    report = export.export_bundle(model, tmp_path / "bundle", ["hybrid_int8"], **arguments)
    measured = report["recipes"]["hybrid_int8"]
    (kept,) = measured["kept_float"]
    assert all(row["fidelity"]["snr_db"] > 25 for row in measured["signatures"].values())
    content = (tmp_path / "bundle" / "hybrid_int8.tflite").read_bytes()
    file = schema_of(tmp_path / "bundle", "hybrid_int8")
    named = iter(tflite.operators(content))
    for graph in map(file.Subgraphs, range(4)):
        types = {}
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            name, kind = next(named)
            if kind in ("FULLY_CONNECTED", "BATCH_MATMUL"):
                types[sensitivity.short_name(name)] = graph.Tensors(operator.Inputs(0)).Type()
        floats = [short for short, kind in types.items() if kind == 0]  # TensorType.FLOAT32
        assert len(types) == 26 and floats == [kept]


def test_a_backbone_describes_the_maps_of_each_size(tmp_path):
    small = {"input_shape": (32, 48, 3), "embed_dim": 12, "depths": (2, 1), "num_heads": (2, 3), "window_size": 4}
    backbone = randomize(swin_keras.create_backbone("swin_nano_patch4_window4_32", **small))
    export.export_bundle(backbone, tmp_path / "bundle", ["float32"], sizes=[(48, 32)])
    signatures = json.loads((tmp_path / "bundle" / "model.json").read_text())["signatures"]
    assert [output["shape"] for output in signatures[0]["outputs"]] == [[1, 8, 12, 12], [1, 4, 6, 24]]
    assert [output["shape"] for output in signatures[1]["outputs"]] == [[1, 12, 8, 12], [1, 6, 4, 24]]


@pytest.mark.slow
def test_a_size_has_the_protocol_that_is_official_for_it(model, tmp_path):
    export.export_bundle(model, tmp_path / "bundle", ["float32"], sizes=[(384, 392)])
    signatures = json.loads((tmp_path / "bundle" / "model.json").read_text())["signatures"]
    protocols = [Preprocessing.from_dict(signature["preprocessing"]) for signature in signatures]
    assert protocols == [Preprocessing("cover", (36, 36), (32, 32)), Preprocessing("exact", (384, 392), (384, 392))]


@pytest.mark.parametrize(
    ("head", "misfit"),
    [
        (lambda x: keras.layers.Flatten()(keras.layers.Reshape((4, 5), name="tokens")(x)), r"'tokens' \(Reshape\): it is made for another size"),
        (lambda x: keras.layers.Flatten()(x), r"'classes/kernel' of layer 'classes', \(20, 3\), which would have to be \({}, 3\)"),
        # At 16x8 it makes two pictures of one, at 12x8 it cannot.
        (lambda x: keras.ops.mean(keras.ops.reshape(x, (-1, 4, 5)), axis=1), r"'reshape\w*' \(Reshape\): it is made for another size"),
    ],
    ids=["reshape", "dense", "operation"],
)
def test_what_is_made_for_one_size_is_named_with_the_size_that_it_does_not_take(head, misfit, tmp_path):
    image = keras.Input((8, 8, 3))
    features = keras.layers.Conv2D(5, 4, strides=4)(image)
    model = keras.Model(image, keras.layers.Dense(3, name="classes")(head(features)))
    for height, inputs in [(16, 40), (12, 30)]:
        expected = f"can be built for pictures of {height}x8. Received: '{model.name}' with {misfit.format(inputs)}.*GlobalAveragePooling2D"
        with pytest.raises(ValueError, match=expected):
            export.export_bundle(model, tmp_path / "bundle", ["float32"], sizes=[(height, 8)])
    assert list(tmp_path.iterdir()) == []


def test_a_size_below_a_patch_is_refused_in_the_words_of_the_layer(model, tmp_path):
    with pytest.raises(ValueError, match="pictures of 2x32.*The image must be at least as large as one patch"):
        export.export_bundle(model, tmp_path / "bundle", ["float32"], sizes=[(2, 32)])


def test_a_signature_that_fails_is_named(model, tmp_path, monkeypatch):
    check = verify.check

    def fail(recipe, measured, reference, where, **limits):
        far = {"max_abs_diff": 9.0} if "size_64x32" in where and recipe == "float32" else {}
        check(recipe, measured | far, reference, where=where, **limits)

    monkeypatch.setattr(verify, "check", fail)
    with pytest.raises(export.VerificationError, match="float32, signature size_64x32, differs from Keras by 9"):
        export.export_bundle(model, tmp_path / "bundle", ["float32"], sizes=SIZES[:1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [pytest.param((32, 32), marks=pytest.mark.slow), (30, 32)], ids=str)
def test_a_bundle_that_normalizes_inside_classifies_as_one_that_does_not(size, rng, tmp_path):
    """At a height of 30 the embedding pads, and the normalization stands in front of it."""
    from PIL import Image
    from swin_keras.edge_demo import Classifier

    model = randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7, input_shape=(*size, 3)))
    preprocessing = PREPROCESSING.at_size(*size)
    pictures = rng.standard_normal((5, *size, 3)).astype("float32")
    classes = model.predict(pictures, verbose=0).argmax(-1)
    arguments = {"calibration": pictures, "preprocessing": preprocessing, "data": [(pictures, classes)], "uint8_input": True}
    Image.fromarray(rng.integers(0, 256, (*size, 3)).astype("uint8")).save(tmp_path / "picture.png")
    tops = {}
    for fold in (False, True):
        report = export.export_bundle(model, tmp_path / str(fold), ["float32", "hybrid_int8"], fold_normalization=fold, **arguments)
        assert report["recipes"]["float32"]["top1"] == 1 and report["recipes"]["float32"]["signatures"]["uint8"]["fidelity"]["snr_db"] > 100
        classifier = Classifier(tmp_path / str(fold), "float32")
        tops[fold] = classifier.classify(tmp_path / "picture.png", top_k=7)["top"]
    described = classifier.description["preprocessing"]
    assert described["mean"] == [0, 0, 0] and described["std"] == [1, 1, 1]
    assert [entry["index"] for entry in tops[True]] == [entry["index"] for entry in tops[False]]
    np.testing.assert_allclose(*([entry["probability"] for entry in tops[fold]] for fold in (True, False)), atol=1e-4)
    operators = [json.loads((tmp_path / str(fold) / "report.json").read_text())["recipes"]["float32"]["ops"] for fold in (False, True)]
    assert sum(operators[1].values()) - sum(operators[0].values()) == (0 if size[0] == 32 else 2)
