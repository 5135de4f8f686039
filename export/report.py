"""The report of a bundle: as JSON for programs, as Markdown for people."""

import json
import platform
import time

import numpy as np

WARM_UP, RUNS = 3, 20


def measure_latencies(runners, picture, threads):
    """Times each model on this machine, taking turns so that all see the same load.

    Args:
        runners: Dictionary from recipe to a function of one picture.
        picture: float32 array `(1, height, width, channels)`.
        threads: Integer. For the record.

    Returns:
        Dictionary from recipe to `median` and `p90` in milliseconds, the number of `runs` and of `threads`.
    """
    times = {recipe: [] for recipe in runners}
    for turn in range(WARM_UP + RUNS):
        for recipe, run in runners.items():
            started = time.perf_counter()
            run(picture)
            if turn >= WARM_UP:
                times[recipe].append(1000 * (time.perf_counter() - started))
    return {
        recipe: {"median": float(np.median(ms)), "p90": float(np.percentile(ms, 90)), "runs": RUNS, "threads": threads}
        for recipe, ms in times.items()
    }


def table(report):
    """Returns the lines of a Markdown table: recipe, size, accuracy, agreement with Keras, latency."""
    lines = [
        "| recipe | size | top-1 | agreement with Keras | SNR | latency, median |",
        "|---|---|---|---|---|---|",
    ]
    if report["keras"]["top1"] is not None:
        lines.append(f"| Keras | | {_percent(report['keras']['top1'])} | | | |")
    for recipe, measured in report["recipes"].items():
        fidelity = measured["fidelity"]
        lines.append(
            f"| {recipe} | {measured['bytes'] / 1e6:.2f} MB | {_percent(measured['top1'])} | {_percent(fidelity['top1_agreement'])} "
            f"| {fidelity['snr_db']:.1f} dB | {measured['latency_ms']['median']:.2f} ms |"
        )
    return lines


def read(folder):
    """Returns the report of a bundle.

    Raises:
        ValueError: If it is missing or damaged.
    """
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        table(report)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        path = str(folder / "report.json")
        raise ValueError(
            f"Expected the report of an export in {path!r} ({type(error).__name__}: {error}). Delete {str(folder)!r} and run again."
        ) from error
    return report


def write(report, folder):
    """Writes report.json and report.md into a folder."""
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    first = next(iter(report["recipes"].values()))
    lines = [
        f"# {report['model']['name']}",
        "",
        f"{report['model']['parameters']:,} parameters, input {'x'.join(map(str, report['model']['input']))}.",
        "",
        *table(report),
        "",
        f"Agreement and SNR on {first['fidelity']['samples']} {report['model']['fidelity_on']}. Latency on {platform.machine()}, "
        f"{first['latency_ms']['threads']} threads, {first['latency_ms']['runs']} runs taking turns.",
        "",
    ]
    for recipe, measured in report["recipes"].items():
        delegate = measured["delegate"]
        left = ", ".join(f"{count} {operator}" for operator, count in delegate["left"].items())
        partitions = f"{delegate['partitions']} partition{'s' if delegate['partitions'] != 1 else ''}"
        lines += [
            f"## {recipe}",
            "",
            f"XNNPACK runs {delegate['delegated']} of {delegate['nodes']} nodes in {partitions}{f'; left: {left}' if left else ''}.",
            "",
            "Operators: " + ", ".join(f"{count} {operator}" for operator, count in measured["ops"].items()) + ".",
            "",
        ]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _percent(fraction):
    return "" if fraction is None else f"{100 * fraction:.2f} %"
