"""Ctrl-C while `swin-keras` still imports Keras and TensorFlow: one line, as later, in place of their traceback."""

import os
import signal
import sys

_ended_at_once = None


def end_at_once():
    """Ends this process at Ctrl-C until `raise_again`, if it was started as the command line. As edge_demo/interrupt.py, which comes too late."""
    global _ended_at_once
    script = os.path.basename(sys.argv[0]).startswith("swin-keras") if sys.argv else False
    module = sys.argv[:1] == ["-m"] and "swin_keras.cli" in sys.orig_argv  # "-m" is Python's own, while it looks for the module.
    if not (script or module) or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    try:
        terminal = os.dup(2)  # Standard error itself is hidden while they are imported.
    except OSError:
        return

    def end(number, frame):
        # No exception: numpy, for one, would make an ImportError of it.
        os.write(terminal, b"interrupted\n")
        os._exit(130)

    signal.signal(signal.SIGINT, end)
    _ended_at_once = end


def raise_again():
    """Lets Ctrl-C raise KeyboardInterrupt, as usual, if `end_at_once` has changed that."""
    if _ended_at_once is not None and signal.getsignal(signal.SIGINT) is _ended_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
