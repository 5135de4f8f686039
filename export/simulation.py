"""What a quantized .tflite file computes, as the description that `QuantizedGraph` runs: what training simulates is read from the file itself."""

import hashlib
import json
import re

import numpy as np
from swin_keras.export import recipes
from swin_keras.export.deploy import all_layers
from swin_keras.export.sensitivity import short_name
from swin_keras.export.tflite import kind_of, read, tensor_type

from swin_keras.layers.quantized_graph import QuantizedGraph

# A file whose outputs are further from what training simulated does not ship. Runtimes differ more from each other: one step of one integer, where a
# kernel rounds a tie the other way, becomes many behind it.
MIN_SNR_DB = 25.0
_ACTIVATIONS = {0: None, 1: "relu", 3: "relu6"}
_BITS = {"INT4": 4, "INT8": 8, "INT16": 16}
# What these give has the range of what they take.
_MOVES = {"GATHER", "PAD", "RESHAPE", "SLICE", "SPLIT", "TRANSPOSE"}
# These give integers of the scale that they take.
_SAME_SCALE = {*_MOVES, "CONCATENATION", "MAXIMUM"}


def describe(float32_model, quantized_model, ranges):
    """Describes a quantized file.

    Args:
        float32_model: Bytes of the .tflite file that was quantized, as `recipes.prepare` leaves it.
        quantized_model: Bytes.
        ranges: Those of `recipes.find_ranges` by which it was, or `None`.

    Returns:
        The graph of a `QuantizedGraph`; its weights, a dictionary from names to arrays; and its ranges, an array `(ranges, 2)`.

    Raises:
        ValueError: If the file has an operator that `QuantizedGraph` does not know.
    """
    description = _Description(read(float32_model), read(quantized_model), ranges or {})
    graph = description.describe()
    limits = [description.limits(number) for number in description.ranges]
    return graph, description.arrays, np.array(limits, "float32").reshape(-1, 2)


