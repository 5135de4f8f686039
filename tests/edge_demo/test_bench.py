"""Measuring a bundle on this machine: what it counts, what it prints, what it refuses."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT, edit_description, randomize
from swin_keras.edge_demo import InputError, bench, first_run
from swin_keras.edge_demo.__main__ import main as edge_main

RECIPES = ["float32", "dynamic_int8"]


def bench_main(*arguments):
    arguments = [str(argument) for argument in arguments]
    return edge_main(arguments, prog="python -m edge_demo.bench", description="", add_arguments=bench.add_arguments, run=bench.run)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("bench") / "a bündle"
    export_bundle(randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=7)), folder, recipes=RECIPES)
    return folder


@pytest.fixture(scope="module")
def partly_delegated():
    """A file of three nodes, of which XNNPACK takes the first and the last, with two tensors of 25 MB between them."""
    import keras
    from swin_keras.export import tflite

    image = keras.Input((256, 384, 3), batch_size=1)
    x = keras.layers.Conv2D(64, 1)(image)
    x = keras.ops.cumsum(x, axis=1)
    return tflite.convert(keras.Model(image, keras.layers.Conv2D(2, 1)(x)), ["map"])


@pytest.fixture
def copy(bundle, tmp_path):
    return shutil.copytree(bundle, tmp_path / "copy")


@pytest.fixture
def content(bundle):
    return (bundle / "float32.tflite").read_bytes()


@pytest.fixture
def refusal(capsys):
    def run(*arguments):
        assert bench_main(*arguments) == 2
        captured = capsys.readouterr()
        *progress, error = captured.err.splitlines()
        assert error.startswith("error: ") and captured.out == "" and "error" not in "".join(progress)
        return error

    return run


def test_json_is_one_line_with_the_keys_of_the_report(bundle, capsys):
    assert bench_main("--bundle", bundle, "--threads", "1", "--runs", "4", "--json") == 0
    (line,) = capsys.readouterr().out.splitlines()
    measured = json.loads(line)
    assert set(measured) == {"machine", "recipes"} and list(measured["recipes"]) == RECIPES
    assert measured["machine"]["cores"] >= 1 and measured["machine"]["ai_edge_litert"][0].isdigit()
    report = json.loads((bundle / "report.json").read_text())["recipes"]
    for recipe, row in measured["recipes"].items():
        assert set(row) == {"bytes", "load_ms", "latency_ms", "peak_memory_mb", "delegate"}
        assert row["bytes"] == (bundle / f"{recipe}.tflite").stat().st_size
        assert set(row["latency_ms"]) == {"median", "p90", "runs", "threads"}
        assert (row["latency_ms"]["runs"], row["latency_ms"]["threads"]) == (4, 1)
        assert 0 < row["latency_ms"]["median"] <= row["latency_ms"]["p90"] < 1000 and 0 < row["load_ms"] < 10_000
        assert 20 < row["peak_memory_mb"] < 200
        assert row["delegate"] == report[recipe]["delegate"]


def test_a_bundle_of_features_is_measured_too(copy, capsys):
    edit_description(copy, lambda description: description.update(output_kind="features", recommended=dict.fromkeys(("cpu", "gpu", "npu"))))
    assert bench_main("--bundle", copy, "--runs", "1", "--recipe", "float32", "--json") == 0
    assert list(json.loads(capsys.readouterr().out)["recipes"]) == ["float32"]


def test_text_is_the_machine_a_row_for_each_recipe_asked_for_and_json(bundle, capsys):
    from swin_keras.cli import main

    arguments = ["bench", "--bundle", str(bundle), "--recipe", "dynamic_int8", "--recipe", "dynamic_int8", "--runs", "1"]
    assert main(arguments) == 0
    machine, header, row, line = capsys.readouterr().out.splitlines()
    assert list(json.loads(line)["recipes"]) == ["dynamic_int8"] and json.loads(line)["recipes"]["dynamic_int8"]["latency_ms"]["threads"] == 2
    assert "ai-edge-litert" in machine and "threads 2" in machine and "runs 1" in machine
    assert header.split() == ["recipe", "size", "load", "median", "p90", "peak", "memory", "XNNPACK"]
    nodes = json.loads((bundle / "report.json").read_text())["recipes"]["dynamic_int8"]["delegate"]["nodes"]
    assert row.startswith("dynamic_int8 ") and row.endswith(f"MB  {nodes} of {nodes} nodes, 1 partition") and row.count(" ms") == 3


def test_models_take_turns_and_the_first_runs_do_not_count(monkeypatch):
    class Clock:
        now = 0.0

        def perf_counter(self):
            return self.now

    clock, calls = Clock(), []

    def model(name, milliseconds):
        def run(picture):
            calls.append((name, picture))
            # By turns a second, which is not to count, and 1, 2, ... 11 times the given time.
            turn, counts = divmod(calls.count((name, picture)), 2)
            clock.now += 1 if counts else turn * milliseconds / 1000

        return run

    monkeypatch.setattr(bench, "time", clock)
    latencies = bench.measure_latencies({"a": model("a", 1), "b": model("b", 10)}, "picture", threads=3, runs=11)
    assert calls == [("a", "picture"), ("a", "picture"), ("b", "picture"), ("b", "picture")] * 11
    assert latencies["a"] == {"median": pytest.approx(6), "p90": pytest.approx(10), "runs": 11, "threads": 3}
    assert latencies["b"] == {"median": pytest.approx(60), "p90": pytest.approx(100), "runs": 11, "threads": 3}


def test_coverage_names_what_the_delegate_leaves(partly_delegated):
    # The private list of nodes still says so.
    coverage = bench.delegate_coverage(partly_delegated)
    assert coverage == {"nodes": 3, "delegated": 2, "partitions": 2, "left": {"CUMSUM": 1}}
    assert bench.coverage_in_words(coverage) == "2 of 3 nodes, 2 partitions, left: 1 CUMSUM"


def test_peak_memory_is_that_of_the_file_and_not_of_the_caller(content, partly_delegated):
    np.ones(60_000_000)  # Since then the peak of this process is above 480 MB.
    small = bench.measure_fresh_process(content, "float32", threads=1)["peak_memory_mb"]
    large = bench.measure_fresh_process(partly_delegated, "float32", threads=1)["peak_memory_mb"]
    assert 20 < small < 200
    # Both need Python and the runtime; the small one's own tensors and weights are less than 10 MB.
    assert 2 * 25 - 10 < large - small < 200


def test_the_process_that_is_measured_imports_numpy_and_the_runtime_only(content, monkeypatch):
    check = "assert not {'tensorflow', 'keras', 'swin_keras', 'edge_demo', 'PIL'} & {name.split('.')[0] for name in sys.modules}, sys.modules"
    monkeypatch.setattr(bench, "LOAD_AND_RUN", f"{bench.LOAD_AND_RUN}\n{check}")
    monkeypatch.chdir(ROOT)
    notes = []
    assert bench.measure_fresh_process(content, "float32", 1, notes.append)["peak_memory_mb"] > 20, notes


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import os; os.kill(os.getpid(), 9)", "SIGKILL"),
        ("raise MemoryError('out of it')", "MemoryError: out of it"),
        ("import sys; sys.exit(3)", "exit code 3"),
    ],
)
def test_a_process_that_crashes_leaves_its_numbers_unknown(bundle, content, monkeypatch, capsys, program, note):
    monkeypatch.setattr(bench, "LOAD_AND_RUN", program)
    assert bench_main("--bundle", bundle, "--recipe", "float32", "--runs", "1") == 0
    captured = capsys.readouterr()
    assert f"float32: load time and peak memory are unknown, the process that loads it ended with {note}\n" in captured.err
    assert captured.out.count("unknown") == 2 and json.loads(captured.out.splitlines()[-1])["recipes"]["float32"]["load_ms"] is None
    assert bench.measure_fresh_process(content, "float32", 1) == {"load_ms": None, "peak_memory_mb": None}


def test_a_file_that_is_no_model_leaves_its_numbers_unknown():
    notes = []
    assert bench.measure_fresh_process(b"Dear reader", "float32", 1, notes.append) == {"load_ms": None, "peak_memory_mb": None}
    assert "ValueError" in notes[0]


def test_a_process_that_hangs_is_ended_with_an_error(content, monkeypatch):
    monkeypatch.setattr(bench, "LOAD_AND_RUN", "import time; time.sleep(60)")
    monkeypatch.setattr(bench, "FRESH_PROCESS_TIMEOUT", 0.2)
    with pytest.raises(InputError, match=r"'float32' to load and run once within 0.2 seconds"):
        bench.measure_fresh_process(content, "float32", 1)


def test_a_system_without_procfs_and_resource_tells_the_load_time_only(content, monkeypatch):
    hidden = "import sys; sys.modules['resource'] = None"
    monkeypatch.setattr(bench, "LOAD_AND_RUN", f"{hidden}\n{bench.LOAD_AND_RUN.replace('/proc/self', '/nowhere')}")
    measured = bench.measure_fresh_process(content, "float32", 1)
    assert measured["load_ms"] > 0 and measured["peak_memory_mb"] is None


def test_what_is_no_tflite_file_is_skipped_with_a_line(copy, capsys, refusal):
    (copy / "saved_model").mkdir()
    files = [{"recipe": "saved_model", "file": f"saved_model/{name}", "sha256": "0"} for name in ("saved_model.pb", "variables")]
    edit_description(copy, lambda d: d["files"].extend(files))
    assert bench_main("--bundle", copy, "--recipe", "float32", "--recipe", "saved_model", "--runs", "1", "--json") == 0
    captured = capsys.readouterr()
    assert list(json.loads(captured.out)["recipes"]) == ["float32"]
    assert captured.err.count("saved_model: skipped") == 1
    assert "expected a recipe that is a .tflite file" in refusal("--bundle", copy, "--recipe", "saved_model")


def test_a_changed_file_is_refused_before_any_runs(copy, refusal):
    path = copy / "dynamic_int8.tflite"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "expected sha256" in refusal("--bundle", copy)


def test_files_that_are_no_models_or_of_another_size_are_refused(copy, refusal, partly_delegated):
    for content, message in ((b"Dear reader", "'float32'"), (partly_delegated, "Dimension mismatch")):
        (copy / "float32.tflite").write_bytes(content)
        edit_description(copy, lambda d, content=content: d["files"][0].update(sha256=hashlib.sha256(content).hexdigest()))
        error = refusal("--bundle", copy, "--recipe", "float32")
        assert "expected a .tflite file that runs here for the recipe 'float32'" in error and message in error


def test_a_file_that_crashes_the_runtime_is_found_in_a_process_of_its_own(copy, refusal, monkeypatch):
    (copy / "float32.tflite").write_bytes(b"new")
    edit_description(copy, lambda d: d["files"][0].update(sha256=hashlib.sha256(b"new").hexdigest()))
    monkeypatch.setattr(first_run, "LOAD_AND_RUN", "import os; os.abort()")
    monkeypatch.setattr(bench, "delegate_coverage", lambda content: pytest.fail("it ran here"))
    assert "the process that tried it first ended with SIGABRT" in refusal("--bundle", copy, "--recipe", "float32")


def test_what_was_checked_is_what_is_measured_whatever_stands_under_its_name_later(copy, monkeypatch, capsys):
    first_run_of, size = bench.check_first_run, (copy / "float32.tflite").stat().st_size

    def swap(*arguments, **options):
        (copy / "float32.tflite").write_bytes(b"something else")
        first_run_of(*arguments, **options)

    monkeypatch.setattr(bench, "check_first_run", swap)
    assert bench_main("--bundle", copy, "--recipe", "float32", "--runs", "1", "--json") == 0
    row = json.loads(capsys.readouterr().out)["recipes"]["float32"]
    assert row["bytes"] == size and row["load_ms"] > 0 and row["peak_memory_mb"] > 20


def test_a_file_without_outputs_is_refused_in_a_line(copy, refusal):
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((copy / "float32.tflite").read_bytes(), 0)
    model.subgraphs[0].outputs, model.signatureDefs = [], []
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (copy / "float32.tflite").write_bytes(builder.Output())
    edit_description(copy, lambda d: d["files"][0].update(sha256=hashlib.sha256(builder.Output()).hexdigest()))
    assert "expected a .tflite file that runs here for the recipe 'float32'" in refusal("--bundle", copy, "--recipe", "float32")


def test_files_that_do_not_fit_into_memory_together_are_refused_in_a_line(bundle, refusal, monkeypatch):
    made = []

    class Model(bench.TFLiteModel):
        def __init__(self, *arguments):
            made.append(arguments)
            if len(made) == 4:
                raise RuntimeError("Failed to allocate memory")
            super().__init__(*arguments)

    monkeypatch.setattr(bench, "TFLiteModel", Model)
    error = refusal("--bundle", bundle, "--runs", "1")
    assert "expected the recipes float32, dynamic_int8 to run in memory together: Failed to allocate memory. Measure fewer at a time" in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "int4"], "expected one of the bundle's recipes float32, dynamic_int8, received 'int4'"),
        (["--threads", "0"], "expected a whole number from 1 to 64, received '0'"),
        (["--threads", "65"], "expected a whole number from 1 to 64, received '65'"),
        (["--runs", "0"], "expected a whole number from 1, received '0'"),
        (["--colour"], "`python -m edge_demo.bench --help` shows the usage"),
    ],
)
def test_wrong_options_are_refused(bundle, refusal, options, message):
    assert message in refusal("--bundle", bundle, *options)


def test_folder_copied_alone_measures_and_loads_its_three_libraries_only(bundle, tmp_path):
    shutil.copytree(ROOT / "edge_demo", tmp_path / "edge_demo", ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('edge_demo.bench', run_name='__main__')\n"
        "except SystemExit as error: assert error.code == 0, error.code\n"
        "loaded = {name.split('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'tensorflow', 'keras', 'swin_keras', 'sklearn', 'tf_keras', 'torch', 'jax'}, loaded"
    )
    command = [sys.executable, "-c", code, "--bundle", str(bundle), "--runs", "1", "--json"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert all(row["peak_memory_mb"] > 20 for row in json.loads(finished.stdout)["recipes"].values())
