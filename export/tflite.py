"""From the deploy graph to a .tflite file, and what such a file holds."""

import pathlib
import tempfile
import warnings

from swin_keras.edge_demo.classifier import quietly

from swin_keras.layers.windows import MASKED_LOGIT
from swin_keras.quiet import quiet_native


def convert(deploy, output_names):
    """Converts a deploy graph to a float32 .tflite file with built-in operators only.

    Args:
        deploy: `keras.Model` from `to_deploy`.
        output_names: Name of each output in the file's signature.

    Returns:
        Bytes.

    Raises:
        ValueError: If the graph has an operation that is not built in.
    """
    import keras
    import tensorflow as tf

    def serve(image):
        return dict(zip(output_names, keras.tree.flatten(deploy(image, training=False)), strict=True))

    # Through a SavedModel with a static signature. `model.export(format="litert")` makes the batch dynamic and allows
    # operators that no device runs; here an operator that is not built in fails the conversion.
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), quiet_native():
        warnings.simplefilter("ignore")
        archive = keras.export.ExportArchive()
        archive.track(deploy)
        archive.add_endpoint("serving_default", serve, [tf.TensorSpec(deploy.inputs[0].shape, tf.float32, name="image")])
        archive.write_out(pathlib.Path(folder) / "saved_model", verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(str(pathlib.Path(folder) / "saved_model"))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            return converter.convert()
        except Exception as error:  # A class of TensorFlow's own, which is not public.
            failure = error
    raise ValueError(
        f"Expected a model of operations that are built into the device runtime. Received: {deploy.name!r}, which does not convert: "
        f"{str(failure)[:300]}. Replace the operation it names."
    ) from failure


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
    graph = file.Subgraphs(0)
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


def count_operators(model):
    """Returns `{operator: count}` of a .tflite file, given as bytes, and the highest rank of its tensors."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
    file = schema.Model.GetRootAs(model)
    graph = file.Subgraphs(0)
    operators = {}
    for i in range(graph.OperatorsLength()):
        code = file.OperatorCodes(graph.Operators(i).OpcodeIndex())
        # Files of old converters hold the code in the first field only, those of new ones in both.
        name = names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]
        if name == "CUSTOM":
            name = code.CustomCode().decode()
        operators[name] = operators.get(name, 0) + 1
    rank = max(graph.Tensors(i).ShapeLength() for i in range(graph.TensorsLength()))
    return dict(sorted(operators.items())), rank


def output_indices(model, names):
    """Returns where each named output of the signature stands among the outputs of a .tflite file, given as bytes."""
    from ai_edge_litert import schema_py_generated as schema

    file = schema.Model.GetRootAs(model)
    signature, outputs = file.SignatureDefs(0), file.Subgraphs(0).OutputsAsNumpy().tolist()
    tensors = [signature.Outputs(i) for i in range(signature.OutputsLength())]
    indices = {tensor.Name().decode(): outputs.index(tensor.TensorIndex()) for tensor in tensors}
    return [indices[name] for name in names]


def delegate_coverage(model):
    """Says how much of a .tflite file, given as bytes, XNNPACK runs.

    Returns:
        A dictionary: `nodes` of the graph, how many of them are `delegated`, in how many `partitions`, and the operators
        that are `left` with their counts.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    delegated = Interpreter(model_content=model)
    plain.allocate_tensors()
    quietly(delegated.allocate_tensors)
    # There is no public list of a graph's nodes. tests/export/test_tflite.py notices if this one changes.
    nodes = plain._get_ops_details()
    partitions = [node for node in delegated._get_ops_details() if node["op_name"] == "DELEGATE"]

    producer = {int(tensor): node for node in nodes for tensor in node["outputs"]}
    covered = {}
    for partition in partitions:
        inputs, waiting = {int(tensor) for tensor in partition["inputs"]}, [int(tensor) for tensor in partition["outputs"]]
        while waiting:
            tensor = waiting.pop()
            node = producer.get(tensor)
            if node is None or tensor in inputs or node["index"] in covered:
                continue
            covered[node["index"]] = node
            waiting += [int(t) for t in node["inputs"] if t >= 0]
    left = {}
    for node in nodes:
        if node["index"] not in covered:
            left[node["op_name"]] = left.get(node["op_name"], 0) + 1
    return {"nodes": len(nodes), "delegated": len(covered), "partitions": len(partitions), "left": left}
