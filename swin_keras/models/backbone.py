"""The Swin Transformer as a feature pyramid."""

import dataclasses

import keras

from swin_keras.layers.checks import is_count
from swin_keras.layers.layer_normalization import LayerNormalization
from swin_keras.layers.windows import to_pair
from swin_keras.models.architecture import Architecture, input_image
from swin_keras.models.configured import ConfiguredModel, policy_of


@keras.saving.register_keras_serializable(package="swin_keras")
class SwinBackbone(ConfiguredModel):
    """The stages of a Swin Transformer as named outputs: what `create_backbone` makes.

    Args:
        input_shape: Height, width and channels; height and width may be `None`.
        out_stages: Names (`"stage2"`) or numbers from 1 of the stages to return. `None`: all.
        output_norm: Boolean. Whether each output has a norm of its own, as in the official detector.
        return_attention: Boolean. Whether the attention weights of every block are outputs too.
        dtype: Policy of all layers. Defaults to the global one.
        name: String.
        **architecture: The arguments of `Architecture`.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        input_shape=(None, None, 3),
        out_stages=None,
        output_norm=True,
        return_attention=False,
        dtype=None,
        name=None,
        **architecture,
    ):
        for argument, value in [("output_norm", output_norm), ("return_attention", return_attention)]:
            if not isinstance(value, bool):
                raise ValueError(f"`{argument}` must be True or False. Received: {argument}={value!r}.")
        specification = Architecture(**architecture)
        image = input_image(input_shape)
        stages = _stage_numbers(out_stages, len(specification.depths))
        policy = policy_of(dtype)
        features, attention = specification.stages(image, stages[-1], dtype=policy, return_attention=return_attention)
        outputs = {}
        for stage in stages:
            x = features[stage - 1]
            if output_norm:
                x = LayerNormalization(epsilon=1e-5, name=f"norm{stage - 1}", dtype=policy)(x)
            outputs[f"stage{stage}"] = x
        arguments = {
            "input_shape": image.shape[1:],
            "out_stages": [f"stage{stage}" for stage in stages],
            "output_norm": output_norm,
            "return_attention": return_attention,
            **dataclasses.asdict(specification),
        }
        super().__init__(image, {**outputs, **attention}, arguments, policy, name)

    @property
    def pyramid_outputs(self):
        """The stages by the power of two of their stride, `{"P2": ..., "P5": ...}`: what KerasHub's detectors read.

        Raises:
            ValueError: If the patch is no square whose side is a power of two.
        """
        height, width = to_pair(self._arguments["patch_size"], "patch_size")
        if height != width or height & (height - 1):
            raise ValueError(
                "The levels of a pyramid are powers of two. Received: a model of patch_size="
                f"{self._arguments['patch_size']}. Use its outputs by the names of the stages."
            )
        first = height.bit_length() - 2  # of stage 1, less 1
        return {f"P{first + int(name.removeprefix('stage'))}": self.output[name] for name in self._arguments["out_stages"]}


def _stage_numbers(out_stages, count):
    if out_stages is None:
        return list(range(1, count + 1))
    names = {f"stage{stage}": stage for stage in range(1, count + 1)}
    given = out_stages if isinstance(out_stages, (tuple, list)) else [out_stages]
    stages = [names.get(stage) if isinstance(stage, str) else int(stage) if is_count(stage) and stage <= count else None for stage in given]
    if not stages or None in stages or len(set(stages)) != len(stages):
        raise ValueError(
            f"`out_stages` must name stages of {', '.join(names)}, each once, or be their numbers from 1 to {count}. "
            f"Received: out_stages={out_stages!r}."
        )
    return sorted(stages)
