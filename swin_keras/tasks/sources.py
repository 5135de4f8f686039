"""Where pictures with boxes or masks come from. Of `tasks` this alone needs TensorFlow when it is imported."""

import dataclasses
import io
import json
import os
import re

import numpy as np
from PIL import Image

from swin_keras.tasks.data import IGNORED
from swin_keras.tasks.detection import extra
from swin_keras.training import folder
from swin_keras.training.image_data import ImageData
from swin_keras.training.streams import StreamData, open_builder, read_splits, splits_of

_SPLIT_OF_NAME = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_NAME_WITH_SPLIT = re.compile(r"(?:^|[_-])(train|val|valid|validation|test)[_-]?(?:\d{4})?$", re.IGNORECASE)
# COCO's other files beside those of boxes and masks.
_OTHERS = ("captions_", "person_keypoints_", "image_info_", "stuff_", "panoptic_")
# Masks of tensorflow-datasets that say neither their classes nor from which value on these count; what is below is ignored.
_MASKS = {
    "scene_parse150": (1, [f"class {number}" for number in range(1, 151)]),
    "oxford_iiit_pet": (1, ["pet", "background", "border"]),
}
_NO_BOXES_IN_TEST = ("oxford_iiit_pet",)


def open_coco(path, task, preprocessing, log):
    """Opens a folder of pictures with COCO's json, as `load_data` says.

    One file for each split: `annotations/instances_train2017.json` with the pictures in `train2017/`, or `train/_annotations.coco.json` with
    the pictures beside it; or a single file, whose pictures are split 60/20/20, always the same way. Pictures are looked for beside the file,
    and from the folder on in itself, in `images/`, and in the folder of the split, there or in `images/`.

    Returns:
        Class names, and a source of pictures.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise ValueError(f"Expected data='coco:PATH' of a folder. Received: {path!r}, which is none.")
    files = _files_of_splits(path)
    read = {split: _read_coco(file) for split, file in files.items()}
    categories = next(iter(read.values()))["categories"]
    for split, content in read.items():
        if content["categories"] != categories:
            first = next(iter(files.values()))
            raise ValueError(f"Expected the same categories in each file. Received: others in {files[split]!r} than in {first!r}.")
    indices = {identity: index for index, identity in enumerate(sorted(categories))}
    found = {split: _pictures_of(content, files[split], path, task, indices) for split, content in read.items()}
    splits = _complete(found)
    labels = [categories[identity] for identity in sorted(categories)]
    counts = ", ".join(f"{len(pictures):,} for {split}" for split, (pictures, _) in splits.items())
    log(f"{path}: {len(labels):,} classes; pictures: {counts}")
    source = CocoPictures(name=f"coco:{path}", labels=labels, preprocessing=preprocessing, splits=splits, log=log)
    return (["background", *labels] if task == "segmentation" else labels), source


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoPictures(ImageData):
    """Pictures of files. Of `splits` each is a pair: paths, and for each `Annotated`."""

    def open(self, split, row):
        path, annotated = self.splits[split][0][row], self.splits[split][1][row]
        picture = _upright(path, folder.open_regular(path), annotated.size)
        if annotated.regions is None:
            return picture, (annotated.boxes / np.array([*picture.size[::-1]] * 2), annotated.labels)
        return picture, annotated.mask(picture.size)

    def name_of(self, split, row):
        return self.splits[split][0][row]


@dataclasses.dataclass(frozen=True)
class Annotated:
    """What COCO's json says of a picture.

    Attributes:
        size: Width and height in pixels, or `None`.
        boxes, labels: float32 `(n, 4)`, top, left, bottom and right in pixels, and int32 `(n,)`.
        regions: List of pairs of a class index and a `segmentation`, those below others first; or `None`.
    """

    size: tuple
    boxes: np.ndarray
    labels: np.ndarray
    regions: list | None

    def mask(self, size):
        """Returns a mask of a picture of this width and height, uint8 `(height, width)`: 0 for the background, then the classes."""
        mask = np.zeros(size[::-1], "uint8")
        for label, region in self.regions:
            if isinstance(region, np.ndarray):
                inside = (np.arange(len(region)) % 2).astype(bool).repeat(region)
                if len(inside) != mask.size:
                    raise ValueError(f"run lengths of {len(inside)} pixels, but it has {mask.size}")
                mask[inside.reshape(size).T] = 1 + label
            else:
                coco = extra("pycocotools.mask")
                mask[coco.decode(coco.merge(coco.frPyObjects(region, *size[::-1]))).astype(bool)] = 1 + label
        return mask


def open_tfds(data, task, labels, data_dir, preprocessing, log):
    """Opens a set of tensorflow-datasets, as `load_data` says. Returns class names, and a source of pictures."""
    import tensorflow_datasets as tfds

    builder = open_builder(data, data_dir, log)
    features, kinds = builder.info.features, tfds.features
    picture = next((key for key in features if _is_picture(features[key], kinds)), None)
    if picture is None:
        raise ValueError(f"Expected a data set of pictures. Received: data={data!r}, which has {', '.join(features)}. Choose another.")
    first = 0
    if task == "detection":
        labels, find = _boxes_of(features, kinds, data)
        encoded = [picture]
    else:
        mask = next((key for key in features if key != picture and isinstance(features[key], kinds.Image)), None)
        if mask is None:
            raise ValueError(f"Expected a data set with a mask for each picture. Received: data={data!r}, which has {', '.join(features)}.")
        named = getattr(features[mask], "names", None)
        first, known = _MASKS.get(builder.name, (0, named))
        labels = labels or known
        if not labels:
            raise ValueError(f"Expected `labels`, the names of the values of {mask!r} from 0 on. Received: none, and data={data!r} has none.")
        encoded = [picture, mask]

        def find(example):
            return (example[mask],)

    chosen = splits_of(builder, data)
    if task == "detection" and builder.name in _NO_BOXES_IN_TEST:
        chosen = {"train": "train[:60%]", "validation": "train[60%:80%]", "test": "train[80%:]"}
    sets = read_splits(builder, chosen, encoded, lambda example: (example[picture], *find(example)))
    counts = {split: builder.info.splits[part].num_examples for split, part in chosen.items()}
    described = ", ".join(f"{count:,} for {split} ({chosen[split]})" for split, count in counts.items())
    log(f"{builder.info.full_name}: {len(labels):,} classes; pictures: {described}")
    arguments = {"name": data, "labels": labels, "preprocessing": preprocessing, "splits": sets, "counts": counts, "log": log}
    return labels, StreamedPictures(**arguments, fingerprint={}, first=first)


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamedPictures(StreamData):
    """Pictures of tensorflow-datasets, encoded, with boxes and labels or an encoded mask, whose classes begin with the value `first`."""

    first: int

    def open(self, split, row, picture, *found):
        upright, _ = super().open(split, row, picture, None)
        if len(found) == 2:
            boxes, labels = found
            if labels.size and not 0 <= labels.min() <= labels.max() < len(self.labels):
                self.damage.stop(f"Expected class indices from 0 to {len(self.labels) - 1} in {self.name!r}. Received: {labels.tolist()}.")
            good = (boxes[:, 2:] > boxes[:, :2]).all(-1)
            return upright, (np.clip(boxes[good], 0, 1), labels[good])
        values = np.asarray(Image.open(io.BytesIO(found[0])))
        if values.ndim == 3:  # The same in each channel.
            values = values[..., 0]
        mask = np.where((values >= self.first) & (values != IGNORED), values.astype("int32") - self.first, IGNORED)
        if (wrong := mask[(mask >= len(self.labels)) & (mask != IGNORED)]).size:
            highest = self.first + len(self.labels) - 1
            self.damage.stop(f"Expected masks with values up to {highest} in {self.name!r}. Received: {wrong[0] + self.first}. Give more `labels`.")
        return _upright(io.BytesIO(picture), upright, mask.shape[::-1]), mask.astype("uint8")


def _upright(file, picture, size):
    """Returns the picture that has this width and height: turned as its EXIF says, or else as it is stored."""
    if size is None or picture.size == size:
        return picture
    with Image.open(file) as stored:
        if stored.size == size:
            return stored.convert("RGB")
    raise ValueError(f"it has {picture.width}x{picture.height} pixels, but its annotations are for {size[0]}x{size[1]}")


def _files_of_splits(path):
    """Returns the json file of each split that has one, those of training first; or that of `None`, a single one for all."""
    found = {}
    for parent in (path, *(entry.path for entry in os.scandir(path) if entry.is_dir())):
        for name in sorted(os.listdir(parent)):
            if not name.endswith(".json") or name.startswith((".", *_OTHERS)):
                continue
            match = _NAME_WITH_SPLIT.search(name.removesuffix(".json")) or _NAME_WITH_SPLIT.search("" if parent == path else os.path.basename(parent))
            found.setdefault(match and _SPLIT_OF_NAME[match[1].lower()], []).append(os.path.join(parent, name))
    named = [split for split in ("train", "validation", "test") if split in found]
    wanted = named or [split for split in found if split is None]
    for split in wanted:
        if len(found[split]) > 1:
            instances = [file for file in found[split] if os.path.basename(file).startswith("instances_")]
            if len(instances) != 1:
                what = "the pictures" if split is None else split
                raise ValueError(f"Expected one json file for {what} in {path!r}. Received: {', '.join(sorted(found[split]))}. Leave one.")
            found[split] = instances
    if not wanted or (named and "train" not in named):
        what = f"only files for {', '.join(named)}" if named else "none"
        raise ValueError(
            f"Expected COCO's json in {path!r}, such as annotations/instances_train.json or train/_annotations.coco.json. Received: {what}."
        )
    return {split: found[split][0] for split in wanted}


def _read_coco(file):
    """Returns what a json file of COCO holds: categories by number, and images and annotations, with the keys that all must have."""
    try:
        with open(file, encoding="utf-8") as opened:
            content = json.load(opened)
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        annotations = content["annotations"]
        for image in images.values():
            if not isinstance(image["file_name"], str):
                raise TypeError(f"file_name {image['file_name']!r}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"Expected COCO's json with images, annotations and categories. Received: {file!r} ({problem}).") from error
    if not categories or not images:
        raise ValueError(f"Expected COCO's json with images, annotations and categories. Received: {file!r} with none of some.")
    return {"categories": categories, "images": images, "annotations": annotations}


def _pictures_of(content, file, path, task, indices):
    """Returns the paths of the pictures of a json file, and `Annotated` for each."""
    of_images = {identity: [] for identity in content["images"]}
    for annotation in content["annotations"]:
        try:
            of_images[annotation["image_id"]].append(_annotation(annotation, task, indices))
        except (KeyError, TypeError, ValueError) as error:
            problem = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(
                f"Expected annotations with image_id, category_id and bbox of pictures and categories in {file!r}. ({problem})."
            ) from error
    if task == "segmentation" and not any(region is not None for found in of_images.values() for _, _, _, region in found):
        raise ValueError(f"Expected annotations with a `segmentation`, polygons or run lengths. Received: none in {file!r}.")
    if task == "detection" and not any(box is not None for found in of_images.values() for _, box, _, _ in found):
        raise ValueError(f"Expected annotations with a `bbox`. Received: none in {file!r}.")
    where, annotated = _folder_of(content, file, path), []
    for identity, image in content["images"].items():
        found = of_images[identity]
        size = (image.get("width"), image.get("height"))
        boxed = [(label, box) for label, box, _, _ in found if box is not None]
        boxes, labels = np.array([box for _, box in boxed], "float32").reshape(-1, 4), np.array([label for label, _ in boxed], "int32")
        known = all(isinstance(side, int) and side > 0 for side in size)
        if known:
            boxes = np.clip(boxes, 0, np.array([size[1], size[0]] * 2, "float32"))
        good = (boxes[:, 2:] > boxes[:, :2]).all(-1)
        # Large regions below small ones.
        regions = [(label, region) for label, _, area, region in sorted(found, key=lambda row: -row[2]) if region is not None]
        annotated.append(Annotated(size if known else None, boxes[good], labels[good], regions if task == "segmentation" else None))
    return [os.path.join(where, image["file_name"]) for image in content["images"].values()], annotated


def _annotation(annotation, task, indices):
    """Returns class index, box or `None`, area, and segmentation or `None`."""
    label, box, region = indices[annotation["category_id"]], None, None
    left, top, width, height = (float(value) for value in annotation.get("bbox") or [0] * 4)
    if not np.isfinite([left, top, width, height]).all():
        raise ValueError(f"bbox {annotation['bbox']}")
    if width > 0 and height > 0 and not annotation.get("iscrowd"):
        box = (top, left, top + height, left + width)
    if task == "segmentation" and annotation.get("segmentation"):
        region = _region(annotation["segmentation"])
    return label, box, float(annotation.get("area") or width * height), region


def _region(segmentation):
    """Returns polygons for pycocotools, or run lengths, column by column, of outside and inside in turns; or `None`."""
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        counts = np.array(_run_lengths(counts) if isinstance(counts, str) else counts, "int64")
        if counts.ndim != 1 or counts.min(initial=0) < 0 or counts.sum() != np.prod([int(side) for side in segmentation["size"]]):
            raise ValueError("run lengths that do not fill their size")
        return counts
    polygons = segmentation if isinstance(segmentation[0], list) else [segmentation]
    polygons = [[float(value) for value in polygon] for polygon in polygons]
    if not all(np.isfinite(polygon).all() and len(polygon) % 2 == 0 for polygon in polygons):
        raise ValueError("a polygon that is no list of pairs of numbers")
    return [polygon for polygon in polygons if len(polygon) >= 6] or None


def _run_lengths(text):
    """Returns the run lengths that a text of COCO's holds. pycocotools reads beyond the end of a wrong one."""
    counts, value, shift = [], 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value, shift = 0, 0
    return counts


