"""Keeps what C libraries print away from standard error."""

import os
import threading

_STANDARD_ERROR = threading.Lock()


def quietly(function):
    """Calls a function without the notices that C code under it prints on standard error: the runtime announces its delegate there."""
    with _STANDARD_ERROR:  # Of two threads, one would give back what the other has put there.
        try:
            terminal = os.dup(2)
        except OSError:  # There is no standard error.
            return function()
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            try:
                return function()
            finally:
                os.dup2(terminal, 2)
                os.close(terminal)
