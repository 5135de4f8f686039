"""What can be shipped: each recipe is one file of a bundle. Quantization works on the float32 file."""

import contextlib
import dataclasses
import io


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A kind of file.

    Attributes:
        summary: What it is and what is lost.
        min_snr_db: Float. A file whose outputs are further from Keras does not ship. `None` for float32, which is held
            to the largest difference instead.
        quantization: Function that returns a litert-quantizer recipe, or `None`.
    """

    summary: str
    min_snr_db: float | None
    quantization: object


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


RECIPES = {
    "float32": Recipe("float32 weights and arithmetic: the reference", None, None),
    "float16": Recipe("float16 weights, half the size; arithmetic as the device does it", 40.0, _float16),
    "dynamic_int8": Recipe("int8 weights per channel, a quarter of the size; activations quantized while running", 25.0, _dynamic_int8),
}


def quantize(float32_model, recipe):
    """Makes a recipe's file from the float32 one.

    Args:
        float32_model: Bytes of a .tflite file.
        recipe: Key of `RECIPES`.

    Returns:
        Bytes of a .tflite file with float32 input and output.
    """
    quantization = RECIPES[recipe].quantization
    if quantization is None:
        return float32_model
    from litert_quantizer.quantizer import Quantizer

    # It prints statistics and progress bars of its own.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        result = Quantizer(float32_model, quantization()).quantize()
    return bytes(result.quantized_model)
