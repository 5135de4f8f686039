"""Files that are whole or not there."""

import contextlib
import os
import pathlib


@contextlib.contextmanager
def written(path):
    """Gives the path beside `path` to write to, and renames the file into place once its bytes are on the disk.

    After a failure `path` is as it was, and a power cut leaves the old file or the new one.

    Args:
        path: Path. Its suffix is that of the file beside it.
    """
    path = pathlib.Path(path)
    partial = path.with_name(f"partial.{path.name}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
