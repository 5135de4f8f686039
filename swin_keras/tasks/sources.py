"""Where pictures with boxes or masks come from. Of `tasks` this alone needs TensorFlow when it is imported."""

import dataclasses
import io
import os

import numpy as np
from PIL import ExifTags, Image

from swin_keras.tasks import coco
from swin_keras.tasks.data import IGNORED
from swin_keras.training import folder
from swin_keras.training.image_data import ImageData
from swin_keras.training.streams import StreamData, open_builder, read_splits, splits_of

# Masks of tensorflow-datasets that say neither their classes nor from which value on these count; what is below is ignored.
_MASKS = {
    "scene_parse150": (1, [f"class {number}" for number in range(1, 151)]),
    "oxford_iiit_pet": (1, ["pet", "background", "border"]),
}
_NO_BOXES_IN_TEST = ("oxford_iiit_pet",)
# What takes back the turns of EXIF that exchange width and height.
_BACK = {5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270}


def open_coco(path, task, preprocessing, log):
    """Opens a folder of pictures with COCO's json, as `load_data` says.

    One file for each split: `annotations/instances_train2017.json` with the pictures in `train2017/`, or `train/_annotations.coco.json` with
    the pictures beside it; or a single file, whose pictures are split 60/20/20, always the same way. Pictures are looked for beside the file and
    in the folder, in `images/` and `data/` of both, and in a folder that is named as the split.

    Returns:
        Class names, and a source of pictures.
    """
    path = os.path.expanduser(path)
    if not os.path.isdir(path):
        raise ValueError(f"Expected data='coco:PATH' of a folder. Received: {path!r}, which is none.")
    files = coco.find_files(path)
    found, categories = {}, None
    for split, file in files.items():
        names, paths, annotated = coco.read(file, path, log, regions=task == "segmentation")
        if not names or (not paths and split in ("train", None)):
            raise ValueError(f"Expected COCO's json with images and categories. Received: {file!r}, which has none.")
        if categories is not None and names != categories:
            raise ValueError(f"Expected the same categories in each file. Received: others in {file!r} than in {next(iter(files.values()))!r}.")
        categories = names
        if split in ("train", None) and not any(one.regions if task == "segmentation" else len(one.boxes) for one in annotated):
            what = "a `segmentation`, polygons or run lengths" if task == "segmentation" else "a `bbox`"
            raise ValueError(f"Expected annotations with {what}. Received: none in {file!r}.")
        if paths:
            found[split] = paths, annotated
    labels, splits = list(categories.values()), _complete(found)
    log(f"{path}: {len(labels):,} classes; pictures: {', '.join(f'{len(splits[split][0]):,} for {split}' for split in splits)}")
    problems = {path: "there is no such file" for paths, _ in splits.values() for path in paths if not os.path.isfile(path)}
    folder.check_damage(problems, sum(len(paths) for paths, _ in splits.values()), path)
    source = CocoPictures(name=f"coco:{path}", labels=labels, preprocessing=preprocessing, splits=splits, task=task, log=log)
    return (["background", *labels] if task == "segmentation" else labels), source


@dataclasses.dataclass(frozen=True, kw_only=True)
class CocoPictures(ImageData):
    """Pictures of files. Of `splits` each is a pair: paths, and for each `coco.Annotated`."""

    task: str

    def open(self, split, row):
        path, annotated = self.splits[split][0][row], self.splits[split][1][row]
        picture = _upright(path, folder.open_regular(path), annotated.size)
        if self.task == "segmentation":
            return picture, annotated.mask(picture.size)
        return picture, _inside(annotated.boxes / np.array([*picture.size[::-1]] * 2), annotated.labels)

    def name_of(self, split, row):
        return self.splits[split][0][row]


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

    chosen = splits_of(builder, data, use_test=task != "detection" or builder.name not in _NO_BOXES_IN_TEST)
    sets, counts = read_splits(builder, chosen, encoded, lambda example: (example[picture], *find(example)), len(labels), log)
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
                raise ValueError(f"Expected class indices from 0 to {len(self.labels) - 1} in {self.name!r}. Received: {labels.tolist()}.")
            return upright, _inside(boxes, labels)
        values = np.asarray(Image.open(io.BytesIO(found[0])))
        if values.ndim == 3:  # The same in each channel.
            values = values[..., 0]
        mask = np.where((values >= self.first) & (values != IGNORED), values.astype("int32") - self.first, IGNORED)
        if (wrong := mask[(mask >= len(self.labels)) & (mask != IGNORED)]).size:
            highest = self.first + len(self.labels) - 1
            raise ValueError(f"Expected masks with values up to {highest} in {self.name!r}. Received: {wrong[0] + self.first}. Give more `labels`.")
        return _upright(io.BytesIO(picture), upright, mask.shape[::-1]), mask.astype("uint8")


def _inside(boxes, labels):
    """Cuts boxes, as fractions of a picture, at its edge. Those of which nothing is left are left out."""
    boxes = np.clip(boxes, 0, 1)
    good = (boxes[:, 2:] > boxes[:, :2]).all(-1)
    return boxes[good], labels[good]


def _upright(file, picture, size):
    """Returns the picture that has this width and height: turned as its EXIF says, or else as it is stored."""
    if size is None or picture.size == size:
        return picture
    if picture.size == size[::-1]:
        with Image.open(file) as stored:
            turn = stored.getexif().get(ExifTags.Base.Orientation)
        if turn in _BACK:
            return picture.transpose(_BACK[turn])
    raise ValueError(f"it has {picture.width}x{picture.height} pixels, but its annotations are for {size[0]}x{size[1]}")


def _complete(found):
    """Returns all three splits, from those for which there are files."""
    train = found.get("train", found.get(None))
    if "validation" in found:
        return {"validation": found["validation"], "test": found.get("test", found["validation"]), "train": train}
    if "test" in found:
        return {"test": found["test"], **_parts(train, {"train": range(9), "validation": (9,)}, 10)}
    return _parts(train, {"train": (0, 1, 2), "validation": (3,), "test": (4,)}, 5)


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
