"""Checks what `export_bundle` is given."""

import numpy as np
from swin_keras.export.recipes import INTEGER_RECIPES, RECIPES

from swin_keras.layers.checks import is_count, is_number
from swin_keras.preprocessing import Preprocessing


def check_recipes(recipes, trained=None):
    """Returns recipes as a list, by default three, or that for which a model was trained; `trained` is its `QuantizedGraph`, if it was."""
    if trained is not None:
        own = [trained.graph["recipe"]]
        if recipes not in (None, own[0]) and list(recipes) != own:
            raise ValueError(f"A model that was trained for {own[0]} rounds as that does. Received: recipes={recipes!r}. Leave `recipes` out.")
        return own
    if recipes is None:
        return ["float32", "float16", "dynamic_int8"]
    known = f"`recipes` must be some of {', '.join(RECIPES)}."
    if not isinstance(recipes, (str, list, tuple)):
        raise ValueError(f"{known} Received: {recipes!r}.")
    recipes = [recipes] if isinstance(recipes, str) else list(dict.fromkeys(recipes))
    unknown = [recipe for recipe in recipes if recipe not in RECIPES]
    if unknown or not recipes:
        raise ValueError(f"{known} Received: {', '.join(map(str, unknown)) or 'none'}.")
    return recipes


def check_unchanged(changes):
    """Refuses what would change the operators of a model that was trained for integers."""
    if given := [name for name, changed in changes.items() if changed]:
        raise ValueError(
            f"A model that was trained for integers is exported as it was trained. Received: {', '.join(given)}. Leave that out, or export the model "
            "from before that training."
        )


def preprocessing_of_sizes(preprocessing, sizes, task):
    """Returns the `Preprocessing` of each size, the first of which is the model's: the one given, or the official protocol."""
    if preprocessing is None and task in ("boxes", "masks"):  # of the whole picture
        return {size: Preprocessing("exact", size, size, interpolation="bilinear") for size in sizes}
    if preprocessing is None:
        return {size: Preprocessing.official(*size) for size in sizes}
    if not isinstance(preprocessing, Preprocessing):
        raise ValueError(f"`preprocessing` must be a `swin_keras.preprocessing.Preprocessing`. Received: {type(preprocessing).__name__}.")
    if preprocessing.crop != sizes[0]:
        height, width = sizes[0]
        raise ValueError(f"`preprocessing` must crop to the model's input {height}x{width}. Received: crop={preprocessing.crop}.")
    return {size: preprocessing.at_size(*size) for size in sizes}


def check_switches(**switches):
    for name, value in switches.items():
        if value not in (False, True):
            raise ValueError(f"`{name}` must be True or False. Received: {name}={value!r}.")


def check_sizes(sizes, main):
    """Returns further sizes as tuples. `main` is the height and width that the model has."""
    expected = "`sizes` must be a list of further heights and widths, each once, such as [(224, 320)]."
    pairs = isinstance(sizes, (list, tuple)) and all(isinstance(size, (list, tuple)) and len(size) == 2 for size in sizes)
    if not pairs or not all(is_count(side) for size in sizes for side in size):
        raise ValueError(f"{expected} Received: sizes={sizes!r}.")
    sizes = [tuple(map(int, size)) for size in sizes]
    if len({main, *sizes}) <= len(sizes):
        raise ValueError(f"{expected} Received: sizes={sizes}, where the model has {main}.")
    return sizes


def check_quantization(recipes, accuracy_budget, percentile, migrate):
    """Refuses what is out of range, and what none of the recipes would use."""
    if accuracy_budget is not None and not (is_number(accuracy_budget) and 0 <= accuracy_budget <= 100):
        raise ValueError(f"`accuracy_budget` must be points of top-1 from 0 to 100. Received: accuracy_budget={accuracy_budget!r}.")
    if not is_number(percentile) or not 50 < percentile <= 100:
        raise ValueError(f"`percentile` must be above 50 and at most 100. Received: percentile={percentile!r}.")
    calibrated = [recipe for recipe in RECIPES if RECIPES[recipe].calibrated]
    given = [
        ("accuracy_budget", accuracy_budget is not None, INTEGER_RECIPES),
        ("percentile", percentile != 100, calibrated),
        ("migrate", migrate, INTEGER_RECIPES),
    ]
    for name, used, applies in given:
        if used and not set(applies).intersection(recipes):
            raise ValueError(f"`{name}` is for the recipes {', '.join(applies)}. Received: {', '.join(recipes)}. Add one of them, or leave it out.")


