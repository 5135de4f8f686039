import keras
from keras import ops


@keras.saving.register_keras_serializable(package="swin_keras")
class LayerNormalization(keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` over the last axis, written for TensorFlow, which runs it operation by operation.

    Keras' own makes tensors of the size of `x` that only the gradient needs, and a gradient that sums three of them, in an order
    that TensorFlow's graph optimizer leaves open: the same training then ends in other last bits. Here none does.
    """

    def call(self, x):
        # JAX fuses what Keras writes, and PyTorch has one kernel for it.
        if keras.backend.backend() != "tensorflow":
            return super().call(x)
        dtype = keras.backend.result_type(self.compute_dtype, "float32")
        x, gamma, beta = (ops.cast(ops.convert_to_tensor(value), dtype) for value in (x, self.gamma, self.beta))
        return ops.cast(_normalize(x, gamma, beta, self.epsilon), self.compute_dtype)


def _normalize(x, gamma, beta, epsilon):
    @ops.custom_gradient
    def normalize(x, gamma, beta):
        mean = ops.mean(x, axis=-1, keepdims=True)
        centred = x - mean
        scale = ops.rsqrt(ops.mean(ops.square(centred), axis=-1, keepdims=True) + epsilon)

        def gradient(upstream):
            tokens = tuple(range(len(x.shape) - 1))
            normal = (x - mean) * scale
            product = upstream * normal
            weighted = upstream * gamma
            centred = weighted - ops.mean(weighted, axis=-1, keepdims=True) - normal * ops.mean(product * gamma, axis=-1, keepdims=True)
            return centred * scale, ops.sum(product, axis=tokens), ops.sum(upstream, axis=tokens)

        return centred * scale * gamma + beta, gradient

    return normalize(x, gamma, beta)
