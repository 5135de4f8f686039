"""Random changes to training pictures. Stateless: the same seed gives the same change, in any order and on any thread."""

import math

import tensorflow as tf


def random_affine(pixels, seed, rotation=15.0, shear=10.0, zoom=0.1, shift=0.1):
    """Rotates, shears, zooms and shifts each picture of a batch; what comes in from outside is black.

    Args:
        pixels: float32 tensor `(batch, height, width, channels)`.
        seed: Two integers or an integer tensor `(2,)`.
        rotation: Float. Largest angle, in degrees.
        shear: Float. Largest horizontal slant, in degrees.
        zoom: Float. Largest change of scale, on each axis by itself.
        shift: Float. Largest displacement, as a fraction of the side.

    Returns:
        A tensor like `pixels`.
    """
    batch, height, width = tf.shape(pixels)[0], pixels.shape[1], pixels.shape[2]
    draws = tf.random.stateless_uniform((6, batch), seed, -1.0, 1.0)
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
