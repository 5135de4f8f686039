"""Published accuracy beside measured latency: Swin T, S, B and L, ViT-B/16 and EfficientNet-B7, on one machine, in one run.

.venv/bin/python benchmarks/claims/accuracy_latency.py > benchmarks/claims/results/accuracy_latency.md

It also draws benchmarks/claims/results/accuracy_latency.svg. All models live in one process, have random weights, each the picture size of its
published accuracy, and take turns in a new order each time, so that what slows the machine slows all.
"""

import argparse
import dataclasses
import pathlib
import platform
import random
import statistics
import sys
import time

import numpy as np

COLOURS = {"swin": "#0072b2", "ViT-B/16": "#d55e00", "EfficientNet-B7": "#009e73"}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model, and what is published of it.

    Attributes:
        name: As it is printed and drawn.
        size: Integer. Pixels along a side, of the published accuracy.
        data: What it was trained on before its accuracy on ImageNet-1K was measured.
        top1: Float, per cent.
        flops: Number. Multiply-adds for one picture.
        source: Where the accuracy stands.
        variant: Key of `VARIANTS`, or `None` for a peer.
    """

    name: str
    size: int
    data: str
    top1: float
    flops: float
    source: str
    variant: str | None = None


def candidates():
    """Returns the four sizes of Swin, of which multiply-adds are counted, and two peers with those of their papers."""
    import swin_keras

    found = []
    for size in ("tiny", "small", "base", "large"):
        variant = f"swin_{size}_patch4_window7_224"
        row = swin_keras.VARIANTS[variant]
        found.append(Candidate(f"Swin-{size[0].upper()}", row.image_size, row.data, row.top1, row.flops, row.source, variant))
    vit = Candidate("ViT-B/16", 384, "ImageNet-1K", 77.9, 55.4e9, "https://arxiv.org/abs/2010.11929, table 5")
    return [*found, vit, Candidate("EfficientNet-B7", 600, "ImageNet-1K", 84.3, 37.0e9, "https://arxiv.org/abs/1905.11946, table 2")]


def build(candidate):
    """Returns the model with random weights."""
    import keras

    shape = (candidate.size, candidate.size, 3)
    if candidate.name == "EfficientNet-B7":
        return keras.applications.EfficientNetB7(weights=None, input_shape=shape)
    if candidate.name == "ViT-B/16":
        import keras_hub

        sizes = {"patch_size": 16, "num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
        body = keras_hub.models.ViTBackbone(image_shape=shape, **sizes)
        return keras.Model(body.input, keras.layers.Dense(1000)(body.output[:, 0]))
    import swin_keras

    return swin_keras.create_model(candidate.variant, input_shape=shape)


def measure(found, rounds):
    """Returns for each candidate its parameters and the milliseconds of each run."""
    import tensorflow as tf

    rng, runs, rows = np.random.default_rng(0), {}, {}
    for candidate in found:
        model = build(candidate)
        picture = tf.constant(rng.standard_normal((1, candidate.size, candidate.size, 3)), "float32")
        compiled = tf.function(lambda x, model=model: model(x, training=False)).get_concrete_function(tf.TensorSpec(picture.shape))
        runs[candidate.name] = lambda compiled=compiled, picture=picture: compiled(picture)
        rows[candidate.name] = {"parameters": model.count_params(), "times": []}
        print(candidate.name, file=sys.stderr, flush=True)
    order = list(runs)
    for number in range(rounds + 1):
        random.Random(number).shuffle(order)
        for name in order:
            started = time.perf_counter()
            runs[name]()
            if number:  # the first round warms up
                rows[name]["times"].append(1000 * (time.perf_counter() - started))
    return rows


def report(found, rows):
    """Returns the table as lines of markdown."""
    first = statistics.median(rows[found[0].name]["times"])
    lines = [
        f"| model | pixels | trained on | top-1, published | parameters | multiply-adds | latency | by {found[0].name} | source |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for own in found:
        row = rows[own.name]
        median = statistics.median(row["times"])
        lines.append(
            f"| {own.name} | {own.size} × {own.size} | {own.data} | {own.top1:.1f} % | {row['parameters'] / 1e6:.1f} M | {own.flops / 1e9:.1f} G "
            f"| {median:,.0f} ms | {median / first:.2f} | {own.source} |"
        )
    return lines


def draw(found, rows, path):
    """Draws accuracy over latency."""
    sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "docs"))
    from draw import Drawing

    drawing, left, top, width, height = Drawing(720, 440), 60, 40, 560, 320
    times = {own.name: statistics.median(rows[own.name]["times"]) for own in found}
    low, high = np.log(min(times.values()) / 1.3), np.log(max(times.values()) * 1.3)

    def place(own):
        return left + width * (np.log(times[own.name]) - low) / (high - low), top + height * (88 - own.top1) / 12

    drawing.text(left + width / 2, 24, "top-1 on ImageNet-1K as published, over the latency measured here")
    drawing.rectangle(left, top, width, height, stroke="#868e96")
    for value in range(76, 89, 2):
        drawing.text(left - 8, top + height * (88 - value) / 12 + 4, f"{value} %", 11, "end")
    ours = [own for own in found if own.name.startswith("Swin") and "22K" not in own.data]
    drawing.line([place(own) for own in ours], COLOURS["swin"])
    for own in found:
        x, y = place(own)
        drawing.line([(x, y)], COLOURS.get(own.name, COLOURS["swin"]))
        drawing.text(x, y - 10, f"{own.name}, {own.size}{', 22K' if '22K' in own.data else ''}", 12)
        drawing.text(x, top + height + 18, f"{times[own.name]:,.0f} ms", 10)
    drawing.save(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    from swin_keras.export.bundle import versions

    found = candidates()
    rows = measure(found, rounds)
    draw(found, rows, pathlib.Path(__file__).parent / "results" / "accuracy_latency.svg")
    used = ", ".join(f"{name} {version}" for name, version in versions().items())
    how = f"one picture, Keras on {platform.machine()}, {rounds} runs each in turns, {used}"
    print(f"# Accuracy and latency\n\n`benchmarks/claims/accuracy_latency.py`, {how}\n")
    print("![The same as points](accuracy_latency.svg)\n")
    print("\n".join(report(found, rows)))
    print("\nMultiply-adds of ours are counted, those of the others are their papers'. Accuracies are their sources': nothing was trained here.")


if __name__ == "__main__":
    main()
