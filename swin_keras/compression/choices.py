"""What `train --compress` takes: words such as prune:2:4, and which of them go together."""

import dataclasses

import keras
import numpy as np

from swin_keras.compression.clustering import ROUNDS_AND_CLUSTERS, Clustering
from swin_keras.compression.kernels import kernels, sparsity
from swin_keras.compression.pruning import Pruning
from swin_keras.export.recipes import INTEGER_RECIPES, RECIPES

_EXPECTED = "prune:2:4, prune:FRACTION such as prune:0.5, cluster:NUMBER such as cluster:16, or qat:RECIPE such as qat:hybrid_int8"
# Of a training that begins with weights: when the first and the last become zeros. The others learn on for as long.
_BEGIN, _END = 0.0, 0.5
# Without weights to begin with, none becomes zero before it has learnt what it is worth.
_BEGIN_FROM_NOTHING, _END_FROM_NOTHING = 0.25, 0.75
_CHANGES = 50


@dataclasses.dataclass(frozen=True)
class Compression:
    """What is done to a model while it trains.

    Attributes:
        sparsity: As in `Pruning`, or `None`.
        clusters: As in `Clustering`, or `None`.
        quantization: Recipe, as in `quantization_aware`, or `None`.
    """

    sparsity: float | str | None = None
    clusters: int | None = None
    quantization: str | None = None

    @property
    def needs_calibration(self):
        """Whether ranges of activations are found on pictures before training."""
        return self.quantization is not None and RECIPES[self.quantization].calibrated

    def callbacks(self, steps, from_weights):
        """Returns the callbacks that do it.

        Args:
            steps: Integer. Steps of the whole training.
            from_weights: Boolean. Whether the model has learnt before.
        """
        found = []
        if self.sparsity is not None:
            begin = round((_BEGIN if from_weights else _BEGIN_FROM_NOTHING) * steps)
            found.append(Pruning(self.sparsity, begin, self.last_step(steps, from_weights), max(1, steps // _CHANGES)))
        if self.clusters is not None:
            found.append(Clustering(self.clusters, self.last_step(steps, from_weights)))
        return found

    def last_step(self, steps, from_weights):
        """Returns the step after which weights are compressed as far as asked, of as many as `callbacks` is given."""
        if self.sparsity is None:
            return 0
        return min(round((_END if from_weights else _END_FROM_NOTHING) * steps), steps - 1)

    def describe(self, model):
        """Returns lines that say what a trained model has of it."""
        lines = []
        if self.sparsity is not None:
            lines.append(f"{100 * sparsity(model):.1f} % of the weights of dense layers are zeros")
        if self.clusters is not None:
            most = max(len(np.unique(keras.ops.convert_to_numpy(kernel))) for kernel in kernels(model))
            lines.append(f"a dense layer has at most {most} distinct weights")
        return lines

    def check(self, recipe, from_weights):
        """Refuses a recipe of `training` that does not go with it."""
        if not (self.sparsity or self.clusters or self.quantization):
            return
        if recipe.task != "classification":
            raise ValueError(f"`compress` is for classification. Received: a recipe for {recipe.task}. Compress the classifier that starts from it.")
        if recipe.ema_momentum is not None and (self.sparsity or self.clusters):
            raise ValueError("The moving average of pruned or clustered weights is neither. Received: `ema_momentum` and `compress`. Leave one out.")
        if (self.clusters or self.quantization) and not from_weights:
            raise ValueError(
                "Clustering and training for integers begin with a trained model. Received: no `weights`. Train one without `compress` first, "
                "and give its model.keras; on the command line, --weights WORKDIR/model.keras."
            )
        if self.quantization:
            wrong = {
                "precision": recipe.precision != "float32",
                "layer_decay": recipe.layer_decay not in (None, 1.0),
                "frozen_stages": recipe.frozen_stages is not None,
                "gradient_checkpointing": recipe.gradient_checkpointing,
            }
            if given := [name for name, is_set in wrong.items() if is_set]:
                raise ValueError(
                    f"Training for integers trains the operators of the file, in float32 and all alike. Received: {', '.join(given)}. Leave that out."
                )


def find_compression(words):
    """Reads the words of `train`.

    Args:
        words: A string or strings: `"prune:2:4"`, `"prune:0.5"`, `"cluster:16"`, `"qat:hybrid_int8"`. Several go together where that makes sense:
            pruning with clustering, which keeps the zeros, and pruning with training for integers.

    Returns:
        A `Compression`.

    Raises:
        ValueError: If a word is unknown or out of its range, or two do not go together.
    """
    words = () if words is None else words
    if not isinstance(words, (str, list, tuple)):
        raise ValueError(f"`compress` takes strings: {_EXPECTED}. Received: {words!r}.")
    words = [words] if isinstance(words, str) else list(words)
    found = {}
    for word in words:
        kind, _, value = word.partition(":") if isinstance(word, str) else (None, None, None)
        if kind not in _PARSERS:
            raise ValueError(f"`compress` takes {_EXPECTED}. Received: {word!r}.")
        name, parse = _PARSERS[kind]
        if name in found:
            raise ValueError(f"`compress` takes each kind once. Received: {', '.join(words)}.")
        found[name] = parse(value, word)
    if "clusters" in found and "quantization" in found:
        raise ValueError(f"`cluster` and `qat` do not go together: {ROUNDS_AND_CLUSTERS} Received: {', '.join(words)}.")
    return Compression(**found)


def _sparsity(value, word):
    if value == "2:4":
        return value
    try:
        fraction = float(value)
    except ValueError:
        fraction = None
    if fraction is None or not 0 < fraction < 1:
        raise ValueError(f"`prune` takes 2:4 or a fraction above 0 and below 1, as in prune:0.5. Received: {word!r}.")
    return fraction


def _clusters(value, word):
    if not value.isdecimal() or not 2 <= int(value) <= 256:
        raise ValueError(f"`cluster` takes a whole number from 2 to 256, as in cluster:16. Received: {word!r}.")
    return int(value)


def _quantization(value, word):
    if value not in INTEGER_RECIPES:
        raise ValueError(f"`qat` takes one of {', '.join(INTEGER_RECIPES)}, as in qat:hybrid_int8. Received: {word!r}.")
    return value


_PARSERS = {"prune": ("sparsity", _sparsity), "cluster": ("clusters", _clusters), "qat": ("quantization", _quantization)}