class _Description:
    """The state of one description. The quantizer leaves the tensors of a file where they are, and adds its own behind."""

    def __init__(self, plain, quantized, limits):
        self.plain, self.graph = plain.subgraphs[0], quantized.subgraphs[0]
        self._buffers, self._codes, self._limits = plain.buffers, quantized.operatorCodes, limits
        self.weights, self.arrays, self.ranges = {}, {}, []
        # For each tensor of the quantized file: its number in the description, by when it is computed; the tensor whose range it has;
        # how it is rounded; and its range, where the operator fixes that.
        self._numbers, self._origins, self._rounding, self._fixed = {int(self.graph.inputs[0]): 0}, {}, {}, {}

    def describe(self):
        """Returns the graph."""
        operators = [entry for operator in self.graph.operators if (entry := self._operator(operator)) is not None]
        return {
            "outputs": [self.number(int(number)) for number in self.graph.outputs],
            "operators": operators,
            "weights": self.weights,
            "ranges": [self.number(number) for number in self.ranges],
        }

    def names(self):
        """Returns the names of tensors, by their numbers in the description of a file without integers."""
        return {number: self.graph.tensors[tensor].name.decode() for tensor, number in self._numbers.items()}

    def _operator(self, operator):
        kind = kind_of(self._codes[operator.opcodeIndex])
        inputs, outputs = (list(map(int, numbers)) for numbers in (operator.inputs, operator.outputs))
        if kind in ("QUANTIZE", "DEQUANTIZE"):
            self._origins[outputs[0]] = self._origins.get(inputs[0], inputs[0])
        elif kind in _MOVES:
            taken = inputs[1] if kind == "SPLIT" else inputs[0]
            self._origins |= dict.fromkeys(outputs, self._origins.get(taken, taken))
        if kind == "DEQUANTIZE":
            self._numbers[outputs[0]] = self.number(inputs[0])
            return None
        name = short_name(self.graph.tensors[outputs[0]].name.decode()).replace("/", "_")
        if kind == "QUANTIZE":
            given, options, kind = [self.number(inputs[0])], {}, "ROUND"
        elif kind in _READERS:
            given, options = _READERS[kind](self, name, inputs, outputs, operator.builtinOptions)
        else:
            raise ValueError(
                f"Training for integers knows the operators {', '.join(sorted(_READERS))}. Received: a model with {kind}, of {name!r}. "
                "Build the model without what needs it."
            )
        source = next((self._rounding[number] for number in inputs if number in self._rounding), None)
        if kind == "SOFTMAX" and (bits := _BITS.get(tensor_type(self.graph.tensors[outputs[0]]))) is not None:
            # The operator says in which range, whatever was found.
            own = self.graph.tensors[outputs[0]].quantization
            self._fixed[outputs[0]] = [float(own.scale[0]) * (end - int(own.zeroPoint[0])) for end in (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)]
        self._numbers |= {number: max(self._numbers.values()) + i for i, number in enumerate(outputs, start=1)}
        rounding = [self._round(number, source if kind in _SAME_SCALE else None) for number in outputs]
        numbers = [self.number(number) for number in outputs]
        entry = {"kind": kind, "name": name, "inputs": given, "outputs": numbers, "options": options, "rounding": rounding}
        return {**entry, "source": source} if kind in ("ROUND", "FULLY_CONNECTED", "CONV_2D") else entry

    def _round(self, number, moved):
        """Says how an output is rounded, or `None` if it is not, or was before it moved."""
        tensor = self.graph.tensors[number]
        if (bits := _BITS.get(tensor_type(tensor))) is None:
            return None
        own = float(tensor.quantization.scale[0]), int(tensor.quantization.zeroPoint[0])
        if moved is not None and _same(self._scale_of(moved), own):
            self._rounding[number] = moved
            return None
        # Where operators must agree in their scales, it comes from the range of another.
        origin = self._origins.get(number, number)
        candidates = [origin, *(other for other in self._numbers if other < len(self.plain.tensors) and self._origins.get(other, other) == other)]
        rule = next((rule for other in candidates if (rule := self._rule(other, own, bits)) is not None), None)
        if rule is None:
            raise ValueError(
                f"Expected each scale of the file to come from a range. Received: {tensor.name.decode()!r}, whose scale is {own[0]:.4g}."
            )
        self._rounding[number] = rule
        return rule

    def _rule(self, number, own, bits):
        if (limits := self.limits(number)) is None:
            return None
        for symmetric in (True, False):
            if _same(scale_of(*limits, bits, symmetric), own):
                if number in self._fixed:
                    return {"low": limits[0], "high": limits[1], "bits": bits, "symmetric": symmetric}
                if number not in self.ranges:
                    self.ranges.append(number)
                return {"range": self.ranges.index(number), "bits": bits, "symmetric": symmetric}
        return None

    def _scale_of(self, rule):
        limits = (rule["low"], rule["high"]) if "low" in rule else self.limits(self.ranges[rule["range"]])
        return scale_of(*limits, rule["bits"], rule["symmetric"])

    def limits(self, number):
        """Returns the range of an activation, or `None`."""
        if number in self._fixed:
            return self._fixed[number]
        found = None if self.is_constant(number) else self._limits.get(self.plain.tensors[number].name.decode())
        return [float(np.ravel(found[end])[0]) for end in ("min", "max")] if found else None

    def number(self, number):
        """Returns which tensor of the description one of the quantized file is."""
        return self._numbers[number]

    def is_constant(self, number):
        """Whether a tensor is a constant of the file before quantization, or one that the quantizer copied."""
        tensor = self._plain_tensor(number)
        data = None if tensor is None else self._buffers[tensor.buffer].data
        return data is not None and len(data) > 0

    def _plain_tensor(self, number):
        """Returns the tensor of the file before quantization, or `None` of one that the quantizer put in."""
        if number < len(self.plain.tensors):
            return self.plain.tensors[number]
        # Where operators that share a constant want it in several scales.
        copied = re.fullmatch(r"(.*)_duplicated_\d+", self.graph.tensors[number].name.decode())
        return None if copied is None else next(tensor for tensor in self.plain.tensors if tensor.name.decode() == copied[1])

    def constant(self, number):
        """Returns the content of a constant."""
        tensor = self._plain_tensor(number)
        dtype = {"FLOAT32": "float32", "INT32": "int32"}[tensor_type(tensor)]
        return np.frombuffer(bytes(self._buffers[tensor.buffer].data), dtype).reshape([] if tensor.shape is None else tensor.shape)

    def operand(self, name, number):
        """Describes an input. A constant learns if it is a vector, the scale or shift of a norm."""
        if not self.is_constant(number):
            return self.number(number)
        array = self.constant(number)
        if array.size == 1 and tensor_type(self.graph.tensors[number]) == "FLOAT32":
            return {"value": float(array.ravel()[0])}
        return self.weight(f"{name}_constant", number, array, trained=array.ndim == 1 and array.size > 1)

    def weight(self, name, number, array, trained=True, shared=0):
        """Describes a constant that is a weight. `shared`: of how many axes the input of a product has a range of its own, found while running."""
        tensor = self.graph.tensors[number]
        bits = _BITS.get(tensor_type(tensor))
        while name in self.weights:
            name += "_"
        self.weights[name] = {"shape": list(array.shape), "trained": bool(trained), "bits": bits, "shared": shared}
        if bits is not None:
            own = tensor.quantization
            self.weights[name]["block"] = 0 if own.details is None else int(own.details.blockSize)
            self.weights[name]["per_channel"] = own.details is None and len(own.scale) > 1
            self.weights[name]["symmetric"] = own.details is not None or not np.any(own.zeroPoint)
        self.arrays[name] = array
        return {"weight": name}

    def product(self, name, inputs, order, shared):
        """Describes the inputs of a product with a weight, whose axes stand in another order in the file."""
        finds_range = [tensor_type(self.graph.tensors[number]) == "FLOAT32" for number in inputs[:2]] == [True, False]
        given = [
            self.number(inputs[0]),
            self.weight(f"{name}_kernel", inputs[1], self.constant(inputs[1]).transpose(order), shared=finds_range * shared),
        ]
        if len(inputs) < 3 or inputs[2] < 0:
            return [*given, None]
        # Where the file holds it in integers of 32 bits or more, `_BITS` does not count them: their scale is that of the sums.
        return [*given, self.weight(f"{name}_bias", inputs[2], self.constant(inputs[2]))]

    def shape(self, number):
        """Returns the shape of a tensor."""
        return [int(side) for side in self.graph.tensors[number].shape]


