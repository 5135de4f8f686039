import keras
import numpy as np
import pytest

from swin_keras.layers import MLP

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="elsewhere it is Keras' own")


@pytest.fixture
def mlp(rng):
    layer = MLP(13)
    layer.build((None, 5))
    layer.set_weights([rng.standard_normal(weight.shape) for weight in layer.get_weights()])
    return layer


def gradients(layer, x, upstream, training):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        x = tf.Variable(x)
        loss = tf.reduce_sum(layer(x, training=training) * upstream)
    return tape.gradient(loss, [x, *layer.trainable_variables])


def test_gradients_of_training_are_those_of_the_plain_gelu(mlp, rng):
    x, upstream = 4 * rng.standard_normal((3, 7, 5)).astype("float32"), rng.standard_normal((3, 7, 5)).astype("float32")
    np.testing.assert_array_equal(mlp(x, training=True), mlp(x, training=False))
    for own, plain in zip(gradients(mlp, x, upstream, True), gradients(mlp, x, upstream, False), strict=True):
        np.testing.assert_allclose(own, plain, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_gelu_of_training_has_a_finite_gradient_at_zero_and_far_out(dtype):
    import tensorflow as tf
    from scipy import stats

    from swin_keras.layers.mlp import _lean_gelu

    points = np.array([-300, -17, -5.5, -1e-7, -0.0, 0.0, 1e-7, 0.7, 5.5, 17, 300])
    x = tf.Variable(points, dtype=dtype)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(_lean_gelu(x))
    expected = stats.norm.cdf(points) + points * stats.norm.pdf(points)
    np.testing.assert_allclose(tf.cast(tape.gradient(y, x), "float32"), expected, rtol=0, atol={"float32": 1e-6}.get(dtype, 5e-3))


def test_training_keeps_only_what_goes_into_the_two_dense_layers(mlp):
    import tensorflow as tf

    def kept(training):
        """Tensors as wide as the hidden layer that the forward pass leaves to the gradient."""

        @tf.function
        def backward(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = mlp(x, training=training)
            boundary.append(len(tf.compat.v1.get_default_graph().get_operations()))
            return tape.gradient(y, [x, *mlp.trainable_variables])

        boundary = []
        operations = backward.get_concrete_function(tf.TensorSpec((3, 5))).graph.get_operations()
        forward, later = set(operations[: boundary[0]]), operations[boundary[0] :]
        tensors = {tensor.ref() for operation in later for tensor in operation.inputs if tensor.op in forward}
        return sum(reference.deref().shape == (3, 13) for reference in tensors)

    assert kept(True) <= 3 < kept(False)
