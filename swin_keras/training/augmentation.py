"""Random changes to training pictures. Stateless: the same seed gives the same change, in any order and on any thread."""

import math

import numpy as np
import tensorflow as tf
from PIL import Image

from swin_keras.training.rand_augment import parse_rand_augment


def random_affine(pixels, seed, rotation=15.0, shear=10.0, zoom=0.1, shift=0.1, rows=None, of=None):
    """Rotates, shears, zooms and shifts each picture of a batch; what comes in from outside is black.

    Args:
        pixels: float32 tensor `(batch, height, width, channels)`.
        seed: Two integers or an integer tensor `(2,)`.
        rotation: Float. Largest angle, in degrees.
        shear: Float. Largest horizontal slant, in degrees.
        zoom: Float. Largest change of scale, on each axis by itself.
        shift: Float. Largest displacement, as a fraction of the side.
        rows: Integer tensor `(batch,)`. Which pictures of a larger batch these are: they change as they would in it.
        of: Integer. Size of that batch.

    Returns:
        A tensor like `pixels`.
    """
    height, width = pixels.shape[1], pixels.shape[2]
    draws = tf.random.stateless_uniform((6, tf.shape(pixels)[0] if of is None else of), seed, -1.0, 1.0)
    draws = draws if rows is None else tf.gather(draws, rows, axis=1)
    angle, slant = draws[0] * math.radians(rotation), tf.tan(draws[1] * math.radians(shear))
    scale_x, scale_y = 1 + draws[2] * zoom, 1 + draws[3] * zoom
    shift_x, shift_y = draws[4] * shift * width, draws[5] * shift * height
    # Output to input coordinates about the centre of the picture.
    cos, sin = tf.cos(angle), tf.sin(angle)
    a, b = cos * scale_x, (cos * slant - sin) * scale_y
    c, d = sin * scale_x, (sin * slant + cos) * scale_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x0 = centre_x + shift_x - a * centre_x - b * centre_y
    y0 = centre_y + shift_y - c * centre_x - d * centre_y
    zero = tf.zeros_like(a)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=pixels,
        transforms=tf.stack([a, b, x0, c, d, y0, zero, zero], axis=1),
        output_shape=(height, width),
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )


