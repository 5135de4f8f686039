"""Pictures in a folder for each class: found, split and read."""

import concurrent.futures
import hashlib
import os
import time
import warnings

import numpy as np

from swin_keras.edge_demo import open_picture, preprocess

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp")
# Of the resized pictures, which stay in memory as bytes: 57,000 of 224x224.
MAX_PIXEL_BYTES = 8 * 2**30
_SPLIT_OF_FOLDER = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_SECONDS_BETWEEN_LINES = 10


def find_pictures(folder, log):
    """Finds the pictures of a folder and splits them, always the same way. Opens none.

    The folder holds a sub-folder for each class. Or it holds `train` and, where there are such, `val` (or `valid`, or
    `validation`) and `test`, in upper or lower case, each with a sub-folder for each class.

    Without a folder for validation, a fifth of each class is split off the training pictures for it, and without both,
    another fifth for test: rounded, but at least one picture while one is left for training. A hash of the file's name
    decides, so that the pictures stay where they are, but for up to three of a class, when one is added or removed. With a
    folder for validation but none for test, the validation pictures are the test pictures too.

    Hidden files and folders are ignored, and with a line to `log` files without one of `SUFFIXES` and folders inside a class.

    Args:
        folder: Path.
        log: Function that is called with a line on what was ignored.

    Returns:
        Class names, sorted, and a dictionary from `"train"`, `"validation"` and `"test"` to pairs: a list of `n` paths and
        int32 class indices `(n,)`.

    Raises:
        ValueError: If the folder is built in another way, lacks pictures or has fewer than two classes.
    """
    _check_folder(folder, "a sub-folder for each class")
    names = _folders_in(folder)
    split_of = {name: _SPLIT_OF_FOLDER[name.casefold()] for name in names if name.casefold() in _SPLIT_OF_FOLDER}
    # A class may be called "train", beside "bus" and "car": its folder then holds pictures, not folders.
    if not split_of or (len(split_of) < len(names) and not any(_folders_in(os.path.join(folder, name)) for name in split_of)):
        classes = _classes_in(folder, log)
        return list(classes), _split_off(folder, classes, ["validation", "test"])

    found = {}
    for name, split in split_of.items():
        if split in found:
            same = " and ".join(repr(other) for other in split_of if split_of[other] == split)
            raise ValueError(f"Expected one folder for {split} in {folder!r}. Received: {same}. Keep one of them there.")
        found[split] = _classes_in(os.path.join(folder, name), log)
    if "train" not in found:
        raise ValueError(f"Expected a folder 'train' in {folder!r}. Received: {_some(split_of)}. Add it, or give a folder of classes.")
    for name, split in split_of.items():
        if differing := sorted(found["train"].keys() ^ found[split].keys()):
            raise ValueError(
                f"Expected the same classes in 'train' and {name!r} of {folder!r}. Received: {_some(differing)} in one of them only. "
                "Add or remove sub-folders."
            )
    if ignored := [name for name in names if name not in split_of]:
        log(f"ignored in {folder!r}: {_some(ignored)}")
    splits = {split: _flat(classes) for split, classes in found.items()}
    if "validation" not in splits:
        splits |= _split_off(folder, found["train"], [split for split in ("validation", "test") if split not in splits])
    splits.setdefault("test", splits["validation"])
    return list(found["train"]), splits


def find_unlabelled(folder):
    """Returns the sorted paths of the pictures in a folder without sub-folders, or `None` if it has some.

    Raises:
        ValueError: If it does not exist or holds no pictures.
    """
    _check_folder(folder, "pictures")
    if _folders_in(folder):
        return None
    pictures = [os.path.join(folder, name) for name in _visible(folder) if name.lower().endswith(SUFFIXES)]
    if not pictures:
        raise ValueError(f"Expected pictures ({' '.join(SUFFIXES)}) in {folder!r}, or in sub-folders. Received: a folder without. Check the path.")
    return pictures


def fingerprint(labels, splits):
    """Returns for each split how many pictures it has, and the sha256 of their classes, file names and sizes."""
    found = {}
    for split, (paths, classes) in splits.items():
        digest = hashlib.sha256()
        for path, index in zip(paths, classes, strict=True):
            size = os.path.getsize(path) if os.path.exists(path) else 0
            digest.update(os.fsencode(f"{labels[index]}/{os.path.basename(path)}/{size}\n"))
        found |= {split: len(paths), f"{split}_sha256": digest.hexdigest()}
    return found


