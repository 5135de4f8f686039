"""The report of a bundle: as JSON for programs, as Markdown for people."""

import json

from swin_keras.edge_demo.bench import coverage_in_words
from swin_keras.export import charts
from swin_keras.export.recipes import RECIPES

# In the folder report/ of a bundle.
PICTURES = ("recipes.png", "products.png")


def table(report):
    """Returns the lines of a Markdown table: recipe, size, accuracy, agreement with Keras, latency, memory."""
    lines = [
        "| recipe | size | top-1 | agreement with Keras | SNR | latency, median | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    if report["keras"]["top1"] is not None:
        lines.append(f"| Keras | | {_percent(report['keras']['top1'])} | | | | |")
    for recipe, measured in report["recipes"].items():
        fidelity = measured["fidelity"]
        lines.append(
            f"| {recipe} | {measured['bytes'] / 1e6:.2f} MB | {_percent(measured['top1'])} | {_percent(fidelity['top1_agreement'])} "
            f"| {fidelity['snr_db']:.1f} dB | {_latency(measured)} | {_memory(measured)} |"
        )
    return lines


def _signature_table(measured):
    lines = ["| signature | agreement with Keras | SNR | latency, median |", "|---|---|---|---|"]
    for key, row in {"serving_default": measured, **measured["signatures"]}.items():
        fidelity = row["fidelity"]
        lines.append(f"| {key} | {_percent(fidelity['top1_agreement'])} | {fidelity['snr_db']:.1f} dB | {_latency(row)} |")
    return lines


def verdict(report, recipe):
    """Says in a sentence what a recipe costs and gains."""
    measured, limit = report["recipes"][recipe], RECIPES[recipe].min_snr_db
    fidelity, top1, reference = measured["fidelity"], measured["top1"], report["keras"]["top1"]
    if limit is None:
        words = [f"differs from Keras by at most {fidelity['max_abs_diff']:.2g}"]
    else:
        words = [f"{fidelity['snr_db']:.1f} dB, {limit:.0f} required"]
    if top1 is not None:
        words.append(f"{100 * (reference - top1):.2f} points of top-1 lost")
    elif fidelity["top1_agreement"] is not None:
        words.append(f"same top-1 as Keras on {_percent(fidelity['top1_agreement'])}")
    plain = report["recipes"].get("float32")
    if plain and recipe != "float32":
        words.append(f"{measured['bytes'] / plain['bytes']:.2f} of float32's size")
        if measured["latency_ms"]:
            words.append(f"{measured['latency_ms']['median'] / plain['latency_ms']['median']:.2f} of its time here")
    if measured.get("kept_float"):
        words.append(f"left in float32: {', '.join(measured['kept_float'])}")
    return "ships: " + "; ".join(words)


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
    """Writes report.json, report.md and report/*.png into a folder."""
    for recipe, measured in report["recipes"].items():
        measured["verdict"] = verdict(report, recipe)
    series = {recipe: measured["products_snr_db"] for recipe, measured in report["recipes"].items() if measured.get("products_snr_db")}
    bars = {
        recipe: {
            "size, MB": measured["bytes"] / 1e6,
            "latency, ms": (measured["latency_ms"] or {}).get("median"),
            "peak memory, MB": measured["peak_memory_mb"],
        }
        for recipe, measured in report["recipes"].items()
    }
    (folder / "report").mkdir()
    charts.draw_recipes(bars, folder / "report" / PICTURES[0])
    if series:
        charts.draw_products(series, folder / "report" / PICTURES[1])
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    samples = next(iter(report["recipes"].values()))["fidelity"]["samples"]
    latency = next((measured["latency_ms"] for measured in report["recipes"].values() if measured["latency_ms"]), None)
    machine = report["machine"]
    lines = [
        f"# {report['model']['name']}",
        "",
        f"{report['model']['parameters']:,} parameters, input {'x'.join(map(str, report['model']['input']))}, {report['model']['layout']} layout.",
        "",
        *table(report),
        "",
        f"Agreement and SNR on {samples} {report['model']['fidelity_on']}. Peak memory of a process that loads the file with ai-edge-litert "
        f"{machine['ai_edge_litert']} and runs it once. "
        + (f"Latency with {latency['threads']} threads, {latency['runs']} runs taking turns. " if latency else "")
        + f"Machine: {machine['processor'] or machine['architecture']}, {machine['cores']} cores.",
        "",
        "![Size, latency and peak memory of each recipe](report/recipes.png)",
        "",
    ]
    if series:
        lines += ["![SNR of the output of each matrix product](report/products.png)", ""]
    for recipe, measured in report["recipes"].items():
        lines += [
            f"## {recipe}",
            "",
            f"{RECIPES[recipe].summary[0].upper()}{RECIPES[recipe].summary[1:]}.",
            "",
            f"S{measured['verdict'][1:]}.",
            "",
        ]
        noise = measured["fidelity_on_noise"]
        lines += [f"On {noise['samples']} pictures of seeded noise: {noise['snr_db']:.1f} dB.", ""]
        if measured.get("signatures"):
            lines += [*_signature_table(measured), ""]
        if measured["delegate"]:
            operators = ", ".join(f"{count} {operator}" for operator, count in measured["ops"].items())
            lines += [f"XNNPACK runs {coverage_in_words(measured['delegate'])}.", "", f"Operators: {operators}.", ""]
        if measured.get("products_snr_db"):
            worst = sorted(measured["products_snr_db"].items(), key=lambda item: item[1])[:5]
            lines += ["Furthest from float32: " + ", ".join(f"{name} ({snr:.1f} dB)" for name, snr in worst) + ".", ""]
    (folder / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _latency(measured):
    return "" if measured["latency_ms"] is None else f"{measured['latency_ms']['median']:.2f} ms"


def _memory(measured):
    return "" if measured["peak_memory_mb"] is None else f"{measured['peak_memory_mb']:.0f} MB"


def _percent(fraction):
    return "" if fraction is None else f"{100 * fraction:.2f} %"
