"""`swin-keras COMMAND`: parses, imports late, calls one function."""

import argparse
import json
import os
import pathlib
import re
import sys
import traceback

from swin_keras import interrupt
from swin_keras.edge_demo import __main__ as edge_main
from swin_keras.edge_demo import bench, serve
from swin_keras.quiet import quiet_native

_DATA = "digits: built in; folder:PATH: pictures in a sub-folder for each class; tfds:NAME: of tensorflow-datasets"
_WEIGHTS = "a checkpoint of any dialect, a Hugging Face folder, or hf://owner/name"


class _UsageError(ValueError):
    pass


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        raise _UsageError(edge_main.wrong_usage(self, message))


def main(argv=None):
    """Runs a command and returns its exit code: 0 done, 1 a check failed, 2 the input or usage was wrong."""
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    try:
        interrupt.raise_again()
        arguments = _parser().parse_args(argv)
        return edge_main.finish_output(arguments.run(arguments) or 0)
    except SystemExit as end:  # of `--help`
        return edge_main.finish_output(end.code or 0)
    except KeyboardInterrupt:
        return edge_main.finish_output(130, "interrupted")
    except BrokenPipeError:
        return edge_main.finish_output(edge_main.CLOSED_PIPE)
    except (ValueError, OSError, RuntimeError, FloatingPointError, MemoryError) as error:
        code = _exit_code(error)
        if code is None:
            raise
        if debug:
            traceback.print_exc()
        code = edge_main.finish_output(code, None if debug else f"error: {_words(error)}")
        if type(error).__name__ == "WorkerLost":
            # TensorFlow's threads that wait for the other worker would keep the process for up to a minute.
            sys.stderr.flush()
            os._exit(code)
        return code


def _words(error):
    words = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"this takes more memory than there is ({words or 'no more is known'}). Take a smaller size, model or batch."
    return re.sub(r"^\[Errno \d+\] ", "", words)


def _exit_code(error):
    if isinstance(error, FloatingPointError):
        return 1
    if isinstance(error, RuntimeError):
        from swin_keras.export import VerificationError
        from swin_keras.training import WorkerLost

        return 1 if isinstance(error, (VerificationError, WorkerLost)) else None
    return 2