def task_of(model):
    """Tells what the outputs of a model are.

    Returns:
        `"classes"` of a picture, one output `(batch, classes)`; `"masks"`, the classes of each pixel, one output `(batch, height, width, classes)` as
        high and wide as the input; `"boxes"`, what `tasks.detection_network` gives; or `"features"`, everything else.
    """
    output = model.output
    if isinstance(output, dict):
        shapes = [tuple(output[key].shape) for key in ("boxes", "scores")] if set(output) == {"boxes", "scores"} else None
        return "boxes" if shapes and [len(shape) for shape in shapes] == [3, 3] and shapes[0][2] == 4 and shapes[0][1] == shapes[1][1] else "features"
    shapes = [tuple(output.shape) for output in model.outputs]
    if [len(shape) for shape in shapes] == [2]:
        return "classes"
    return "masks" if [len(shape) for shape in shapes] == [4] and shapes[0][1:3] == tuple(model.inputs[0].shape[1:3]) else "features"


def check_task(task, labels, data, accuracy_budget):
    if task != "classes" and (data is not None or accuracy_budget is not None):
        raise ValueError("`data` and `accuracy_budget` are for a classifier, with one output (batch, classes). Received: a model with other outputs.")
    if task == "features" and labels is not None:
        raise ValueError("`labels` are for a model whose outputs are classes: of pictures, boxes or pixels. Received: a model with other outputs.")


def check_labels(labels, model, task):
    if labels is None:
        return None
    if not isinstance(labels, (list, tuple)) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"`labels` must be a list of class names. Received: {labels!r:.100}.")
    labels = list(labels)
    if bad := [index for index, label in enumerate(labels) if not label.strip() or label.splitlines() != [label]]:
        raise ValueError(f"`labels` must be names, each on one line. Received: {labels[bad[0]]!r} for class {bad[0]}.")
    classes = (model.output["scores"] if task == "boxes" else model.outputs[0]).shape[-1]
    if len(labels) != classes:
        raise ValueError(f"`labels` must name each of the model's {classes} classes. Received: {len(labels)} names.")
    return labels


def check_calibrated(calibration, needed_for):
    """`needed_for` names what finds ranges on calibration pictures."""
    if calibration is None and needed_for:
        raise ValueError(
            f"`calibration` must be pictures for {' and '.join(needed_for)}. Received: None. Give some hundred like those to come; "
            "on the command line, --calibration SRC."
        )


def read_calibration(calibration, shape, needed_for):
    """Returns the calibration pictures as one array, or `None`. `needed_for` is as in `check_calibrated`."""
    if calibration is None:
        return None
    expected = f"`calibration` must yield arrays (n, {', '.join(map(str, shape))})"
    if isinstance(calibration, (str, bytes)) or not hasattr(calibration, "__iter__"):
        raise ValueError(f"{expected}. Received: {calibration!r:.100}.")
    # What the source itself raises is said as it is.
    batches = list([calibration] if len(getattr(calibration, "shape", ())) == 4 else calibration)
    try:
        batches = [np.asarray(batch) for batch in batches]
        if batches and (kinds := {batch.dtype for batch in batches if batch.dtype.kind != "f" and batch.dtype.name != "bfloat16"}):
            raise ValueError(f"{', '.join(sorted(map(str, kinds)))}; normalize them as the model's input")
        batches = [batch.astype("float32") for batch in batches]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{expected} of normalized floats. Received: something else ({error}).") from error
    if not any(len(batch) if batch.ndim else 0 for batch in batches) or any(batch.shape[1:] != shape for batch in batches):
        received = sorted({batch.shape for batch in batches})
        raise ValueError(f"{expected}. Received: {received or 'nothing'}.")
    pictures = np.concatenate(batches)
    if not np.isfinite(pictures).all():
        raise ValueError(f"{expected} of finite numbers. Received: {np.count_nonzero(~np.isfinite(pictures)):,} that are not.")
    if len(pictures) == 1 and needed_for:
        raise ValueError(
            f"`calibration` must be several pictures for {' and '.join(needed_for)}, as no range of one holds for the next. Received: 1 picture. "
            "Give some hundred like those to come."
        )
    return pictures
