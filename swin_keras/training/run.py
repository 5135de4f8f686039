"""`train`: from a data set to a folder that holds the trained model and its record."""

import dataclasses
import difflib
import functools
import json
import numbers
import os
import pathlib
import platform
import warnings

import keras
import numpy as np
import tensorflow as tf

from swin_keras.compression import find_compression, quantization_aware
from swin_keras.models import create_model, create_simmim, get_variant, random_mask
from swin_keras.models.variants import published_weights
from swin_keras.training.callbacks import Keeper, LearningRate, Progress, TensorBoardLog, write
from swin_keras.training.data import FolderData, check_outside, load_data
from swin_keras.training.files import written
from swin_keras.training.optimizer import freeze, make_optimizer, moving_averages
from swin_keras.training.pictures import draw_curves
from swin_keras.training.pipeline import in_memory, training_batches, validation_batches, validation_steps
from swin_keras.training.recipes import RECIPES, Recipe
from swin_keras.training.strategy import agree, distribute, is_chief, make_strategy, prepare_for_workers, stops_with_the_others
from swin_keras.version import __version__
from swin_keras.weights import find_weights, load_weights

# On which the ranges of activations are found, for an export and where training for integers begins.
CALIBRATION_PICTURES = 128
_PARTIAL_CONFIG = "partial.config.json"


