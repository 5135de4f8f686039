"""The folder of a bundle: what it may replace, and how it comes into being."""

import contextlib
import json
import os
import pathlib
import shutil

from swin_keras.export.report import PICTURES


def check_folder(folder):
    """Refuses to replace anything but a bundle that holds only what an export writes."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"Expected a folder to write to. Received: {str(folder)!r}, which is a file.")
    if folder == pathlib.Path.cwd():
        raise ValueError("Expected a folder other than the current one, which is replaced whole. Give a name in it.")
    above = next((path for path in folder.parents if path.exists()), folder)
    if not above.is_dir() or not os.access(above, os.W_OK):
        problem = "cannot be written to" if above.is_dir() else "is a file"
        raise ValueError(f"Expected a folder to write to. Received: {str(folder)!r}, but {str(above)!r} {problem}. Choose another.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        listed = {file["file"] for file in description["files"] if description["format_version"]}
        ours = {"model.json", "labels.txt", "report.json", "report.md"} | listed | {f"report/{name}" for name in PICTURES}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()  # Some other program's model.json, TensorFlow.js' for one.
    # In a folder of another kind, which may be a whole disk, one look is enough.
    paths = [path for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()] if ours else folder.iterdir()
    foreign = sorted(name for name in (path.relative_to(folder).as_posix() for path in paths) if name not in ours)
    if foreign:
        raise ValueError(
            f"Expected a new folder, an empty one, or a bundle to replace. Received: {str(folder)!r}, which holds other files: "
            f"{', '.join(foreign[:5])}. Choose another folder."
        )


@contextlib.contextmanager
def written_beside(folder):
    """Gives a new folder beside, which takes the place of `folder` once all is written; an older bundle there stays until then."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise OSError(f"Expected a folder that can be made. Received: {str(folder)!r} ({error.strerror}). Choose another.") from error
    try:
        yield partial
        _replace(folder, partial)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _replace(folder, partial):
    old = None
    if folder.is_dir():
        old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
        folder.rename(old)
    try:
        partial.rename(folder)
    except OSError:
        if old is not None:
            old.rename(folder)
        raise
    if old is not None:
        shutil.rmtree(old)
