"""What to export or evaluate: a model, and whatever lies beside it that says how it is used."""

import dataclasses
import json
import os

import keras

from swin_keras.models.from_checkpoint import create_model_from_checkpoint
from swin_keras.preprocessing import Preprocessing
from swin_keras.weights import find_weights, is_keras_model, load_keras


@dataclasses.dataclass
class Source:
    """A model to export or evaluate.

    Attributes:
        model: `keras.Model`.
        labels: Class names, or `None`.
        preprocessing: `Preprocessing`, or `None` for the official protocol.
        labels_from: String. Where the labels come from.
        preprocessing_from: String. Where the preprocessing comes from.
        config: What `train` noted of the run in config.json, or `None`.
    """

    model: keras.Model
    labels: list | None = None
    preprocessing: Preprocessing | None = None
    labels_from: str = "none"
    preprocessing_from: str = "the official protocol"
    config: dict | None = None


def load_source(path):
    """Loads a workdir's best model or a `.keras` file, with config.json beside it where there is one, or a checkpoint of a released model.

    Args:
        path: A workdir of `train`, or what `find_weights` takes. Labels and preprocessing of a repository or folder of Hugging Face are read too.

    Raises:
        ValueError: If the file is missing, damaged or of another kind, or the checkpoint fits no released model.
    """
    if isinstance(path, (str, os.PathLike)) and os.path.isfile(best := os.path.join(path, "model.keras")):
        path = best
    found = find_weights(path)
    if not is_keras_model(found.path):
        return Source(
            create_model_from_checkpoint(found.path),
            found.labels,
            found.preprocessing,
            "none" if found.labels is None else found.origin,
            "the official protocol" if found.preprocessing is None else found.origin,
        )
    source = Source(load_keras(found.path))
    config = found.path.parent / "config.json"
    if config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
            source.labels, source.preprocessing = values["labels"], Preprocessing.from_dict(values["preprocessing"])
            if not isinstance(source.labels, list) or not all(isinstance(label, str) for label in source.labels):
                raise ValueError("labels must be a list of strings")
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"Expected labels and preprocessing in {str(config)!r} ({type(error).__name__}: {error}). Move the .keras file away to do without."
            ) from error
        source.labels_from = source.preprocessing_from = str(config)
        source.config = values
    return source
