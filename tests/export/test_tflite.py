"""What an exported file holds: operators, ranks, delegate coverage, and the numbers it computes."""

import time

import numpy as np
import pytest
from conftest import randomize
from swin_keras.edge_demo.bench import delegate_coverage
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import recipes, tflite, to_deploy

import swin_keras

REFUSED_BY_ACCELERATORS = {"GATHER", "GATHER_ND", "BROADCAST_TO", "STRIDED_SLICE", "NEG", "PACK", "SHAPE", "SPACE_TO_DEPTH"}


MODELS = {
    "nano": ("swin_nano_patch4_window4_32", {}),
    "nano, padded everywhere": ("swin_nano_patch4_window4_32", {"input_shape": (33, 47, 3), "window_size": (3, 5), "window_fit": "pad"}),
    "tiny": ("swin_tiny_patch4_window7_224", {}),
    "small V2": ("swinv2_tiny_patch4_window8_256", {"input_shape": (64, 96, 3), "depths": (2, 2), "num_heads": (3, 6)}),
    "small V2, padded everywhere": (
        "swinv2_tiny_patch4_window8_256",
        {"input_shape": (33, 47, 3), "depths": (2, 2), "num_heads": (3, 6), "window_size": (3, 5), "window_fit": "pad"},
    ),
    "small, windows of 12": (
        "swin_base_patch4_window12_384",
        {"input_shape": (192, 96, 3), "embed_dim": 24, "depths": (2, 1), "num_heads": (2, 4)},
    ),
    "small MLP": ("swin_mlp_tiny_c24_patch4_window8_256", {"input_shape": (40, 64, 3), "depths": (2, 1), "num_heads": (4, 8), "window_size": 4}),
}
# The best public conversion of the same model has 836.
MOST_NODES = {"tiny": 542}


@pytest.fixture(scope="module", params=MODELS)
def exported(request):
    """A model, its file, the seconds that took, and the model's name here."""
    name, overrides = MODELS[request.param]
    model = randomize(swin_keras.create_model(name, **overrides), scale=0.05)
    started = time.process_time()  # the machine may be busy with other tests
    content = tflite.convert(to_deploy(model), ["logits"])
    return model, content, time.process_time() - started, request.param


def test_export_takes_less_than_a_minute(exported):
    assert exported[2] < 60


def test_float32_file_equals_keras(exported, rng):
    model, content, *_ = exported
    run = TFLiteModel(content)
    for picture in rng.standard_normal((3, 1, *model.input_shape[1:])).astype("float32"):
        expected = model(picture).numpy()
        assert np.abs(expected).max() > 0.2
        np.testing.assert_allclose(run(picture), expected, rtol=0, atol=1e-4 * max(1.0, np.abs(expected).max()))


def test_no_operator_that_accelerators_refuse_and_no_tensor_above_rank_4(exported):
    operators, rank = tflite.count_operators(exported[1])
    assert rank <= 4
    assert not REFUSED_BY_ACCELERATORS & set(operators)
    # A custom or Flex operator would stand here under its own name, in mixed case.
    assert all(name == name.upper() and "FLEX" not in name for name in operators)


def test_no_sum_or_product_has_a_constant_of_rank_3(exported):
    from ai_edge_litert import schema_py_generated as schema

    # LiteRT 2.3's GPU delegate accepts them and computes something else.
    file = schema.Model.GetRootAs(exported[1])
    graph = file.Subgraphs(0)
    for i, (name, kind) in enumerate(tflite.operators(exported[1])):
        tensors = [graph.Tensors(tensor) for tensor in graph.Operators(i).InputsAsNumpy() if tensor >= 0]
        constants = [tensor.ShapeLength() for tensor in tensors if file.Buffers(tensor.Buffer()).DataLength()]
        assert kind not in ("ADD", "SUB", "MUL", "BATCH_MATMUL") or 3 not in constants, name


def test_operators_are_few(exported):
    assert sum(tflite.count_operators(exported[1])[0].values()) <= MOST_NODES.get(exported[3], 300)


@pytest.mark.slow
def test_the_layout_for_cpus_has_388_operators_of_which_xnnpack_leaves_11_gathers():
    model = randomize(swin_keras.create_model("swin_tiny_patch4_window7_224"), scale=0.05)
    content = tflite.convert(to_deploy(model, layout="cpu"), ["logits"])
    operators, rank = tflite.count_operators(content)
    assert sum(operators.values()) == 388 and rank <= 4
    assert delegate_coverage(content)["left"] == {"GATHER": 11} == {"GATHER": operators["GATHER"]}


def test_what_moves_to_a_product_but_is_an_output_too_stays_float():
    import keras

    image = keras.Input((4, 6, 3), batch_size=1)
    moved = keras.ops.transpose(keras.layers.Conv2D(5, 1)(image), (0, 2, 1, 3))
    product = keras.layers.Dense(7)(moved)
    alone, seen = (tflite.convert(keras.Model(image, outputs), names) for outputs, names in ((product, ["a"]), ([product, moved], ["a", "b"])))
    kinds = [[kind for _, kind in tflite.moves_beside_products(content)] for content in (alone, seen)]
    assert "TRANSPOSE" in kinds[0] and "TRANSPOSE" not in kinds[1]


