"""A network as a quantized .tflite file computes it, operator by operator, in floats: what quantization-aware training trains."""

import keras
import numpy as np
from keras import ops

# Ranges below count as this, as in the quantizer.
_SMALLEST_RANGE = 1e-9


@keras.saving.register_keras_serializable(package="swin_keras")
class QuantizedGraph(keras.layers.Layer):
    """Runs the operators of a .tflite file in floats, and rounds wherever the file does, with straight-through gradients.

    `swin_keras.compression.quantization_aware` makes it from a model. Where the file fixes the range of an activation, training follows its extremes
    with a moving average; where it does not, each row is rounded in its own range, as the runtime does. Weights are rounded in
    the range that they have.

    Args:
        graph: Dictionary that JSON can hold:
            `"outputs"`: the numbers of the tensors that are returned, a list. Tensor 0 is the picture.
            `"operators"`: a list of dictionaries, in order of execution, with `"kind"`, the name of a built-in operator of TFLite; `"inputs"`,
            each the number of a tensor, `{"weight": name}`, `{"value": number}` or `None`; `"outputs"`, numbers of tensors; `"options"`, keyword
            arguments of the operator; `"rounding"`, for each output how it is rounded, or `None`; and for some `"source"`, how what they take was.
            `"weights"`: from names to dictionaries with `"shape"`; `"trained"`, a boolean; `"bits"`, of the integers that the file stores, or `None`;
            beside bits `"symmetric"`, `"per_channel"` and `"block"`, as in `round_weight`; and `"shared"`: over how many of its last axes what is
            multiplied by it shares a range that is found while running, or 0.
            `"ranges"`: the numbers of the tensors that have a fixed range.
            A `"rounding"` has `"bits"` and `"symmetric"`, and either `"range"`, an index of `"ranges"`, or `"low"` and `"high"`.
        momentum: Float. Of the moving average of ranges, for each step.
        deployed: Boolean. Whether nothing is rounded, and the input is one picture: what the converter is given.

    Input shape: `(batch, height, width, channels)`. Output shapes: those of the file, with the batch in place of a first axis of 1, or else in front.

    Reference: [Jacob et al., 2018](https://arxiv.org/abs/1712.05877).
    """

    def __init__(self, graph, momentum=0.99, deployed=False, **kwargs):
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.graph = graph
        self.momentum = momentum
        self.deployed = deployed
        # XLA takes minutes to compile a training step that rounds, and Keras takes XLA on a GPU if nothing is said.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(shape=(None, *input_shape[1:]))
        self._by_name = {
            name: self.add_weight(
                name=name, shape=tuple(weight["shape"]), initializer="zeros", trainable=weight["trained"] and not self.deployed, autocast=False
            )
            for name, weight in self.graph["weights"].items()
        }
        if not self.deployed:
            # Smallest and largest value. In training of several devices each sees its own pictures.
            shape = (len(self.graph["ranges"]), 2)
            self.ranges = self.add_weight(name="ranges", shape=shape, initializer="zeros", trainable=False, autocast=False, aggregation="mean")

    def weight(self, name):
        """Returns the variable of this name in the graph."""
        return self._by_name[name]

    def call(self, picture, training=False):
        run = _Run(self, picture, training and not self.deployed)
        outputs = [run.tensors[number] for number in self.graph["outputs"]]
        if not self.deployed:
            outputs = [ops.squeeze(output, 1) if output.shape[1] == 1 else output for output in outputs]
        return outputs

    def get_config(self):
        return {**super().get_config(), "graph": self.graph, "momentum": self.momentum, "deployed": self.deployed}


