import keras

from swin_keras.layers.initializers import linear_initializer


@keras.saving.register_keras_serializable(package="swin_keras")
class AbsolutePositionEmbedding(keras.layers.Layer):
    """Adds a learned vector to the token at each place of the grid: the alternative that the paper compares with.

    Input and output shape: `(batch, height, width, channels)`, height and width fixed.

    Raises:
        ValueError: If height or width is not known.

    Reference: table 4 of [Liu et al., 2021](https://arxiv.org/abs/2103.14030).
    """

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape):
        if None in input_shape[1:]:
            raise ValueError(
                f"An absolute position embedding has a vector for each place of a fixed grid. Received: a grid of "
                f"{tuple(input_shape[1:3])}. Give height and width in `input_shape`, or leave `absolute_position_embedding` off."
            )
        self.input_spec = keras.layers.InputSpec(shape=(None, *input_shape[1:]))
        self.embedding = self.add_weight(name="embedding", shape=(1, *input_shape[1:]), initializer=linear_initializer())

    def call(self, x):
        return x + self.embedding

    def compute_output_shape(self, input_shape):
        return input_shape
