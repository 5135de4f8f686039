"""`train` and `evaluate`: from a data set to a folder that holds the trained model and its record."""

import csv
import dataclasses
import itertools
import json
import math
import numbers
import os
import pathlib
import platform
import sys
import warnings
import zipfile

import keras
import numpy as np
import tensorflow as tf

from swin_keras.edge_demo import Classifier
from swin_keras.models import create_model, get_variant
from swin_keras.training.augmentation import random_affine
from swin_keras.training.data import FolderData, load_data, take_rows
from swin_keras.training.recipes import RECIPES
from swin_keras.version import __version__

NO_DECAY = ["bias", "gamma", "beta"]  # "bias" is also in relative_position_bias_table
_PARTIAL_CONFIG = "config.json.partial"


def train(data, variant, workdir, recipe="small", seed=0, epochs=None, batch_size=None, weights=None, strategy="auto", callbacks=(), log=print):
    """Trains a classifier and keeps its best validation epoch.

    The same call on a folder where a run was interrupted goes on after its last finished epoch, and takes the same steps
    as a run without interruption: weights, optimizer, order of pictures and every random draw. Two runs may still differ
    in the last bit, since some of TensorFlow's kernels add in the order in which their threads finish. On a finished
    folder it returns at once.

    Args:
        data: `"digits"`, or `"folder:PATH"` for pictures of your own; `load_data` says how the folder is built.
        variant: String. A key of `VARIANTS`.
        workdir: Path of the folder for config.json, model.keras (best validation epoch), final.keras (last step),
            history.csv and checkpoints/. Made if missing.
        recipe: String. A key of `RECIPES`.
        seed: Integer. Decides the initial weights, the order of pictures and every random change to them.
        epochs: Integer. Replaces the recipe's.
        batch_size: Integer. Replaces the recipe's.
        weights: What to start from, as in `create_model`, or `None`. `log` is told if the head stays initial.
        strategy: `"auto"` or `"one"`: one device, the first that TensorFlow finds.
        callbacks: Further Keras callbacks.
        log: Function that is called with each line of progress.

    Returns:
        The best epoch's `keras.Model`.

    Raises:
        ValueError: If an argument is unknown or does not fit, the folder of `data` cannot be used, or `workdir` holds
            another run, or one on pictures that have changed.
    """
    if not isinstance(workdir, (str, os.PathLike)):
        raise ValueError(f"Expected the path of a folder as workdir. Received: {workdir!r}.")
    workdir = pathlib.Path(workdir)
    get_variant(variant)
    recipe_name, recipe = recipe, _recipe(recipe, epochs, batch_size)
    if strategy not in ("auto", "one"):
        raise ValueError(f"`strategy` must be 'auto' or 'one', one device. Received: strategy={strategy!r}.")
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**31:
        raise ValueError(f"`seed` must be a whole number from 0 to {2**31 - 1}. Received: seed={seed!r}.")
    seed = int(seed)
    keras.utils.set_random_seed(seed)
    input_shape = (get_variant(variant).image_size,) * 2 + (3,)
    images = load_data(data, input_shape, log=log)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        model = create_model(variant, weights=weights, num_classes=len(images.labels))
    for note in notes:  # such as that the head stays initial
        log(str(note.message))
    config = {
        "variant": variant,
        "data": data,
        "seed": seed,
        "recipe": {"name": recipe_name, **dataclasses.asdict(recipe)},
        "weights": None if weights is None else str(weights),
        "labels": images.labels,
        "preprocessing": images.preprocessing.to_dict(),
        "strategy": "one",
        "replicas": 1,
    }
    if isinstance(images, FolderData):
        config["pictures"] = images.fingerprint
    # Before the pictures are read, which takes minutes when they are many.
    _holds_run(workdir, config)
    if (workdir / "final.keras").is_file():
        log(f"{workdir} holds the finished run")
        return keras.models.load_model(workdir / "model.keras")

    pixels, classes = images.pixels("train")
    steps = len(classes) // recipe.batch_size
    if steps == 0:
        raise ValueError(f"`batch_size` must be at most the {len(classes)} training pictures. Received: batch_size={recipe.batch_size}.")
    if isinstance(images, FolderData):
        config["skipped"] = images.skipped
    versions = {"swin-keras": __version__, "tensorflow": tf.__version__, "keras": keras.__version__, "python": platform.python_version()}
    if not _holds_run(workdir, config):
        _write_config(workdir, {**config, "versions": versions})

    optimizer = _optimizer(recipe, steps)
    # Before compiling: else the optimizer makes its slots inside the first trace, and the step is traced twice.
    optimizer.build(model.trainable_variables)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=recipe.label_smoothing)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=recipe.jit_compile)

    keeper = _WorkdirCallback(workdir, seed)
    first_epoch = keeper.restore(model)
    if first_epoch:
        log(f"resumed from epoch {first_epoch} of {recipe.epochs}")
    elif recipe.jit_compile:
        log("XLA compiles the step first: the first epoch takes longest")
    # Whoever made the batch smaller had little memory; without gradients more pictures fit than in a training step.
    validation = images.batches("validation", min(256, 4 * recipe.batch_size))
    model.fit(
        training_batches(pixels, classes, images, recipe, seed, steps, first_epoch),
        initial_epoch=first_epoch,
        epochs=recipe.epochs,
        steps_per_epoch=steps,
        validation_data=validation.map(lambda inputs, classes: (inputs, tf.one_hot(classes, len(images.labels)))),
        # A bar that redraws itself is for a terminal; elsewhere a line for each epoch.
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[keeper, *callbacks],
        shuffle=False,  # The batches are in their order already.
    )
    _save_atomically(model, workdir / "final.keras")
    best = keeper.best_row()
    log(f"best epoch {best['epoch']}: validation accuracy {100 * best['val_accuracy']:.2f} %")
    return keras.models.load_model(workdir / "model.keras")


