"""Writes what MediaPipe and ML Kit read from a .tflite file: how to normalize a picture, and the names of the classes.

The format is [metadata_schema.fbs](https://github.com/google-ai-edge/mediapipe/blob/master/mediapipe/tasks/metadata/metadata_schema.fbs):
a FlatBuffer in one of the file's buffers, and labels.txt in a ZIP archive at the end of the file.
"""

import functools
import io
import zipfile

import flatbuffers
import numpy as np
from flatbuffers import number_types
from flatbuffers.table import Table

NAME = "TFLITE_METADATA"
# Members of enumerations and unions in metadata_schema.fbs.
_FEATURES, _IMAGE, _RGB, _NORMALIZATION, _AXIS_LABELS = map(np.uint8, (1, 2, 1, 1, 2))
# Fields of the root table of a .tflite file, and the alignment of its buffers.
_BUFFERS, _METADATA = 4, 6
_ALIGNMENT = 16


def add_metadata(model, *, name, description, labels, mean, std, version):
    """Adds metadata to a .tflite file, as the last step: the quantizer drops labels.txt.

    What the file computes stays the same. MediaPipe's ImageClassifier runs it, with three differences from a bundle's own classifier:

    - It only takes the same mean and std for all channels. With those of ImageNet it fails with "Per-channel image normalization is not
      available", though the format has them per channel. To run such a model there, fold them into its first convolution (`fold_normalization`).
    - It stretches the whole picture to the input's size, bilinear without antialiasing, and crops nothing.
    - It applies no softmax: scores are the file's outputs, best first. Those of a file of logits are not in [0, 1], and its option
      `score_threshold` is compared with them. For probabilities, export a model that ends in a softmax.

    Args:
        model: Bytes of a .tflite file with one float32 input `(1, height, width, 3)`.
        name: String. The model's name.
        description: String. What the model does.
        labels: Class names, one for each value of the only output `(1, classes)`. `None`: no names, and any outputs.
        mean: Three floats, for red, green and blue in [0, 1]. The file gets them for [0, 255].
        std: Three floats, likewise.
        version: String. The model's version.

    Returns:
        Bytes. The same arguments give the same bytes.

    Raises:
        ValueError: If `model` is no such file or has metadata already, or `labels` does not fit.
    """
    from ai_edge_litert import schema_py_generated as schema

    if model[4:8] != b"TFL3":
        raise ValueError(f"`model` must be the bytes of a .tflite file. Received: {len(model):,} bytes that begin with {bytes(model[:8])!r}.")
    file = schema.Model.GetRootAs(model)
    if NAME.encode() in [file.Metadata(i).Name() for i in range(file.MetadataLength())]:
        raise ValueError(f"`model` must have no {NAME} yet. Received: a file that has. Start from the one that was converted or quantized.")
    graph = file.Subgraphs(0)
    inputs = [(tensor.Type(), tensor.ShapeAsNumpy().tolist()) for tensor in map(graph.Tensors, graph.InputsAsNumpy())]
    if len(inputs) != 1 or inputs[0][0] != schema.TensorType.FLOAT32 or inputs[0][1][::3] != [1, 3]:
        raise ValueError(f"`model` must have one float32 input (1, height, width, 3). Received: inputs (type, shape) {inputs}.")
    if labels is not None:
        if bad := [label for label in labels if label.splitlines() != [label]]:
            raise ValueError(f"`labels` must be names, each on one line. Received: {bad[0]!r}.")
        shapes = [graph.Tensors(tensor).ShapeAsNumpy().tolist() for tensor in graph.OutputsAsNumpy()]
        if shapes != [[1, len(labels)]]:
            raise ValueError(f"`labels` must name each value of the only output (1, classes). Received: {len(labels)} names, outputs {shapes}.")

    # MediaPipe wants a name for each output. Those of the graph are the converter's; those of the signature say what the outputs are.
    names = {tensor: graph.Tensors(tensor).Name() for tensor in graph.OutputsAsNumpy().tolist()}
    for signature in map(file.SignatureDefs, range(file.SignatureDefsLength())):
        if signature.SubgraphIndex() == 0:
            names |= {entry.TensorIndex(): entry.Name() for entry in map(signature.Outputs, range(signature.OutputsLength()))}
    outputs = [names[tensor] for tensor in graph.OutputsAsNumpy().tolist()]
    mean, std = 255 * np.asarray(mean, "float64"), 255 * np.asarray(std, "float64")
    metadata = _model_metadata(name, description, version, mean, std, outputs, labels is not None)
    content = _add_buffer(bytes(model), file, metadata)
    if labels is None:
        return content
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        entry = zipfile.ZipInfo("labels.txt")  # Dated 1980, and stored as it is: MediaPipe reads it in place.
        entry.create_system = 0  # It would tell Windows from the rest.
        # No line break at the end, as in what MediaPipe writes.
        archive.writestr(entry, "\n".join(labels).encode())
    return stream.getvalue()


