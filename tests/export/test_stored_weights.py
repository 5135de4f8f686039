"""How the recipes without calibration store weights: what is cast, what is quantized, and what stays float32."""

import keras
import numpy as np
import pytest
from conftest import randomize
from swin_keras.edge_demo.bench import delegate_coverage
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.export import recipes, tflite, to_deploy

import swin_keras

PRODUCTS = ("FULLY_CONNECTED", "CONV_2D")


def read(model):
    """Returns the operators, each `(name, kind, inputs, outputs)` by numbers of tensors, and each constant's type by its number."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    graph = file.Subgraphs(0)
    types = {value: name for name, value in vars(schema.TensorType).items()}
    tensors = list(map(graph.Tensors, range(graph.TensorsLength())))
    # The quantizer places large buffers behind the FlatBuffer, where they have an offset and no data.
    buffers = list(map(file.Buffers, range(file.BuffersLength())))
    stored = {i for i, buffer in enumerate(buffers) if buffer.DataLength() or buffer.Offset() > 1}
    constants = {i: types[tensor.Type()] for i, tensor in enumerate(tensors) if tensor.Buffer() in stored}
    operators = list(map(graph.Operators, range(graph.OperatorsLength())))
    edges = [(operator.InputsAsNumpy().tolist(), operator.OutputsAsNumpy().tolist()) for operator in operators]
    return [(*named, *edge) for named, edge in zip(tflite.operators(model), edges, strict=True)], constants


def convert(model):
    return tflite.convert(model, ["out"])


@pytest.fixture(scope="module")
def nano():
    return convert(to_deploy(randomize(swin_keras.create_model("swin_nano_patch4_window4_32"), scale=0.05)))


def casts(operators, constants):
    """What is cast from float16, with the kinds of the operators that read it."""
    made = {outputs[0] for _, kind, inputs, outputs in operators if kind == "DEQUANTIZE" and constants[inputs[0]] == "FLOAT16"}
    return {tensor: {kind for _, kind, inputs, _ in operators if tensor in inputs} for tensor in made}


def test_float16_casts_the_bias_of_every_product_whose_weight_it_casts(nano):
    operators, constants = read(recipes.quantize(nano, "float16"))
    cast = casts(operators, constants)
    products = [inputs for _, kind, inputs, _ in operators if kind in PRODUCTS]
    assert len(products) > 10 and all(set(inputs[1:]) <= set(cast) for inputs in products)
    # XNNPACK takes a cast for float16 only where nothing but products reads it.
    assert all(kinds <= set(PRODUCTS) for kinds in cast.values())


def test_float16_stores_nothing_twice(nano):
    model = recipes.quantize(nano, "float16")
    operators, constants = read(model)
    assert set(constants) <= {tensor for *_, inputs, _ in operators for tensor in inputs}
    assert len(model) < 0.55 * len(nano)


@pytest.mark.parametrize("shape", [(20,), (4, 5)], ids=["one tensor", "one buffer"])
@pytest.mark.parametrize("kept", [[], [0], [1], [0, 1]], ids=["none", "first", "second", "both"])
def test_float16_takes_a_bias_that_others_read_too(shape, kept, rng):
    # The converter stores equal constants once, such as the zeros of a model that was not trained.
    image, bias = keras.Input((4, 6, 3), batch_size=1), rng.standard_normal(20).astype("float32")
    layers = [keras.layers.Dense(20), keras.layers.Dense(20)]
    x = keras.ops.gelu(layers[1](keras.ops.gelu(layers[0](image))))
    model = keras.Model(image, keras.ops.reshape(x, (1, 24, *shape)) + keras.ops.convert_to_tensor(bias.reshape(shape)))
    for layer in layers:
        layer.bias.assign(bias)
    content = convert(model)
    names = [name for name, kind in tflite.operators(content) if kind == "FULLY_CONNECTED"]

    cast_content = recipes.quantize(content, "float16", keep_float=[names[i] for i in kept])
    operators, constants = read(cast_content)
    cast = casts(operators, constants)
    (constant,) = [tensor for _, kind, inputs, _ in operators if kind == "ADD" for tensor in inputs if tensor in constants]
    assert constants[constant] == "FLOAT32"
    products = {name: inputs for name, kind, inputs, _ in operators if kind == "FULLY_CONNECTED"}
    for i, name in enumerate(names):
        assert all(constants.get(tensor) == "FLOAT32" if i in kept else tensor in cast for tensor in products[name][1:])
    picture = rng.standard_normal((1, 4, 6, 3)).astype("float32")
    np.testing.assert_allclose(TFLiteModel(cast_content)(picture), TFLiteModel(content)(picture), rtol=0, atol=3e-3)
    coverage = delegate_coverage(cast_content)
    assert (coverage["partitions"], coverage["left"]) == (1, {})


def kept_float(model):
    """The shapes of the products' weights that are stored in float32."""
    from ai_edge_litert import schema_py_generated as schema

    operators, constants = read(model)
    graph = schema.Model.GetRootAs(model).Subgraphs(0)
    weights = [inputs[1] for _, kind, inputs, _ in operators if kind in PRODUCTS]
    return [tuple(graph.Tensors(weight).ShapeAsNumpy().tolist()) for weight in weights if constants[weight] == "FLOAT32"]


@pytest.mark.parametrize("width, kept", [(1300, [(128, 4, 4, 3), (129, 128)]), (1200, [])], ids=["few weights", "more"])
def test_dynamic_int8_leaves_sums_of_up_to_128_terms_float_where_they_hold_few_weights(width, kept):
    # 22,656 weights are of sums of 48 and of 128 terms, 206,400 of sums of 129, and 1,600 * width of sums of 1,600.
    image = keras.Input((4, 8, 3), batch_size=1)
    x = keras.layers.Conv2D(128, 4, strides=4)(image)
    for units in (129, 1600, width):
        x = keras.layers.Dense(units)(keras.ops.gelu(x))
    model = recipes.quantize(convert(randomize(keras.Model(image, x))), "dynamic_int8")
    assert kept_float(model) == kept
    coverage = delegate_coverage(model)
    assert (coverage["partitions"], coverage["left"]) == (1, {})


def test_dynamic_int8_quantizes_every_product_of_nano(nano):
    assert kept_float(recipes.quantize(nano, "dynamic_int8")) == []