def test_xnnpack_runs_every_node_in_one_partition(exported):
    coverage = delegate_coverage(exported[1])
    assert coverage["partitions"] == 1
    assert coverage["delegated"] == coverage["nodes"] == sum(tflite.count_operators(exported[1])[0].values())
    assert coverage["left"] == {}


# What LiteRT's GPU delegate has kernels for, of what quantized files hold.
TAKEN_BY_GPUS = {
    *("ADD", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEQUANTIZE", "FULLY_CONNECTED", "GELU", "MAXIMUM", "MEAN", "MUL", "PAD"),
    *("QUANTIZE", "RESHAPE", "RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SUB", "TRANSPOSE"),
}


# Of all but Tiny, which takes long; its blocks are those of nano.
@pytest.mark.parametrize("exported", [name for name in MODELS if name != "tiny"], indirect=True)
@pytest.mark.parametrize("recipe", ["float16", "dynamic_int8", "hybrid_int8"])
def test_xnnpack_runs_every_node_of_quantized_files_in_one_partition(exported, recipe, rng):
    model, content, *_ = exported
    pictures = rng.standard_normal((2, *model.input_shape[1:])).astype("float32")
    ranges = recipes.find_ranges(content, recipe, pictures) if recipes.RECIPES[recipe].calibrated else None
    quantized = recipes.quantize(content, recipe, ranges)
    coverage = delegate_coverage(quantized)
    assert (coverage["partitions"], coverage["left"]) == (1, {})
    operators, rank = tflite.count_operators(quantized)
    assert rank <= 4 and set(operators) <= TAKEN_BY_GPUS


@pytest.mark.parametrize("name", ["swin_nano_patch4_window4_32", "swinv2_tiny_patch4_window8_256"], ids=["V1", "V2"])
def test_xnnpack_runs_every_node_of_a_backbone_in_one_partition(name, rng):
    small = {"input_shape": (40, 72, 3), "embed_dim": 12, "depths": (2, 2), "num_heads": (2, 3), "window_size": 3}
    backbone = randomize(swin_keras.create_backbone(name, **small))
    content = tflite.convert(to_deploy(backbone), ["stage1", "stage2"])
    pictures = rng.standard_normal((2, 40, 72, 3)).astype("float32")
    for recipe in ("float32", "float16", "dynamic_int8", "hybrid_int8"):
        ranges = recipes.find_ranges(content, recipe, pictures) if recipes.RECIPES[recipe].calibrated else None
        quantized = recipes.quantize(content, recipe, ranges)
        coverage = delegate_coverage(quantized)
        assert (coverage["partitions"], coverage["left"]) == (1, {}), recipe
        operators, rank = tflite.count_operators(quantized)
        assert rank <= 4 and set(operators) <= TAKEN_BY_GPUS, recipe


def test_input_and_output_are_float32_batch_1_and_named(exported):
    from ai_edge_litert.interpreter import Interpreter

    model, content, *_ = exported
    interpreter = Interpreter(model_content=content)
    assert interpreter.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    (image,), (logits,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert image["dtype"] == logits["dtype"] == np.float32
    assert tuple(image["shape"]) == tuple(image["shape_signature"]) == (1, *model.input_shape[1:])
    assert tuple(logits["shape"]) == (1, 1000)


def test_bias_and_mask_are_constants_of_the_file(exported):
    from ai_edge_litert import schema_py_generated as schema

    model, content, *_ = exported
    file = schema.Model.GetRootAs(content)
    graph = file.Subgraphs(0)
    constants = [
        tuple(graph.Tensors(i).ShapeAsNumpy())
        for i in range(graph.TensorsLength())
        if graph.Tensors(i).ShapeLength() == 4 and file.Buffers(graph.Tensors(i).Buffer()).DataLength() > 0
    ]
    for layer in to_deploy(model).layers:
        if hasattr(layer, "bias_and_mask"):
            shape = tuple(layer.bias_and_mask.shape)
            assert shape in constants
            constants.remove(shape)


def test_coverage_names_what_a_delegate_leaves():
    # A graph with an operator that XNNPACK does not take: the private list of nodes still says so.
    import keras

    image = keras.Input((4, 6, 3), batch_size=1)
    x = keras.layers.Conv2D(5, 1)(image)
    x = keras.ops.cumsum(x, axis=1)
    model = keras.Model(image, keras.layers.Conv2D(2, 1)(x))
    coverage = delegate_coverage(tflite.convert(model, ["map"]))
    assert coverage["left"] and coverage["delegated"] + sum(coverage["left"].values()) == coverage["nodes"]
    assert coverage["partitions"] >= 1
