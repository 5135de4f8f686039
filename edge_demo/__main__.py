"""`python -m edge_demo IMAGE... --bundle DIR`: the most likely classes of each picture, and the time it took."""

import argparse
import json
import os
import sys

from .classifier import Classifier
from .errors import InputError


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise InputError(f"{message}. `{self.prog} --help` shows the usage.")


def positive_integer(text):
    """An argparse type: a whole number from 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, received {text!r}")
    return int(text)


def add_arguments(parser):
    """Adds what this command takes; `swin-keras classify` takes the same."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="picture files")
    parser.add_argument("--bundle", required=True, metavar="DIR", help="folder with model.json")
    parser.add_argument("--recipe", metavar="NAME", help="file of the bundle to run (default: the one recommended for a CPU)")
    parser.add_argument("--top-k", type=positive_integer, default=5, metavar="K", help="number of classes to show (default: 5)")
    parser.add_argument("--threads", type=positive_integer, default=2, metavar="N", help="(default: 2)")
    parser.add_argument("--json", action="store_true", help="print one line of JSON for each picture")


def run(arguments):
    """Classifies the pictures and prints the result; raises `InputError` at the first that cannot be read."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name may hold what the terminal cannot show
    classifier = Classifier(arguments.bundle, arguments.recipe, arguments.threads)
    for image in arguments.images:
        result = classifier.classify(image, arguments.top_k)
        if arguments.json:
            print(json.dumps(result), flush=True)
            continue
        ms = ", ".join(f"{part} {value:.1f} ms" for part, value in result["ms"].items())
        print(f"{result['image']} ({result['recipe']}: {ms})")
        for entry in result["top"]:
            print(f"  {100 * entry['probability']:5.1f} %  {entry['label']}", flush=True)


def main(argv=None, prog="python -m edge_demo", description="Classifies pictures with a bundle.", add_arguments=add_arguments, run=run):
    """Runs this command, or another of this folder, and returns its exit code."""
    parser = _Parser(prog=prog, description=description)
    add_arguments(parser)
    try:
        run(parser.parse_args(argv))
    except BrokenPipeError:
        # Whoever read the output has what it wanted; Python would complain once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (InputError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
