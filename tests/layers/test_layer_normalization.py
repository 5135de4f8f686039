import keras
import numpy as np
import pytest

from swin_keras.layers.layer_normalization import LayerNormalization

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere it is Keras' own")
SHAPES = [(4, 5), (2, 3, 7), (2, 3, 5, 11)]


def pair(shape, rng, **kwargs):
    """The layer, and Keras' own with the same weights."""
    norms = [layer(epsilon=1e-3, **kwargs) for layer in (LayerNormalization, keras.layers.LayerNormalization)]
    weights = rng.standard_normal((2, shape[-1])).astype("float32")
    for norm in norms:
        norm.build(shape)
        norm.set_weights(weights)
    return norms


def gradients(norm, x, upstream):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        x = tf.Variable(x)
        loss = tf.reduce_sum(tf.cast(norm(x), "float64") * upstream)
    return tape.gradient(loss, [x, norm.gamma.value, norm.beta.value])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_outputs_and_gradients_are_those_of_keras(shape, rng):
    x, upstream = 3 * rng.standard_normal(shape).astype("float32") + 2, rng.standard_normal(shape)
    own, theirs = pair(shape, rng)
    np.testing.assert_allclose(own(x), theirs(x), rtol=1e-5, atol=1e-6)
    for received, expected in zip(gradients(own, x, upstream), gradients(theirs, x, upstream), strict=True):
        np.testing.assert_allclose(received, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_half_precision_is_normalized_in_float32(dtype, rng):
    x = (1000 + rng.standard_normal((3, 5, 7))).astype("float32")
    own, theirs = pair(x.shape, rng, dtype=dtype)
    assert own(x).dtype == theirs(x).dtype
    np.testing.assert_allclose(keras.ops.cast(own(x), "float32"), keras.ops.cast(theirs(x), "float32"), rtol=0, atol=2e-2)


def test_no_sum_of_more_than_two_gradients_is_left_to_an_order(rng):
    import tensorflow as tf

    own, theirs = pair((2, 3, 5, 11), rng)

    def sums(norm):
        @tf.function
        def backward(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = norm(x)
            return tape.gradient(y, x)

        graph = backward.get_concrete_function(tf.TensorSpec((2, 3, 5, 11))).graph
        return [len(operation.inputs) for operation in graph.get_operations() if operation.type == "AddN"]

    assert max(sums(own), default=0) <= 2 < max(sums(theirs))