def scale_of(low, high, bits, symmetric):
    """Returns the scale and the zero that the quantizer gives a range."""
    if symmetric:
        return max(abs(low), abs(high), 1e-9) / (2 ** (bits - 1) - 1), 0
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, 1e-9) / (2**bits - 1)
    return scale, int(np.rint(-(2 ** (bits - 1)) - low / scale))


def _same(one, other):
    return one[1] == other[1] and abs(one[0] - other[0]) <= 1e-5 * other[0]


def _fully_connected(file, name, inputs, outputs, options):
    described = {"shape": file.shape(outputs[0]), "activation": _ACTIVATIONS[options.fusedActivationFunction]}
    return file.product(name, inputs, (1, 0), shared=1), described


def _conv_2d(file, name, inputs, outputs, options):
    if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
        raise ValueError(f"Training for integers knows convolutions without dilation. Received: {name!r}, which has some.")
    described = {
        "strides": [options.strideH, options.strideW],
        "padding": ("same", "valid")[options.padding],
        "activation": _ACTIVATIONS[options.fusedActivationFunction],
    }
    return file.product(name, inputs, (1, 2, 3, 0), shared=3), described


def _batch_matmul(file, name, inputs, outputs, options):
    described = {"transpose_x": bool(options.adjX), "transpose_y": bool(options.adjY)}
    if file.is_constant(inputs[1]):
        return [file.number(inputs[0]), file.weight(f"{name}_kernel", inputs[1], file.constant(inputs[1]))], described
    return [file.number(number) for number in inputs], described


