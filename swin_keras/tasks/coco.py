"""Reads COCO's json, as annotation tools write it."""

import dataclasses
import json
import os
import re

import numpy as np

from swin_keras.tasks.detection import extra

_SPLIT_OF_NAME = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NAME_WITH_SPLIT = re.compile(r"(?:^|[_-])(train|val|valid|validation|test)[_-]?(?:\d{4})?$", re.IGNORECASE)
# COCO's other files beside those of boxes and masks.
_OTHERS = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")
# What a json file of the wrong form makes Python raise.
_WRONG = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
_EXPECTED = "Expected COCO's json with images, annotations and categories"
# How far a polygon may reach beyond the picture, in its sides: pycocotools takes memory for each pixel of its outline.
_BEYOND = 4


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What COCO's json says of a picture.

    Attributes:
        size: Width and height in pixels, or `None` where it does not say.
        boxes, labels: float32 `(n, 4)`, top, left, bottom and right in pixels, and int32 `(n,)`: of those that are no crowd.
        regions: List of pairs of a class index and `Polygons` or `RunLengths`.
    """

    size: tuple | None
    boxes: np.ndarray
    labels: np.ndarray
    regions: list

    def mask(self, size):
        """Returns a mask of a picture of this width and height, uint8 `(height, width)`: 0 for the background, then the classes.

        Small regions are above large ones.

        Raises:
            ValueError: If a region is of another size.
        """
        mask = np.zeros(size[::-1], "uint8")
        inside = [(region.pixels(size), label) for label, region in self.regions]
        for pixels, label in sorted(inside, key=lambda row: -np.count_nonzero(row[0])):
            mask[pixels] = 1 + label
        return mask


@dataclasses.dataclass(frozen=True)
class Polygons:
    """A region as lists of x and y in turns, in pixels."""

    corners: list

    @property
    def box(self):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in self.corners])
        return (*points.min(0)[::-1], *points.max(0)[::-1])

    def pixels(self, size):
        if max(np.abs(polygon).max() for polygon in self.corners) > _BEYOND * max(size):
            raise ValueError(f"a polygon reaches far beyond its {size[0]}x{size[1]} pixels")
        coco = extra("pycocotools.mask")
        return coco.decode(coco.merge(coco.frPyObjects(self.corners, size[1], size[0]))).astype(bool)


@dataclasses.dataclass(frozen=True)
class RunLengths:
    """A region as numbers of pixels outside and inside in turns, column by column, of a picture of this width and height."""

    counts: np.ndarray
    size: tuple

    @property
    def box(self):
        ends, height = np.cumsum(self.counts), self.size[1]
        starts, ends = (ends - self.counts)[1::2], ends[1::2] - 1  # of what is inside
        starts, ends = starts[self.counts[1::2] > 0], ends[self.counts[1::2] > 0]
        across = starts // height < ends // height  # from one column into the next
        rows = np.where(across, 0, starts % height), np.where(across, height - 1, ends % height)
        return (rows[0].min(), starts[0] // height, rows[1].max() + 1, ends[-1] // height + 1)

    def pixels(self, size):
        if size != self.size:
            raise ValueError(f"it has {size[0]}x{size[1]} pixels, but the run lengths of a region are for {self.size[0]}x{self.size[1]}")
        return (np.arange(len(self.counts)) % 2).astype(bool).repeat(self.counts).reshape(size).T


def find_files(path):
    """Returns the json file of each split that has one, that of training first; or that of `None`, a single one for all.

    Raises:
        ValueError: If there is none, none for training, or more than one for a split.
    """
    found = {}
    folders = [entry.path for entry in sorted(os.scandir(path), key=lambda entry: entry.name) if os.path.isdir(entry.path)]
    for folder in (path, *folders):
        for name in sorted(os.listdir(folder)):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() != ".json" or name.startswith((".", *_OTHERS)) or not os.path.isfile(os.path.join(folder, name)):
                continue
            match = _NAME_WITH_SPLIT.search(stem) or _NAME_WITH_SPLIT.search("" if folder == path else os.path.basename(folder))
            found.setdefault(match and _SPLIT_OF_NAME[match[1].lower()], []).append(os.path.join(folder, name))
    named = [split for split in ("train", "validation", "test") if split in found]
    if not found or (named and "train" not in named):
        what = f"only files for {', '.join(named)}" if named else "none"
        raise ValueError(
            f"Expected COCO's json in {path!r}, such as annotations/instances_train.json or train/_annotations.coco.json. Received: {what}."
        )
    files = {}
    for split in named or [None]:
        several = found[split]
        if len(several) > 1:
            several = [file for file in several if os.path.basename(file).startswith("instances_")]
        if len(several) != 1:
            what = "the pictures" if split is None else split
            raise ValueError(f"Expected one json file for {what} in {path!r}. Received: {', '.join(sorted(found[split]))}. Leave one.")
        files[split] = several[0]
    return files


def read(file, path, log, regions=True):
    """Reads a json file.

    Args:
        file: Its path.
        path: The folder in which pictures are looked for, beside its own.
        log: Function that is called with a line if annotations are left out.
        regions: Boolean. Whether they are kept in memory, which boxes do not need.

    Returns:
        Class names by identity, in their order; the paths of the pictures; and for each `Annotated`.

    Raises:
        ValueError: If it cannot be read, or the pictures are not where they are looked for.
    """
    try:
        with open(file, encoding="utf-8-sig") as opened:
            content = json.load(opened)
        categories, images = _by_identity(content["categories"]), _by_identity(content["images"])
        annotations = list(content["annotations"])
        names = {identity: category["name"] for identity, category in categories.items()}
        for image in images.values():
            if not isinstance(image["file_name"], str) or not image["file_name"]:
                raise TypeError(f"file_name {image['file_name']!r}")
        if not all(isinstance(name, str) and name.strip() for name in names.values()) or len(set(names.values())) < len(names):
            raise ValueError(f"categories need names of their own, not {list(names.values())!r:.200}")
        sizes = [tuple(_side(image.get(side)) for side in ("width", "height")) for image in images.values()]
    except (OSError, *_WRONG) as error:
        raise ValueError(f"{_EXPECTED}. Received: {file!r} ({_problem(error)}).") from error
    # As numbers where all are, as those of COCO, whose classes have this order.
    order = sorted(names, key=(int if all(re.fullmatch(r"-?\d{1,18}", identity) for identity in names) else str))
    indices, of_images, left_out = {identity: index for index, identity in enumerate(order)}, {identity: [] for identity in images}, 0
    for number, annotation in enumerate(annotations):
        try:
            label = _known(annotation, "category_id", indices)
            box, region = _box_and_region(annotation)
            left_out += box is None and region is None
            _known(annotation, "image_id", of_images).append((label, box, region))
        except _WRONG as error:
            raise ValueError(
                "Expected annotations with the image_id of a picture, the category_id of a category, and a bbox or a segmentation. "
                f"Received: {file!r}, annotation {number} ({_problem(error)})."
            ) from error
    if left_out:
        log(f"{file}: left out {left_out:,} of {len(annotations):,} annotations, which have neither a bbox nor a segmentation of some size")
    annotated = []
    for size, found in zip(sizes, of_images.values(), strict=True):
        boxed = [(label, box) for label, box, _ in found if box is not None]
        boxes, labels = np.array([box for _, box in boxed], "float32").reshape(-1, 4), np.array([label for label, _ in boxed], "int32")
        kept = [(label, region) for label, _, region in found if region is not None] if regions else []
        annotated.append(Annotated(size if all(size) else None, boxes, labels, kept))
    return {identity: names[identity] for identity in order}, _paths(images, file, path), annotated


def _by_identity(items):
    found = {}
    for item in items:
        identity = _identity(item["id"])
        if identity in found:
            raise ValueError(f"two have the id {identity}")
        found[identity] = item
    return found


def _identity(value):
    """Tools write numbers as 1, 1.0 and "1"."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise TypeError(f"an id of {value!r:.50}")
    return str(int(value) if isinstance(value, float) and value == int(value) else value)