def train(
    data,
    variant,
    workdir,
    recipe="small",
    seed=0,
    epochs=None,
    batch_size=None,
    weights=None,
    strategy="auto",
    settings=None,
    validation=None,
    labels=None,
    data_dir=None,
    callbacks=(),
    compress=(),
    log=print,
):
    """Trains a model and keeps its best validation epoch.

    The same call on a folder where a run was interrupted goes on after its last finished epoch, and ends with the weights of
    a run without interruption: weights, optimizer, order of pictures and every random draw are the same. On a finished
    folder it returns at once.

    Args:
        data: `"digits"`; `"folder:PATH"` for pictures of your own; `"tfds:NAME"`; or a `tf.data.Dataset`: `load_data` says more.
        variant: String. A key of `VARIANTS`.
        workdir: Path of the folder for config.json, model.keras (best validation epoch), final.keras (last step),
            history.csv, checkpoints/, tensorboard/ and curves.png. Made if missing. All workers see the same.
        recipe: String, a key of `RECIPES`, or a `Recipe`.
        seed: Integer. Decides the initial weights, the order of pictures and every random change to them.
        epochs: Integer. Replaces the recipe's.
        batch_size: Integer, of all devices together. Replaces the recipe's.
        weights: What to start from, as in `create_model`, or `None`. `log` is told if the head stays initial. Preprocessing that
            was published with them, for this size, is the run's.
        strategy: `"one"` device, the first that TensorFlow finds; `"mirrored"`: all GPUs, or all logical CPUs, of this machine;
            `"multiworker"`: as TF_CONFIG or SLURM say; `"tpu"`; `"auto"`: whichever of the first three there is reason for.
        settings: Dictionary. Replaces further attributes of the recipe.
        validation: As in `load_data`, with a `tf.data.Dataset`.
        labels: As in `load_data`, with a `tf.data.Dataset`.
        data_dir: As in `load_data`, of tensorflow-datasets.
        callbacks: Further Keras callbacks.
        compress: Strings such as `"prune:2:4"`, `"cluster:16"` and `"qat:hybrid_int8"`: `compression.find_compression` says more. The best epoch is
            then one whose weights are compressed as far as asked.
        log: Function that is called with each line of progress.

    Returns:
        The best epoch's `keras.Model`.

    Raises:
        ValueError: If an argument is unknown or does not fit, `data` cannot be used, or `workdir` holds another run, or one on
            pictures that have changed.
        OSError: If the disk is full; the last checkpoint is intact.
        WorkerLost: If another worker stopped.
        FloatingPointError: If the loss is no number any more.
    """
    if not isinstance(workdir, (str, os.PathLike)) or not os.fspath(workdir):
        raise ValueError(f"Expected the path of a folder as workdir. Received: {workdir!r}.")
    workdir = pathlib.Path(workdir)
    check_outside(data, workdir, "workdir")
    get_variant(variant)
    recipe = find_recipe(recipe, settings, epochs, batch_size)
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be a whole number from 0 to {2**31 - 1}. Received: seed={seed!r}.")
    seed = int(seed)
    compression = find_compression(compress)
    compression.check(recipe, weights is not None)
    if compression.quantization and recipe.jit_compile:
        log("XLA is off: it takes minutes to compile a step that rounds")
        recipe = dataclasses.replace(recipe, jit_compile=False)
    distribution, chosen = make_strategy(strategy, log)
    chief = is_chief(distribution)
    log = log if chief else lambda line: None
    replicas = distribution.num_replicas_in_sync
    _check_batch(recipe, replicas)

    side = recipe.image_size or get_variant(variant).image_size
    weights = published_weights(variant, weights)
    images = load_data(
        data,
        (side, side, 3),
        preprocessing=_published_preprocessing(data, weights, (side, side)),
        validation=validation,
        labels=labels,
        data_dir=data_dir,
        log=log,
    )
    config = {
        "variant": variant,
        "data": images.name,
        "seed": seed,
        "recipe": dataclasses.asdict(recipe),
        "weights": None if weights is None else str(weights),
        "labels": images.labels,
        "preprocessing": images.preprocessing.to_dict(),
    }
    if compress:
        config["compress"] = [compress] if isinstance(compress, str) else list(compress)
    if hasattr(images, "fingerprint"):
        config["pictures"] = images.fingerprint
    # Before the pictures are read, which takes minutes when they are many.
    _holds_run(workdir, config)
    if (workdir / "final.keras").is_file():
        log(f"{workdir} holds the finished run; to train on, take its model.keras as `weights` of another")
        return _load_best(workdir, compression, log)

    count = images.count("train")
    if isinstance(images, FolderData) and in_memory(images, recipe):
        config["skipped"], count = images.skipped, images.batched("train")
    steps = count // recipe.batch_size
    if steps == 0:
        raise ValueError(f"`batch_size` must be at most the {count} training pictures. Received: batch_size={recipe.batch_size}.")
    keras.utils.set_random_seed(seed)
    build = functools.partial(build_model, variant, recipe, len(images.labels))
    if compression.quantization:
        # Outside the scope: the converter takes no variables of several devices.
        build = functools.partial(_copy_of, _rounding(build(weights=weights, log=log), compression, images, log))
    with stops_with_the_others(distribution), distribution.scope():
        model = build(weights=weights, log=log)
        if recipe.frozen_stages is not None:
            freeze(model, recipe.frozen_stages)
        optimizer = make_optimizer(recipe, model, steps)
        # What makes its variables inside the first trace of a step has it traced twice: the optimizer, and below the metrics.
        optimizer.build(model.trainable_variables)
        loss, metrics = None, None  # SimMIM has a loss of its own.
        if recipe.task == "classification":
            loss, metrics = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing), ["accuracy"]
        # Weighted: where several devices validate, what fills a batch up has no weight.
        model.compile(optimizer, loss, weighted_metrics=metrics, jit_compile=recipe.jit_compile)
        if metrics and replicas == 1:  # For several `prepare_for_workers` has Keras do it.
            nothing = keras.ops.zeros((1, len(images.labels)))
            model.compute_metrics(None, nothing, nothing)
            model.reset_metrics()

    if not _holds_run(workdir, config) and chief:
        versions = {"swin-keras": __version__, "tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}
        _write_config(workdir, {**config, "strategy": chosen, "replicas": replicas, "versions": versions})

    save = _saver(model, build, recipe)
    planned = recipe.epochs * steps
    compressed = 1 + compression.last_step(planned, weights is not None) // steps
    keeper = Keeper(workdir, seed, save, moving_averages(optimizer, model), chief, log, first=compressed)
    with stops_with_the_others(distribution):
        first_epoch = keeper.restore(model)
    agree(distribution, first_epoch, "the last finished epoch", f"Put {str(workdir)!r} on a disk that all workers share.")
    if compressed > 1:
        log(f"model.keras is the best of the epochs from {compressed} on, which are pruned all through")
    if first_epoch:
        log(f"resumed from epoch {first_epoch} of {recipe.epochs}")
    elif recipe.jit_compile and replicas > 1:
        log("XLA is off: it does not compile for several devices")
    elif recipe.jit_compile:
        log("XLA compiles the step first: the first epoch takes longest")
    training = distribute(distribution, lambda own, count: training_batches(images, recipe, seed, steps, first_epoch, own, count))
    # Whoever made the batch smaller had little memory; without gradients more pictures fit than in a training step.
    size = max(1, min(256, 4 * recipe.batch_size) // replicas)
    validation = distribute(distribution, lambda own, count: validation_batches(images, recipe, size, own, count))
    shown = [Progress(steps, recipe.batch_size, log), TensorBoardLog(workdir / "tensorboard")] if chief else []
    prepare_for_workers(distribution, model, training)
    with stops_with_the_others(distribution), images.reading():
        # Of validation pictures that come one after the other Keras does not know the number, and warns each time.
        warnings.filterwarnings("ignore", "Your input ran out of data", UserWarning)
        model.fit(
            training,
            initial_epoch=first_epoch,
            epochs=recipe.epochs,
            steps_per_epoch=steps,
            validation_data=validation,
            validation_steps=None if replicas == 1 else validation_steps(images, recipe, size, replicas),
            verbose=0,
            callbacks=[*compression.callbacks(planned, weights is not None), LearningRate(), keeper, *shown, *(callbacks or ())],
            shuffle=False,  # The batches are in their order already.
        )
    if images.damage.problems:
        log(f"{len(images.damage.problems):,} pictures could not be opened and were skipped")
    if chief:
        draw_curves(keeper.rows, workdir / "curves.png")
        write(lambda: save(model, workdir / "final.keras"), workdir)
    agree(distribution, recipe.epochs, "the last epoch", "")
    best = keeper.best_row()
    reached = f"accuracy {100 * best['val_accuracy']:.2f} %" if "val_accuracy" in best else f"loss {best['val_loss']:.4f}"
    log(f"best epoch {best['epoch']}: validation {reached}")
    return _load_best(workdir, compression, log)


def _load_best(workdir, compression, log):
    try:
        model = keras.models.load_model(workdir / "model.keras")
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        raise ValueError(f"{str(workdir / 'model.keras')!r} is damaged ({error}). Take final.keras, or train again in another workdir.") from error
    for line in compression.describe(model):
        log(line)
    return model


def find_recipe(recipe, settings=None, epochs=None, batch_size=None):
    """Returns a recipe by its name, or as it is, with settings replaced.

    Args:
        recipe: String, a key of `RECIPES`, or a `Recipe`.
        settings: Dictionary from attributes of `Recipe` to values, or `None`.
        epochs: Integer. `None`: as in `settings` or the recipe.
        batch_size: Integer. `None`: as in `settings` or the recipe.

    Raises:
        ValueError: If the recipe or an attribute is unknown, or a value is out of its range.
    """
    if not isinstance(recipe, Recipe):
        if not isinstance(recipe, str) or recipe not in RECIPES:
            raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: recipe={recipe!r}.")
        recipe = RECIPES[recipe]
    if not (settings is None or (isinstance(settings, dict) and all(isinstance(key, str) for key in settings))):
        raise ValueError(f"`settings` must be a dictionary from attributes of a recipe to values. Received: settings={settings!r}.")
    arguments = {"epochs": epochs, "batch_size": batch_size}
    settings = {**(settings or {}), **{key: value for key, value in arguments.items() if value is not None}}
    known = [field.name for field in dataclasses.fields(Recipe) if field.name != "name"]
    if unknown := sorted(set(settings) - set(known)):
        near = [match for key in unknown for match in difflib.get_close_matches(key, known, 1)]
        mean = f" Did you mean {' and '.join(near)}?" if near else ""
        raise ValueError(f"The settings of a recipe are {', '.join(known)}. Received: {', '.join(unknown)}.{mean}")
    recipe = dataclasses.replace(recipe, **settings)
    return dataclasses.replace(recipe, warmup_epochs=min(recipe.warmup_epochs, recipe.epochs // 2))


def _check_batch(recipe, replicas):
    pairs = 2 if recipe.mixes else 1
    if recipe.batch_size % (pairs * replicas):
        why = f"{replicas} devices" + (", in pairs for mixup and cutmix" if recipe.mixes else "")
        raise ValueError(
            f"`batch_size` must be a multiple of {pairs * replicas}, for {why}. Received: batch_size={recipe.batch_size}. It is that of all devices."
        )


def _published_preprocessing(data, weights, size):
    """Returns the preprocessing that weights were published with, if it is for pictures of this size."""
    if weights is None or data == "digits":
        return None
    preprocessing = find_weights(weights).preprocessing
    return preprocessing if preprocessing is not None and preprocessing.crop == size else None


def build_model(variant, recipe, num_classes=None, weights=None, precision=None, log=print):
    """Builds the model that a recipe trains.

    Args:
        variant: String. A key of `VARIANTS`.
        recipe: `Recipe`.
        num_classes: Integer. `None`: the variant's.
        weights: As in `create_model`.
        precision: String. `None`: the recipe's.
        log: Function that is called with a line if the head stays initial.

    Returns:
        A classifier, or for the task `"simmim"` a `SimMIM`.

    Raises:
        ValueError: If the variant or a size does not fit the recipe.
    """
    row = get_variant(variant)
    side = recipe.image_size or row.image_size
    input_shape = (side, side, 3)
    overrides = {name: getattr(recipe, name) for name in ("window_size", "drop_path_rate") if getattr(recipe, name) is not None}
    if recipe.gradient_checkpointing:
        overrides["gradient_checkpointing"] = True
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision or recipe.precision)
    try:
        if recipe.task == "classification":
            with warnings.catch_warnings(record=True) as notes:
                warnings.simplefilter("always", UserWarning)
                model = create_model(variant, weights=weights, input_shape=input_shape, num_classes=num_classes, **overrides)
            for note in notes:  # such as that the head stays initial
                log(str(note.message))
            return model
        # As the official runs: windows that the last stage's grid is, or twice that, where targets are normalized too.
        v2 = row.family == "swinv2"
        model = create_simmim(variant, input_shape, 47 if v2 else None, **{"window_size": side // (16 if v2 else 32), **overrides})
        random_mask(np.random.default_rng(0), side, recipe.mask_patch_size, recipe.mask_ratio)  # refuses what does not fit
        if weights is not None:
            load_weights(model, weights)
        return model
    finally:
        keras.config.set_dtype_policy(policy)


def _rounding(model, compression, images, log):
    """Makes the model that trains another for a recipe of integers."""
    recipe = compression.quantization
    if not compression.needs_calibration:
        log(f"{recipe}: finding where its file rounds")
        return quantization_aware(model, recipe)
    with images.reading():
        pictures = images.sample("train", CALIBRATION_PICTURES)
        log(f"{recipe}: finding where its file rounds, and on {len(pictures)} training pictures in which ranges")
        return quantization_aware(model, recipe, pictures)


def _copy_of(model, **_):
    """Makes a model again, in the scope of whatever strategy."""
    copy = keras.Model.from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _saver(model, build, recipe):
    """Returns a function that saves a model for use: without its optimizer and in float32, beside the path first."""
    plain = recipe.precision == "float32" and recipe.task == "classification"
    twin = keras.Model(model.inputs, model.outputs, name=model.name) if plain else build(precision="float32")

    def save(model, path):
        if not plain:
            twin.set_weights(model.get_weights())
        with written(path) as partial:
            twin.save(partial)

    return save


def _holds_run(workdir, config):
    """Returns whether the folder holds this very run; raises a `ValueError` if it holds anything else."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"Expected a folder as workdir. Received: {str(workdir)!r}, which is a file.")
    # One look, and then no other: the chief of several workers may write its config.json meanwhile.
    names = {path.name for path in workdir.iterdir()} if workdir.is_dir() else set()
    path = workdir / "config.json"
    if path.name in names and path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no dictionary")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is damaged ({error}). Choose another workdir.") from error
        here, there = _flat(json.loads(json.dumps(config))), _flat(found)
        # Only of a run with it does the record say `compress`: one without is another run too.
        here.setdefault("compress", None)
        differing = [key for key, value in here.items() if there.get(key) != value]
        # Pictures that stopped the first epoch may have been repaired since.
        begun = names - {"config.json", _PARTIAL_CONFIG, "tensorboard"}
        if differing and (begun or not all(key.startswith(("pictures.", "skipped")) for key in differing)):
            what = "; ".join(f"{key} {there.get(key)!r} there, {here[key]!r} here" for key in differing)
            raise ValueError(f"{str(workdir)!r} holds another run ({what}). Choose another workdir, or the same arguments.")
        return not differing
    if names - {_PARTIAL_CONFIG}:
        raise ValueError(f"Expected a new or empty folder, or an earlier run. Received: {str(workdir)!r}, which holds other files.")
    return False


def _write_config(workdir, config):
    workdir.mkdir(parents=True, exist_ok=True)
    with written(workdir / "config.json") as partial:
        partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _flat(config):
    """Returns `{"recipe.epochs": 100, ...}` of a config."""
    return {
        name: leaf
        for key, value in config.items()
        for name, leaf in (((f"{key}.{k}", v) for k, v in value.items()) if isinstance(value, dict) else [(key, value)])
    }
