"""Runs a .tflite file for the first time in a process of its own: the runtime does not survive every damaged file, and some never end."""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import tempfile

import ai_edge_litert

from .errors import InputError, words

TIMEOUT = 60  # seconds, and one more for each megabyte of the file: on a small board a large model takes its time
_REMEMBERED = 1000  # files

# What `run_alone` runs of a file, to try it and to measure it. `bench`, which is thorough, also takes the graph apart, without XNNPACK.
# Linux counts the peak of the parent process into a child's `ru_maxrss`; VmHWM is the child's own.
LOAD_AND_RUN = """
import json, sys, time
try:
    with open("/proc/self/oom_score_adj", "w") as score:
        score.write("1000")  # Where memory runs out, this process is the one to end.
except OSError:
    pass
import numpy
from ai_edge_litert.interpreter import Interpreter, OpResolverType
content, threads, signature, thoroughness = sys.stdin.buffer.read(), int(sys.argv[1]), *sys.argv[2:]
if thoroughness == "thorough":
    plain = Interpreter(model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    plain.allocate_tensors()
    plain._get_ops_details()
started = time.perf_counter()
interpreter = Interpreter(model_content=content, num_threads=threads)
interpreter.allocate_tensors()
load_ms = 1000 * (time.perf_counter() - started)
runner = interpreter.get_signature_runner(signature) if signature else None
(image,) = runner.get_input_details().values() if runner else interpreter.get_input_details()
noise = numpy.random.default_rng(0).standard_normal(image["shape"], dtype="float32")
if runner:
    runner(**dict.fromkeys(runner.get_input_details(), noise))
else:
    interpreter.set_tensor(image["index"], noise)
    interpreter.invoke()
    for output in interpreter.get_output_details():
        interpreter.get_tensor(output["index"])
try:
    with open("/proc/self/status") as status:
        peak = 1024 * int(status.read().split("VmHWM:")[1].split()[0])
except (OSError, IndexError):
    try:
        import resource
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    except ImportError:  # Windows.
        peak = None
print(json.dumps({"load_ms": load_ms, "peak_memory_mb": peak and peak / 1e6}))
"""


def check_first_run(content, sha256, recipe, threads, signature=None, thorough=False):
    """Runs a file in a process of its own, unless the same file ran on this machine before.

    What ran is remembered in `swin-keras/ran.txt` of the user's cache folder, with the version of the runtime. Where this
    cannot be written, the file is tried each time.

    Args:
        content: Bytes of a .tflite file.
        sha256: String of 64 hexadecimal digits: that of `content`.
        recipe: String for the error.
        threads: Integer.
        signature: String. Which way into the file; defaults to its first.
        thorough: Boolean. Whether the file must also load without XNNPACK, as `bench` does.

    Raises:
        InputError: If it does not run, crashes the runtime, or has not ended after a minute and a second for each megabyte.
    """
    # A file that one processor survives may end another; a home may be shared between them.
    which = [f"signature={signature}"] if signature else []
    entry = " ".join([sha256, ai_edge_litert.__version__, platform.machine(), *which, *["thorough"] * thorough])
    if entry in _read():
        return
    expected = f"expected a .tflite file that runs here for the recipe {recipe!r}: the process that tried it first"
    limit = TIMEOUT + len(content) // 10**6
    try:
        _, problem = run_alone(LOAD_AND_RUN, load_and_run_arguments(threads, signature, thorough), limit, content)
    except subprocess.TimeoutExpired:
        raise InputError(f"{expected} had not ended after {limit:g} seconds. Use a smaller file of the bundle, or export it again.") from None
    if problem is not None:
        raise InputError(f"{expected} ended with {words(problem)}. Export the bundle again.")
    _remember(entry)


def load_and_run_arguments(threads, signature=None, thorough=False):
    """Returns what `LOAD_AND_RUN` is started with."""
    return [threads, signature or "", "thorough" if thorough else "quick"]


def run_alone(program, arguments, timeout, content=b""):
    """Runs a Python program in a process of its own.

    Args:
        program: String of source, which can import what is installed, and nothing that stands around this file or in the current folder.
        arguments: List of what becomes `sys.argv[1:]`.
        timeout: Float in seconds.
        content: Bytes for its standard input.

    Returns:
        Its standard output, and `None`, or what it ended with: a signal (SIGKILL where memory ran out, SIGSEGV where the
        runtime failed), the last line of its standard error, or its exit code.

    Raises:
        subprocess.TimeoutExpired: If it has not ended in time; then it is ended.
    """
    command = [sys.executable, "-P", "-c", program, *map(str, arguments)]
    finished = subprocess.run(command, input=content, capture_output=True, timeout=timeout, check=False)
    output, errors = (stream.decode(errors="replace") for stream in (finished.stdout, finished.stderr))
    if finished.returncode == 0:
        return output, None
    try:
        return output, signal.Signals(-finished.returncode).name
    except ValueError:
        return output, errors.strip().rpartition("\n")[2] or f"exit code {finished.returncode}"


def _path():
    base = os.environ.get("XDG_CACHE_HOME", "")
    return os.path.join(base if os.path.isabs(base) else os.path.expanduser("~/.cache"), "swin-keras", "ran.txt")


def _read():
    try:
        with open(_path(), encoding="ascii") as file:
            return file.read().splitlines()
    except (OSError, ValueError):
        return []


def _remember(entry):
    path = _path()
    if not os.path.isabs(path):  # There is no home.
        return
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=os.path.dirname(path), prefix="ran.", suffix=".partial", delete=False) as partial:
            try:
                partial.write("".join(f"{line}\n" for line in [*_read()[1 - _REMEMBERED :], entry]))
                partial.close()
                os.replace(partial.name, path)
            except OSError:
                os.unlink(partial.name)
                raise
