"""What to export: a model, and whatever lies beside it that says how it is used."""

import dataclasses
import json
import pathlib
import zipfile

import keras

from swin_keras.models import create_model_from_checkpoint
from swin_keras.preprocessing import Preprocessing


@dataclasses.dataclass
class Source:
    """A model to export.

    Attributes:
        model: `keras.Model`.
        labels: Class names, or `None`.
        preprocessing: `Preprocessing`, or `None` for the official protocol.
        labels_from: String. Where the labels come from.
        preprocessing_from: String. Where the preprocessing comes from.
    """

    model: keras.Model
    labels: list | None = None
    preprocessing: Preprocessing | None = None
    labels_from: str = "none"
    preprocessing_from: str = "the official protocol"


def load_source(path):
    """Loads a `.keras` file, with config.json of its workdir where there is one, or a `.safetensors` checkpoint.

    Raises:
        ValueError: If the file is missing, damaged or of another kind, or the checkpoint fits no released model.
    """
    path = pathlib.Path(path)
    if path.suffix == ".safetensors":
        return Source(create_model_from_checkpoint(path))
    if path.suffix != ".keras" or not path.is_file():
        problem = "which does not exist" if not path.exists() else "which is neither"
        raise ValueError(f"Expected a .keras file or a .safetensors checkpoint. Received: {str(path)!r}, {problem}.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{str(path)!r} is not a readable .keras file (it is no zip archive, perhaps cut off). Save the model again.")
    try:
        model = keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras raises whatever its parts raise on a damaged file.
        raise ValueError(
            f"{str(path)!r} is not a readable .keras file ({type(error).__name__}: {_first_line(error)}). Save the model again."
        ) from error
    source = Source(model)
    config = path.parent / "config.json"
    if config.is_file():
        try:
            values = json.loads(config.read_text(encoding="utf-8"))
            source.labels, source.preprocessing = values["labels"], Preprocessing.from_dict(values["preprocessing"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"Expected labels and preprocessing in {str(config)!r} ({type(error).__name__}: {error}). Move the .keras file away to do without."
            ) from error
        source.labels_from = source.preprocessing_from = str(config)
    return source


def _first_line(error):
    return (str(error).splitlines() or [""])[0]
