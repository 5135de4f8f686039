"""The ablation of the paper's table 4, and of the mask, on data that is at hand: five seeds of each variant, with 95 % intervals.

.venv/bin/python benchmarks/claims/ablation.py digits --out data/digits
.venv/bin/python benchmarks/glyphs.py make --out data/glyphs
KERAS_BACKEND=jax python benchmarks/claims/ablation.py train --data data --out runs.jsonl
.venv/bin/python benchmarks/claims/ablation.py report --runs runs.jsonl > benchmarks/claims/results/ablation.md

`train` needs JAX, by which the seeds of a variant train at once, and a GPU. With the same seed, variants start with the same weights
where they have the same, and see the same pictures, turned and shifted the same way, in the same order.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
import time

import keras
import numpy as np

import swin_keras
from swin_keras.layers import SwinBlock, WindowAttention

SEEDS = 5
SMOOTHING, BATCH = 0.1, 64


@dataclasses.dataclass(frozen=True)
class Data:
    """A data set, and how a model is trained on it: as recipe `small` on digits, as benchmarks/glyphs.py on glyphs."""

    side: int
    classes: int
    changes: dict
    epochs: int
    warmup_epochs: int
    learning_rate: float
    weight_decay: float


DATA = {
    "digits": Data(32, 10, {}, 100, 5, 4e-3, 0.5),
    "glyphs": Data(64, 63, {"embed_dim": 32, "depths": (2, 2, 4), "num_heads": (2, 4, 8)}, 7, 1, 1e-3, 0.1),
}


class UnmaskedBlock(SwinBlock):
    """A block whose shifted windows at the edges mix what the shift brought together from opposite ends of the picture."""

    def _build_mixer(self, input_shape):
        super()._build_mixer(input_shape)
        self.attention_mask = None


class BiasAttention(WindowAttention):
    """Attention by the position bias alone: without `q k^T`, "rel. pos. w/o app." in the paper."""

    def _similarity(self, q, k):
        return keras.ops.zeros_like(super()._similarity(q, k))


class BiasBlock(SwinBlock):
    def _make_attention(self, **kwargs):
        return BiasAttention(**kwargs)


# Arguments of the model, the class of its blocks, and the paper's top-1 of Swin-T on ImageNet.
FULL = "full"
VARIANTS = {
    FULL: ({}, SwinBlock, 81.3),
    "not shifted": ({"shifted_windows": False}, SwinBlock, 80.2),
    "no position": ({"relative_position_bias": False}, SwinBlock, 80.1),
    "absolute": ({"relative_position_bias": False, "absolute_position_embedding": True}, SwinBlock, 80.5),
    "absolute and relative": ({"absolute_position_embedding": True}, SwinBlock, 81.3),
    "relative without q k": ({}, BiasBlock, 79.3),
    "no mask": ({}, UnmaskedBlock, None),
}


def build(variant, data):
    """Returns the model of a variant for a data set."""
    arguments, block, _ = VARIANTS[variant]
    model = swin_keras.create_model(
        "swin_nano_patch4_window4_32",
        input_shape=(data.side, data.side, 3),
        num_classes=data.classes,
        drop_path_rate=0.0,
        **data.changes,
        **arguments,
    )
    if block is SwinBlock:
        return model
    return keras.models.clone_model(
        model, clone_function=lambda layer: (block if isinstance(layer, SwinBlock) else type(layer)).from_config(layer.get_config())
    )


def digits(out):
    """Writes the digits as `load_data` splits and resizes them, in the form that benchmarks/glyphs.py writes."""
    from swin_keras import training

    out.mkdir(parents=True, exist_ok=True)
    data = training.load_data("digits", (32, 32, 3))
    for split in ("train", "test"):
        pictures, classes = data.pixels(split)
        np.savez(out / f"{split}.npz", pictures=pictures, classes=classes)


def read(folder, side):
    """Returns pictures, of which it cuts out the centre, and classes of both splits."""
    splits = {}
    for split in ("train", "test"):
        with np.load(folder / f"{split}.npz") as file:
            pictures, classes = file["pictures"], file["classes"].astype("int32")
        margin = (pictures.shape[1] - side) // 2
        splits[split] = np.ascontiguousarray(pictures[:, margin : margin + side, margin : margin + side]), classes
    return splits


def moved(pictures, random):
    """Rotates, slants, zooms and shifts each picture, as recipe `small` does, by six numbers from -1 to 1 each `(batch, 6)`."""
    side = pictures.shape[1]
    angle, slant, zoom_x, zoom_y, shift_x, shift_y = keras.ops.unstack(random, 6, axis=1)
    angle, slant = angle * np.radians(10), keras.ops.tan(slant * np.radians(7))
    zoom_x, zoom_y, shift_x, shift_y = 1 + 0.07 * zoom_x, 1 + 0.07 * zoom_y, 0.07 * side * shift_x, 0.07 * side * shift_y
    cos, sin = keras.ops.cos(angle), keras.ops.sin(angle)
    a, b, c, d = cos * zoom_x, (cos * slant - sin) * zoom_y, sin * zoom_x, (sin * slant + cos) * zoom_y
    centre = (side - 1) / 2
    x0, y0 = centre + shift_x - (a + b) * centre, centre + shift_y - (c + d) * centre
    transforms = keras.ops.stack([a, b, x0, c, d, y0, 0 * a, 0 * a], axis=1)
    return keras.ops.image.affine_transform(pictures, transforms, interpolation="bilinear", fill_mode="constant", data_format="channels_last")


def initial_weights(data):
    """Returns for each path of a weight its values for all seeds, of the variant that has all weights."""
    values = {}
    for seed in range(SEEDS):
        keras.utils.set_random_seed(seed)
        for variable in build("absolute and relative", data).trainable_variables:
            values.setdefault(variable.path, []).append(np.asarray(variable))
    return {path: np.stack(arrays) for path, arrays in values.items()}


def train_variant(folder, name, variant, epochs):
    """Trains all seeds of a variant at once. Returns what is to be reported of them."""
    import jax

    began = time.perf_counter()
    data, splits = DATA[name], jax.device_put(read(folder / name, DATA[name].side))
    epochs = epochs or data.epochs
    count = len(splits["train"][1])
    steps = count // BATCH
    model = build(variant, data)
    warmup = min(data.warmup_epochs, epochs // 2) * steps
    start = 0.0 if warmup else data.learning_rate
    schedule = keras.optimizers.schedules.CosineDecay(
        start, epochs * steps - warmup, alpha=0.01, warmup_target=data.learning_rate if warmup else None, warmup_steps=warmup
    )
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=data.weight_decay, global_clipnorm=5.0)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "^embedding$"])
    optimizer.build(model.trainable_variables)
    weights = initial_weights(data)
    trainable = [jax.numpy.asarray(weights[variable.path]) for variable in model.trainable_variables]
    slots = [jax.numpy.stack([variable.value] * SEEDS) for variable in optimizer.variables]
    sample = np.asarray(splits["train"][0][::7]) / np.float32(255)
    mean, deviation = sample.mean(), sample.std()

    def logits(trainable, pictures, training=False):
        return model.stateless_call(trainable, [], (pictures - mean) / deviation, training=training)[0]

    def loss(trainable, pictures, classes):
        target = keras.ops.one_hot(classes, data.classes) * (1 - SMOOTHING) + SMOOTHING / data.classes
        return keras.ops.mean(keras.ops.categorical_crossentropy(target, logits(trainable, pictures, training=True), from_logits=True))

    # Of one seed; `vmap` makes them functions of all.
    def train_epoch(trainable, slots, pictures, classes, rows, key):
        def step(state, drawn):
            trainable, slots = state
            rows, key = drawn
            changed = moved(pictures[rows].astype("float32") / 255, jax.random.uniform(key, (BATCH, 6), minval=-1.0))
            value, gradients = jax.value_and_grad(loss)(trainable, changed, classes[rows])
            return optimizer.stateless_apply(slots, gradients, trainable), value

        state, losses = jax.lax.scan(step, (trainable, slots), (rows, jax.random.split(key, steps)))
        return (*state, losses.mean())

    def accuracy(trainable, pictures, classes):
        parts = pictures.reshape(10, -1, *pictures.shape[1:])
        chosen = jax.lax.map(lambda part: logits(trainable, part.astype("float32") / 255).argmax(-1), parts)
        return (chosen.reshape(-1) == classes).mean()

    train_epoch = jax.jit(jax.vmap(train_epoch, (0, 0, None, None, 0, 0)), donate_argnums=(0, 1))
    accuracy = jax.jit(jax.vmap(accuracy, (0, None, None)))
    for epoch in range(epochs):
        orders = [np.random.default_rng((seed, epoch)).permutation(count)[: steps * BATCH] for seed in range(SEEDS)]
        rows = np.stack(orders).reshape(SEEDS, steps, BATCH).astype("int32")
        keys = jax.vmap(lambda seed, epoch=epoch: jax.random.fold_in(jax.random.key(seed), epoch))(np.arange(SEEDS))
        trainable, slots, losses = train_epoch(trainable, slots, *splits["train"], rows, keys)
        if epoch == 0 or epoch % (epochs // 7 or 1) == 0:
            losses.block_until_ready()
            print(f"{time.perf_counter() - began:5.0f} s  {name}, {variant}: epoch {epoch + 1} of {epochs}, loss {losses.mean():.3f}", flush=True)
    return {
        "data": name,
        "variant": variant,
        "accuracies": accuracy(trainable, *splits["test"]).tolist(),
        "losses": losses.tolist(),
        "epochs": epochs,
        "pictures": {split: len(classes) for split, (_, classes) in splits.items()},
        "parameters": model.count_params(),
        "seconds": time.perf_counter() - began,
        "on": f"one {jax.devices()[0].device_kind}, JAX {jax.__version__}, Keras {keras.__version__}",
    }


def train(data, out, only, variants, epochs):
    """Writes a line of JSON for each variant of each data set."""
    # Most of the time goes to compiling, so each variant has a process; each takes of the GPU's memory what it needs.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(len(variants or VARIANTS), context) as pool, open(out, "w") as file:
        jobs = [pool.submit(train_variant, data, name, variant, epochs) for name in only or DATA for variant in variants or VARIANTS]
        for job in concurrent.futures.as_completed(jobs):
            print(json.dumps(job.result()), file=file, flush=True)


def interval(values):
    """Returns the mean and half the width of its 95 % interval, by Student's t."""
    from scipy import stats

    return np.mean(values), stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))


