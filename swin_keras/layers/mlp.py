import keras

from swin_keras.layers.initializers import linear_initializer


@keras.saving.register_keras_serializable(package="swin_keras")
class MLP(keras.layers.Layer):
    """Two dense layers with an exact GELU between them, applied to each token.

    Args:
        hidden_dim: Integer. Width between the two layers.
        drop_rate: Float. Dropout after each layer. Defaults to `0.0`.

    Input and output shape: `(..., channels)`.

    Reference: section 3.1 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, hidden_dim, drop_rate=0.0, **kwargs):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.drop_rate = drop_rate
        self.fc1 = keras.layers.Dense(hidden_dim, kernel_initializer=linear_initializer(), name="fc1", dtype=self.dtype_policy)
        self.drop = keras.layers.Dropout(drop_rate, name="drop", dtype=self.dtype_policy)

    def build(self, input_shape):
        self.fc1.build(input_shape)
        self.fc2 = keras.layers.Dense(input_shape[-1], kernel_initializer=linear_initializer(), name="fc2", dtype=self.dtype_policy)
        self.fc2.build((*input_shape[:-1], self.hidden_dim))

    def call(self, x, training=None):
        x = keras.ops.gelu(self.fc1(x), approximate=False)
        x = self.fc2(self.drop(x, training=training))
        return self.drop(x, training=training)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "hidden_dim": self.hidden_dim, "drop_rate": self.drop_rate}