def _parser():
    parser = _Parser(prog="swin-keras", description="Swin Transformers in Keras 3, from training to a phone.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name, run, text):
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=run)
        return command

    command = add("models", _models, "list the released models")
    command.add_argument("--json", action="store_true", help="print one line of JSON")

    command = add("demo", _demo, "train on handwritten digits, export, and write samples to classify")
    command.add_argument(
        "--task",
        choices=("classify", "detect", "segment"),
        default="classify",
        help="what to find: scans' classes, or in scenes boxes or masks (default: classify)",
    )
    command.add_argument("--out", default="demo-out", metavar="DIR", help="(default: demo-out)")
    command.add_argument("--seed", type=_whole_number, default=0, metavar="N", help="(default: 0)")

    command = add("train", _train, "train a model; the same command again resumes an interrupted run")
    command.add_argument("--data", required=True, type=_pictures, metavar="SRC", help=_DATA)
    command.add_argument("--variant", required=True, metavar="NAME", help="a name that `swin-keras models` lists")
    command.add_argument("--workdir", required=True, metavar="DIR", help="where the run is kept")
    command.add_argument("--recipe", default="small", metavar="NAME", help="small (the default), finetune_small, imagenet_300, ...: docs/training.md")
    command.add_argument("--weights", metavar="W", help=f"start from these: {_WEIGHTS}; or a tag such as ms_in1k")
    command.add_argument("--seed", type=_whole_number, default=0, metavar="N", help="(default: 0)")
    command.add_argument("--epochs", type=edge_main.positive_integer, metavar="N", help="in place of the recipe's")
    command.add_argument("--batch-size", type=edge_main.positive_integer, metavar="N", help="of all devices together; in place of the recipe's")
    command.add_argument("--set", action="append", type=_setting, default=[], metavar="KEY=VALUE", help="in place of the recipe's; repeats")
    command.add_argument(
        "--compress",
        action="append",
        default=[],
        metavar="HOW",
        help="prune:2:4, prune:0.5, cluster:16 or qat:hybrid_int8; for several, give --compress again: docs/compression.md",
    )
    command.add_argument("--strategy", default="auto", metavar="NAME", help="auto (the default), one, mirrored, multiworker or tpu")
    command.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    command.add_argument("--throughput", action="store_true", help="measure how many images a second the model takes, and train nothing")

    command = add("evaluate", _evaluate, "measure the accuracy of a model or a bundle")
    command.add_argument("model", metavar="MODEL", help=f"a workdir of `train`, a .keras file, a bundle, or of a released model: {_WEIGHTS}")
    command.add_argument("--data", type=_pictures, metavar="SRC", help=_DATA)
    command.add_argument("--split", default="test", metavar="NAME", help="test (the default), validation or train")
    command.add_argument("--recipe", metavar="NAME", help="which file of a bundle (default: the one recommended for CPUs)")
    command.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    command.add_argument("--out", metavar="DIR", help="write evaluation.json, confusion.csv and confusion.png there")
    command.add_argument("--throughput", action="store_true", help="measure images a second of a Keras model, and no accuracy")
    command.add_argument("--batch-size", type=edge_main.positive_integer, default=64, metavar="N", help="(default: 64)")
    command.add_argument("--json", action="store_true", help="print one line of JSON")

    command = add("convert", _convert, "translate a checkpoint into the names of another project")
    command.add_argument("source", metavar="SRC", help=f"{_WEIGHTS}; or a .keras file")
    command.add_argument("destination", metavar="DST", help="the .safetensors file to write")
    command.add_argument("--layout", default="official", metavar="NAME", help="official (the default), timm or huggingface")
    command.add_argument("--json", action="store_true", help="print one line of JSON")

    command = add("export", _export, "export a model to a bundle of verified .tflite files")
    command.add_argument("model", metavar="MODEL", help=f"a workdir of `train`, a .keras file, or of a released model: {_WEIGHTS}")
    command.add_argument("--out", required=True, metavar="DIR", help="folder of the bundle")
    command.add_argument(
        "--recipe", action="append", metavar="NAME", help="repeats (default: float32, float16, dynamic_int8; or what the model was trained for)"
    )
    command.add_argument("--labels", metavar="FILE", help="text file with a class name on each line")
    command.add_argument(
        "--calibration",
        type=_pictures,
        metavar="SRC",
        help=f"training pictures for hybrid_int8, full_int8 and int16x8: {_DATA}; here a folder may hold the pictures without sub-folders",
    )
    command.add_argument("--data-dir", metavar="DIR", help="where tensorflow-datasets keeps its sets")
    command.add_argument(
        "--data", type=_pictures, metavar="SRC", help="test pictures with labels, on which each file's accuracy is measured for the report"
    )
    command.add_argument(
        "--accuracy-budget",
        type=float,
        metavar="POINTS",
        help="leave in float32 what costs the most, until a file loses at most so many points of accuracy on --data, or else of agreement with Keras",
    )
    command.add_argument("--percentile", type=float, default=100.0, metavar="P", help="of activations that a range holds (default: 100, all)")
    command.add_argument(
        "--layout", default="portable", metavar="NAME", help="portable (the default): what every accelerator takes; cpu: fewer operators"
    )
    command.add_argument("--migrate", action="store_true", help="move part of the range of activations into weights before quantizing")
    size = {"nargs": 2, "type": edge_main.positive_integer, "metavar": ("HEIGHT", "WIDTH"), "default": []}
    command.add_argument("--size", action="append", help="of the pictures, in place of the model's own; repeats: a file takes all", **size)
    command.add_argument("--uint8-input", action="store_true", help="files take pixels of 8 bits too, through a signature of their own")
    command.add_argument("--fold-normalization", action="store_true", help="files take pictures in [0, 1] and normalize them themselves")
    command.add_argument("--gelu", default="exact", metavar="NAME", help="exact (the default) or tanh")
    command.add_argument("--fp16-safe-norm", action="store_true", help="normalizations that hold in half precision whatever the activations")
    command.add_argument("--json", action="store_true", help="print the report as one line of JSON")

    command = add("bench", bench.run, "measure time, memory and XNNPACK coverage of a bundle's files on this machine")
    bench.add_arguments(command)

    command = add("classify", edge_main.run, "classify pictures with a bundle")
    edge_main.add_arguments(command)

    command = add("serve", serve.run, "serve the browser app with a bundle")
    serve.add_arguments(command)
    return parser


def _whole_number(text):
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 to {2**31 - 1}, received {text!r}")
    return int(text)


def _pictures(text):
    if re.fullmatch("digits|(folder|tfds):.+", text, re.DOTALL):
        return text
    hint = f"; for the folder of that name write folder:{text}" if os.path.isdir(text) else ""
    raise argparse.ArgumentTypeError(f"expected digits, folder:PATH or tfds:NAME, received {text!r}{hint}")


