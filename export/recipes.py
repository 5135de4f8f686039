"""What can be shipped: each recipe is one file of a bundle. Quantization works on the float32 file."""

import contextlib
import dataclasses
import io
import warnings

from swin_keras.export import tflite


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A kind of file.

    Attributes:
        summary: What it is and what is lost.
        min_snr_db: Float. A file whose outputs are further from Keras does not ship. `None` for float32, which is held
            to the largest difference instead.
        quantization: Function that returns a litert-quantizer recipe, or `None`.
        calibrated: Boolean. Whether the ranges of activations are fixed, from pictures.
        clips_masks: Boolean. Whether attention logits have so few steps that the mask must not take most of them.
    """

    summary: str
    min_snr_db: float | None
    quantization: object
    calibrated: bool = False
    clips_masks: bool = False


def _float16():
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT)
    manager = recipe_manager.RecipeManager()
    for operation in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.CONV_2D):
        manager.add_quantization_config(".*", operation, config, algorithm_key=algorithm_manager.AlgorithmName.FLOAT_CASTING)
    return manager.get_quantization_recipe()


def _dynamic_int8():
    from litert_quantizer import recipe

    return recipe.dynamic_wi8_afp32()


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


def _hybrid_int8():
    from litert_quantizer import qtyping, recipe_manager

    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(".*", qtyping.TFLOperationName.FULLY_CONNECTED, _integers(8, symmetric=False))
    _add_products(manager, 8)
    return manager.get_quantization_recipe()


def _all_integers(activation_bits):
    from litert_quantizer import algorithm_manager, qtyping, recipe_manager

    operations = qtyping.TFLOperationName
    manager = recipe_manager.RecipeManager()
    manager.add_quantization_config(".*", operations.ALL_SUPPORTED, _integers(activation_bits, symmetric=activation_bits == 16))
    _add_products(manager, activation_bits)
    for side in (operations.INPUT, operations.OUTPUT):  # stay float32, which every runtime takes
        manager.add_quantization_config(".*", side, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)
    return manager.get_quantization_recipe()


RECIPES = {
    "float32": Recipe("float32 weights and arithmetic: the reference", None, None),
    "float16": Recipe("float16 weights, half the size; arithmetic as the device does it", 40.0, _float16),
    "dynamic_int8": Recipe("int8 weights per channel, a quarter of the size; activations quantized while running", 25.0, _dynamic_int8),
    "hybrid_int8": Recipe("int8 matrix products; norms, softmax, GELU and residual sums in float32", 25.0, _hybrid_int8, calibrated=True),
    "full_int8": Recipe(
        "int8 between float32 input and output, for accelerators without floats", 15.0, lambda: _all_integers(8), calibrated=True, clips_masks=True
    ),
    "int16x8": Recipe(
        "int16 activations and int8 weights between float32 input and output, for accelerators without floats",
        25.0,
        lambda: _all_integers(16),
        calibrated=True,
    ),
}


def quantize(float32_model, recipe, pictures=None):
    """Makes a recipe's file from the float32 one.

    Args:
        float32_model: Bytes of a .tflite file with one input.
        recipe: Key of `RECIPES`.
        pictures: Normalized float32 array `(n, height, width, channels)`, on which a calibrated recipe finds the ranges.

    Returns:
        Bytes of a .tflite file with float32 input and output.
    """
    quantization = RECIPES[recipe].quantization
    if quantization is None:
        return float32_model
    from litert_quantizer.quantizer import Quantizer

    quantizer = Quantizer(tflite.clip_masks(float32_model) if RECIPES[recipe].clips_masks else float32_model, quantization())
    ranges = find_ranges(quantizer, pictures) if RECIPES[recipe].calibrated else None
    with _silence():
        return bytes(quantizer.quantize(ranges).quantized_model)


@contextlib.contextmanager
def _silence():
    """Keeps the quantizer's own statistics, progress bars and warnings back."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def find_ranges(quantizer, pictures):
    """Finds the smallest and largest value of each tensor over all pictures.

    The quantizer's own calibration of several pictures is a moving average that begins at the first.

    Args:
        quantizer: `litert_quantizer.quantizer.Quantizer`.
        pictures: Array `(n, height, width, channels)`.

    Returns:
        A dictionary from names of tensors to `{"min": array, "max": array}`.
    """
    from litert_quantizer.utils.qsv_utils import min_max_update

    ranges = {}
    with _silence():
        for picture in pictures:
            found = quantizer.calibrate({"serving_default": [{"image": picture[None]}]}, num_threads=1)
            for tensor, limits in found.items():
                ranges[tensor] = min_max_update(ranges.get(tensor), limits) if limits else limits
    return ranges
