"""Reads a bundle: its description, checked before anything relies on it, and its files, checked by sha256."""

import hashlib
import json
import os
import pathlib

from .errors import InputError, words

FORMAT_VERSION = 1
# What a model finds in a picture, and what its output_kind then is.
TASKS = {"classes": ("logits", "probabilities"), "boxes": ("boxes",), "masks": ("masks",)}
# 21,841 labels take some 2 MB; a .tflite file cannot be larger than its offsets reach.
_MAX_JSON_BYTES, _MAX_FILE_BYTES = 16 * 2**20, 2**31


def read_bundle(folder, task="classes"):
    """Reads model.json of a bundle.

    Args:
        folder: Path.
        task: Key of `TASKS`: what the model must find. `None`: whatever it gives.

    Raises:
        InputError: If it is missing, damaged, of another format version, or does not describe what is asked for.
    """
    path = pathlib.Path(folder) / "model.json"
    if not _is_file(path):
        raise InputError(
            f"expected a bundle, received {str(folder)!r}, which has no model.json. Give with --bundle the folder that `swin-keras export` wrote."
        )
    text = _read(folder, path, _MAX_JSON_BYTES)
    try:
        description = json.loads(text.decode())
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"expected JSON in {str(path)!r}: {words(error)}. Export the bundle again.") from error
    version = description.get("format_version") if isinstance(description, dict) else None
    if version != FORMAT_VERSION or type(version) is not int:
        raise InputError(
            f"expected a bundle of format version {FORMAT_VERSION}, received {version!r:.80} in {str(path)!r}. "
            "Export the bundle again, or use the version of this program that came with it."
        )
    if task is not None and description.get("output_kind") == "features":
        raise InputError(
            f"expected the bundle of a classifier, received one of feature maps in {str(path)!r}. `swin-keras serve` shows maps; "
            "for classes export a classifier."
        )
    if task is not None and description.get("recommended") == dict.fromkeys(("cpu", "gpu", "npu")):
        raise InputError(f"expected a .tflite file in the bundle, received a SavedModel alone, in {str(path)!r}. Export it with another recipe too.")
    _check(description, {**_PROMISES.get(task, {}), **_EXPECTED}, path)
    return description


def find_task(folder):
    """Returns what the model of a bundle finds, a key of `TASKS`; `"classes"` where it is none of them, which `read_bundle` then refuses."""
    kind = read_bundle(folder, None).get("output_kind")
    return next((task for task, kinds in TASKS.items() if kind in kinds), "classes")


def _check(description, promises, path):
    for expected, (keys, holds) in promises.items():
        try:
            held = holds(description)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
            held = False
        if not held:
            received = ", ".join(f"{key} {_shorten(description, key)}" for key in keys.split())
            raise InputError(f"expected {expected} in {str(path)!r}, received {received}. Export the bundle again.")


def _shorten(description, key):
    for part in key.split("."):
        description = description.get(part) if isinstance(description, dict) else None
    received = repr(description)
    return received if len(received) <= 100 else f"{received[:97]}..."


def at_size(folder, description, size, task="classes"):
    """Chooses the way into a bundle's files that takes pictures of another size.

    Args:
        folder: Path of the bundle.
        description: What `read_bundle` returned of it.
        size: Height and width.
        task: As in `read_bundle`.

    Returns:
        The key of the signature, and the description with its input, preprocessing and outputs. The key is `None` for the bundle's main size.

    Raises:
        InputError: If there is none, with the sizes that there are.
    """
    path, size = pathlib.Path(folder) / "model.json", list(size)
    _check(description, _WITH_SIGNATURES, path)
    # Those for pixels of 8 bits are for programs that have no floating-point numbers to give.
    found = {tuple(s["input"]["shape"][1:3]): s for s in description.get("signatures", []) if s["input"]["dtype"] == "float32"}
    main = tuple(description["input"]["shape"][1:3])
    if tuple(size) == main:
        return None, description
    if tuple(size) not in found:
        sizes = ", ".join(f"{height} {width}" for height, width in sorted({main, *found}))
        raise InputError(f"expected as --size one of the bundle's, {sizes:.200}, received {size[0]} {size[1]}. Export it with that size too.")
    chosen = found[tuple(size)]
    outputs = [{**output, "shape": own["shape"]} for output, own in zip(description["outputs"], chosen["outputs"], strict=False)]
    changed = {**description, "input": chosen["input"], "preprocessing": chosen["preprocessing"], "outputs": outputs}
    _check(changed, {**_PROMISES.get(task, {}), **_EXPECTED}, path)
    return chosen["key"], changed