def report(runs):
    """Prints tables of accuracies, and of how far each variant is from the whole model, seed by seed."""
    lines = [json.loads(line) for line in runs.read_text().splitlines()]
    machines = ", ".join(sorted({line["on"] for line in lines}))
    print(f"# The paper's table 4 on small data\n\n{machines}. {SEEDS} seeds; intervals of 95 % by Student's t.")
    for name in DATA:
        of = {line["variant"]: line for line in lines if line["data"] == name}
        if FULL not in of:
            continue
        pictures = of[FULL]["pictures"]
        print(f"\n## {name}: {of[FULL]['epochs']} epochs of {pictures['train']:,} pictures, tested on {pictures['test']:,}\n")
        print("| variant | test accuracy, % | minus the full model | each seed, % | last loss | weights | the paper, ImageNet |")
        print("|---|---|---|---|---|---|---|")
        for variant, (_, _, published) in VARIANTS.items():
            if variant not in of:
                continue
            accuracies, full = (100 * np.array(of[which]["accuracies"]) for which in (variant, FULL))
            mean, half = interval(accuracies)
            difference = "" if variant == FULL else "{:+.2f} ± {:.2f}".format(*interval(accuracies - full))
            seeds = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
            print(f"| {variant} | {mean:.2f} ± {half:.2f} | {difference} | {seeds} | {np.mean(of[variant]['losses']):.3f} | ", end="")
            print(f"{of[variant]['parameters']:,} | {published or ''} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("digits")
    command.set_defaults(function=digits)
    command.add_argument("--out", type=pathlib.Path, required=True)
    command = commands.add_parser("train")
    command.set_defaults(function=train)
    command.add_argument("--data", type=pathlib.Path, required=True, help="folder that holds digits/ and glyphs/")
    command.add_argument("--out", type=pathlib.Path, required=True)
    command.add_argument("--only", action="append", choices=DATA, help="one of the data sets; repeat for more")
    command.add_argument("--variant", action="append", choices=VARIANTS, dest="variants", help="one of the variants; repeat for more")
    command.add_argument("--epochs", type=int, help="instead of each data set's own")
    command = commands.add_parser("report")
    command.set_defaults(function=report)
    command.add_argument("--runs", type=pathlib.Path, required=True)
    given = vars(parser.parse_args())
    del given["command"]
    given.pop("function")(**given)


if __name__ == "__main__":
    main()
