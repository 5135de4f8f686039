"""The whole line for dense prediction on built-in scenes: train, measure, export, run on the device runtime. Above the rooms, as demo.py."""

import json
import pathlib
import time
import warnings

import keras
import numpy as np
from PIL import Image

from swin_keras import tasks, training
from swin_keras.demo import VARIANT
from swin_keras.edge_demo import dense, overlay
from swin_keras.edge_demo.preprocess import Opened
from swin_keras.export import export_bundle, report
from swin_keras.export.folder import written_beside
from swin_keras.models import create_backbone
from swin_keras.preprocessing import Preprocessing
from swin_keras.tasks.detection import extra
from swin_keras.tasks.scenes import CLASSES, MEAN, STD
from swin_keras.weights import load_weights

RECIPES = ("float32", "float16", "dynamic_int8")
SIZE = (96, 96)
BATCH, EPOCHS = 16, 10
STEPS = {"detect": 1050, "segment": 1900}
LEARNING_RATE, WARM_UP = {"detect": 1e-3, "segment": 3e-3}, 100
# Of a pixel of a digit, to that of one of the background, of which there are many more.
WEIGHT = 5
TEST_SCENES, CALIBRATION_SCENES, SAMPLES = 500, 64, 12


def dense_demo(task, out, seed=0, log=lambda line: print(line, flush=True)):
    """Trains a detector or segmenter of digits in scenes, measures it, and exports a bundle and scenes to try it on.

    `out` then holds run/, the classifier that gives the backbone, and a folder named as the task with model.keras, results.json, bundle/, samples/
    and predictions.png. What is finished is not done again; interrupted training goes on after its last epoch, a tenth of the whole.

    Args:
        task: `"detect"` or `"segment"`.
        out: Path of a folder.
        seed: Integer.
        log: Function that is called with each line of progress.

    Raises:
        ValueError: If `out` holds something else, or a run with another seed.
        VerificationError: If a file differs too much from Keras.
    """
    out = pathlib.Path(out)
    for path in (out, out / task):
        if path.exists() and not path.is_dir():
            raise ValueError(f"Expected a folder. Received: {str(path)!r}, which is a file.")
    if task == "detect":  # before minutes of training
        for name in ("keras_hub", "pycocotools"):
            extra(name)
    folder, scenes = out / task, tasks.Scenes(SIZE, seed)
    log("the backbone: a classifier of 1,078 handwritten digits")
    training.train("digits", VARIANT, out / "run", seed=seed, log=log)
    if not (folder / "model.keras").is_file():
        _train(task, scenes, out / "run" / "model.keras", folder, seed, log)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KerasHub gives its models an optimizer of its own, whatever was asked for.
        model = keras.models.load_model(folder / "model.keras", compile=False)
    results = _read(folder / "results.json")
    if "keras" not in results:
        results["keras"] = _measure(task, scenes, lambda pictures: _predict(task, model, pictures))
        _write(results, folder)
    if not (folder / "bundle" / "model.json").is_file():
        export_bundle(
            tasks.detection_network(model) if task == "detect" else model,
            folder / "bundle",
            recipes=RECIPES,
            calibration=scenes.segmentation("validation", CALIBRATION_SCENES)[0],
            labels=list(CLASSES[1:] if task == "detect" else CLASSES),
            preprocessing=Preprocessing("exact", SIZE, SIZE, interpolation="bilinear", mean=MEAN, std=STD),
            weights="model.keras",
            log=log,
        )
    for recipe in RECIPES:
        if recipe not in results:
            device = dense.open_bundle(folder / "bundle", recipe)
            results[recipe] = _measure(task, scenes, lambda pictures, device=device: _predict_on_device(task, device, pictures))
            _write(results, folder)
    if not any((folder / "samples").glob("*.png")):
        with written_beside(folder / "samples") as partial:
            for number in range(SAMPLES):
                Image.fromarray(scenes.scene("test", number)["picture"]).save(partial / f"scene_{number:02}.png")
    samples = sorted((folder / "samples").glob("*.png"))
    if not (folder / "predictions.png").is_file():
        _draw_predictions(samples, dense.open_bundle(folder / "bundle"), folder / "predictions.png")
    log("")
    for line in report.table(report.read(folder / "bundle")):
        log(line)
    log("")
    for name, measured in results.items():
        log(f"{name:13} {', '.join(f'{key} {value:.3f}' for key, value in measured.items())}")
    log("")
    log(f"try a scene:  swin-keras classify {samples[0]} --bundle {folder / 'bundle'} --save-overlay {folder}")


