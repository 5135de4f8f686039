"""Keeps the notices that TensorFlow's native code prints off the terminal."""

import contextlib
import os
import sys
import tempfile


@contextlib.contextmanager
def quiet_native():
    """Hides what is written to standard error inside the block, and shows it after all if the block raises.

    The first notices (no CUDA driver, which CPU instructions are used) come before any log level is read, so
    `TF_CPP_MIN_LOG_LEVEL` does not stop them, and they would stand before the one line of a command's error. It stops
    later ones, if it is set before TensorFlow is imported; warnings stay.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    try:
        terminal = os.dup(2)
    except OSError:  # There is no standard error.
        yield
        return
    with tempfile.TemporaryFile() as hidden:
        if sys.stderr is not None:
            sys.stderr.flush()
        os.dup2(hidden.fileno(), 2)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(terminal, hidden.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