def _known(annotation, key, known):
    identity = _identity(annotation[key])
    if identity not in known:
        raise ValueError(f"there is none with the {key} {identity:.50}")
    return known[identity]


def _side(value):
    """Returns a width or height as a positive integer, or `None` where there is none."""
    return int(value) if isinstance(value, (int, float)) and value > 0 and value == int(value) else None


def _problem(error):
    return f"no {error}" if isinstance(error, KeyError) else error


def _box_and_region(annotation):
    """Returns the box of one annotation, top, left, bottom and right, or `None` of a crowd or of nothing; and its region or `None`."""
    region = _region(annotation["segmentation"]) if annotation.get("segmentation") else None
    crowd = annotation.get("iscrowd") or 0
    if str(crowd) not in ("0", "1", "0.0", "1.0", "True", "False"):
        raise ValueError(f"iscrowd {crowd!r:.50}")
    if crowd in (1, "1"):
        return None, region
    if annotation.get("bbox"):
        left, top, width, height = (float(value) for value in annotation["bbox"])
        box = (top, left, top + height, left + width)
    else:
        box = region.box if region is not None else None
    if box is not None and not (np.isfinite(box).all() and np.abs(box).max() < 2**31):
        raise ValueError(f"bbox {annotation.get('bbox')!r:.100}")
    return (box if box is not None and box[2] > box[0] and box[3] > box[1] else None), region


