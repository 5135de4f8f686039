"""The ways into a file: pictures of one size and type each, all sharing the weights."""

import dataclasses

import keras
import numpy as np

# In files they stand in alphabetical order, and a runtime that is not told which takes the first: this one.
DEFAULT = "serving_default"


@dataclasses.dataclass(frozen=True)
class Signature:
    """One way into a file.

    Attributes:
        key: Its name.
        deploy: `keras.Model` from `to_deploy`, for batch 1.
        mean: Per channel, of pictures in [0, 1], as `deploy` wants them normalized.
        std: Per channel, likewise.
        dtype: `"float32"`: it takes what `deploy` does. `"uint8"`: it takes pixels as a camera gives them and normalizes them itself.
    """

    key: str
    deploy: keras.Model
    mean: tuple
    std: tuple
    dtype: str = "float32"

    @property
    def shape(self):
        """Batch 1, height, width and channels."""
        return tuple(self.deploy.inputs[0].shape)

    @property
    def size(self):
        """Height and width, such as `"64x48"`."""
        return f"{self.shape[1]}x{self.shape[2]}"

    @property
    def normalization(self):
        """Mean and standard deviation, per channel, of pictures in [0, 1] as the signature takes them."""
        return ((0.0,) * 3, (1 / 255,) * 3) if self.dtype == "uint8" else (self.mean, self.std)

    def serve(self, image):
        """What the signature computes of its input, a tensor: a list of outputs."""
        if self.dtype == "uint8":
            image = _renormalize(keras.ops.cast(image, "float32"), self.normalization, (self.mean, self.std))
        return keras.tree.flatten(self.deploy(image, training=False))

    def to_input(self, pictures, normalization):
        """Turns pictures that are normalized in another way into what the signature takes."""
        pictures = _renormalize(pictures, normalization, self.normalization)
        return np.clip(np.rint(pictures), 0, 255).astype("uint8") if self.dtype == "uint8" else pictures

    def from_input(self, inputs, normalization):
        """Turns what the signature takes into pictures that are normalized in another way."""
        return _renormalize(inputs.astype("float32"), self.normalization, normalization)

    def describe(self, preprocessing, output_names):
        """Returns what model.json says of it. `preprocessing` is that of the model at this size."""
        mean, std = self.normalization
        outputs = zip(output_names, keras.tree.flatten(self.deploy.outputs), strict=True)
        return {
            "key": self.key,
            "input": {"shape": list(self.shape), "dtype": self.dtype, "layout": "NHWC"},
            "preprocessing": dataclasses.replace(preprocessing, mean=mean, std=std).to_dict(),
            "outputs": [{"name": name, "shape": list(output.shape)} for name, output in outputs],
        }


def _renormalize(pictures, old, new):
    """Changes the mean and standard deviation by which arrays or tensors are normalized: one product, one sum where there is a shift."""
    if old == new:
        return pictures
    (old_mean, old_std), (new_mean, new_std) = np.array(old), np.array(new)
    # Constants of rank 4, on which accelerators agree.
    scale, shift = (values.reshape(1, 1, 1, -1).astype("float32") for values in (old_std / new_std, (old_mean - new_mean) / new_std))
    return pictures * scale + shift if shift.any() else pictures * scale


def make_signatures(graphs, mean, std, uint8_input=False):
    """Names the ways into a file.

    Args:
        graphs: Deploy graphs of one model at several sizes. The first is the default.
        mean, std: As the graphs want pictures normalized.
        uint8_input: Boolean. Whether each size also takes pixels.

    Returns:
        A list of `Signature`: `serving_default`, `size_64x48` and so on; then `uint8`, `uint8_64x48`.
    """

    def of(dtype, first, others):
        made = [Signature(first, deploy, mean, std, dtype) for deploy in graphs]
        return made[:1] + [dataclasses.replace(signature, key=f"{others}_{signature.size}") for signature in made[1:]]

    return [*of("float32", DEFAULT, "size"), *(of("uint8", "uint8", "uint8") if uint8_input else [])]