class _Run:
    """One call of the layer. Tensors have the shapes of the file, in training behind an axis of the batch."""

    def __init__(self, layer, picture, training):
        self.layer, self.training = layer, training
        graph = layer.graph
        self.lead = 0 if layer.deployed else 1
        self.observed = {number: [None, None] for number in graph["ranges"]}
        self.tensors = {0: picture if layer.deployed else ops.expand_dims(picture, 1)}
        self._observe(0)
        for operator in graph["operators"]:
            self._compute(operator)
        if training and graph["ranges"]:
            extremes = ops.stack([ops.stack(self.observed[number]) for number in graph["ranges"]])
            layer.ranges.assign(layer.momentum * layer.ranges + (1 - layer.momentum) * extremes)

    def _observe(self, number):
        if self.training and number in self.observed:
            value = ops.stop_gradient(self.tensors[number])
            self.observed[number] = [ops.min(value), ops.max(value)]

    def _compute(self, operator):
        weight = next((self.layer.graph["weights"][x["weight"]] for x in operator["inputs"] if isinstance(x, dict) and "weight" in x), None)
        inputs = [self._input(x) for x in operator["inputs"]]
        if weight is not None and weight["shared"] and not self.layer.deployed:
            inputs[0] = _round_while_running(inputs[0], tuple(range(-weight["shared"], 0)))
        if operator.get("source") and not self.layer.deployed:
            self._prepare(operator, inputs)
        with keras.name_scope(operator["name"]):
            outputs = OPERATORS[operator["kind"]](self.lead, *inputs, **operator["options"])
        outputs = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        if operator["kind"] == "RSQRT" and operator["rounding"][0] is not None and not self.layer.deployed:
            # Of what was rounded to zero the runtime gives the end of the range; infinity would become the range itself.
            known = inputs[0] > 0
            high = self._range(operator["rounding"][0])[1]
            outputs = [ops.where(known, ops.rsqrt(ops.where(known, inputs[0], 1.0)), high)]
        for number, output, rounding in zip(operator["outputs"], outputs, operator["rounding"], strict=True):
            self.tensors[number] = output
            self._observe(number)
            if rounding is not None and not self.layer.deployed:
                self.tensors[number] = self._round(output, rounding)

    def _input(self, x):
        if x is None or isinstance(x, int):
            return None if x is None else self.tensors[x]
        if "value" in x:
            return x["value"]
        value, stored = self.layer.weight(x["weight"]), self.layer.graph["weights"][x["weight"]]
        if stored["bits"] is None or self.layer.deployed:
            return ops.convert_to_tensor(value)
        return round_weight(value, stored["bits"], stored["symmetric"], stored["per_channel"], stored["block"])

    def _prepare(self, operator, inputs):
        """Does to the inputs of an operator on integers what its kernel does to them beforehand."""
        step = self._step(operator["source"])
        if operator["kind"] == "ROUND":
            rounding = operator["rounding"][0]
            if {rounding["bits"], operator["source"]["bits"]} == {8}:
                # XNNPACK changes from one scale to another by a factor of 8 bits behind the point.
                factor = step / self._step(rounding)
                inputs[0] = inputs[0] * ops.stop_gradient(ops.round(256 * factor) / (256 * factor))
        elif inputs[2] is not None and (bits := self.layer.graph["weights"][operator["inputs"][1]["weight"]]["bits"]) is not None:
            # A bias is added to the sums, in their integers.
            kernel = ops.stop_gradient(inputs[1])
            step = ops.stop_gradient(step) * ops.reshape(_step_of_weight(kernel, bits, range(kernel.ndim - 1)), (-1,))
            inputs[2] = inputs[2] + ops.stop_gradient(ops.round(inputs[2] / step) * step - inputs[2])

    def _range(self, rounding):
        if "low" in rounding:
            return rounding["low"], rounding["high"]
        return self.layer.ranges[rounding["range"], 0], self.layer.ranges[rounding["range"], 1]

    def _step(self, rounding):
        low, high = self._range(rounding)
        if rounding["symmetric"]:
            return ops.maximum(ops.maximum(ops.abs(low), ops.abs(high)), _SMALLEST_RANGE) / (2 ** (rounding["bits"] - 1) - 1)
        return ops.maximum(ops.maximum(high, 0.0) - ops.minimum(low, 0.0), _SMALLEST_RANGE) / (2 ** rounding["bits"] - 1)

    def _round(self, x, rounding):
        return fake_quantize(x, *self._range(rounding), rounding["bits"], rounding["symmetric"])


def fake_quantize(x, low, high, bits, symmetric):
    """Rounds to what integers of so many bits can hold, and cuts off what is beyond.

    Args:
        x: Tensor.
        low, high: Ends of the range.
        bits: Integer, up to 16.
        symmetric: Boolean. Whether zero is the integer 0.

    Returns:
        A tensor. Its gradient passes inside the range as if nothing were rounded.
    """
    if symmetric:
        bound = ops.maximum(ops.maximum(ops.abs(low), ops.abs(high)), _SMALLEST_RANGE)
        # There is one integer more below zero.
        low, high = -bound * (2 ** (bits - 1) / (2 ** (bits - 1) - 1)), bound
    else:
        low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
        high = ops.maximum(high, low + _SMALLEST_RANGE)
    return keras.quantizers.fake_quant_with_min_max_vars(x, low, high, num_bits=bits)


def round_weight(weight, bits, symmetric, per_channel, block):
    """Rounds a weight, in its own range, to what integers of so many bits can hold.

    Args:
        weight: Tensor. Its last axis are the outputs.
        bits: Integer.
        symmetric: Boolean. Whether zero is the integer 0.
        per_channel: Boolean. Whether each output has a range of its own.
        block: Integer. How many inputs of an output share a range, or 0 for all.

    Returns:
        A tensor. Its gradient passes as if nothing were rounded.
    """
    if not symmetric:
        return fake_quantize(weight, ops.min(ops.stop_gradient(weight)), ops.max(ops.stop_gradient(weight)), bits, symmetric)
    fixed = ops.stop_gradient(weight)
    if block:
        fixed = ops.reshape(fixed, (-1, block, weight.shape[-1]))
    step = _step_of_weight(fixed, bits, range(fixed.ndim - 2, fixed.ndim - 1) if block else range(fixed.ndim - per_channel))
    if block:  # The file holds these in bfloat16.
        step = ops.cast(ops.cast(step, "bfloat16"), "float32")
    return weight + ops.stop_gradient(ops.reshape(ops.round(fixed / step) * step, weight.shape) - weight)