def _folder_of(content, file, path):
    """Returns the folder that holds the first picture of a json file."""
    parent, name = os.path.dirname(file), next(iter(content["images"].values()))["file_name"]
    match = _NAME_WITH_SPLIT.search(os.path.basename(file).removesuffix(".json"))
    split = [match[0].strip("_-")] if match else []
    candidates = [parent, path, os.path.join(path, "images"), *(os.path.join(path, *inside, *split) for inside in ([], ["images"]))]
    for candidate in candidates:
        if os.path.isfile(os.path.join(candidate, name)):
            return candidate
    raise ValueError(f"Expected the pictures of {file!r}. Received: no {name!r} in {', '.join(dict.fromkeys(candidates))}.")


def _complete(found):
    """Returns all three splits, from those for which there are files."""
    if None in found:
        return _parts(found[None], {"train": (0, 1, 2), "validation": (3,), "test": (4,)}, 5)
    train = {"train": found["train"]}
    if "validation" not in found and "test" not in found:
        return _parts(found["train"], {"train": (0, 1, 2), "validation": (3,), "test": (4,)}, 5)
    if "validation" not in found:
        train = _parts(found["train"], {"train": range(9), "validation": (9,)}, 10)
    return {"validation": found.get("validation"), "test": found.get("test", found.get("validation")), **train}