def find_file(description, recipe):
    """Returns what model.json says of the file of a recipe; raises an `InputError` if the bundle lacks the recipe."""
    files = {file["recipe"]: file for file in description["files"]}
    if recipe not in files:
        raise InputError(f"expected one of the bundle's recipes {', '.join(files):.200}, received {recipe!r:.80}.")
    return files[recipe]


def find_recommended(folder, description):
    """Returns the recipe that model.json recommends for a CPU; raises an `InputError` if the bundle lacks it."""
    recipe = description["recommended"]["cpu"]
    recipes = [file["recipe"] for file in description["files"]]
    if recipe not in recipes:
        raise InputError(
            f"expected as recommended.cpu in {str(pathlib.Path(folder) / 'model.json')!r} one of the bundle's recipes {', '.join(recipes):.200}, "
            f"received {recipe!r:.80}. Name one of them with --recipe, or export the bundle again."
        )
    return recipe


def read_file(folder, description, recipe):
    """Reads the .tflite file of a recipe.

    Returns:
        Bytes, whose sha256 is that of model.json.

    Raises:
        InputError: If the bundle lacks the recipe or its file, or the file was changed.
    """
    file = find_file(description, recipe)
    if not file["file"].endswith(".tflite"):
        raise InputError(f"expected a recipe that is a .tflite file, received {recipe!r}, which is for TensorFlow. Name another one.")
    path = pathlib.Path(folder) / file["file"]
    if not _is_file(path):
        raise InputError(f"expected the file {str(path)!r}, which model.json lists and which is missing. Copy the whole bundle again.")
    content = _read(folder, path, _MAX_FILE_BYTES)
    received = hashlib.sha256(content).hexdigest()
    if received != file["sha256"].lower():
        raise InputError(
            f"expected sha256 {file['sha256'][:12]}... for {str(path)!r}, received {received[:12]}...: "
            "the file was changed after export. Copy or export the bundle again."
        )
    return content


def _read(folder, path, most):
    inside = os.path.join(os.path.realpath(folder), "")
    if not os.path.realpath(path).startswith(inside):
        raise InputError(f"expected {str(path)!r} inside the bundle, received a link that leads out of it. Copy the file itself.")
    try:
        if path.stat().st_size > most:
            raise InputError(f"expected {str(path)!r} of at most {most:,} bytes, received {path.stat().st_size:,}. Export the bundle again.")
        return path.read_bytes()
    except MemoryError:
        raise InputError(f"expected enough memory for {str(path)!r}, which does not fit. Use a smaller file of the bundle.") from None
    except OSError as error:
        raise InputError(f"expected to read {str(path)!r}: {error.strerror}. Check its permissions.") from error


def _is_file(path):
    try:
        return path.is_file()
    except (OSError, ValueError):  # A name that is too long, a folder that may not be entered.
        return False


def _is_list(value, kinds, length=None):
    right = isinstance(value, list) and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
    return right and (len(value) > 0 if length is None else len(value) == length)


def _is_inside(name):
    path = pathlib.PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\\" not in name


def _are_outputs(outputs, *lengths):
    """Whether there are as many outputs, each with its index and a shape of so many sides, for one picture."""
    return len(outputs) == len(lengths) and all(
        isinstance(o["name"], str)
        and type(o["index"]) is int
        and 0 <= o["index"] < 2**31
        and _is_list(o["shape"], int, n)
        and o["shape"][0] == 1 <= min(o["shape"])
        for o, n in zip(outputs, lengths, strict=True)
    )


