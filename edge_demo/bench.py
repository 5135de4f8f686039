"""`python -m edge_demo.bench --bundle DIR`: the time and memory that each file of a bundle takes on this machine, and what XNNPACK runs of it."""

import collections
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import time

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from . import __main__ as edge_main
from .bundle import find_file, read_bundle, read_file
from .classifier import MAX_THREADS, TFLiteModel, check_threads
from .errors import InputError, words
from .first_run import LOAD_AND_RUN, check_first_run, load_and_run_arguments, run_alone
from .quiet import quietly

RUNS = 20
FRESH_PROCESS_TIMEOUT = 600  # seconds


def measure_latencies(runners, picture, threads, runs=RUNS):
    """Times each model on this machine, taking turns so that all see the same load.

    Args:
        runners: Dictionary from recipe to a function of one picture.
        picture: float32 array `(1, height, width, channels)`.
        threads: Integer. For the record.
        runs: Integer. How often each is timed, after a run that is not: the threads of the model before it may still be spinning, and have left
            another's numbers in the caches.

    Returns:
        Dictionary from recipe to `median` and `p90` in milliseconds, the number of `runs` and of `threads`.
    """
    times = {recipe: [] for recipe in runners}
    for _ in range(runs):
        for recipe, run in runners.items():
            run(picture)
            started = time.perf_counter()
            run(picture)
            times[recipe].append(1000 * (time.perf_counter() - started))
    return {
        recipe: {"median": float(np.median(ms)), "p90": float(np.percentile(ms, 90)), "runs": runs, "threads": threads}
        for recipe, ms in times.items()
    }


def measure_fresh_process(content, recipe, threads, log=lambda line: None):
    """Measures a process that loads a .tflite file, given as bytes, runs it once, and does nothing else.

    Args:
        content: Bytes.
        recipe: String for messages.
        threads: Integer.
        log: Function that is called with a line.

    Returns:
        A dictionary: `load_ms`, without reading from disk, and `peak_memory_mb` in 10^6 bytes, of which Python, numpy and the
        runtime take some 36, or `None` on Windows. Both are `None` where the process fails; `log` is called with a line that says why.

    Raises:
        InputError: If the process has not ended after ten minutes.
    """
    try:
        output, reason = run_alone(LOAD_AND_RUN, load_and_run_arguments(threads), FRESH_PROCESS_TIMEOUT, content)
    except subprocess.TimeoutExpired:
        limit = f"{FRESH_PROCESS_TIMEOUT:g} seconds"
        raise InputError(f"expected the recipe {recipe!r} to load and run once within {limit}, which it did not. Leave it out.") from None
    if reason is None:
        return json.loads(output.splitlines()[-1])
    log(f"{recipe}: load time and peak memory are unknown, the process that loads it ended with {reason}")
    return {"load_ms": None, "peak_memory_mb": None}


def delegate_coverage(model):
    """Says how much of a .tflite file, given as bytes, XNNPACK runs.

    Returns:
        A dictionary: `nodes` of the graph, how many of them are `delegated`, in how many `partitions`, and the operators
        that are `left` with their counts.
    """
    plain = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    delegated = Interpreter(model_content=model)
    plain.allocate_tensors()
    quietly(delegated.allocate_tensors)
    # There is no public list of a graph's nodes. tests/edge_demo/test_bench.py notices if this one changes.
    nodes = plain._get_ops_details()
    partitions = [node for node in delegated._get_ops_details() if node["op_name"] == "DELEGATE"]

    producer = {int(tensor): node for node in nodes for tensor in node["outputs"]}
    covered = set()
    for partition in partitions:
        inputs, waiting = {int(tensor) for tensor in partition["inputs"]}, [int(tensor) for tensor in partition["outputs"]]
        while waiting:
            tensor = waiting.pop()
            node = producer.get(tensor)
            if node is None or tensor in inputs or node["index"] in covered:
                continue
            covered.add(node["index"])
            waiting += [int(t) for t in node["inputs"] if t >= 0]
    left = collections.Counter(node["op_name"] for node in nodes if node["index"] not in covered)
    return {"nodes": len(nodes), "delegated": len(covered), "partitions": len(partitions), "left": dict(left)}


def describe_machine():
    """Returns `architecture`, `processor` (`None` if unknown), `cores`, `os` and the version of `ai_edge_litert`."""
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.*\S)", text, re.MULTILINE)  # of PCs, boards and phones
    return {
        "architecture": platform.machine(),
        "processor": named[1] if named else platform.processor() or None,
        "cores": os.cpu_count(),
        "os": f"{platform.system()} {platform.release()}",
        "ai_edge_litert": importlib.metadata.version("ai-edge-litert"),
    }


