"""From the deploy graph to a .tflite file, and what such a file holds."""

import collections
import contextlib
import functools
import gc
import pathlib
import tempfile
import warnings

import numpy as np
from swin_keras.edge_demo.quiet import quietly
from swin_keras.export.signatures import DEFAULT, Signature

from swin_keras.layers.windows import MASKED_LOGIT
from swin_keras.quiet import quiet_native

_MOVES = {"RESHAPE", "TRANSPOSE", "SLICE", "CONCATENATION", "SPLIT", "PAD"}
_PRODUCTS = {"FULLY_CONNECTED", "BATCH_MATMUL"}


def convert(signatures, output_names):
    """Converts deploy graphs to a float32 .tflite file with built-in operators only.

    Args:
        signatures: A list of `Signature`, the default one first; or a `keras.Model` from `to_deploy`, which becomes the default one.
        output_names: Name of each output in the file's signatures.

    Returns:
        Bytes.

    Raises:
        ValueError: If the graph has an operation that is not built in.
    """
    import keras
    import tensorflow as tf

    if isinstance(signatures, keras.Model):
        signatures = [Signature(DEFAULT, signatures, mean=(0.0,), std=(1.0,))]

    def serve(signature, image):
        return dict(zip(output_names, signature.serve(image), strict=True))

    # Through a SavedModel with a static signature. `model.export(format="litert")` makes the batch dynamic and allows
    # operators that no device runs; here an operator that is not built in fails the conversion.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet_native():
        warnings.simplefilter("ignore")
        archive = keras.export.ExportArchive()
        for signature in signatures:
            archive.track(signature.deploy)
            image = tf.TensorSpec(signature.shape, signature.dtype, name="image")
            archive.add_endpoint(signature.key, functools.partial(serve, signature), [image])
        with disk_errors():
            archive.write_out(pathlib.Path(folder) / "saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(pathlib.Path(folder) / "saved_model"))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        gc.collect()  # What was loaded is garbage in a cycle by now: 200 MB of Swin-T's peak.
        try:
            return converter.convert()
        except Exception as error:  # A class of TensorFlow's own, which is not public.
            failure = error
    raise ValueError(
        f"Expected a model of operations that are built into the device runtime. Received: {signatures[0].deploy.name!r}, which does not convert: "
        f"{str(failure)[:300]}. Replace the operation it names."
    ) from failure


@contextlib.contextmanager
def disk_errors():
    """Turns TensorFlow's own errors, of a full disk for one, into `OSError`."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(
            f"Expected to write the model in TensorFlow's format. Received: {error.message}. Free some space, or let TMPDIR name a larger disk."
        ) from error


def clip_masks(model):
    """Raises the masked entries of each bias-and-mask constant to 32 below its other ones.

    At the official -100 they take most of the 256 steps that int8 has for the logits. 32 below, a masked token's probability is
    1e-14 of an equal other's; only where the logits of a window differ by some 20 would it be seen.

    Args:
        model: Bytes of a float32 .tflite file.

    Returns:
        Bytes.
    """
    from ai_edge_litert import schema_py_generated as schema

    content = bytearray(model)  # The arrays below are views of it.
    file = schema.Model.GetRootAs(content)
    for graph in _graphs(file):
        by_kind = {}
        for operator in map(graph.Operators, range(graph.OperatorsLength())):
            by_kind.setdefault(file.OperatorCodes(operator.OpcodeIndex()).BuiltinCode(), []).append(operator)
        logits = {int(operator.Inputs(0)) for operator in by_kind.get(schema.BuiltinOperator.SOFTMAX, [])}
        for operator in by_kind.get(schema.BuiltinOperator.ADD, []):
            if int(operator.Outputs(0)) not in logits:
                continue
            for tensor in map(graph.Tensors, operator.InputsAsNumpy()):
                buffer = file.Buffers(tensor.Buffer())
                if tensor.ShapeLength() == 4 and buffer.DataLength() and tensor.Type() == schema.TensorType.FLOAT32:
                    values = buffer.DataAsNumpy().view("float32")
                    masked = values < MASKED_LOGIT / 2
                    if masked.any() and not masked.all():
                        values[masked] = values[~masked].min() - 32
    return bytes(content)


def _graphs(file):
    return map(file.Subgraphs, range(file.SubgraphsLength()))


def operators(model):
    """Returns the name of each operator of a .tflite file, given as bytes, as the quantizer spells it, with its kind.

    In order of execution, those of the default signature first.
    """
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    return [operator for graph in _graphs(file) for operator in _operators(file, graph)]


def _operators(file, graph):
    found = []
    for operator in map(graph.Operators, range(graph.OperatorsLength())):
        outputs = "".join(f"{graph.Tensors(tensor).Name().decode()};" for tensor in operator.OutputsAsNumpy())
        found.append((outputs, _kind(file.OperatorCodes(operator.OpcodeIndex()))))
    return found


def weights(model, side=1):
    """Returns for each of `operators` its input of the index `side` as an array, where that is a constant in float32, or else `None`."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    found = []
    for graph in _graphs(file):
        for index in range(graph.OperatorsLength()):
            operator = graph.Operators(index)
            tensor = graph.Tensors(operator.Inputs(side)) if operator.InputsLength() > side and operator.Inputs(side) >= 0 else None
            buffer = file.Buffers(tensor.Buffer()) if tensor is not None and tensor.Type() == schema.TensorType.FLOAT32 else None
            if buffer is None or not buffer.DataLength() + buffer.Size():
                found.append(None)
                continue
            # Of files above 2 GB the numbers stand behind the FlatBuffer.
            data = buffer.DataAsNumpy() if buffer.DataLength() else np.frombuffer(model, "uint8", buffer.Size(), buffer.Offset())
            found.append(data.view("float32").reshape(tensor.ShapeAsNumpy()))
    return found


def moves_beside_products(model, keep_float=()):
    """Finds the operators that only move numbers and whose input comes, or output goes, through such operators alone, from or to matrix products.

    Where it comes from a product, that product is among them: its output and theirs are one set of numbers.

    Args:
        model: Bytes of a .tflite file.
        keep_float: Names of products that do not count.

    Returns:
        Names and kinds, as `operators` gives them.
    """
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    return [move for graph in _graphs(file) for move in _moves_beside_products(graph, _operators(file, graph), keep_float)]


def _moves_beside_products(graph, named, keep_float):
    products = {i for i, (name, kind) in enumerate(named) if kind in _PRODUCTS and name not in keep_float}
    inputs = [graph.Operators(i).InputsAsNumpy().tolist() for i in range(len(named))]
    outputs = [graph.Operators(i).OutputsAsNumpy().tolist() for i in range(len(named))]
    producer = {tensor: i for i, tensors in enumerate(outputs) for tensor in tensors}
    consumers = {}
    for i, tensors in enumerate(inputs):
        for tensor in tensors:
            consumers.setdefault(tensor, []).append(i)
    # `None` stands for what is outside: the picture, and whoever takes the outputs.
    for tensor in graph.InputsAsNumpy().tolist():
        producer[tensor] = None
    for tensor in graph.OutputsAsNumpy().tolist():
        consumers.setdefault(tensor, []).append(None)
    sources = [[producer[tensor] for tensor in tensors if tensor in producer] for tensors in inputs]
    sinks = [[consumer for tensor in tensors for consumer in consumers.get(tensor, [None])] for tensors in outputs]

    def reach(neighbours, order):
        """The moves all of whose neighbours are products or such moves."""
        found = set()
        for i in order:
            if named[i][1] in _MOVES and neighbours[i] and all(n in found or n in products for n in neighbours[i]):
                found.add(i)
        return found

    from_product = reach(sources, range(len(named)))
    beside = from_product | reach(sinks, reversed(range(len(named))))
    beside |= {source for i in from_product for source in sources[i] if source in products and named[source][1] == "FULLY_CONNECTED"}
    return [named[i] for i in sorted(beside)]


def run_with_all_tensors(model, pictures, names, key=DEFAULT):
    """Runs a signature of a .tflite file, given as bytes, on each picture without XNNPACK.

    Yields:
        For each picture a dictionary from those of `names` that are activations to arrays in float32, dequantized where they are of integers.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=plain, experimental_preserve_all_tensors=True, num_threads=2)
    run = interpreter.get_signature_runner(key)
    file = schema.Model.GetRootAs(model)
    index = _signature(file, key).SubgraphIndex()
    graph = file.Subgraphs(index)
    produced = {int(tensor) for i in range(graph.OperatorsLength()) for tensor in graph.Operators(i).OutputsAsNumpy()}
    details = [tensor for tensor in interpreter.get_tensor_details(index) if tensor["index"] in produced and tensor["name"] in names]
    for picture in pictures:
        run(image=picture[None])
        arrays = {}
        for tensor in details:
            array, (scale, zero) = interpreter.get_tensor(tensor["index"], index), tensor["quantization"]
            arrays[tensor["name"]] = (array.astype("float32") - zero) * scale if scale else array.astype("float32")
        yield arrays


def signature_runs(model, keys, output_names, threads):
    """Returns a function for each of some signatures of a .tflite file, given as bytes: from a picture to a list of the named outputs."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = quietly(lambda: Interpreter(model_content=model, num_threads=threads))
    quietly(interpreter.allocate_tensors)

    def runner(key):
        signature = interpreter.get_signature_runner(key)

        def run(picture):
            outputs = signature(image=picture)
            return [outputs[name] for name in output_names]

        return run

    return {key: runner(key) for key in keys}


def _signature(file, key=DEFAULT):
    return next(s for s in map(file.SignatureDefs, range(file.SignatureDefsLength())) if s.SignatureKey() == key.encode())


@functools.cache
def _builtin_names():
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")}


def _kind(code):
    # Files of old converters hold the code in the first field only, those of new ones in both.
    name = _builtin_names()[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
    return code.CustomCode().decode() if name == "CUSTOM" else name


def read(model):
    """Reads a .tflite file, given as bytes, into objects that can be changed, with the buffers that stand behind the FlatBuffer."""
    from ai_edge_litert.tools import flatbuffer_utils

    return flatbuffer_utils.read_model_from_bytearray(memoryview(model))


def kind_of(code):
    """Returns the kind of an operator, by its code as `read` gives it."""
    return _builtin_names()[max(code.builtinCode, code.deprecatedBuiltinCode)]


@functools.cache
def _type_names():
    from ai_edge_litert import schema_py_generated as schema

    return {value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")}


def tensor_type(tensor):
    """Returns the name of the type of a tensor, as `read` gives it: `"FLOAT32"`."""
    return _type_names()[tensor.type]


def count_operators(model):
    """Returns `{operator: count}` of a .tflite file, given as bytes, for its default signature, and the highest rank of all its tensors."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    rank = max(graph.Tensors(i).ShapeLength() for graph in _graphs(file) for i in range(graph.TensorsLength()))
    counts = collections.Counter(kind for _, kind in _operators(file, file.Subgraphs(0)))
    return dict(sorted(counts.items())), rank


def output_indices(model, names):
    """Returns where each named output of the default signature stands among the outputs of a .tflite file, given as bytes."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    signature, outputs = _signature(file), file.Subgraphs(0).OutputsAsNumpy().tolist()
    tensors = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    indices = {tensor.Name().decode(): outputs.index(tensor.TensorIndex()) for tensor in tensors}
    return [indices[name] for name in names]
