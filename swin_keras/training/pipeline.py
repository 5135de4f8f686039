"""The batches of a run. What a step sees follows from the seed and the number of the step alone, on any number of devices."""

import numpy as np
import tensorflow as tf

from swin_keras.models import random_mask
from swin_keras.training.augmentation import augment_picture, mix, random_affine, random_erase
from swin_keras.training.image_data import take_rows


def training_batches(images, recipe, seed, steps, first_epoch=0, replicas=(0,), replica_count=1):
    """Returns the batches of a run from an epoch on, endless to Keras: all epochs in one `tf.data.Dataset`.

    Args:
        images: `ImageData`.
        recipe: `Recipe`. Its `batch_size` is that of all replicas together.
        seed: Integer.
        steps: Integer. Batches in an epoch.
        first_epoch: Integer, from 0.
        replicas: Numbers of the replicas that this process feeds, one after the other.
        replica_count: Integer. Number of all replicas.

    Returns:
        A `tf.data.Dataset` of normalized pictures and one-hot targets, or of the dictionaries that a `SimMIM` takes. Each
        replica in turn gets its part of a batch.
    """
    workers = replica_count // len(replicas)
    rows = _rows(recipe, replicas[0] // len(replicas), workers)
    size, numbers = recipe.batch_size, tf.data.Dataset.range(first_epoch * steps, recipe.epochs * steps)

    def finish(step, pixels, classes):
        pixels = tf.cast(pixels, tf.float32)
        if recipe.affine is not None:
            pixels = random_affine(pixels, _pair(seed, step), **recipe.affine, rows=rows, of=size)
        pixels = images.preprocessing.normalize(pixels)
        pictures = step * size + rows
        if recipe.task == "simmim":
            return {"image": pixels, "mask": _masks(recipe, images.preprocessing.crop, seed, pictures)}
        if recipe.erasing:
            pixels = random_erase(pixels, tf.stack([tf.fill(pictures.shape, tf.constant(seed, tf.int64)), pictures], axis=1), recipe.erasing)
        targets = tf.one_hot(classes, len(images.labels))
        if recipe.mixes:
            pixels, targets = mix(pixels, targets, _pair(seed, step), recipe.mixup, recipe.cutmix, recipe.mix_probability, recipe.mix_switch)
        return pixels, targets

    if in_memory(images, recipe):
        pixels, classes = images.pixels("train")
        classes = tf.constant(classes)

        def batch(step):
            # Each epoch is a permutation of its own; what does not fill a batch waits for another epoch.
            positions = step % steps * size + rows
            chosen = tf.random.experimental.index_shuffle(positions, _pair(seed, step // steps), tf.cast(len(classes) - 1, tf.int64))
            return finish(step, take_rows(pixels, chosen), tf.gather(classes, chosen))

        batches = numbers.map(batch)
    else:

        def epoch(number):
            return images.elements("train", _pair(seed, number)).take(steps * size).enumerate(number * steps * size)

        def change(picture, number):
            if recipe.crop_scale is None:
                return images.prepare(picture, number)
            return augment_picture(picture, images.preprocessing.crop, recipe, np.random.default_rng((seed, int(number))))

        elements = tf.data.Dataset.range(first_epoch, recipe.epochs).flat_map(epoch)
        if workers > 1:
            elements = elements.filter(lambda number, element: tf.reduce_any(number % size == rows))
        pictures = images.pictures("train", elements, change).batch(len(rows), drop_remainder=True)
        batches = tf.data.Dataset.zip(numbers, pictures).map(lambda step, batch: finish(step, *_replace_damaged(images, *batch)))
    if len(replicas) > 1:
        parts = len(replicas)
        batches = batches.map(lambda *batch: tf.nest.map_structure(lambda x: tf.reshape(x, (parts, len(rows) // parts, *x.shape[1:])), batch))
        batches = batches.unbatch()
        batches = batches.map(lambda *batch: batch[0]) if recipe.task == "simmim" else batches
    return batches.prefetch(tf.data.AUTOTUNE)


def in_memory(images, recipe):
    """Returns whether the prepared training pictures of a run are kept in memory."""
    return images.fits and recipe.crop_scale is None


def validation_batches(images, recipe, size, replicas=(0,), replica_count=1):
    """Returns the validation pictures in their order, as `fit` takes them.

    Where there are several replicas, each gets as many batches of one size; what fills them up has no weight, and the others
    a little more than 1, so that means stay what they are.

    Args:
        images: `ImageData`.
        recipe: `Recipe`.
        size: Integer. Pictures of a batch of one replica.
        replicas: As in `training_batches`.
        replica_count: As in `training_batches`.
    """
    if recipe.task == "simmim":
        return _simmim_validation(images, recipe, size, replicas, replica_count)
    count = len(images.labels)
    if replica_count == 1:
        return images.batches("validation", size).map(lambda inputs, classes: (inputs, tf.one_hot(classes, count)))
    total = images.batched("validation")
    turns = validation_steps(images, recipe, size, replica_count)
    weight = turns * size * replica_count / total

    def fill(inputs, classes):
        lacking = size - tf.shape(classes)[0]
        inputs = tf.ensure_shape(tf.pad(inputs, [[0, lacking], *[[0, 0]] * 3]), (size, *inputs.shape[1:]))
        weights = tf.pad(tf.fill(tf.shape(classes), tf.constant(weight, tf.float32)), [[0, lacking]])
        return inputs, tf.one_hot(tf.pad(classes, [[0, lacking]]), count), tf.ensure_shape(weights, (size,))

    nothing = (tf.zeros((size, *images.preprocessing.crop, 3)), tf.one_hot(tf.zeros(size, tf.int32), count), tf.zeros(size))
    # However many pictures prove damaged, each replica gets as many batches.
    batches = images.batches("validation", size).map(fill).concatenate(tf.data.Dataset.from_tensors(nothing).repeat())
    batches = batches.take(turns * replica_count).enumerate().filter(_belongs_to(replicas, replica_count))
    return batches.map(lambda number, batch: batch)


def validation_steps(images, recipe, size, replica_count):
    """Returns the number of batches that `validation_batches` gives each of several replicas."""
    total = images.batched("validation")
    if recipe.task == "simmim":
        return total // min(size, total // replica_count) // replica_count
    return -(-total // (size * replica_count))


def _simmim_validation(images, recipe, size, replicas, replica_count):
    # The same masks each time; what does not fill a batch of every replica is left out.
    size = min(size, images.batched("validation") // replica_count)
    batches = images.batches("validation", size).filter(lambda inputs, classes: tf.shape(classes)[0] == size).enumerate()
    whole = validation_steps(images, recipe, size, replica_count) * replica_count

    def with_mask(number, batch):
        inputs = tf.ensure_shape(batch[0], (size, *batch[0].shape[1:]))
        return {"image": inputs, "mask": _masks(recipe, images.preprocessing.crop, 0, number * size + tf.range(size, dtype=tf.int64))}

    return batches.take(whole).filter(_belongs_to(replicas, replica_count)).map(with_mask)


def _belongs_to(replicas, replica_count):
    """Returns a function that says whether a numbered batch is for one of these replicas."""
    mine = tf.constant(list(replicas), tf.int64)
    return lambda number, batch: tf.reduce_any(number % replica_count == mine)


def _rows(recipe, worker, workers):
    """Returns which pictures of a batch are a worker's.

    Where pictures are mixed, the first with the last and so on, both of a pair are, and the worker's rows reversed are its
    rows' partners: as in the whole batch.
    """
    rows = np.arange(recipe.batch_size)
    order = np.minimum(rows, rows[::-1]) * 2 if recipe.mixes else rows
    return tf.constant(rows[order // (recipe.batch_size // workers) == worker], tf.int64)


def _pair(seed, number):
    return tf.stack([tf.constant(seed, tf.int64), number])


def _masks(recipe, image_size, seed, numbers):
    patch = 4
    rows = tuple(side // patch for side in image_size)

    def draw(numbers):
        generators = (np.random.default_rng((seed, number)) for number in numbers)
        return np.stack([random_mask(rng, image_size, recipe.mask_patch_size, recipe.mask_ratio) for rng in generators])

    return tf.ensure_shape(tf.numpy_function(draw, [numbers], tf.float32), (*numbers.shape, *rows))


def _replace_damaged(images, pixels, classes, good):
    """Puts another picture of the batch in the place of each that could not be opened."""

    def usable_places(good):
        if not good.any():
            images.damage.stop(f"Expected a picture that can be opened in each batch. Received: {good.size} damaged. Remove those named above.")
        return np.flatnonzero(good).astype("int32")

    places = tf.range(tf.shape(good)[0])
    usable = tf.ensure_shape(tf.numpy_function(usable_places, [good], tf.int32), (None,))
    chosen = tf.where(good, places, tf.gather(usable, places % tf.size(usable)))
    return tf.ensure_shape(tf.gather(pixels, chosen), pixels.shape), tf.ensure_shape(tf.gather(classes, chosen), classes.shape)