def _region(segmentation):
    """Returns `Polygons` of three and more corners, or `RunLengths`; or `None` where nothing is left."""
    if isinstance(segmentation, dict):
        height, width = (_side(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        counts = [int(count) for count in (_run_lengths(counts) if isinstance(counts, str) else counts)]
        # As Python's integers, which do not overflow.
        if not height or not width or min(counts, default=0) < 0 or sum(counts) != height * width:
            raise ValueError("run lengths that do not fill their size")
        return RunLengths(np.array(counts, "int64"), (width, height)) if any(counts[1::2]) else None
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    polygons = [[float(value) for value in polygon] for polygon in polygons]
    if not all(np.isfinite(polygon).all() and len(polygon) % 2 == 0 for polygon in polygons):
        raise ValueError("a polygon that is no list of pairs of numbers")
    polygons = [polygon for polygon in polygons if len(polygon) >= 6]
    return Polygons(polygons) if polygons else None


def _run_lengths(text):
    """Returns the run lengths that a text of COCO's holds. pycocotools reads beyond the end of a wrong one."""
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if shift > 60:
            raise ValueError("run lengths that are no numbers")
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def _paths(images, file, path):
    """Returns the paths of the pictures of a json file."""
    if not images:
        return []
    # Tools on Windows write them with backslashes.
    names, parent = [image["file_name"].replace("\\", "/") for image in images.values()], os.path.dirname(file)
    candidates = [parent, path, *(os.path.join(folder, name) for folder in (parent, path) for name in ("images", "data"))]
    match = _NAME_WITH_SPLIT.search(os.path.splitext(os.path.basename(file))[0])
    for folder in (path, os.path.join(path, "images")) if match else ():
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            other = _NAME_WITH_SPLIT.search(name)
            if other and _SPLIT_OF_NAME[other[1].lower()] == _SPLIT_OF_NAME[match[1].lower()]:
                candidates.append(os.path.join(folder, name))
    counts = {folder: sum(os.path.isfile(os.path.join(folder, name)) for name in names[:100]) for folder in candidates}
    best = max(counts, key=counts.get)
    if not counts[best]:
        raise ValueError(f"Expected the pictures of {file!r}. Received: no {names[0]!r} in {', '.join(counts)}.")
    return [os.path.join(best, name) for name in names]