def _step_of_weight(weight, bits, axes):
    return ops.maximum(ops.max(ops.abs(weight), axis=tuple(axes), keepdims=True), _SMALLEST_RANGE) / (2 ** (bits - 1) - 1)


def _round_while_running(x, axes):
    """Rounds to 8 bits in the range over some axes, as XNNPACK does before a product with integer weights: in that of each row, or picture."""
    low = ops.minimum(ops.min(x, axis=axes, keepdims=True), 0.0)
    high = ops.maximum(ops.max(x, axis=axes, keepdims=True), 0.0)
    scale = ops.maximum(high - low, _SMALLEST_RANGE) / 255
    zero = ops.round(-low / scale)
    rounded = (ops.clip(ops.round(x / scale) + zero, 0, 255) - zero) * scale
    return x + ops.stop_gradient(rounded - x)


def _fully_connected(lead, x, kernel, bias, shape, activation):
    x = ops.matmul(x, kernel)
    return _reshape(lead, _activate(x if bias is None else x + bias, activation), shape)


def _conv_2d(lead, x, kernel, bias, strides, padding, activation):
    shape = x.shape
    x = ops.reshape(x, (-1, *shape[lead + 1 :]))
    x = ops.conv(x, kernel, strides=tuple(strides), padding=padding, data_format="channels_last")
    x = ops.reshape(x, (-1, *shape[1 : lead + 1], *x.shape[1:])) if lead else x
    return _activate(x if bias is None else x + bias, activation)


def _batch_matmul(lead, x, y, transpose_x, transpose_y):
    return ops.matmul(_transposed(x) if transpose_x else x, _transposed(y) if transpose_y else y)


def _transposed(x):
    return ops.swapaxes(x, -1, -2)


def _reshape(lead, x, shape):
    return x if list(x.shape[lead:]) == list(shape) else ops.reshape(x, (-1, *shape) if lead else shape)


def _slice(lead, x, begin, size):
    return ops.slice(x, (0,) * lead + tuple(begin), tuple(ops.shape(x)[:lead]) + tuple(size))


def _activate(x, activation):
    return {None: lambda x: x, "relu": ops.relu, "relu6": ops.relu6}[activation](x)


def _elementwise(function):
    return lambda lead, x, y, activation=None: _activate(function(x, y), activation)


# What each operator computes: the number of axes in front of the file's, its inputs, and its options.
OPERATORS = {
    "ABS": lambda lead, x: ops.abs(x),
    "ADD": _elementwise(ops.add),
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": lambda lead, *xs, axis: ops.concatenate(xs, axis=lead + axis),
    "CONV_2D": _conv_2d,
    "DIV": _elementwise(ops.divide),
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": lambda lead, x, indices, axis: ops.take(x, np.array(indices, "int32"), axis=lead + axis),
    "GELU": lambda lead, x, approximate: ops.gelu(x, approximate=approximate),
    "MAXIMUM": _elementwise(ops.maximum),
    "MEAN": lambda lead, x, axes, keepdims: ops.mean(x, axis=tuple(lead + axis for axis in axes), keepdims=keepdims),
    "MUL": _elementwise(ops.multiply),
    "PAD": lambda lead, x, padding: ops.pad(x, ((0, 0),) * lead + tuple(map(tuple, padding))),
    "REDUCE_MAX": lambda lead, x, axes, keepdims: ops.max(x, axis=tuple(lead + axis for axis in axes), keepdims=keepdims),
    "RELU": lambda lead, x: ops.relu(x),
    "RESHAPE": _reshape,
    "ROUND": lambda lead, x: x,  # a change of scale: `"rounding"` says to which
    "RSQRT": lambda lead, x: ops.rsqrt(x),
    "SLICE": _slice,
    "SOFTMAX": lambda lead, x: ops.softmax(x, axis=-1),
    "SPLIT": lambda lead, x, count, axis: ops.split(x, count, axis=lead + axis),
    "SQUARED_DIFFERENCE": lambda lead, x, y: ops.square(x - y),
    "SUB": _elementwise(ops.subtract),
    "TRANSPOSE": lambda lead, x, order: ops.transpose(x, (*range(lead), *(lead + axis for axis in order))),
}