def _model_metadata(name, description, version, mean, std, outputs, has_labels):
    """Returns the bytes of the table ModelMetadata; `mean` and `std` are arrays `(3,)` for pixels in [0, 255]."""
    builder = flatbuffers.Builder()
    table, vector, text = functools.partial(_table, builder), functools.partial(_vector, builder), builder.CreateString
    numbers = (mean, std, (255 - mean) / std, (0 - mean) / std)
    mean, std, highest, lowest = (builder.CreateNumpyVector(values.astype("float32")) for values in numbers)

    normalization = table(_NORMALIZATION, table(mean, std))
    picture = text("image"), text("RGB picture, 8 bits per channel."), None, table(_IMAGE, table(_RGB)), vector(normalization)
    labels = vector(table(text("labels.txt"), text("Class names in the order of the output."), _AXIS_LABELS)) if has_labels else None
    tensors = [table(text(output), None, None, table(_FEATURES, table()), None, None, labels) for output in outputs]
    graph = table(None, None, vector(table(*picture, table(highest, lowest))), vector(*tensors))
    # Parsers of the format's first version know all these fields.
    root = table(text(name), text(description), text(version), vector(graph), None, None, None, text("1.0.0"))
    builder.Finish(root, b"M001")
    return bytes(builder.Output())


def _add_buffer(model, file, metadata):
    """Puts a buffer and a new root table before the old content, which stays as it is, byte by byte, at another place.

    It can move, because all offsets inside a FlatBuffer are relative. Only the buffers that the quantizer places behind the FlatBuffer have
    absolute ones; they move inside, where MediaPipe 0.10 finds them too. Packing a file with the generated classes would lose them.

    Args:
        model: Bytes of a .tflite file.
        file: The same as `Model`.
        metadata: Bytes of the new buffer.

    Returns:
        Bytes of a .tflite file. Every buffer is aligned as before, those that moved inside and the new one to 16 bytes.
    """
    buffers = [file.Buffers(i) for i in range(file.BuffersLength())]
    behind = {i: (buffer.Offset(), buffer.Size()) for i, buffer in enumerate(buffers) if buffer.Offset() > 1}
    builder = flatbuffers.Builder(len(model) + len(metadata) + 64 * len(buffers) + 4096)

    def aligned(content):
        builder.Prep(_ALIGNMENT, len(content))
        return builder.CreateByteVector(content)

    end = min((offset for offset, _ in behind.values()), default=len(model))
    old_start = aligned(model[:end]) - 4  # The vector's length comes first. The builder counts from the end.
    root = Table(model, file._tab.Pos)

    def old_tables(field):
        position = root.Offset(4 + 2 * field)
        count = root.VectorLen(position) if position else 0
        return [old_start - root.Indirect(root.Vector(position) + 4 * i) for i in range(count)]

    tables = old_tables(_BUFFERS)
    for i, (offset, size) in behind.items():
        tables[i] = _table(builder, aligned(model[offset : offset + size]))
    tables.append(_table(builder, aligned(metadata)))
    entry = _table(builder, builder.CreateString(NAME), np.uint32(len(buffers)))
    new = {_BUFFERS: _vector(builder, *tables), _METADATA: _vector(builder, *old_tables(_METADATA), entry)}

    vtable = root.Pos - root.Get(number_types.SOffsetTFlags, root.Pos)
    fields = [np.uint32(file.Version())]
    # All other fields are vectors and strings.
    for field in range(1, max((root.Get(number_types.VOffsetTFlags, vtable) - 4) // 2, _METADATA + 1)):
        position = root.Offset(4 + 2 * field)
        fields.append(new.get(field, old_start - root.Indirect(root.Pos + position) if position else None))
    builder.Finish(_table(builder, *fields), b"TFL3")
    return bytes(builder.Output())


def _table(builder, *fields):
    """Writes a table. A field is an offset, an `np.uint8`, an `np.uint32`, or `None` if it is left out."""
    builder.StartObject(len(fields))
    for slot, field in enumerate(fields):
        if isinstance(field, np.uint8):
            builder.PrependUint8Slot(slot, int(field), 0)
        elif isinstance(field, np.uint32):
            builder.PrependUint32Slot(slot, int(field), 0)
        elif field is not None:
            builder.PrependUOffsetTRelativeSlot(slot, field, 0)
    return builder.EndObject()


def _vector(builder, *tables):
    builder.StartVector(4, len(tables), 4)
    for table in reversed(tables):
        builder.PrependUOffsetTRelative(table)
    return builder.EndVector()