def _elementwise(file, name, inputs, outputs, options):
    activation = _ACTIVATIONS[getattr(options, "fusedActivationFunction", 0)]
    ranks = {len(file.shape(number)) for number in inputs if not file.is_constant(number)}
    if len(ranks) > 1:
        raise ValueError(f"Training for integers knows sums and products of one rank. Received: {name!r}, which has {sorted(ranks)}.")
    return [file.operand(name, number) for number in inputs], {"activation": activation} if activation else {}


def _reduction(file, name, inputs, outputs, options):
    rank = len(file.shape(inputs[0]))
    axes = sorted(int(axis) % rank for axis in file.constant(inputs[1]).ravel())
    return [file.number(inputs[0])], {"axes": axes, "keepdims": bool(options.keepDims)}


def _of_constants(**names):
    """Returns a reader of an operator whose further inputs are constants that are its options."""

    def describe(file, name, inputs, outputs, options):
        return [file.number(inputs[0])], {option: file.constant(inputs[position]).tolist() for option, position in names.items()}

    return describe


def _plain(file, name, inputs, outputs, options):
    return [file.number(inputs[0])], {}


_READERS = {
    "ABS": _plain,
    "ADD": _elementwise,
    "BATCH_MATMUL": _batch_matmul,
    "CONCATENATION": lambda file, name, inputs, outputs, options: ([file.number(number) for number in inputs], {"axis": int(options.axis)}),
    "CONV_2D": _conv_2d,
    "DIV": _elementwise,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": lambda file, name, inputs, outputs, options: (
        [file.number(inputs[0])],
        {"indices": file.constant(inputs[1]).tolist(), "axis": int(options.axis)},
    ),
    "GELU": lambda file, name, inputs, outputs, options: ([file.number(inputs[0])], {"approximate": bool(options.approximate)}),
    "MAXIMUM": _elementwise,
    "MEAN": _reduction,
    "MUL": _elementwise,
    "PAD": _of_constants(padding=1),
    "REDUCE_MAX": _reduction,
    "RELU": _plain,
    "RESHAPE": lambda file, name, inputs, outputs, options: ([file.number(inputs[0])], {"shape": file.shape(outputs[0])}),
    "RSQRT": _plain,
    "SLICE": _of_constants(begin=1, size=2),
    "SOFTMAX": _plain,
    "SPLIT": lambda file, name, inputs, outputs, options: (
        [file.number(inputs[1])],
        {"count": len(outputs), "axis": int(file.constant(inputs[0]))},
    ),
    "SQUARED_DIFFERENCE": _elementwise,
    "SUB": _elementwise,
    "TRANSPOSE": _of_constants(order=1),
}


def trained_graph(model):
    """Returns the `QuantizedGraph` of a model, or `None` if it has none."""
    layers = all_layers(model) if isinstance(getattr(model, "layers", None), list) else ()
    return next((layer for layer in layers if isinstance(layer, QuantizedGraph)), None)


def quantize(layer, float32_model, recipe):
    """Makes a recipe's file as it was simulated.

    Args:
        layer: `QuantizedGraph`.
        float32_model: Bytes of the .tflite file that its deploy form was converted to.
        recipe: Key of `RECIPES`, for which it was trained.

    Returns:
        Bytes.

    Raises:
        ValueError: If the file would round in other places than training did.
    """
    plain = recipes.prepare(float32_model, recipe)
    ranges = None
    if recipes.RECIPES[recipe].calibrated:
        graph = read(plain).subgraphs[0]
        # Of one picture, for the constants and for what needs no range.
        picture = np.zeros(graph.tensors[graph.inputs[0]].shape, "float32")
        ranges = trained_ranges(layer, plain, recipes.find_ranges(plain, recipe, picture))
    content = recipes.quantize(plain, recipe, ranges, learning=True)
    if not same_roundings(describe(plain, content, ranges)[0], layer.graph):
        raise ValueError(
            f"Expected a file that rounds where {layer.name!r} did in training. Received: one that does not. Train again with this version."
        )
    return content


