"""`python -m edge_demo IMAGE...`: what is on each picture, on those of a folder, or before a camera, as the bundle's model tells it, and the time."""

import argparse
import contextlib
import json
import os
import sys

import numpy as np

if not __package__:  # `python PATH/edge_demo`
    sys.path[0], __package__ = os.path.split(os.path.dirname(os.path.abspath(__file__)))

from . import camera, folder, interrupt
from .classifier import MAX_THREADS
from .dense import open_bundle
from .errors import InputError, printable, words

CLOSED_PIPE = 141  # as a shell says it of a process that SIGPIPE ended


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(wrong_usage(self, message))


def wrong_usage(parser, message):
    """Returns what to tell of an error that argparse found."""
    # It says how many arguments are missing, not of what.
    message = message.replace("--size: expected 2 arguments", "--size: expected a height and a width, such as --size 224 320")
    return f"{words(message)}. `{parser.prog} --help` shows the usage."


def positive_integer(text):
    """An argparse type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, received {text!r}")
    return int(text)


def thread_count(text):
    """An argparse type: a number of threads that the runtime may start."""
    if not text.isdecimal() or not 1 <= int(text) <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 to {MAX_THREADS}, received {text!r}")
    return int(text)


def not_empty(text):
    """An argparse type: a name or path. An empty one, as of a variable that is not set, is no wish for the default."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, received ''. Leave the option out for its default")
    return text


def say(line, file=None):
    """Prints a line and does not wait with it.

    Raises:
        InputError: If it cannot be written.
        BrokenPipeError: If nobody reads it.
    """
    try:
        print(line, file=file, flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise InputError(unwritten(error)) from error


def unwritten(error):
    """Returns what to tell of an `OSError` of standard output."""
    return f"expected to write to standard output: {error.strerror}. Make room, or send the output elsewhere."


def _camera_number(text):
    if not text.isdecimal() or int(text) > 99:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to 99, received {text!r}")
    return int(text)


def _fraction(text):
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, received {text!r}")


def add_arguments(parser):
    """Adds what this command takes; `swin-keras classify` takes the same."""
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="picture files")
    parser.add_argument(
        "--camera", type=_camera_number, metavar="N", help="classify what this camera sees, 0 for the first, until Ctrl-C; needs OpenCV"
    )
    parser.add_argument("--folder", type=not_empty, metavar="DIR", help="classify all pictures of a folder and its sub-folders, into a table")
    parser.add_argument("--bundle", type=not_empty, default="bundle", metavar="DIR", help="folder with model.json (default: bundle)")
    parser.add_argument("--recipe", type=not_empty, metavar="NAME", help="file of the bundle to run (default: the one recommended for a CPU)")
    size = {"nargs": 2, "type": positive_integer, "metavar": ("H", "W")}
    parser.add_argument("--size", help="of the sizes of pictures that the bundle's files take, the one to use (default: the first)", **size)
    parser.add_argument("--threads", type=thread_count, default=2, metavar="N", help=f"from 1 to {MAX_THREADS} (default: 2)")
    parser.add_argument("--top-k", type=positive_integer, metavar="K", help="number of answers to show (default: 5 classes, 10 of pixels, 100 boxes)")
    parser.add_argument(
        "--threshold", type=_fraction, metavar="T", help="leave out answers of a smaller probability, from 0 to 1 (default: 0, or 0.5 for boxes)"
    )
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each picture")
    parser.add_argument("--csv", type=not_empty, metavar="FILE", help="where --folder writes its table (default: results.csv; with --json none)")
    parser.add_argument(
        "--save-overlay", type=not_empty, metavar="DIR", help="write each picture there with its classes drawn under it, or its boxes or mask on it"
    )


def run(arguments):
    """Classifies what was asked for and prints the results.

    Returns:
        The exit code: 1 if a picture of a folder could not be classified.

    Raises:
        InputError: If the arguments or the bundle cannot be used, or at the first single picture that cannot be read.
    """
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    sources = [bool(arguments.images), arguments.camera is not None, arguments.folder is not None]
    if sum(sources) != 1:
        raise InputError("one of IMAGE..., --camera N and --folder DIR is required, received " + ("none." if not any(sources) else "more."))
    if arguments.csv is not None and arguments.folder is None:
        raise InputError("expected --csv FILE with --folder DIR, received it without. Leave it out.")
    for image in arguments.images:
        if os.path.isdir(image):
            raise InputError(f"expected picture files, received {image!r}, which is a folder. `--folder {image}` classifies all pictures in it.")
    images = arguments.images if arguments.folder is None else folder.find_pictures(arguments.folder)
    classifier = open_bundle(arguments.bundle, arguments.recipe, arguments.threads, arguments.size)
    arguments.top_k = arguments.top_k or classifier.default_top_k
    arguments.threshold = classifier.default_threshold if arguments.threshold is None else arguments.threshold
    overlays = _open_overlays(arguments, images)
    if arguments.camera is not None:
        return _run_camera(classifier, arguments, overlays)
    if arguments.folder is not None:
        return _run_folder(classifier, arguments, images, overlays)
    for image in images:
        result, picture = classifier.classify_and_keep(image, arguments.top_k, arguments.threshold)
        _draw(overlays, result, picture)
        _print(result, arguments)
        _raise_error(result)
    return 0