def _setting(text):
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, such as learning_rate=1e-3, received {text!r}")
    try:
        return key, json.loads({"true": "true", "false": "false", "none": "null"}.get(value.lower(), value))
    except (ValueError, RecursionError):
        return key, value


def _start_tensorflow(devices=True):
    with quiet_native():
        import tensorflow as tf

        # What is left of TensorFlow's notices comes when it looks for devices. Of several workers each joins the others before that.
        if devices:
            tf.config.list_logical_devices()


def _models(arguments):
    import dataclasses

    import numpy as np

    from swin_keras.models.variants import MODEL_HUB, TIMM, VARIANTS

    if arguments.json:
        rows = {name: {**dataclasses.asdict(v), "parameters": v.parameters, "flops": v.flops} for name, v in VARIANTS.items()}
        print(json.dumps(rows))
        return
    print(f"{'name':52} {'image':>5} {'window':>9} {'drop path':>9} {'parameters':>11} {'FLOPs':>7} {'top-1':>5}  trained on")
    for name, variant in VARIANTS.items():
        top1 = "" if variant.top1 is None else f"{variant.top1:.1f}"
        window = ",".join(map(str, np.atleast_1d(variant.window_size)))
        numbers = f"{variant.image_size:>5} {window:>9} {variant.drop_path_rate:>9} {variant.parameters:>11,}"
        print(f"{name:52} {numbers} {variant.flops / 1e9:>6.2f}G {top1:>5}  {variant.data}")
    print("Parameters with the head (1,000 classes; 21,841 where the name ends in _22k) and FLOPs (multiply-adds for one picture), counted.")
    print(f"Top-1 on ImageNet-1K in percent, as published: {MODEL_HUB}; swin_s3: {TIMM}")


def _demo(arguments):
    _start_tensorflow()
    if arguments.task == "classify":
        from swin_keras.demo import demo

        return demo(arguments.out, arguments.seed)
    from swin_keras.dense_demo import dense_demo

    return dense_demo(arguments.task, arguments.out, arguments.seed)


def _train(arguments):
    _start_tensorflow(devices=not os.environ.get("TF_CONFIG") and not os.environ.get("SLURM_STEP_NUM_TASKS"))
    from swin_keras import training

    settings = dict(arguments.set)
    if arguments.throughput:
        recipe = training.find_recipe(arguments.recipe, settings, arguments.epochs, arguments.batch_size)
        training.measure_throughput(training.build_model(arguments.variant, recipe), recipe.batch_size, log=_log)
        return
    training.train(
        arguments.data,
        arguments.variant,
        arguments.workdir,
        recipe=arguments.recipe,
        seed=arguments.seed,
        epochs=arguments.epochs,
        batch_size=arguments.batch_size,
        weights=arguments.weights,
        strategy=arguments.strategy,
        settings=settings,
        data_dir=arguments.data_dir,
        compress=arguments.compress,
        log=_log,
    )


def _evaluate(arguments):
    if not arguments.throughput and arguments.data is None:
        raise _UsageError("`--data` says what to evaluate on: digits, folder:PATH or tfds:NAME. `swin-keras evaluate --help` shows the usage.")
    _start_tensorflow()
    from swin_keras import training
    from swin_keras.training.data import check_outside
    from swin_keras.training.evaluation import check_no_file

    log = _log_to_standard_error if arguments.json else _log
    if arguments.throughput:
        from swin_keras.models import load_source

        result = training.measure_throughput(load_source(arguments.model).model, arguments.batch_size, log=log)
    else:
        if arguments.out is not None:
            check_outside(arguments.data, arguments.out, "folder for the evaluation")
            check_no_file(arguments.out)
        result = training.evaluate(
            arguments.model,
            arguments.data,
            arguments.split,
            recipe=arguments.recipe,
            data_dir=arguments.data_dir,
            batch_size=arguments.batch_size,
            log=log,
        )
        if arguments.out is not None:
            training.write_evaluation(result, arguments.out)
            log(f"{arguments.out}: evaluation.json" + ("" if result["confusion"] is None else ", confusion.csv and confusion.png"))
    if arguments.json:
        print(json.dumps(result))


