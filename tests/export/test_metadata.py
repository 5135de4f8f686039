"""The metadata of a .tflite file, read back by a reader of the schema's own, and beside what MediaPipe's writer made."""

import io
import struct
import zipfile

import numpy as np
import pytest
from conftest import GOLDENS
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import recipes, tflite
from swin_keras.export.metadata import add_metadata

from swin_keras.preprocessing import IMAGENET_MEAN, IMAGENET_STD

LABELS = ["cat", "Zürich", "日本 の 猫", "a, b"]
ARGUMENTS = {
    "name": "ImageClassifier",
    "description": "Identify the most prominent object in the image from a known set of categories.",
    "labels": LABELS,
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "version": "0.1.0",
}

# The tables of metadata_schema.fbs, field by field: a kind, a table, a list of tables, or the tables of a union by the number before it.
SCHEMA = {
    "ModelMetadata": {
        "name": str,
        "description": str,
        "version": str,
        "subgraph_metadata": ["SubGraphMetadata"],
        "author": str,
        "license": str,
        "associated_files": ["AssociatedFile"],
        "min_parser_version": str,
    },
    "SubGraphMetadata": {
        "name": str,
        "description": str,
        "input_tensor_metadata": ["TensorMetadata"],
        "output_tensor_metadata": ["TensorMetadata"],
        "associated_files": ["AssociatedFile"],
    },
    "TensorMetadata": {
        "name": str,
        "description": str,
        "dimension_names": None,
        "content": "Content",
        "process_units": ["ProcessUnit"],
        "stats": "Stats",
        "associated_files": ["AssociatedFile"],
    },
    "Content": {"type": int, "properties": {1: "FeatureProperties", 2: "ImageProperties"}, "range": None},
    "FeatureProperties": {},
    "ImageProperties": {"color_space": int, "default_size": None},
    "ProcessUnit": {"type": int, "options": {1: "NormalizationOptions"}},
    "NormalizationOptions": {"mean": float, "std": float},
    "Stats": {"max": float, "min": float},
    "AssociatedFile": {"name": str, "description": str, "type": int, "locale": str, "version": str},
}
INPUT, OUTPUT = "subgraph_metadata.0.input_tensor_metadata.0", "subgraph_metadata.0.output_tensor_metadata.0"


def read(content):
    """Returns the fields of a ModelMetadata buffer by their paths."""
    fields = {}

    def number(kind, position):
        return struct.unpack_from(kind, content, position)[0]

    def target(position):
        return position + number("<I", position)

    def add_table(table, start, path):
        vtable = start - number("<i", start)
        slots = struct.unpack_from(f"<{number('<H', vtable) // 2 - 2}H", content, vtable + 4)
        for (name, kind), slot in zip(SCHEMA[table].items(), slots, strict=False):
            if slot:
                add(kind, start + slot, f"{path}{name}")

    def add(kind, position, path):
        if isinstance(kind, dict):
            kind = kind[fields[f"{path.rpartition('.')[0]}.type"]]
        if kind is int:
            fields[path] = content[position]
        elif kind is str:
            length = number("<I", target(position))
            fields[path] = content[target(position) + 4 :][:length].decode()
        elif kind is float:
            fields[path] = np.frombuffer(content, "<f4", number("<I", target(position)), target(position) + 4).tolist()
        elif isinstance(kind, list):
            for i in range(number("<I", target(position))):
                add(kind[0], target(position) + 4 + 4 * i, f"{path}.{i}")
        else:
            add_table(kind, target(position), f"{path}.")

    assert content[4:8] == b"M001"
    add_table("ModelMetadata", target(0), "")
    return fields


def parse(model):
    from ai_edge_litert import schema_py_generated as schema

    return schema.Model.GetRootAs(model)


def metadata_entries(model):
    """Returns the contents of a file's metadata buffers by name."""
    file = parse(model)
    entries = [file.Metadata(i) for i in range(file.MetadataLength())]
    return {entry.Name().decode(): stored_buffers(model)[entry.Buffer()][0] for entry in entries}