def evaluate(model_or_bundle, data, log=print):
    """Measures the accuracy of a classifier.

    Args:
        model_or_bundle: `keras.Model` from normalized pictures to one score for each class, or the path of a bundle,
            whose recommended file for a CPU then runs on the device runtime.
        data: `"digits"` or `"folder:PATH"`, for its test split, which `load_data` makes; or a pair of normalized float32
            pictures `(n, height, width, 3)` and class indices `(n,)`.
        log: Function that is called with each line of progress.

    Returns:
        A dictionary: `top1`, a fraction, and `samples`.

    Raises:
        ValueError: If the bundle or the data cannot be used, or the folder has another number of classes than the model.
    """
    if isinstance(model_or_bundle, keras.Model):
        input_shape, class_count = model_or_bundle.input_shape[1:], model_or_bundle.output_shape[-1]

        def scores_of(pictures):
            return model_or_bundle.predict(pictures, batch_size=256, verbose=0)
    else:
        classifier = Classifier(model_or_bundle)
        input_shape, class_count = classifier.description["input"]["shape"][1:], classifier.model.output_shape[-1]

        def scores_of(pictures):
            return np.stack([classifier.probabilities(picture[None]) for picture in pictures])

    batches = [data]
    if isinstance(data, str):
        images = load_data(data, input_shape, splits=("test",), log=log)
        if isinstance(images, FolderData) and len(images.labels) != class_count:
            raise ValueError(f"Expected the model's {class_count} classes in {images.path!r}. Received: {len(images.labels)} classes.")
        batches = images.batches("test", 64).as_numpy_iterator()
    right = np.concatenate([scores_of(pictures).argmax(-1) == classes for pictures, classes in batches])
    return {"top1": float(np.mean(right)), "samples": len(right)}


