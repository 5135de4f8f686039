"""A file that never ran here is tried in a process of its own; what happens there is a line, and is not tried twice."""

import hashlib
import os
import shutil

import numpy as np
import pytest
from conftest import ROOT, edit_description, randomize
from PIL import Image
from swin_keras.edge_demo import Classifier, InputError, first_run
from swin_keras.edge_demo.__main__ import main as edge_main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    from swin_keras.export import export_bundle

    import swin_keras

    folder = tmp_path_factory.mktemp("first") / "bundle"
    export_bundle(randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3)), folder, recipes=["float32"])
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "swin-keras" / "ran.txt"


@pytest.fixture
def tried(monkeypatch):
    """The files that are tried in a process, in order; the process is left out."""
    found = []
    monkeypatch.setattr(first_run, "run_alone", lambda program, arguments, timeout, content: found.append(content) or ("", None))
    return found


def sha256(bundle):
    return hashlib.sha256((bundle / "float32.tflite").read_bytes()).hexdigest()


def test_a_file_that_runs_is_tried_once_and_remembered(bundle, cache, monkeypatch):
    x = np.random.default_rng(1).standard_normal((1, 32, 32, 3), dtype="float32")
    first = Classifier(bundle).probabilities(x)
    assert cache.read_text().split()[0] == sha256(bundle)
    monkeypatch.setattr(first_run, "run_alone", lambda *_: pytest.fail("it was tried again"))
    np.testing.assert_array_equal(Classifier(bundle).probabilities(x), first)