def stored_buffers(model):
    """Returns the content of each buffer that is not empty, and where it begins."""
    file, found = parse(model), {}
    for i in range(file.BuffersLength()):
        buffer = file.Buffers(i)
        start, size = buffer.Offset(), buffer.Size()
        if buffer.DataLength():
            start, size = buffer._tab.Vector(buffer._tab.Offset(4)), buffer.DataLength()
        if size:
            found[i] = model[start : start + size], start
    return found


@pytest.fixture(scope="module")
def image():
    import keras

    return keras.Input((6, 10, 3), batch_size=1)


@pytest.fixture(scope="module")
def float32_model(image):
    import keras

    keras.utils.set_random_seed(0)
    x = keras.layers.Conv2D(40, 3, bias_initializer="normal")(image)
    # Large enough for the quantizer to place its buffers behind the FlatBuffer: 256 kB.
    x = keras.layers.Dense(7000, bias_initializer="normal")(keras.layers.GlobalAveragePooling2D()(x))
    logits = keras.layers.Dense(4, bias_initializer="normal")(x)
    return tflite.convert(keras.Model(image, logits), ["logits"])


@pytest.fixture(scope="module", params=["float32", "dynamic_int8"])
def model(request, float32_model):
    return recipes.quantize(float32_model, request.param)


def test_normalization_is_given_for_pixels_up_to_255(model):
    fields = read(metadata_entries(add_metadata(model, **ARGUMENTS))["TFLITE_METADATA"])
    assert (fields[f"{INPUT}.content.type"], fields[f"{INPUT}.content.properties.color_space"]) == (2, 1)  # ImageProperties, RGB
    assert fields[f"{INPUT}.process_units.0.type"] == 1  # NormalizationOptions
    mean, std = (fields[f"{INPUT}.process_units.0.options.{field}"] for field in ("mean", "std"))
    np.testing.assert_allclose(mean, [123.675, 116.28, 103.53], rtol=1e-6)
    np.testing.assert_allclose(std, [58.395, 57.12, 57.375], rtol=1e-6)


def test_fields_are_those_of_mediapipes_writer_but_for_words_and_the_range_of_logits(float32_model):
    ours = read(metadata_entries(add_metadata(float32_model, **ARGUMENTS))["TFLITE_METADATA"])
    theirs = read((GOLDENS / "mediapipe_metadata.bin").read_bytes())
    different = {
        *("version", f"{INPUT}.description", f"{OUTPUT}.associated_files.0.description"),
        *(f"{OUTPUT}.name", f"{OUTPUT}.description", f"{OUTPUT}.stats.max", f"{OUTPUT}.stats.min"),
    }
    assert {path for path in ours.keys() | theirs.keys() if ours.get(path) != theirs.get(path)} == different
    assert (ours["version"], ours[f"{OUTPUT}.name"]) == ("0.1.0", "logits")
    assert len(theirs) >= 20


def test_what_the_file_computes_stays_the_same(model, rng):
    from ai_edge_litert.interpreter import Interpreter

    changed = add_metadata(model, **ARGUMENTS)
    before, after = TFLiteModel(model), TFLiteModel(changed)
    for picture in rng.standard_normal((3, 1, 6, 10, 3)).astype("float32"):
        np.testing.assert_array_equal(after(picture), before(picture))
    signatures = [Interpreter(model_content=content).get_signature_list() for content in (model, changed)]
    assert signatures[0] == signatures[1] == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    assert changed[4:8] == b"TFL3" and parse(changed).Version() == parse(model).Version() == 3
    assert parse(changed).Description() == parse(model).Description()


def test_buffers_keep_their_content_and_alignment(model):
    changed = add_metadata(model, **ARGUMENTS)
    before, after = stored_buffers(model), stored_buffers(changed)
    new = (after.keys() - before.keys()).pop()
    assert new == parse(model).BuffersLength() and after[new][1] % 16 == 0
    assert {i: after[i][0] for i in before} == {i: content for i, (content, _) in before.items()}
    assert {i: after[i][1] % 16 for i in before} == {i: start % 16 for i, (_, start) in before.items()}
    assert metadata_entries(model).items() < metadata_entries(changed).items()