# What this program relies on, in the words of the error; and which values of model.json the error shows.
_OF_ALL_TASKS = {
    "labels that are null or a name for each class": (
        "outputs labels",
        lambda d: d["labels"] is None or _is_list(d["labels"], str, d["outputs"][-1]["shape"][-1]),
    ),
    "a recommended recipe for cpu": ("recommended", lambda d: isinstance(d["recommended"]["cpu"], str)),
}
_PROMISES = {
    "classes": {
        "a classifier, whose output_kind is logits or probabilities,": ("output_kind", lambda d: d["output_kind"] in TASKS["classes"]),
        "one output of shape [1, classes]": ("outputs", lambda d: _are_outputs(d["outputs"], 2)),
        **_OF_ALL_TASKS,
    },
    "boxes": {
        "the outputs boxes, of shape [1, anchors, 4], and scores, of shape [1, anchors, classes],": (
            "outputs",
            lambda d: (
                _are_outputs(d["outputs"], 3, 3)
                and [output["name"] for output in d["outputs"]] == ["boxes", "scores"]
                and d["outputs"][0]["shape"] == [1, d["outputs"][1]["shape"][1], 4]
            ),
        ),
        **_OF_ALL_TASKS,
    },
    "masks": {
        "one output of shape [1, *crop, classes]": (
            "outputs",
            lambda d: _are_outputs(d["outputs"], 4) and d["outputs"][0]["shape"][1:3] == d["preprocessing"]["crop"],
        ),
        **_OF_ALL_TASKS,
    },
}
_EXPECTED = {
    "a preprocessing mode of exact or cover": ("preprocessing.mode", lambda d: d["preprocessing"]["mode"] in ("exact", "cover")),
    "an interpolation of bilinear or bicubic": (
        "preprocessing.interpolation",
        lambda d: d["preprocessing"]["interpolation"] in ("bilinear", "bicubic"),
    ),
    "a resize that holds the crop": (
        "preprocessing.resize preprocessing.crop",
        lambda d: (
            all(_is_list(d["preprocessing"][key], int, 2) for key in ("resize", "crop"))
            and all(0 < c <= r <= 2**14 for c, r in zip(d["preprocessing"]["crop"], d["preprocessing"]["resize"], strict=True))
        ),
    ),
    "a float32 NHWC input of shape [1, *crop, 3]": (
        "preprocessing.crop input",
        lambda d: d["input"] == {"shape": [1, *d["preprocessing"]["crop"], 3], "dtype": "float32", "layout": "NHWC"},
    ),
    "three numbers from -1000 to 1000 as mean and three from 0.001 to 1000 as std": (
        "preprocessing.mean preprocessing.std",
        lambda d: (
            all(_is_list(d["preprocessing"][key], (int, float), 3) for key in ("mean", "std"))
            and all(-1e3 <= m <= 1e3 for m in d["preprocessing"]["mean"])
            and all(1e-3 <= s <= 1e3 for s in d["preprocessing"]["std"])
        ),
    ),
    "files with recipe, file and sha256, inside the bundle,": (
        "files",
        lambda d: (
            len(d["files"]) > 0
            and all(_is_list([f["recipe"], f["file"], f["sha256"]], str, 3) for f in d["files"])
            and all(_is_inside(f["file"]) and (f["recipe"] + f["sha256"]).isprintable() for f in d["files"])
        ),
    ),
}
_WITH_SIGNATURES = {
    "signatures with key, input, preprocessing and outputs": (
        "signatures",
        lambda d: all(
            s["key"].isidentifier()
            and s["key"].isascii()
            and isinstance(s["input"]["dtype"], str)
            and _is_list(s["input"]["shape"], int, 4)
            and isinstance(s["preprocessing"], dict)
            and all(isinstance(output["shape"], list) for output in s["outputs"])
            for s in d.get("signatures", [])
        ),
    ),
}