def open_regular(path):
    """As `open_picture`, of a file that has an end."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path!r} is no regular file")  # A pipe would never end.
    return open_picture(path)


def prepare(picture, preprocessing):
    """Returns an open picture as resized and cropped uint8 pixels `(*crop, 3)`, as the device makes them."""
    # From bytes to fractions; `rint` makes the very bytes of them again that Pillow made.
    settings = {**preprocessing.to_dict(), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
    return np.rint(preprocess(picture, settings)[0] * 255).astype("uint8")


def check_damage(problems, count, where):
    """Raises a `ValueError` if too many pictures cannot be read.

    Args:
        problems: Dictionary from their names to what is wrong.
        count: Integer. Number of all pictures.
        where: String. What they belong to.
    """
    # A single one is more than one in a hundred in every small set, and stops none.
    if len(problems) > max(1, count / 100):
        raise ValueError(
            f"Expected pictures that can be read, but for one in a hundred. Received: {len(problems):,} of {count:,} in {where!r} that cannot: "
            f"{_some(problems)}. Repair or remove them. The first: {next(iter(problems.values()))}"
        )


def read_pictures(folder, paths, preprocessing, log):
    """Reads, resizes and crops pictures as the device does, in parallel.

    Args:
        folder: Path that the pictures are below, for messages.
        paths: List of `n` paths.
        preprocessing: `Preprocessing`.
        log: Function that is called with each line of progress, and with a line for each picture that was skipped.

    Returns:
        uint8 pixels `(m, *crop, 3)` of the pictures that could be read, and a boolean array `(n,)` which these are.

    Raises:
        ValueError: If more than one in a hundred pictures, and more than one picture, cannot be read.
    """
    pixels = np.empty((len(paths), *preprocessing.crop, 3), "uint8")

    def read(row):
        try:
            pixels[row] = prepare(open_regular(paths[row]), preprocessing)
        except Exception as error:  # Pillow's decoders raise what they like on damaged files.
            return str(error)

    problems = {}
    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
    # `open_picture` silences warnings and restores the filters, which threads do at each other's cost: here they are safe.
    with warnings.catch_warnings(), concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        warnings.simplefilter("ignore")
        try:
            for row, problem in enumerate(pool.map(read, range(len(paths)))):
                if problem:
                    problems[row] = problem
                if time.monotonic() > next_line:
                    log(f"read {row + 1:,} of {len(paths):,} pictures")
                    next_line = time.monotonic() + _SECONDS_BETWEEN_LINES
        finally:
            pool.shutdown(cancel_futures=True)
    check_damage({os.path.relpath(paths[row], folder): problem for row, problem in problems.items()}, len(paths), folder)
    for row, problem in problems.items():
        log(f"skipped {os.path.relpath(paths[row], folder)!r}: {problem}")
    readable = np.ones(len(paths), bool)
    readable[list(problems)] = False
    # In place: a second copy may not fit.
    for target, row in enumerate(np.flatnonzero(readable)):
        if target != row:
            pixels[target] = pixels[row]
    return pixels[: readable.sum()], readable


def _check_folder(folder, content):
    if not os.path.isdir(folder):
        problem = "is a file" if os.path.exists(folder) else "does not exist"
        raise ValueError(f"Expected a folder that holds {content}. Received: {folder!r}, which {problem}. Check the path.")


def _visible(folder):
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise ValueError(f"Expected a folder that can be read. Received: {folder!r} ({error.strerror}). Change its permissions.") from error


def _folders_in(folder):
    # Unlike a directory entry's `is_dir`, this takes a link that leads to itself.
    return [name for name in _visible(folder) if os.path.isdir(os.path.join(folder, name))]


def _classes_in(folder, log):
    """Returns `{class name: sorted paths}`."""
    classes, ignored = {}, []
    for label in _folders_in(folder):
        below = os.path.join(folder, label)
        names = _visible(below)
        pictures = {name for name in names if name.lower().endswith(SUFFIXES) and not os.path.isdir(os.path.join(below, name))}
        classes[label] = [os.path.join(below, name) for name in names if name in pictures]
        ignored += [os.path.join(label, name) for name in names if name not in pictures]
    what = f"pictures ({' '.join(SUFFIXES)})"
    if not classes:
        raise ValueError(f"Expected a sub-folder of {what} for each class. Received: {folder!r}, which holds no sub-folder. Make one for each class.")
    if not any(classes.values()):
        raise ValueError(f"Expected {what} in the sub-folders of {folder!r}. Received: {_some(classes)}, which hold none. Check the path.")
    if empty := [label for label, paths in classes.items() if not paths]:
        raise ValueError(f"Expected {what} in each sub-folder of {folder!r}. Received: {_some(empty)} without any. Add some, or move it elsewhere.")
    if len(classes) == 1:
        raise ValueError(f"Expected at least two classes. Received: {folder!r}, which holds only {_some(classes)}. Add a sub-folder for each class.")
    if ignored:
        log(f"ignored in {folder!r}, as no pictures ({' '.join(SUFFIXES)}): {_some(ignored)}")
    # What export could not write into labels.txt.
    if bad := [label for label in classes if not label.strip() or len(label.splitlines()) > 1 or not _is_text(label)]:
        raise ValueError(f"Expected sub-folders whose names are class names, on one line. Received: {_some(bad)} in {folder!r}. Rename it.")
    return classes


def _is_text(name):
    try:
        return bool(name.encode("utf-8"))
    except UnicodeEncodeError:  # Bytes of another encoding.
        return False


def _split_off(folder, classes, splits):
    """Splits a fifth of each class off the training pictures for each of `splits`."""
    found = {split: {} for split in ("train", *splits)}
    for label, paths in classes.items():
        drawn = sorted(paths, key=lambda path: hashlib.sha256(os.fsencode(os.path.basename(path))).digest())
        fifth = max(1, round(len(paths) / 5))
        for split in splits:
            taken = fifth if len(drawn) > 1 else 0
            found[split][label], drawn = sorted(drawn[:taken]), drawn[taken:]
        found["train"][label] = sorted(drawn)
    for split in splits:
        if not any(found[split].values()):
            raise ValueError(
                f"Expected at least {1 + len(splits)} pictures of a class in {folder!r}, to take some for {' and '.join(splits)}. "
                f"Received: {max(map(len, classes.values()))} at most. Add pictures."
            )
    return {split: _flat(classes) for split, classes in found.items()}


def _flat(classes):
    """Returns the paths of all classes, and their class indices."""
    paths = [path for group in classes.values() for path in group]
    return paths, np.repeat(np.arange(len(classes), dtype="int32"), [len(group) for group in classes.values()])


def _some(names, shown=3):
    names = list(names)
    more = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(map(repr, names[:shown])) + more