def _convert(arguments):
    _start_tensorflow()
    from swin_keras.models import convert_checkpoint

    report = convert_checkpoint(arguments.source, arguments.destination, arguments.layout)
    if arguments.json:
        print(json.dumps({"source": report.source, "layout": arguments.layout, "tensors": len(report.loaded), "left_out": report.ignored}))
        return
    left_out = f", without {len(report.ignored)} that carry nothing or stand around the backbone" if report.ignored else ""
    print(f"{arguments.destination}: {len(report.loaded)} tensors in {arguments.layout} layout, read as {report.source}{left_out}")


def _export(arguments):
    labels = _read_labels(arguments.labels)
    _start_tensorflow()
    from swin_keras.export import export_bundle, load_source, report
    from swin_keras.training.data import check_outside

    for pictures in (arguments.calibration, arguments.data):
        check_outside(pictures, arguments.out, "bundle")

    log = _log_to_standard_error if arguments.json else _log
    source = load_source(arguments.model)
    if labels is not None:
        source.labels, source.labels_from = labels, arguments.labels
    if arguments.size:
        from swin_keras.export.sizes import at_size

        source.model = at_size(source.model, *arguments.size[0])
        source.preprocessing = source.preprocessing and source.preprocessing.at_size(*arguments.size[0])
    log(f"labels: {source.labels_from}; preprocessing: {source.preprocessing_from}")
    result = export_bundle(
        source.model,
        arguments.out,
        recipes=arguments.recipe,
        layout=arguments.layout,
        calibration=None if arguments.calibration is None else _calibration(arguments, source, log),
        labels=source.labels,
        preprocessing=source.preprocessing,
        data=None if arguments.data is None else _Labelled(arguments, source, log),
        sizes=arguments.size[1:],
        uint8_input=arguments.uint8_input,
        fold_normalization=arguments.fold_normalization,
        accuracy_budget=arguments.accuracy_budget,
        percentile=arguments.percentile,
        migrate=arguments.migrate,
        gelu=arguments.gelu,
        fp16_safe_norm=arguments.fp16_safe_norm,
        weights=pathlib.Path(arguments.model).name,
        log=log,
    )
    print(json.dumps(result) if arguments.json else "\n".join(["", *report.table(result)]))


def _calibration(arguments, source, log):
    """Gives pictures, read only when they are asked for: by then the export has found the model and its arguments right."""
    from swin_keras.training.run import CALIBRATION_PICTURES

    images = _load(arguments.calibration, "train", arguments, source, log, classes=False)
    with images.reading():
        yield images.sample("train", CALIBRATION_PICTURES)


class _Labelled:
    """Test pictures and their classes, likewise read when they are asked for, and each time again: they need not fit into memory."""

    def __init__(self, *sources):
        self._sources, self._images = sources, None

    def __iter__(self):
        if self._images is None:
            self._images = self._open(*self._sources)
        with self._images.reading():
            yield from self._images.batches("test", 64).as_numpy_iterator()

    @staticmethod
    def _open(arguments, source, log):
        images = _load(arguments.data, "test", arguments, source, log)
        if source.labels is not None and images.labels != source.labels:
            raise ValueError(
                f"`--data` must have the model's {len(source.labels)} classes in its order. Received: {len(images.labels)}, {images.labels[:3]}... "
                "`swin-keras evaluate BUNDLE --data SRC` matches them by name."
            )
        if len(images.labels) != (classes := source.model.output_shape[-1]):
            raise ValueError(f"`--data` must have the model's {classes} classes. Received: {arguments.data} with {len(images.labels)}.")
        return images


def _load(data, split, arguments, source, log, classes=True):
    from swin_keras.preprocessing import Preprocessing
    from swin_keras.training import load_data

    shape = source.model.input_shape[1:]
    preprocessing = source.preprocessing or Preprocessing.official(*shape[:2])
    return load_data(data, shape, splits=(split,), preprocessing=preprocessing, data_dir=arguments.data_dir, classes=classes, log=log)


def _read_labels(path):
    if path is None:
        return None
    if not pathlib.Path(path).is_file():
        raise ValueError(f"Expected a text file with a class name on each line. Received: {path!r}, which is no file.")
    try:
        # An editor may have put a byte order mark in front, and a line break behind.
        return [line.rstrip("\r") for line in pathlib.Path(path).read_text(encoding="utf-8-sig").rstrip("\r\n").split("\n")]
    except UnicodeDecodeError as error:
        raise ValueError(f"Expected UTF-8 text in {path!r} ({error}). Save it as UTF-8.") from error


def _log(line):
    print(line, flush=True)


def _log_to_standard_error(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