def _train(task, scenes, weights, folder, seed, log):
    keras.utils.set_random_seed(seed)
    backbone = create_backbone(VARIANT, input_shape=(*SIZE, 3), out_stages=("stage2",) if task == "detect" else None)
    load_weights(backbone, weights, skip_head=True)
    model = _create(task, backbone)
    steps = STEPS[task]
    log(f"training a model that will {task}: {model.count_params():,} parameters, {steps:,} steps of {BATCH} scenes")
    schedule = keras.optimizers.schedules.CosineDecay(0.0, steps - WARM_UP, warmup_target=LEARNING_RATE[task], warmup_steps=WARM_UP)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0)
    optimizer.build(model.trainable_variables)  # Else TensorFlow traces the segmenter's step twice; KerasHub's detector's it does anyway.
    if task == "detect":
        model.compile(optimizer)
    else:
        model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    started = time.perf_counter()

    def tell(epoch, logs):
        log(f"{epoch + 1}/{EPOCHS}: loss {logs['loss']:.3f}, {time.perf_counter() - started:.0f} s")

    folder.mkdir(parents=True, exist_ok=True)
    callbacks = [keras.callbacks.BackupAndRestore(str(folder / "backup")), keras.callbacks.LambdaCallback(on_epoch_end=tell)]
    data = scenes.dataset("detection" if task == "detect" else "segmentation", steps * BATCH, BATCH)
    if task == "segment":
        data = data.map(lambda pictures, masks: (pictures, masks, keras.ops.where(masks > 0, float(WEIGHT), 1.0)))
    model.fit(data, epochs=EPOCHS, steps_per_epoch=steps // EPOCHS, shuffle=False, verbose=0, callbacks=callbacks)
    model.save(folder / "partial.keras")
    (folder / "partial.keras").replace(folder / "model.keras")


def _create(task, backbone):
    if task == "segment":
        return tasks.create_segmenter(backbone, len(CLASSES), channels=64, dropout_rate=0.0)
    import keras_hub

    # Digits are 12 to 48 pixels high; the levels have strides of 8 and 16.
    anchors = keras_hub.layers.AnchorGenerator(
        tasks.BOX_FORMAT, min_level=3, max_level=4, num_scales=3, aspect_ratios=[0.5, 1.0, 2.0], anchor_size=2.5
    )
    return tasks.create_detector(
        backbone, len(CLASSES) - 1, min_level=3, max_level=4, mean=MEAN, std=STD, anchor_generator=anchors, pre_logits_num_conv_layers=1
    )


def _measure(task, scenes, predict):
    if task == "detect":
        pictures, truth = scenes.detection("test", TEST_SCENES)
        return tasks.average_precision(predict(pictures), truth)
    pictures, masks = scenes.segmentation("test", TEST_SCENES)
    return {"mean IoU": tasks.mean_iou(predict(pictures), masks, len(CLASSES))}


def _predict(task, model, pictures):
    return tasks.predict(model, pictures) if task == "detect" else model.predict(pictures, batch_size=BATCH, verbose=0).argmax(-1)


def _predict_on_device(task, device, pictures):
    if task == "segment":
        return np.concatenate([device.outputs(picture[None])[0].argmax(-1) for picture in pictures])
    found = [device.classify_opened("scene", Opened(Image.fromarray(picture), SIZE[::-1]), 0.0, threshold=0.05)["top"] for picture in pictures]
    predicted = {"boxes": np.zeros((len(found), 100, 4)), "labels": np.full((len(found), 100), -1), "confidence": np.zeros((len(found), 100))}
    for image, answers in enumerate(found):
        for n, answer in enumerate(answers):
            left, top, right, bottom = answer["box"]
            predicted["boxes"][image, n] = top, left, bottom, right
            predicted["labels"][image, n], predicted["confidence"][image, n] = answer["index"], answer["probability"]
    return {**predicted, "num_detections": np.array([len(answers) for answers in found])}


def _read(path):
    """Returns what was measured before."""
    if not path.is_file():
        return {}
    try:
        return {name: {key: float(value) for key, value in measured.items()} for name, measured in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"Expected what this command wrote. Received: {str(path)!r} ({error}). Remove it, and it is measured again.") from error


def _write(results, folder):
    partial = folder / "results.json.partial"
    partial.write_text(json.dumps(results, indent=2) + "\n")
    partial.replace(folder / "results.json")


def _draw_predictions(samples, device, path):
    """Draws each sample with what the device runtime finds in it, as one picture."""
    side, margin, columns = 320, 12, 4
    sheet = Image.new("RGB", [count * (side + margin) + margin for count in (columns, -(-len(samples) // columns))], "white")
    for number, sample in enumerate(samples):
        result, picture = device.classify_and_keep(sample)
        drawn = overlay.draw(picture, result).crop((0, 0, 640, 640)).resize((side, side))
        sheet.paste(drawn, [margin + at * (side + margin) for at in (number % columns, number // columns)])
    partial = path.with_name(f"partial.{path.name}")
    sheet.save(partial)
    partial.replace(path)
