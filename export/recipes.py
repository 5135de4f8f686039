"""What can be shipped: each recipe is one file of a bundle. Quantization works on the float32 file."""

import contextlib
import copy
import dataclasses
import io
import itertools
import logging
import re
import warnings

import numpy as np
from swin_keras.edge_demo.quiet import quietly
from swin_keras.export import tflite
from swin_keras.export.signatures import DEFAULT


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A kind of file.

    Attributes:
        summary: What it is and what is lost.
        min_snr_db: Float. A file whose outputs are further from Keras does not ship. `None` for float32, which is held
            to the largest difference instead.
        quantization: Function that returns a `RecipeManager` of litert-quantizer, or `None`. It takes a float32 .tflite file, as bytes, the names
            of operators that are to stay in float32, and whether the model is to learn while it rounds.
        calibrated: Boolean. Whether the ranges of activations are fixed, from pictures.
        everything: Boolean. Whether all operators compute in integers, not the matrix products alone.
        clips_masks: Boolean. Whether attention logits have so few steps that the mask must not take most of them.
    """

    summary: str
    min_snr_db: float | None
    quantization: object
    calibrated: bool = False
    everything: bool = False
    clips_masks: bool = False

    @property
    def has_integers(self):
        """Whether some operators compute in integers."""
        return self.calibrated or self.quantization in (_dynamic_int4, _dynamic_int8)


def _float16(model, keep_float, learning):
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT)
    manager = recipe_manager.RecipeManager()
    for operation in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.CONV_2D):
        manager.add_quantization_config(".*", operation, config, algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING)
    return manager


# A product of dynamic_int8 first looks for the range of its input and rounds it. Where its sums have few terms, that takes longer than integers save
# on a CPU without VNNI: docs/export.md has the numbers.
_SHORT_SUM = 128
# Of the weights: at most so much stays in float32, which makes the file up to 3 % larger. Swin-T has 0.5 %; in nano all sums are short.
_SHORT_SUMS_SHARE = 0.01


# Query weights are those of a kernel's clusters times a factor, so that these are up to twice as many.
_CLUSTERS = 64


def _dynamic_int8(model, keep_float, learning):
    from litert_quantizer import qtyping, recipe, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(recipe.dynamic_wi8_afp32())
    products = _products_with_weights(model)
    short = _short_sums(products)
    _leave_float(manager, [*short, *_constants_on_the_left(model)])
    kind = qtyping.TFLOperationName.FULLY_CONNECTED
    clustered = [name for name, own, weight in products if own == kind and name not in short and not learning and _is_clustered(weight)]
    if clustered:
        # A scale for each output would make other integers of one centroid, which do not zip.
        manager.add_dynamic_config(_one_of(clustered), kind, num_bits=8, granularity=qtyping.QuantGranularity.TENSORWISE)
    return manager


def _constants_on_the_left(model):
    """Names the products of a constant with an activation on its right: where only weights are integers, the runtime has no such kernel."""
    named = zip(tflite.operators(model), tflite.weights(model, 0), strict=True)
    return [name for (name, kind), constant in named if kind == "BATCH_MATMUL" and constant is not None]


def _is_clustered(weight):
    # A look at some tells most: to sort all of a large model takes long.
    return weight.size > 4 * _CLUSTERS and all(len(np.unique(part)) <= _CLUSTERS for part in (weight.ravel()[:1000], weight))


def _short_sums(products):
    """Names the products whose sums are short; none if they hold more than few of the weights."""
    # An operator of several signatures has its weights once.
    sizes = {name: weight.size for name, _, weight in products}
    short = list(dict.fromkeys(name for name, _, weight in products if np.prod(weight.shape[1:]) <= _SHORT_SUM))
    return short if sum(sizes[name] for name in short) <= _SHORT_SUMS_SHARE * sum(sizes.values()) else []


def _products_with_weights(model):
    """Returns the name, as `tflite.operators` gives it, the kind and the weights of each product with weights."""
    named = zip(tflite.operators(model), tflite.weights(model), strict=True)
    return [(name, kind, weight) for (name, kind), weight in named if kind in ("FULLY_CONNECTED", "CONV_2D") and weight is not None]


# How many inputs of an output share a scale, where their number allows: 2 dB more than one scale for all on the digits model, and no larger.
_BLOCK = 32


def _dynamic_int4(model, keep_float, learning):
    from litert_quantizer import qtyping, recipe_manager

    kind = qtyping.TFLOperationName.FULLY_CONNECTED
    blocks = [name for name, own, weight in _products_with_weights(model) if own == kind and weight.shape[1] % _BLOCK == 0]
    manager = recipe_manager.RecipeManager()
    manager.add_dynamic_config(".*", kind, num_bits=4)
    if blocks:
        manager.add_dynamic_config(_one_of(blocks), kind, num_bits=4, granularity=qtyping.QuantGranularity[f"BLOCKWISE_{_BLOCK}"])
    return manager


def _integers(activation_bits, symmetric, per_channel=True):
    from litert_quantizer import qtyping

    granularity = qtyping.QuantGranularity.CHANNELWISE if per_channel else qtyping.QuantGranularity.TENSORWISE
    weights = qtyping.TensorQuantizationConfig(num_bits=8, symmetric=True, granularity=granularity)
    activations = qtyping.TensorQuantizationConfig(num_bits=activation_bits, symmetric=symmetric)
    return qtyping.OpQuantizationConfig(activations, weights, compute_precision=qtyping.ComputePrecision.INTEGER)


def _add_products(manager, activation_bits):
    from litert_quantizer import qtyping

    # XNNPACK multiplies by another activation only where its zero is 0; and where a side is constant, as in Swin-MLP, the integer kernels know
    # no scale for each channel.
    config = _integers(activation_bits, symmetric=True, per_channel=False)
    manager.add_quantization_config(".*", qtyping.TFLOperationName.BATCH_MATMUL, config)


def _hybrid_int8(model, keep_float, learning):
    from litert_quantizer import qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(".*", qtyping.TFLOperationName.FULLY_CONNECTED, _integers(8, symmetric=False))
    _add_products(manager, 8)
    # What only moves numbers to a product or away from one does so in the integers of that product: a quarter of the bytes. These have one scale
    # and a zero of 0, which the products of attention want on their right.
    moves = tflite.moves_beside_products(model, keep_float)
    for kind in sorted({kind for _, kind in moves}):
        names = [name for name, other in moves if other == kind]
        manager.add_quantization_config(_one_of(names), qtyping.TFLOperationName(kind), _integers(8, symmetric=True))
    return manager


def _one_of(names):
    # One expression: the quantizer tries each of them for each operator, and Python keeps no more than 512 compiled.
    return f"^(?:{'|'.join(map(re.escape, names))})$"


def _all_integers(activation_bits):
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    operations = qtyping.TFLOperationName
    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(".*", operations.ALL_SUPPORTED, _integers(activation_bits, symmetric=activation_bits == 16))
    _add_products(manager, activation_bits)
    for side in (operations.INPUT, operations.OUTPUT):  # stay float32, which every runtime takes
        manager.add_quantization_config(".*", side, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    return manager


RECIPES = {
    "float32": Recipe("float32 weights and arithmetic: the reference", None, None),
    "float16": Recipe("float16 weights, half the size; arithmetic as the device does it", 40.0, _float16),
    "dynamic_int8": Recipe("int8 weights per channel, a quarter of the size; activations quantized while running", 25.0, _dynamic_int8),
    "hybrid_int8": Recipe("int8 matrix products; norms, softmax, GELU and residual sums in float32", 25.0, _hybrid_int8, calibrated=True),
    "full_int8": Recipe(
        "int8 between float32 input and output, for accelerators without floats",
        15.0,
        lambda model, keep_float, learning: _all_integers(8),
        calibrated=True,
        everything=True,
        clips_masks=True,
    ),
    "int16x8": Recipe(
        "int16 activations and int8 weights between float32 input and output, for accelerators without floats",
        25.0,
        lambda model, keep_float, learning: _all_integers(16),
        calibrated=True,
        everything=True,
    ),
    "dynamic_int4": Recipe("int4 weights in blocks, for models that were trained for them; activations quantized while running", 15.0, _dynamic_int4),
    "saved_model": Recipe("a folder for TensorFlow and TensorFlow Serving, float32, every weight a constant", None, None),
}

# Those in which some operators compute in integers.
INTEGER_RECIPES = tuple(name for name, recipe in RECIPES.items() if recipe.has_integers)


def quantize(float32_model, recipe, ranges=None, keep_float=(), learning=False):
    """Makes a recipe's file from the float32 one.

    Args:
        float32_model: Bytes of a .tflite file with one input.
        recipe: Key of `RECIPES`.
        ranges: For a calibrated recipe, those of `find_ranges`.
        keep_float: Names of operators, as `tflite.operators` gives them, to leave in float32.
        learning: Boolean. Whether the model learns while it rounds: its clusters do not last.

    Returns:
        Bytes of a .tflite file with float32 input and output.
    """
    if RECIPES[recipe].quantization is None:
        return float32_model
    from litert_quantizer.quantizer import Quantizer

    manager = RECIPES[recipe].quantization(float32_model, keep_float, learning)
    _leave_float(manager, keep_float)
    quantizer = Quantizer(prepare(float32_model, recipe), manager.get_quantization_recipe())
    with _silence():
        # A copy: it writes into them what it makes of them.
        quantized = bytes(quantizer.quantize(copy.deepcopy(ranges)).quantized_model)
    return _cast_biases(quantized) if RECIPES[recipe].quantization is _float16 else quantized


def _cast_biases(model):
    """Stores the biases of matrix products in float16 where their weights are.

    The quantizer casts weights alone, and XNNPACK of June 2025 to July 2026, as in @litertjs/core 2.5.3, refuses a float16 weight beside a float32
    bias: in the browser the runtime's own kernels ran these products, and Swin-T took four times as long.

    Args:
        model: Bytes of a .tflite file that the quantizer made by `_float16`.

    Returns:
        Bytes.
    """
    from litert_quantizer import model_modifier, qtyping
    from litert_quantizer.transformations import transformation_utils

    file = tflite.read(model)
    dequantize = transformation_utils.add_op_code(qtyping.BuiltinOperator.DEQUANTIZE, file.operatorCodes)
    cast_buffers = {}  # by the buffer in float32: signatures share them
    for graph in file.subgraphs:
        cast_weights = {operator.outputs[0] for operator in graph.operators if operator.opcodeIndex == dequantize}
        casts = {}
        for product in graph.operators:
            if len(product.inputs) < 3 or product.inputs[1] not in cast_weights or product.inputs[2] < 0:
                continue
            bias = graph.tensors[product.inputs[2]]
            if (content := file.buffers[bias.buffer].data) is None:
                continue
            if bias.buffer not in cast_buffers:
                cast_buffers[bias.buffer] = len(file.buffers)
                file.buffers.append(qtyping.BufferT(np.frombuffer(content, "float32").astype("float16").view("uint8")))
            if product.inputs[2] not in casts:
                number = len(graph.tensors)
                kinds = (qtyping.TensorType.FLOAT16, cast_buffers[bias.buffer], b"_float16"), (qtyping.TensorType.FLOAT32, 0, b"_dequant")
                graph.tensors += [qtyping.TensorT(bias.shape, kind, buffer, bias.name + suffix) for kind, buffer, suffix in kinds]
                casts[product.inputs[2]] = qtyping.OperatorT(dequantize, [number], [number + 1])
            product.inputs[2] = casts[product.inputs[2]].outputs[0]
        graph.operators = [*casts.values(), *graph.operators]
    # Another operator may read the same constant, and another constant share its buffer: the converter stores equal bytes once.
    read = {
        graph.tensors[tensor].buffer
        for graph in file.subgraphs
        for tensors in (graph.outputs, *(operator.inputs for operator in graph.operators))
        for tensor in tensors
    }
    for buffer in cast_buffers.keys() - read:
        file.buffers[buffer].data = None
    return bytes(model_modifier.ModelModifier(file).modify_model({}))


def prepare(float32_model, recipe):
    """Returns the float32 file that a recipe's quantization begins with."""
    return tflite.clip_masks(float32_model) if RECIPES[recipe].clips_masks else float32_model


