"""Ctrl-C while a program still imports: one line, as later, in place of the traceback of what was being imported."""

import os
import signal
import sys


def _end(number, frame):
    # No exception: numpy, for one, would make an ImportError of it.
    os.write(2, b"interrupted\n")
    os._exit(130)


def end_at_once(package):
    """Ends this process at Ctrl-C until `raise_again`, if it was started as `python -m` and this package or a module of it."""
    started = sys.argv[:1] == ["-m"]  # Python's own, while it looks for the module.
    ours = any(argument == package or argument.startswith(f"{package}.") for argument in sys.orig_argv)
    if started and ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_again():
    """Lets Ctrl-C raise KeyboardInterrupt, as usual, if `end_at_once` has changed that."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
