"""Where published weights are, and what their repositories say of them: labels and preprocessing."""

import dataclasses
import json
import math
import os
import pathlib
import re
import sys

from swin_keras.preprocessing import Preprocessing
from swin_keras.weights.files import check_file

_PREFIX = "hf://"
# What a repository may call its weights, best first.
_FILES = ("model.safetensors", "pytorch_model.bin", "model.weights.h5")
# Pillow's numbers for the two interpolations.
_RESAMPLE = {2: "bilinear", 3: "bicubic"}
_LARGEST_JSON = 2**24


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights, and what is published beside them.

    Attributes:
        path: `pathlib.Path` of the checkpoint.
        labels: Class names, or `None`.
        preprocessing: `Preprocessing`, or `None`.
        origin: String. Where they come from: the repository, folder or file.
        pretrained_windows: Tuple with an integer for each stage, the window by which V2 scales its position bias, where
            `config.json` tells one; else `None`.
    """

    path: pathlib.Path
    labels: list | None = None
    preprocessing: Preprocessing | None = None
    origin: str = ""
    pretrained_windows: tuple | None = None


def find_weights(weights):
    """Finds weights, and downloads them if they are on the Hugging Face hub.

    Args:
        weights: Path of a file; path of a folder with `config.json` and the weights, as transformers saves one; or
            `"hf://owner/name"`, a repository of the hub, where `@revision` and `/file` may follow.

    Returns:
        A `Published`.

    Raises:
        ValueError: If they cannot be found, downloaded or read.
    """
    if isinstance(weights, str) and weights.startswith(_PREFIX):
        match = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/([\w./-]+))?", weights)
        if not match:
            raise ValueError(f"Expected hf://owner/name, and @revision or /file behind it. Received: {weights!r}.")
        repository, revision, file = match.groups()
        return _published(lambda name: _download(repository, revision, name), weights, file)
    if isinstance(weights, (str, os.PathLike)) and os.path.isdir(weights):
        return _published(lambda name: found if (found := pathlib.Path(weights) / name).is_file() else None, str(weights), None)
    path = check_file(weights)
    return Published(path, origin=str(path))


def _published(find, origin, file):
    """Gathers what a repository holds; `find` returns the path of a file in it, or `None`."""
    # The small files first: a repository that cannot be used should not cost a large download.
    config, processor = (_read_json(find(name), f"{name} of {origin}") for name in ("config.json", "preprocessor_config.json"))
    labels, preprocessing = _labels(config, origin), _preprocessing(config, processor, origin)
    path = next((path for name in ([file] if file else _FILES) if (path := find(name))), None)
    if path is None:
        where = "of which the cache has no such file, and HF_HUB_OFFLINE is set" if _offline(origin) else "which has no such file"
        raise ValueError(f"Expected {file or ' or '.join(_FILES)} in {origin!r}, {where}{'' if origin.startswith(_PREFIX) else _hint(origin)}.")
    return Published(path, labels, preprocessing, origin, _pretrained_windows(config))


def _hint(folder):
    """Says what a folder without published weights is, and what to give in its place."""
    holds = pathlib.Path(folder).joinpath
    if holds("model.keras").is_file():
        return "; it is a workdir of `train`: give its model.keras"
    if holds("history.csv").is_file() or holds("checkpoints").is_dir():
        return " and no model.keras; it is a workdir of `train` without a finished epoch: train on"
    if holds("model.json").is_file():
        return "; it is a bundle, or another exported model: give what it was exported from"
    if holds("saved_model.pb").is_file():
        return "; it is a SavedModel, from which no layers can be read: give the .keras file or checkpoint that it was made from"
    return ". Give a file, a folder as transformers saves one, or, to export or evaluate, a workdir of `train` with its model.keras"


def _download(repository, revision, name):
    """Returns the path of a file of a repository in the cache, or `None` if the repository has no such file."""
    import huggingface_hub
    from huggingface_hub import errors, utils

    # Bars are for a terminal; elsewhere they would stand among the lines of whoever reads them. What goes wrong in the end is said below.
    quiet = not sys.stderr.isatty() and not utils.are_progress_bars_disabled()
    if quiet:
        utils.disable_progress_bars()
    verbosity = utils.logging.get_verbosity()
    utils.logging.set_verbosity_error()
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        # Neither downloaded nor in the cache. Offline, what is missing there counts as missing; else only what the cache
        # remembers to be missing does.
        cached = huggingface_hub.try_to_load_from_cache(repository, name, revision=revision)
        if huggingface_hub.constants.HF_HUB_OFFLINE or (cached is not None and not isinstance(cached, str)):
            return None
        raise ValueError(
            f"{_PREFIX}{repository} cannot be reached, and {name} is not in the cache ({_line(error)}). Go online, or give a file."
        ) from error
    except errors.EntryNotFoundError:
        return None
    except errors.RepositoryNotFoundError as error:
        raise ValueError(
            f"There is no repository {_PREFIX}{repository}, or it is private. Check the name, or log in with `hf auth login`."
        ) from error
    except Exception as error:  # The HTTP library's own, which differ between versions.
        raise ValueError(f"{name} of {_PREFIX}{repository} was not downloaded ({type(error).__name__}: {_line(error)}). Try again.") from error
    finally:
        utils.logging.set_verbosity(verbosity)
        if quiet:
            utils.enable_progress_bars()


def _offline(origin):
    if not origin.startswith(_PREFIX):
        return False
    import huggingface_hub

    return huggingface_hub.constants.HF_HUB_OFFLINE


def _read_json(path, what):
    if path is None:
        return {}
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError("it is too large")
        values = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(values, dict):
            raise ValueError("it holds no dictionary")
        return values
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be read ({_line(error)}). Download it again.") from error


def _labels(config, origin):
    """Returns the class names that a configuration of transformers or timm holds, or `None`."""
    labels = config.get("id2label", config.get("label_names"))
    if isinstance(labels, dict):
        try:
            numbered = {int(number): label for number, label in labels.items()}
            labels = [numbered[number] for number in range(len(labels))]
        except (ValueError, KeyError) as error:
            raise ValueError(f"Expected id2label in config.json of {origin!r} to number the classes from 0 on. Correct it.") from error
        if labels == [f"LABEL_{number}" for number in range(len(labels))]:  # what transformers writes where there are none
            return None
    if labels is not None and (not isinstance(labels, list) or not all(isinstance(label, str) and len(label.splitlines()) < 2 for label in labels)):
        raise ValueError(f"Expected names of classes in config.json of {origin!r}. Received: {labels!r:.80}. Correct it.")
    return labels or None


def _pretrained_windows(config):
    """Returns what a configuration of transformers' Swin V2 says of the windows before fine-tuning, or `None`."""
    sizes = config.get("pretrained_window_sizes")
    known = isinstance(sizes, list) and all(isinstance(size, int) and size > 0 for size in sizes)
    return tuple(sizes) if known and sizes else None