def trained_ranges(layer, float32_model, ranges):
    """Gives the quantizer the ranges that training came to.

    Args:
        layer: `QuantizedGraph` whose deploy form was converted to `float32_model`.
        float32_model: Bytes.
        ranges: Of all tensors of `float32_model`, as `recipes.find_ranges` finds them.

    Returns:
        The same dictionary, with the ranges of training for what training followed, and for what only moved since.

    Raises:
        ValueError: If the file is another network than the layer.
    """
    file = read(float32_model)
    description = _Description(file, file, {})
    plain = description.describe()
    keys, trained_keys = _Canonical(plain).keys, _Canonical(layer.graph).keys
    trained = {trained_keys[number]: limits for number, limits in zip(layer.graph["ranges"], np.asarray(layer.ranges), strict=True)}
    if set(keys.values()) != set(trained_keys.values()):
        raise ValueError(
            f"Expected the converter to make the operators that {layer.name!r} was trained with. Received: others. Train again with this version."
        )
    for entry in plain["operators"]:
        if entry["kind"] in _SAME_SCALE and (limits := trained.get(keys[entry["inputs"][0]])) is not None:
            for number in entry["outputs"]:
                trained.setdefault(keys[number], limits)
    ranges = dict(ranges)
    for number, name in description.names().items():
        if (key := keys[number]) in trained and ranges.get(name):
            shape = np.shape(ranges[name]["min"])
            ranges[name] = {end: np.full(shape, limit, "float32") for end, limit in zip(("min", "max"), trained[key], strict=True)}
    return ranges


def same_roundings(one, other):
    """Whether two graphs compute and round alike. The converter may name, and order, the operators of one network in different ways."""
    return _Canonical(one).operators == _Canonical(other).operators


class _Canonical:
    """What a graph computes, without names and order: each tensor has a key that says how it comes about from the picture, but for roundings, and
    to which outputs it leads: heads alike differ in that.

    Attributes:
        keys: Dictionary from numbers of tensors to keys.
        operators: Sorted list of what each operator takes, with its rounding, and how it rounds.
    """

    def __init__(self, graph):
        self.keys, rules, self.operators = {0: "picture"}, {}, []
        reached = {number: {place} for place, number in enumerate(graph["outputs"])}

        def places_of(entry):
            return set().union(*(reached.get(number, ()) for number in entry["outputs"]))

        for entry in reversed(graph["operators"]):
            places = places_of(entry)
            for number in (x for x in entry["inputs"] if isinstance(x, int)):
                reached[number] = reached.get(number, set()) | places

        def rule_of(rule):
            return rule and {key: self.keys[graph["ranges"][value]] if key == "range" else value for key, value in rule.items()}

        def weight_of(x):
            return graph["weights"][x["weight"]] if isinstance(x, dict) and "weight" in x else x

        def content_of(x):
            if isinstance(x, int):
                return self.keys[x]
            # A single number stands in the description, or beside integers as a weight.
            shape = weight_of(x).get("shape", []) if isinstance(x, dict) else None
            return [] if shape == [1] else shape

        for entry in graph["operators"]:
            tensors = [x for x in entry["inputs"] if isinstance(x, int)]
            text = json.dumps([entry["kind"], entry["options"], [content_of(x) for x in entry["inputs"]], sorted(places_of(entry))])
            key = hashlib.sha256(text.encode()).hexdigest()[:16]
            for place, number in enumerate(entry["outputs"]):
                self.keys[number] = self.keys[tensors[0]] if entry["kind"] == "ROUND" else f"{key}:{place}"
            taken = [rules.get(x) for x in tensors]
            given = [rule_of(rule) for rule in entry["rounding"]]
            for number, rule in zip(entry["outputs"], given, strict=True):
                rules[number] = rule or (taken[0] if entry["kind"] in _SAME_SCALE else None)
            weights = [weight_of(x) for x in entry["inputs"] if not isinstance(x, int)]
            self.operators.append(json.dumps([entry["kind"], self.keys[entry["outputs"][0]], taken, given, weights], sort_keys=True))
        self.operators.sort()
