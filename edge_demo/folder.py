"""Classifies the pictures of a folder: a row of CSV for each, and a bar that shows how far it is."""

import contextlib
import csv
import os
import pathlib
import re
import sys
import time

from .errors import InputError, printable

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jp2", ".avif")
_BAR = 30  # characters


def find_pictures(folder):
    """Returns the paths of all pictures in a folder and its sub-folders, sorted. Links to folders are not followed.

    Raises:
        InputError: If the folder is missing or holds no picture.
        OSError: If a folder cannot be entered.
    """
    if not os.path.isdir(folder):
        problem = "is a file. Give single pictures without --folder" if os.path.exists(folder) else "does not exist. Give the path of one that does"
        raise InputError(f"expected a folder of pictures for --folder, received {str(folder)!r}, which {problem}.")

    def fail(error):
        raise error

    found = [
        os.path.join(where, name)
        for where, _, names in os.walk(folder, onerror=fail)
        for name in names
        if name.lower().endswith(SUFFIXES) and not name.startswith(".")
    ]
    if not found:
        raise InputError(f"expected pictures in {str(folder)!r}, received none that ends with {', '.join(SUFFIXES)}.")
    return sorted(found)


# The columns of an answer, for each of `bundle.TASKS`.
_COLUMNS = {
    "classes": ("label", "index", "probability"),
    "boxes": ("label", "index", "probability", "left", "top", "right", "bottom"),
    "masks": ("label", "index", "share"),
}


def header(top_k, task="classes"):
    """Returns the names of the columns: of an answer, the class, its index and its probability, and where it is or how much of the picture."""
    answers = [f"{column}_{rank}" for rank in range(1, top_k + 1) for column in _COLUMNS[task]]
    return ["image", *answers, "decode_ms", "preprocess_ms", "inference_ms", "error"]


def amount(entry):
    """Returns how probable an answer is, or its share of the picture."""
    return entry["probability"] if "probability" in entry else entry["share"]


def row(result, top_k, task="classes"):
    """Returns a result, or `{"image", "error"}`, as the cells of a row."""
    answers = []
    for entry in result.get("top", []):
        answers += [_cell(entry["label"]), entry["index"], f"{amount(entry):.6f}", *entry.get("box", [])]
    answers += [""] * (len(_COLUMNS[task]) * top_k - len(answers))
    ms = result.get("ms", {})
    return [_cell(result["image"]), *answers, *(ms.get(part, "") for part in ("decode", "preprocess", "inference")), result.get("error", "")]


def _cell(text):
    # What turns the direction of writing would show one name as another.
    return re.sub("[\u202a-\u202e\u2066-\u2069]", lambda match: printable(match[0]), text)


@contextlib.contextmanager
def open_table(path, top_k, task="classes"):
    """Gives a function that writes a row of cells; the file gets its name once all is written.

    An interruption leaves what there is under the name with `.partial`. Of a link, what it leads to is written.

    Raises:
        InputError: If something stands under one of the two names that this program did not write, or it cannot be written.
    """
    target = pathlib.Path(os.path.realpath(path))
    partial = target.with_name(f"{target.name}.partial")
    try:
        for file in (target, partial):
            if os.path.lexists(file) and not _is_table(file):
                named = str(path if file is target else partial)
                raise InputError(f"expected a new file for --csv, received {named!r}, which this program did not write. Name another one.")
        # A name may hold what is no text.
        with open(partial, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(header(top_k, task))
            yield writer.writerow
        partial.replace(target)
    except BrokenPipeError:  # of standard output, where the caller writes too
        raise
    except OSError as error:
        problem = f"{error.strerror or error}. Check that its folder is there, may be written to and has room, or name another file"
        raise InputError(f"expected to write the table of --csv, received {str(path)!r}: {problem}.") from error


def _is_table(path):
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(6) in (b"", b"image,")


class _Bar:
    """Shows on standard error how many of `total` are done."""

    def __init__(self, total):
        self._total, self._started, self._shown = total, time.monotonic(), 0.0

    def show(self, done):
        # Ten times a second is enough.
        now = time.monotonic()
        if now - self._shown > 0.1 or done == self._total:
            self._shown = now
            full = _BAR * done // self._total
            rate = done / max(now - self._started, 1e-9)
            print(f"\r[{'#' * full}{'.' * (_BAR - full)}] {done}/{self._total}  {rate:.1f}/s ", end="", file=sys.stderr, flush=True)

    def clear(self):
        print("\r" + " " * (_BAR + 40) + "\r", end="", file=sys.stderr, flush=True)


def classify_folder(classifier, paths, write, top_k=None, threshold=None, bar=True):
    """Classifies pictures; one that cannot be is told and passed over.

    Args:
        classifier: `BundleModel`.
        paths: List.
        write: Function that is called with each result and picture, as `classify_and_keep` returns them, or with `{"image", "error"}`
            and `None`.
        top_k, threshold: As in `BundleModel.classify`.
        bar: Boolean. Whether a bar on standard error, if that is a terminal, shows how far it is.

    Returns:
        List of milliseconds that each picture took that was classified.
    """
    bar = _Bar(len(paths)) if bar and sys.stderr is not None and sys.stderr.isatty() else None
    times = []
    try:
        for done, path in enumerate(paths, 1):
            try:
                result, picture = classifier.classify_and_keep(path, top_k, threshold)
                times.append(sum(result["ms"].values()))
            except InputError as error:
                result, picture = {"image": str(path), "error": printable(str(error))}, None
            write(result, picture)
            if bar:
                bar.show(done)
    finally:
        if bar:
            bar.clear()
    return times