def _preprocessing(config, processor, origin):
    """Returns what a configuration of transformers' image processor or of timm says, or `None` if there is none."""
    try:
        if "size" in processor:
            return _of_transformers(processor)
        cfg = config.get("pretrained_cfg")
        return _of_timm(cfg) if isinstance(cfg, dict) and "input_size" in cfg else None
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise ValueError(f"The preprocessing of {origin!r} is none that can be done here ({type(error).__name__}: {_line(error)}).") from error


def _of_transformers(processor):
    size = _size(processor["size"])
    crop = _size(processor["crop_size"]) if processor.get("do_center_crop") else size
    shorter = isinstance(processor["size"], dict) and "shortest_edge" in processor["size"]
    factor = processor.get("rescale_factor", 1 / 255)
    if abs(factor - 1 / 255) > 1e-6 or not processor.get("do_rescale", True) or not processor.get("do_resize", True):
        raise ValueError(f"pictures are not resized, or scaled by {factor} in place of 1/255")
    normalize = processor.get("do_normalize", True)
    return Preprocessing(
        "cover" if shorter else "exact",
        size,
        crop,
        _RESAMPLE[processor.get("resample", 3)],
        processor["image_mean"] if normalize else (0.0,) * 3,
        processor["image_std"] if normalize else (1.0,) * 3,
    )


def _size(value):
    if isinstance(value, dict):
        return (value["shortest_edge"],) * 2 if "shortest_edge" in value else (value["height"], value["width"])
    return (value, value)


def _of_timm(cfg):
    _, height, width = cfg.get("test_input_size") or cfg["input_size"]
    modes = {"center": "cover", "squash": "exact"}
    share = cfg.get("test_crop_pct") or cfg.get("crop_pct", 0.875)
    resize = tuple(math.floor(side / share) for side in (height, width))
    return Preprocessing(modes[cfg.get("crop_mode", "center")], resize, (height, width), cfg.get("interpolation", "bicubic"), cfg["mean"], cfg["std"])


def _line(error):
    return " ".join(str(error).split())[:300]