def test_buffers_behind_the_flatbuffer_move_inside(float32_model):
    def behind(content):
        return sum(parse(content).Buffers(i).Offset() > 0 for i in range(parse(content).BuffersLength()))

    model = recipes.quantize(float32_model, "dynamic_int8")
    assert behind(model) > 0 and behind(add_metadata(model, **ARGUMENTS)) == 0


def test_labels_are_a_stored_file_behind_the_model(model):
    changed = add_metadata(model, **ARGUMENTS)
    with zipfile.ZipFile(io.BytesIO(changed)) as archive:
        (entry,) = archive.infolist()
        assert (entry.filename, entry.compress_type, entry.date_time) == ("labels.txt", zipfile.ZIP_STORED, (1980, 1, 1, 0, 0, 0))
        assert archive.read(entry) == "cat\nZürich\n日本 の 猫\na, b".encode()
    fields = read(metadata_entries(changed)["TFLITE_METADATA"])
    assert fields[f"{OUTPUT}.associated_files.0.name"] == "labels.txt"
    assert fields[f"{OUTPUT}.associated_files.0.type"] == 2  # TENSOR_AXIS_LABELS


def test_the_same_arguments_give_the_same_bytes(model):
    assert add_metadata(model, **ARGUMENTS) == add_metadata(bytearray(model), **ARGUMENTS)


def test_without_labels_there_is_no_file(float32_model):
    changed = add_metadata(float32_model, **{**ARGUMENTS, "labels": None})
    fields = read(metadata_entries(changed)["TFLITE_METADATA"])
    assert not zipfile.is_zipfile(io.BytesIO(changed)) and b"labels.txt" not in changed
    assert fields[f"{OUTPUT}.name"] == "logits" and fields[f"{INPUT}.process_units.0.type"] == 1


def test_each_of_several_outputs_gets_its_name(image):
    import keras

    maps = keras.layers.Conv2D(5, 1)(image)
    model = tflite.convert(keras.Model(image, [maps, keras.layers.AveragePooling2D(2)(maps)]), ["fine", "coarse"])
    fields = read(metadata_entries(add_metadata(model, **{**ARGUMENTS, "labels": None}))["TFLITE_METADATA"])
    outputs = [fields[f"subgraph_metadata.0.output_tensor_metadata.{i}.name"] for i in tflite.output_indices(model, ["fine", "coarse"])]
    assert outputs == ["fine", "coarse"]
    assert "subgraph_metadata.0.output_tensor_metadata.2.name" not in fields
    with pytest.raises(ValueError, match=r"only output \(1, classes\).*4 names, outputs \[\[1, 6, 10, 5\]"):
        add_metadata(model, **ARGUMENTS)


def test_what_is_no_picture_model_is_refused():
    import keras

    sequence = keras.Input((7, 3), batch_size=1)
    model = tflite.convert(keras.Model(sequence, keras.layers.Dense(4)(sequence)), ["logits"])
    with pytest.raises(ValueError, match=r"one float32 input \(1, height, width, 3\).*\[1, 7, 3\]"):
        add_metadata(model, **{**ARGUMENTS, "labels": None})


@pytest.mark.parametrize("content", [b"", b"TFL3", b"PK\3\4 a ZIP archive"])
def test_what_is_no_tflite_file_is_refused(content):
    with pytest.raises(ValueError, match=rf"bytes of a .tflite file.*{len(content)} bytes"):
        add_metadata(content, **ARGUMENTS)


def test_a_second_time_is_refused(float32_model):
    with pytest.raises(ValueError, match="no TFLITE_METADATA yet"):
        add_metadata(add_metadata(float32_model, **ARGUMENTS), **ARGUMENTS)


@pytest.mark.parametrize("label", ["a\nb", "cat\n", "a\rb", ""])
def test_labels_that_are_not_one_line_are_refused(float32_model, label):
    with pytest.raises(ValueError, match="each on one line"):
        add_metadata(float32_model, **{**ARGUMENTS, "labels": [*LABELS[:3], label]})


def test_labels_of_another_number_are_refused(float32_model):
    with pytest.raises(ValueError, match=r"3 names, outputs \[\[1, 4\]\]"):
        add_metadata(float32_model, **{**ARGUMENTS, "labels": LABELS[:3]})