def test_another_runtime_or_processor_tries_again(bundle, cache, tried, monkeypatch):
    Classifier(bundle)
    Classifier(bundle)
    monkeypatch.setattr(first_run.ai_edge_litert, "__version__", "9.9")
    Classifier(bundle)
    monkeypatch.setattr(first_run.platform, "machine", lambda: "armv9")
    Classifier(bundle)
    assert tried == [(bundle / "float32.tflite").read_bytes()] * 3
    entries = [line.split() for line in cache.read_text().splitlines()]
    assert [entry[0] for entry in entries] == [sha256(bundle)] * 3 and entries[2][1:] == ["9.9", "armv9"]


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended with SIGSEGV"),
        ("import os; os.kill(os.getpid(), 9)", "ended with SIGKILL"),
        ("import os; os._exit(7)", "ended with exit code 7"),
        ("raise ValueError('two\\nlines')", "ended with lines"),
        ("import time; time.sleep(60)", "had not ended after 1.5 seconds"),
    ],
)
def test_a_crash_or_a_hang_is_one_line_and_not_remembered(bundle, cache, tmp_path, monkeypatch, capsys, program, message):
    Image.new("RGB", (5, 7)).save(tmp_path / "picture.png")
    monkeypatch.setattr(first_run, "LOAD_AND_RUN", program)
    monkeypatch.setattr(first_run, "TIMEOUT", 0.5 if "sleep" in program else 60)
    for _ in range(2):
        assert edge_main([str(tmp_path / "picture.png"), "--bundle", str(bundle)]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.startswith("error: expected a .tflite file that runs here") and captured.err.count("\n") == 1
        assert message in captured.err
    assert not cache.exists()


def test_a_large_file_has_more_time(monkeypatch):
    limits = []
    monkeypatch.setattr(first_run, "run_alone", lambda program, arguments, timeout, content: limits.append(timeout) or ("", None))
    for content in (bytes(400_000), bytes(118_500_000)):
        first_run.check_first_run(content, hashlib.sha256(content).hexdigest(), "float32", 2)
    assert limits == [60, 178]


def change_graph(bundle, change):
    """Lets a function change the graph, as `schema.ModelT`, of a bundle's file, and its sha256 with it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf((bundle / "float32.tflite").read_bytes(), 0)
    change(model, {name: code for name, code in vars(schema.BuiltinOperator).items() if name.isupper()})
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    (bundle / "float32.tflite").write_bytes(builder.Output())
    edit_description(bundle, lambda description: description["files"][0].update(sha256=sha256(bundle)))


def test_a_graph_that_does_not_run_is_refused_with_the_words_of_the_runtime(bundle, tmp_path):
    def cut(model, codes):
        operator = next(o for o in model.subgraphs[0].operators if len(o.inputs) == 2)
        operator.inputs = operator.inputs[:1]

    copy = shutil.copytree(bundle, tmp_path / "copy")
    change_graph(copy, cut)
    with pytest.raises(InputError, match=r"recipe 'float32': the process that tried it first ended with RuntimeError: .*NumInputs"):
        Classifier(copy)


def test_a_graph_that_crashes_the_runtime_is_a_line(bundle, tmp_path):
    def confuse(model, codes):
        indices = {code.builtinCode: index for index, code in enumerate(model.operatorCodes)}
        operator = next(o for o in model.subgraphs[0].operators if o.opcodeIndex == indices[codes["GELU"]])
        operator.opcodeIndex = indices[codes["SLICE"]]  # whose second and third input it has not: LiteRT 2.3 reads them all the same

    copy = shutil.copytree(bundle, tmp_path / "copy")
    change_graph(copy, confuse)
    with pytest.raises(InputError, match=r"the process that tried it first ended with (SIG[A-Z]+|RuntimeError)"):
        Classifier(copy)


def test_a_file_of_another_sha256_is_not_even_tried(bundle, tmp_path, tried):
    copy = shutil.copytree(bundle, tmp_path / "copy")
    (copy / "float32.tflite").write_bytes((copy / "float32.tflite").read_bytes() + b"\0")
    with pytest.raises(InputError, match="expected sha256"):
        Classifier(copy)
    assert tried == []


def test_a_cache_that_cannot_be_written_means_a_try_each_time(bundle, tmp_path, tried, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    Classifier(bundle)
    Classifier(bundle)
    # No home: `expanduser` leaves the text as it is; a relative folder would be made wherever the user stands.
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.chdir(tmp_path)
    Classifier(bundle)
    Classifier(bundle)
    assert len(tried) == 4 and sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_a_damaged_cache_is_replaced(bundle, cache, tried):
    cache.parent.mkdir(parents=True)
    cache.write_bytes(b"\xff\xfe\x00")
    Classifier(bundle)
    Classifier(bundle)
    assert len(tried) == 1 and [path.name for path in cache.parent.iterdir()] == ["ran.txt"]


def test_the_last_thousand_files_are_remembered(bundle, cache, tried):
    cache.parent.mkdir(parents=True)
    cache.write_text("".join(f"{number:064x} 1.0 m\n" for number in range(1500)))
    Classifier(bundle)
    lines = cache.read_text().splitlines()
    assert len(lines) == 1000 and lines[0].startswith(f"{501:064x}") and lines[-1].startswith(sha256(bundle))


def test_what_stands_in_the_current_folder_is_not_imported(bundle, tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    assert Classifier(bundle).recipe == "float32"


# Of the processor's time, so that other work on the machine does not count: nothing here waits for anything.
_LOAD = """
import sys, time
started = time.process_time()
{}
print(time.process_time() - started)
"""


@pytest.mark.alone
def test_start_up_takes_at_most_300_ms_beyond_the_load_of_the_runtime(bundle, tmp_path, run_command):
    # Of the size of Swin-T in float32: what takes time beside the runtime is to read the file, its sha256, and the imports.
    copy = shutil.copytree(bundle, tmp_path / "copy")
    os.truncate(copy / "float32.tflite", 118_000_000)
    edit_description(copy, lambda d: d["files"][0].update(sha256=sha256(copy)))
    Classifier(copy)
    runtime = "from ai_edge_litert.interpreter import Interpreter; Interpreter(model_path=sys.argv[1] + '/float32.tflite').allocate_tensors()"
    ours = "from edge_demo import Classifier; Classifier(sys.argv[1])"
    shutil.copytree(ROOT / "edge_demo", tmp_path / "edge_demo", ignore=shutil.ignore_patterns("__pycache__"))
    times = {runtime: [], ours: []}
    for _ in range(20):  # Other work on the machine only ever adds: the best counts, and is sought until it is found.
        for program, found in times.items():
            finished = run_command("-c", _LOAD.format(program), copy, cwd=tmp_path, env={**os.environ, "PYTHONDONTWRITEBYTECODE": ""})
            found.append(float(finished.stdout.splitlines()[-1]))
        if min(times[ours]) - min(times[runtime]) < 0.3:
            break
    assert min(times[ours]) - min(times[runtime]) < 0.3, times