def random_crop_box(width, height, scale, ratio, rng):
    """Draws a part of a picture as torchvision's `RandomResizedCrop` does.

    Args:
        width, height: Integers. Of the picture.
        scale: Two floats. Share of the picture's area.
        ratio: Two floats. Width over height; their logarithm is uniform.
        rng: `numpy.random.Generator`.

    Returns:
        Left, top, right and bottom in pixels. After ten draws that do not fit in the picture: of the largest centre with a
        ratio in range.
    """
    for _ in range(10):
        area, aspect = width * height * rng.uniform(*scale), math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(rng.integers(width - across + 1)), int(rng.integers(height - down + 1))
            return left, top, left + across, top + down
    across, down = min(width, max(1, round(height * ratio[1]))), min(height, max(1, round(width / ratio[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def augment_picture(picture, size, recipe, rng):
    """Crops, flips and changes one picture for training, as timm does for the official code.

    Keras has no crop of random area, and its RandAugment is another: eleven operations instead of fifteen, each always
    applied, at a strength between nothing and the given one. In a parallel `map` it and Keras' MixUp, CutMix and
    RandomErasing also race on the state of their seed, so that no two runs agree.

    Args:
        picture: RGB `PIL.Image.Image`, of `size` if `recipe.crop_scale` is `None`.
        size: Height and width.
        recipe: `Recipe`.
        rng: `numpy.random.Generator`. The only source of randomness.

    Returns:
        uint8 array `(height, width, 3)`.
    """
    resample = Image.Resampling[recipe.interpolation.upper()]
    if recipe.crop_scale is not None:
        # `resize` with a box would let pixels from outside of it in.
        picture = picture.crop(random_crop_box(*picture.size, recipe.crop_scale, recipe.crop_ratio, rng)).resize(size[::-1], resample)
    if rng.random() < recipe.flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if recipe.rand_augment is not None:
        operations = parse_rand_augment(recipe.rand_augment)
        for drawn in operations.draw(rng):
            picture = operations.apply(picture, *drawn, resample)
    return np.asarray(picture)


def random_erase(pixels, seeds, probability):
    """Covers a rectangle of some pictures of a batch with noise, as timm's `RandomErasing` in mode `pixel`.

    The area is 0.02 to 1/3 of the picture's, the logarithm of height over width uniform up to 1/0.3 either way. Keras'
    RandomErasing draws both sides by themselves, up to a thin strip, and limits the noise to the range of pixel values,
    which a normalized picture leaves.

    Args:
        pixels: Normalized float32 tensor `(batch, height, width, channels)`.
        seeds: Integer tensor `(batch, 2)`. One seed for each picture.
        probability: Float. Of a picture to be changed.

    Returns:
        A tensor like `pixels`.
    """
    height, width, channels = pixels.shape[1:]

    def cover(picture, box, seed):
        sides = tf.round(box[:2])
        start = tf.cast(tf.floor(box[2:] * ((height, width) - sides + 1)), tf.int32)
        down, across = tf.unstack(tf.cast(sides, tf.int32))
        margins = [[start[0], height - start[0] - down], [start[1], width - start[1] - across], [0, 0]]
        noise = tf.pad(tf.random.stateless_normal((down, across, channels), seed), margins)
        return tf.where(tf.pad(tf.ones((down, across, 1), tf.bool), margins), noise, picture)

    def erase(picture, seed):
        seed_of_box, seed_of_noise = tf.unstack(tf.random.split(seed))
        draws = tf.random.stateless_uniform((5, 10), seed_of_box)
        area = height * width * (0.02 + draws[0] * (1 / 3 - 0.02))
        aspect = tf.exp((2 * draws[1] - 1) * math.log(1 / 0.3))
        boxes = tf.stack([tf.sqrt(area * aspect), tf.sqrt(area / aspect), draws[2], draws[3]], axis=1)
        # The first of ten attempts that is smaller than the picture.
        boxes = tf.boolean_mask(boxes, tf.reduce_all(tf.round(boxes[:, :2]) < (height, width), axis=1))
        erases = (draws[4, 0] < probability) & (tf.shape(boxes)[0] > 0)
        return tf.ensure_shape(tf.cond(erases, lambda: cover(picture, boxes[0], seed_of_noise), lambda: picture), picture.shape)

    return tf.map_fn(lambda pair: erase(*pair), (pixels, seeds), fn_output_signature=pixels.dtype)


def mix(pixels, targets, seed, mixup, cutmix, probability=1.0, switch=0.5):
    """Mixes each picture of a batch with the one at the same place from the end: mixup or CutMix, as timm's mode `batch`.

    One share, and one box, are drawn for the whole batch, where Keras' MixUp and CutMix draw one for each picture, with a
    random partner. So rows of a batch can be mixed by themselves if the partner of each is among them.

    Args:
        pixels: float32 tensor `(batch, height, width, channels)`.
        targets: float32 tensor `(batch, classes)`: one-hot.
        seed: Two integers or an integer tensor `(2,)`.
        mixup: Float. The share is drawn from Beta(mixup, mixup); 0: no mixup.
        cutmix: Float. The box leaves a share drawn from Beta(cutmix, cutmix), before it is cut at the border; 0: no CutMix.
        probability: Float. Of a batch to be mixed.
        switch: Float. Probability of CutMix where both are on.

    Returns:
        Pixels and targets, mixed by the same share; by the area within the picture in CutMix.
    """
    height, width = pixels.shape[1:3]
    seeds = tf.unstack(tf.random.split(seed, 3))
    draws = tf.random.stateless_uniform((4,), seeds[0])

    def beta(alpha, seed):
        # With half as many bits, small alphas underflow.
        parts = tf.random.stateless_gamma((2,), seed, tf.constant(alpha, tf.float64), dtype=tf.float64)
        return tf.cast(tf.math.divide_no_nan(parts[0], tf.reduce_sum(parts)), tf.float32)

    def even():
        return tf.fill((height, width), beta(mixup, seeds[1]))

    def without_box():
        side, inside = tf.sqrt(1 - beta(cutmix, seeds[2])), []
        for length, draw in ((height, draws[0]), (width, draws[1])):
            cut, centre, place = tf.cast(length * side, tf.int32), tf.cast(length * draw, tf.int32), tf.range(length)
            inside.append((place >= centre - cut // 2) & (place < centre + (cut + 1) // 2))
        return 1 - tf.cast(inside[0][:, None] & inside[1], tf.float32)

    if not mixup and not cutmix:
        return pixels, targets
    # How much of each pixel is kept; repeated, as TensorFlow's broadcast over the last axis takes half as long again.
    kept = tf.where(draws[2] < switch, without_box(), even()) if mixup and cutmix else even() if mixup else without_box()
    kept = tf.repeat(tf.where(draws[3] < probability, kept, 1.0)[..., None], pixels.shape[-1], axis=-1)
    share = tf.reduce_mean(kept)
    return kept * pixels + (1 - kept) * tf.reverse(pixels, [0]), share * targets + (1 - share) * tf.reverse(targets, [0])