def _leave_float(manager, names):
    from litert_quantizer import algorithm_manager, qtyping

    if names:
        nothing = algorithm_manager.AlgorithmName.NO_QUANTIZE
        manager.add_quantization_config(_one_of(names), qtyping.TFLOperationName.ALL_SUPPORTED, algorithm_key=nothing)


def find_ranges(float32_model, recipe, pictures, percentile=100.0):
    """Finds the range of each tensor over all pictures.

    The quantizer's own calibration of several pictures is a moving average that begins at the first.

    Args:
        float32_model: Bytes of a .tflite file with one input.
        recipe: Key of `RECIPES` that is calibrated.
        pictures: Array `(n, height, width, channels)` of what the default signature takes; or a dictionary from the key of each signature to one.
        percentile: Float from above 50 to 100. At 100 the range is from the smallest to the largest value. Below, it ends where in the picture
            with the largest values that percentage of them is below, and likewise at the other end, so that rare outliers are cut off and the
            others have finer steps.

    Returns:
        A dictionary from names of tensors to `{"min": array, "max": array}`.
    """
    from litert_quantizer.calibrator import Calibrator
    from litert_quantizer.utils.qsv_utils import min_max_update

    model = prepare(float32_model, recipe)
    pictures = pictures if isinstance(pictures, dict) else {DEFAULT: pictures}
    with _silence():
        # Of all tensors, whatever the recipe takes of them.
        calibrator = quietly(lambda: Calibrator(model, num_threads=2, qsv_update_func=lambda old, new: min_max_update(old, new) if new else old))
        calibrator.calibrate({key: [{"image": picture[None]} for picture in taken] for key, taken in pictures.items()}, _all_integers(8))
        ranges = calibrator.get_model_qsvs()
    if percentile == 100.0:
        return ranges
    narrow = {}
    names = {name for name, limits in ranges.items() if limits}
    for tensors in itertools.chain.from_iterable(tflite.run_with_all_tensors(model, taken, names, key) for key, taken in pictures.items()):
        for name, array in tensors.items():
            narrow.setdefault(name, []).append(np.percentile(array, [100 - percentile, percentile]))
    for name, ends in narrow.items():
        lowest, highest = np.min(ends, axis=0)[0], np.max(ends, axis=0)[1]
        for end, value in (("min", lowest), ("max", highest)):
            ranges[name][end] = np.full_like(ranges[name][end], value)
    return ranges


@contextlib.contextmanager
def _silence():
    """Keeps the quantizer's own statistics, progress bars and warnings back."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