def _parts(pictures, rests, of):
    if len(pictures[0]) < of:
        raise ValueError(f"Expected at least {of} pictures, to hold some out. Received: {len(pictures[0])}. Add some, or give a file for each split.")
    rows = {split: [row for row in range(len(pictures[0])) if row % of in chosen] for split, chosen in rests.items()}
    return {split: tuple([part[row] for row in chosen] for part in pictures) for split, chosen in rows.items()}


def _is_picture(feature, kinds):
    return isinstance(feature, kinds.Image) and not isinstance(feature, kinds.LabeledImage)


def _boxes_of(features, kinds, data):
    """Returns class names, and a function from an example of a set with boxes to float32 boxes `(n, 4)` and integer labels `(n,)`."""
    import tensorflow as tf

    for key in features:
        inner = getattr(features[key], "feature", None)
        if isinstance(inner, kinds.FeaturesDict):
            box = next((name for name in inner if isinstance(inner[name], kinds.BBoxFeature)), None)
            label = next((name for name in inner if isinstance(inner[name], kinds.ClassLabel)), None)
            if box and label:

                def find(example, key=key, box=box, label=label):
                    objects = example[key]
                    single = ~objects["is_crowd"] if "is_crowd" in objects else tf.ones_like(objects[label], tf.bool)
                    return tf.boolean_mask(objects[box], single), tf.boolean_mask(objects[label], single)

                return inner[label].names, find
    box = next((key for key in features if isinstance(features[key], kinds.BBoxFeature)), None)
    label = next((key for key in features if isinstance(features[key], kinds.ClassLabel)), None)
    if not box or not label:
        raise ValueError(f"Expected a data set with boxes and their classes. Received: data={data!r}, which has {', '.join(features)}.")
    return features[label].names, lambda example: (example[box][None], example[label][None])