def _print(result, arguments):
    if arguments.json:
        say(json.dumps(result))
        return
    lines = [f"{printable(result['image'])} ({result['recipe']}: {_times(result)})"]
    lines += [f"  {100 * folder.amount(entry):5.1f} %  {printable(entry['label'])}{_place(entry)}" for entry in result["top"]]
    if not result["top"]:
        lines.append(f"  {_none(result)} reaches {100 * arguments.threshold:g} %")
    say("\n".join(lines))


def _none(result):
    return "nothing" if "size" in result else "no class"


def _place(entry):
    return "  at " + ", ".join(f"{side:g}" for side in entry["box"]) if "box" in entry else ""


def _draw(overlays, result, picture, again=False):
    """Enters into a result where its drawing is, or why there is none: the classes are known all the same."""
    if overlays is not None:
        try:
            result["overlay"] = str(overlays.write(result["image"], picture, result, again))
        except InputError as error:
            result["error"] = printable(str(error))


def _raise_error(result):
    if "error" in result:
        raise InputError(result["error"])


def _run_camera(classifier, arguments, overlays):
    def show(result, picture):
        _draw(overlays, result, picture, again=True)
        top = ", ".join(f"{100 * folder.amount(entry):.1f} % {printable(entry['label'])}{_place(entry)}" for entry in result["top"])
        line = f"{result['image']}, picture {result['frame']} ({_times(result)}): {top or _none(result)}"
        say(json.dumps(result) if arguments.json else line)
        _raise_error(result)

    count, times = camera.watch(classifier, arguments.camera, show, arguments.top_k, arguments.threshold)
    of = f" of the last {len(times)}" if count > len(times) else ""
    say(f"{count} pictures{_median(times)}{of}", file=sys.stderr if arguments.json else sys.stdout)
    return 0


def _run_folder(classifier, arguments, images, overlays):
    path = arguments.csv or (None if arguments.json else "results.csv")
    top_k = min(arguments.top_k, classifier.most_answers)
    failed = 0
    with folder.open_table(path, top_k, classifier.task) if path else contextlib.nullcontext() as write_row:

        def write(result, picture):
            nonlocal failed
            if picture is not None:
                _draw(overlays, result, picture)
            failed += "error" in result
            if write_row:
                write_row(folder.row(result, top_k, classifier.task))
            if arguments.json:
                say(json.dumps(result))

        # Lines on the terminal show by themselves how far it is.
        bar = not (arguments.json and sys.stdout.isatty())
        times = folder.classify_folder(classifier, images, write, top_k, arguments.threshold, bar)
    classified = f"{len(times)} of " * (len(times) < len(images)) + f"{len(images)} pictures"
    summary = classified + _median(times) + (f", in {path}" if path else "")
    say(summary, file=sys.stderr if arguments.json else sys.stdout)
    if failed:
        what = "classified or drawn" if overlays else "classified"
        print(f"error: {failed} of {len(images)} pictures could not be {what}; their `error` says why", file=sys.stderr)
    return 1 if failed else 0


def _open_overlays(arguments, images):
    if arguments.save_overlay is None:
        return None
    inside = os.path.join(os.path.realpath(arguments.folder or ""), "")
    if arguments.folder is not None and os.path.join(os.path.realpath(arguments.save_overlay), "").startswith(inside):
        raise InputError(
            f"expected a folder for --save-overlay outside of --folder {arguments.folder!r}, whose pictures the next run would take them for, "
            f"received {arguments.save_overlay!r}. Name another one."
        )
    from .overlay import Overlays  # which takes time to import

    return Overlays(arguments.save_overlay, images)


def _times(result):
    return ", ".join(f"{part} {value:.1f} ms" for part, value in result["ms"].items())


def _median(times):
    return f", median {np.median(times):.1f} ms, p90 {np.percentile(times, 90):.1f} ms" if times else ""


def main(argv=None, prog="python -m edge_demo", description="Classifies pictures with a bundle.", add_arguments=add_arguments, run=run):
    """Runs this command, or another of this folder, and returns its exit code."""
    parser = _Parser(prog=prog, description=description)
    add_arguments(parser)
    code, line = 2, None
    try:
        interrupt.raise_again()
        code = run(parser.parse_args(argv)) or 0
    except SystemExit as end:  # of `--help`
        code = end.code or 0
    except KeyboardInterrupt:
        code, line = 130, "interrupted"
    except BrokenPipeError:
        code = CLOSED_PIPE
    except MemoryError:
        line = "error: expected more memory than there is. Use a smaller file of the bundle, or smaller pictures."
    except (InputError, OSError) as error:
        line = f"error: {printable(_words(error))}"
    return finish_output(code, line)


def _words(error):
    if isinstance(error, OSError) and error.filename is not None:
        return f"expected to read or write {os.fsdecode(error.filename)!r}, received: {error.strerror}. Check its path and its permissions."
    return str(error)


def finish_output(code, line=None):
    """Writes out what was printed, then a line to standard error.

    Returns:
        The given code, or 141 where nobody reads the output any more, or 2, with another line, where it cannot be written.
    """
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        code, line = 2, f"error: {unwritten(error)}"
        if isinstance(error, BrokenPipeError):
            code, line = CLOSED_PIPE, None
        # Python would complain once more, and end with code 120, when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if line is not None:
        print(line, file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