def training_batches(pixels, classes, images, recipe, seed, steps, first_epoch):
    """Returns the batches of a run from an epoch on, endless to Keras: all epochs in one `tf.data.Dataset`.

    Which pictures a step sees, and how they are changed, follows from the seed and the number of the step alone.
    """
    count, targets = len(classes), tf.one_hot(classes, len(images.labels))

    def batch(step):
        # Each epoch is a permutation of its own; what does not fill a batch waits for another epoch.
        positions = step % steps * recipe.batch_size + tf.range(recipe.batch_size, dtype=tf.int64)
        chosen = tf.random.experimental.index_shuffle(positions, tf.stack([tf.constant(seed, tf.int64), step // steps]), tf.cast(count - 1, tf.int64))
        changed = random_affine(tf.cast(take_rows(pixels, chosen), tf.float32), tf.stack([tf.constant(seed, tf.int64), step]), **recipe.augmentation)
        return images.preprocessing.normalize(changed), tf.gather(targets, chosen)

    return tf.data.Dataset.range(first_epoch * steps, recipe.epochs * steps).map(batch).prefetch(tf.data.AUTOTUNE)


class _WorkdirCallback(keras.callbacks.Callback):
    """Keeps a workdir true after each epoch: best model, history, checkpoint, in this order, each renamed into place.

    Keras' ModelCheckpoint, CSVLogger and BackupAndRestore write in place, each at its own time: cut off between two of them,
    they disagree. Whatever is interrupted here, the newest checkpoint decides: later rows of the history are dropped, and
    the epochs after it are trained again, to the same result.
    """

    def __init__(self, workdir, seed):
        super().__init__()
        self._workdir, self._seed, self._rows = workdir, seed, []

    def restore(self, model):
        """Loads the newest checkpoint, if there is one, and returns the number of finished epochs."""
        found = sorted((self._workdir / "checkpoints").glob("epoch_" + 5 * "[0-9]" + ".weights.h5"))
        if not found:
            return 0
        epochs = int(found[-1].name.removeprefix("epoch_").removesuffix(".weights.h5"))
        try:
            model.load_weights(found[-1])
            with (self._workdir / "history.csv").open(newline="", encoding="utf-8") as file:
                self._rows = [{key: float(value) for key, value in row.items()} for row in itertools.islice(csv.DictReader(file), epochs)]
            if [row["epoch"] for row in self._rows] != list(range(1, epochs + 1)) or not self.best_row():
                raise ValueError("history.csv lacks epochs")
            if not zipfile.is_zipfile(self._workdir / "model.keras"):
                raise ValueError("model.keras is missing or cut off")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{str(self._workdir)!r} cannot be resumed: a file of the interrupted run is damaged ({error}). "
                "Choose another workdir, or delete this one to start again."
            ) from error
        for row in self._rows:
            row["epoch"] = int(row["epoch"])
        self._write_history()
        return epochs

    def best_row(self):
        """Returns the row with the highest validation accuracy, of equals the one with the lowest loss."""
        return max(self._rows, key=lambda row: (row["val_accuracy"], -row["val_loss"]))

    def on_epoch_begin(self, epoch, logs=None):
        # Checkpoints do not hold the state of dropout's random numbers: it starts anew from seed and epoch.
        for number, variable in enumerate(self.model.non_trainable_variables):
            if variable.path.endswith("seed_generator_state"):
                variable.assign(np.random.default_rng((self._seed, epoch, number)).integers(0, 2**31, variable.shape))

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(f"the loss became {logs['loss']} in epoch {epoch + 1}; lower the learning rate")
        self._rows.append({"epoch": epoch + 1, **{key: float(value) for key, value in logs.items()}})
        if self.best_row() is self._rows[-1]:
            _save_atomically(self.model, self._workdir / "model.keras")
        self._write_history()
        checkpoints = self._workdir / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        partial = checkpoints / "partial.weights.h5"
        self.model.save_weights(partial, overwrite=True)
        newest = checkpoints / f"epoch_{epoch + 1:05d}.weights.h5"
        partial.replace(newest)
        for old in checkpoints.glob("epoch_*.weights.h5"):
            if old != newest:
                old.unlink()

    def _write_history(self):
        if not self._rows:
            return
        partial = self._workdir / "history.csv.partial"
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(self._rows[0]))
            writer.writeheader()
            writer.writerows(self._rows)
        partial.replace(self._workdir / "history.csv")


def _recipe(name, epochs, batch_size):
    if name not in RECIPES:
        raise ValueError(f"`recipe` must be one of {', '.join(RECIPES)}. Received: recipe={name!r}.")
    recipe = RECIPES[name]
    for argument, value in [("epochs", epochs), ("batch_size", batch_size)]:
        if value is None:
            continue
        # Checkpoints are numbered with five digits.
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or not 1 <= value < 100_000:
            raise ValueError(f"`{argument}` must be a whole number from 1 to 99,999. Received: {argument}={value!r}.")
        recipe = dataclasses.replace(recipe, **{argument: int(value)})
    return dataclasses.replace(recipe, warmup_epochs=min(recipe.warmup_epochs, recipe.epochs // 2))


def _optimizer(recipe, steps):
    warmup_steps = recipe.warmup_epochs * steps
    schedule = keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=recipe.learning_rate if not warmup_steps else 0.0,
        decay_steps=recipe.epochs * steps - warmup_steps,
        alpha=0.01,
        warmup_target=recipe.learning_rate if warmup_steps else None,
        warmup_steps=warmup_steps,
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=recipe.weight_decay, global_clipnorm=recipe.clip_norm)
    optimizer.exclude_from_weight_decay(var_names=NO_DECAY)
    return optimizer


def _holds_run(workdir, config):
    """Returns whether the folder holds this very run; raises a `ValueError` if it holds anything else."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"Expected a folder as workdir. Received: {str(workdir)!r}, which is a file.")
    path = workdir / "config.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(found, dict):
                raise ValueError("it holds no dictionary")
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is damaged ({error}). Choose another workdir.") from error
        here, there = _flat(json.loads(json.dumps(config))), _flat(found)
        differing = [f"{key} {there.get(key)!r} there, {value!r} here" for key, value in here.items() if there.get(key) != value]
        if differing:
            raise ValueError(f"{str(workdir)!r} holds another run ({'; '.join(differing)}). Choose another workdir, or the same arguments.")
        return True
    if workdir.is_dir() and any(path.name != _PARTIAL_CONFIG for path in workdir.iterdir()):
        raise ValueError(f"Expected a new or empty folder, or an earlier run. Received: {str(workdir)!r}, which holds other files.")
    return False


def _write_config(workdir, config):
    workdir.mkdir(parents=True, exist_ok=True)
    partial = workdir / _PARTIAL_CONFIG
    partial.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    partial.replace(workdir / "config.json")


def _flat(config):
    """Returns `{"recipe.epochs": 100, ...}` of a config."""
    return {
        name: leaf
        for key, value in config.items()
        for name, leaf in (((f"{key}.{k}", v) for k, v in value.items()) if isinstance(value, dict) else [(key, value)])
    }


def _save_atomically(model, path):
    """Saves a model without its optimizer, beside the path first."""
    partial = path.with_name("partial.keras")
    keras.Model(model.inputs, model.outputs, name=model.name).save(partial)
    partial.replace(path)