def measure_bundle(bundle, recipes=None, threads=2, runs=RUNS, log=lambda line: None):
    """Measures the files of a bundle on this machine, with seeded noise as the picture; of a file's signatures the first.

    Args:
        bundle: Path of the folder with model.json.
        recipes: Which files. Defaults to all. What is no .tflite file is skipped.
        threads: Integer, from 1 to 64.
        runs: Integer. How often each file is timed.
        log: Function that is called with a line of progress, or about what is left out.

    Returns:
        A dictionary: `machine`, and `recipes` with `bytes`, `load_ms`, `latency_ms`, `peak_memory_mb` and `delegate` of each.

    Raises:
        InputError: If the bundle, a recipe or the number of threads cannot be used, or a file's sha256 does not match.
    """
    check_threads(threads)
    description = read_bundle(bundle, task=None)
    files = {file["recipe"]: file["file"] for file in description["files"]}
    contents = {}
    for recipe in dict.fromkeys(recipes or files):
        if recipe in files and not files[recipe].endswith(".tflite"):
            log(f"{recipe}: skipped, it is no .tflite file")
        else:
            contents[recipe] = read_file(bundle, description, recipe)
    if not contents:
        raise InputError("expected a recipe that is a .tflite file, received none. Name another one, or export the bundle again with one.")

    picture = np.random.default_rng(0).standard_normal(description["input"]["shape"], dtype="float32")
    coverages, fresh = {}, {}
    for recipe, content in contents.items():
        log(f"{recipe}: loading in a process of its own")
        check_first_run(content, find_file(description, recipe)["sha256"], recipe, threads, thorough=True)
        try:
            coverages[recipe] = delegate_coverage(content)
            TFLiteModel(content, threads)(picture)  # What does not run, or takes pictures of another size, is found here.
        except (ValueError, RuntimeError, IndexError, MemoryError) as error:
            raise InputError(f"expected a .tflite file that runs here for the recipe {recipe!r}: {words(error)}. Export the bundle again.") from error
        fresh[recipe] = measure_fresh_process(content, recipe, threads, log)
    log("timing, in turns")
    try:
        # Only now all are in memory together: a small device may have needed it above.
        runners = {recipe: TFLiteModel(content, threads) for recipe, content in contents.items()}
        latencies = measure_latencies(runners, picture, threads, runs)
    except (ValueError, RuntimeError, MemoryError) as error:
        names = ", ".join(contents)
        raise InputError(
            f"expected the recipes {names} to run in memory together: {words(error)}. Measure fewer at a time, with --recipe."
        ) from error
    measured = {
        recipe: {"bytes": len(content), **fresh[recipe], "latency_ms": latencies[recipe], "delegate": coverages[recipe]}
        for recipe, content in contents.items()
    }
    return {"machine": describe_machine(), "recipes": measured}


def coverage_in_words(coverage):
    """Returns, for instance, "610 of 612 nodes, 2 partitions, left: 2 GATHER"."""
    words = f"{coverage['delegated']} of {coverage['nodes']} nodes, {coverage['partitions']} partition{'s' * (coverage['partitions'] != 1)}"
    return words + (", left: " if coverage["left"] else "") + ", ".join(f"{count} {operator}" for operator, count in coverage["left"].items())


def table(measured):
    """Returns lines of text: the machine, then a row for each recipe."""
    machine, latency = measured["machine"], next(iter(measured["recipes"].values()))["latency_ms"]
    known = [machine["architecture"], machine["processor"], f"{machine['cores']} cores", machine["os"], f"ai-edge-litert {machine['ai_edge_litert']}"]
    lines = [", ".join([*filter(None, known), f"threads {latency['threads']}", f"runs {latency['runs']} in turns"])]
    lines.append(f"{'recipe':13} {'size':>10} {'load':>11} {'median':>11} {'p90':>11} {'peak memory':>11}  XNNPACK")
    for recipe, row in measured["recipes"].items():
        numbers = row["bytes"] / 1e6, row["load_ms"], row["latency_ms"]["median"], row["latency_ms"]["p90"], row["peak_memory_mb"]
        cells = ["unknown" if x is None else f"{x:.2f} {unit}" for x, unit in zip(numbers, ("MB", "ms", "ms", "ms", "MB"), strict=True)]
        lines.append(f"{recipe:13} {cells[0]:>10} " + " ".join(f"{cell:>11}" for cell in cells[1:]) + f"  {coverage_in_words(row['delegate'])}")
    return lines


def add_arguments(parser):
    """Adds what this command takes; `swin-keras bench` takes the same."""
    parser.add_argument("--bundle", type=edge_main.not_empty, default="bundle", metavar="DIR", help="folder with model.json (default: bundle)")
    parser.add_argument("--recipe", action="append", metavar="NAME", help="file of the bundle to measure; repeats (default: all)")
    parser.add_argument("--threads", type=edge_main.thread_count, default=2, metavar="N", help=f"from 1 to {MAX_THREADS} (default: 2)")
    parser.add_argument("--runs", type=edge_main.positive_integer, default=RUNS, metavar="N", help=f"of each file (default: {RUNS})")
    parser.add_argument("--json", action="store_true", help="print the line of JSON alone")


def run(arguments):
    """Measures a bundle and prints the result, of which the last line is JSON; progress goes to standard error."""
    measured = measure_bundle(arguments.bundle, arguments.recipe, arguments.threads, arguments.runs, log=lambda line: print(line, file=sys.stderr))
    edge_main.say("\n".join([*([] if arguments.json else table(measured)), json.dumps(measured)]))


if __name__ == "__main__":
    sys.exit(edge_main.main(prog="python -m edge_demo.bench", description="Measures a bundle on this machine.", add_arguments=add_arguments, run=run))
