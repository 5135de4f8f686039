"""The browser app: its modules in Node.js, and the page in headless Chromium. What should come is from Python; web/suite.mjs reports what came."""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from conftest import ROOT, randomize
from PIL import Image, ImageCms
from swin_keras.edge_demo import Classifier, InputError, open_picture, preprocess
from swin_keras.edge_demo.bundle import read_bundle
from swin_keras.edge_demo.classifier import TFLiteModel
from swin_keras.edge_demo.dense import open_bundle, unpack
from swin_keras.edge_demo.preprocess import Opened, open_reduced
from test_dense import describe as describe_dense
from test_dense import device as dense_device
from test_dense import write_bundles
from test_serve import DESCRIPTION

WEB = ROOT / "edge_demo" / "web"
TESTS = ROOT / "tests" / "edge_demo" / "web"

LABELS = ["ant", "bee", "Kätzchen", "<b>bold</b> & more", "a name " * 20, "six", "سبعة"]
COVER = {"mode": "cover", "resize": [36, 44], "crop": [32, 40], "interpolation": "bilinear", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
SETTINGS = [
    COVER,
    {"mode": "exact", "resize": [24, 41], "crop": [24, 41], "interpolation": "bicubic", "mean": [0.0] * 3, "std": [1.0] * 3},
    {
        "mode": "cover",
        "resize": [257, 256],
        "crop": [224, 223],
        "interpolation": "bicubic",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    },
]
# How far a value of a pixel may be from Python's, of 255: nothing where no colour is lost in the file, else as much as other versions of a decoder.
LOSSY_BOUND = 2
# How far a probability may be from that of a large JPEG file which Python decoded at a fraction of its size (0.002 was seen).
REDUCED_BOUND = 1e-2


@pytest.fixture(scope="module")
def node():
    if not shutil.which("node"):
        pytest.skip("there is no Node.js")

    def run(*requests):
        """Runs functions of pure.mjs."""
        encoded = json.dumps(requests, default=lambda content: base64.b64encode(content).decode())
        finished = subprocess.run(["node", TESTS / "pure.mjs"], input=encoded, capture_output=True, text=True, timeout=120, check=False)
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout)

    return run


def floats(text):
    return np.frombuffer(base64.b64decode(text), "<f4")


def test_resampling_is_pillows_to_the_last_bit(node, rng):
    cases = []
    sizes = [(1, 1), (1, 97), (83, 1), (32, 40), (31, 41), (7, 5), (640, 3), (301, 419), (3, 1999)]
    for size in sizes:
        # Noise, and black and white, where bicubic overshoots.
        pictures = [rng.integers(0, 256, (*size, 3)).astype("uint8"), rng.integers(0, 2, (*size, 3)).astype("uint8") * 255]
        for interpolation in ("bilinear", "bicubic"):
            cases += [(picture, {**setting, "interpolation": interpolation}) for picture in pictures for setting in SETTINGS]
    requests = [
        {"name": "preprocess", "width": p.shape[1], "height": p.shape[0], "data": p.tobytes(), "preprocessing": setting} for p, setting in cases
    ]
    assert len(cases) == 108
    for (picture, setting), result in zip(cases, node(*requests), strict=True):
        expected = preprocess(Image.fromarray(picture), setting)
        np.testing.assert_array_equal(floats(result["input"]).reshape(expected.shape), expected, str((picture.shape, setting)))


def test_halves_are_rounded_as_python_does(node):
    # (37 - 32) / 2 is 2.5, (39 - 32) / 2 is 3.5.
    for down, across in ((37, 45), (39, 47), (41, 43)):
        setting = {**COVER, "resize": [down, across]}
        (result,) = node({"name": "preprocess", "width": across, "height": down, "data": bytes(3 * across * down), "preprocessing": setting})
        top, left = round((down - 32) / 2), round((across - 40) / 2)
        assert result["box"] == [left, top, left + 40, top + 32]


def test_sha256_without_the_browsers_help(node, rng):
    contents = [rng.bytes(size) for size in (0, 1, 55, 56, 63, 64, 65, 119, 120, 1_000_003)]
    hashes = node(*({"name": "sha256", "content": content} for content in contents))
    assert hashes == [hashlib.sha256(content).hexdigest() for content in contents]


def test_numbers_are_numpys(node, rng):
    values = rng.standard_normal(101)
    expected = np.exp(values) / np.exp(values).sum()
    softmax, huge, *quantiles = node(
        {"name": "softmax", "values": values.tolist()},
        {"name": "softmax", "values": [3e4, -3e4, 3e4]},
        *({"name": "quantile", "values": values[:n].tolist(), "fraction": f} for n in (1, 2, 10, 101) for f in (0.5, 0.9)),
    )
    np.testing.assert_allclose(softmax, expected, rtol=1e-12)
    assert huge == [0.5, 0, 0.5]
    np.testing.assert_allclose(quantiles, [np.percentile(values[:n], 100 * f) for n in (1, 2, 10, 101) for f in (0.5, 0.9)], rtol=1e-12)
    request = {"name": "best", "values": [0.2, 0.3, 0.1, 0.3, 0.1], "count": 4, "threshold": 0}
    assert node(request, {**request, "threshold": 0.2}, {**request, "count": 99}) == [[1, 3, 0, 2], [1, 3, 0], [1, 3, 0, 2, 4]]


def test_boxes_and_masks_are_those_of_the_python_program(node, rng):
    places = rng.uniform(0, 1, (60, 2, 2)).astype("float32")
    boxes = np.concatenate([places.min(1), places.max(1) * 1.2], -1) - np.float32(0.1)
    scores = rng.normal(-1, 2, (60, 4)).astype("float32")
    found, mask = node(
        {"name": "findBoxes", "boxes": boxes.tobytes(), "scores": scores.tobytes()},
        {"name": "findMask", "logits": (logits := rng.standard_normal((5, 7, 4)).astype("float32")).tobytes(), "shape": [1, 5, 7, 4]},
    )
    model = dense_device("boxes", [boxes[None], scores[None]], labels=None)
    model.labels = None
    expected = model.classify_opened("a.png", Opened(Image.new("RGB", (100, 100)), (100, 100)), 0.0, threshold=0.01)["top"]
    assert [row["index"] for row in found] == [answer["index"] for answer in expected] and 5 < len(found) < 55
    np.testing.assert_allclose([row["probability"] for row in found], [answer["probability"] for answer in expected], rtol=1e-6)
    received = np.array([row["box"] for row in found])[:, [1, 0, 3, 2]]
    np.testing.assert_allclose(100 * received, [answer["box"] for answer in expected], atol=0.051)
    assert mask["classes"] == logits.argmax(-1).ravel().tolist() and (mask["rows"], mask["columns"]) == (5, 7)
    np.testing.assert_allclose(mask["shares"], np.bincount(logits.argmax(-1).ravel(), minlength=4) / 35)


def test_numbers_that_are_none_are_refused(node, rng):
    values = rng.standard_normal(11).astype("float32")
    request = {"name": "checkNumbers", "recipe": "float16", "picture": "a.png"}
    assert node({**request, "content": values.tobytes()}) == [None]
    for wrong in (np.nan, np.inf, -np.inf):
        values[7] = wrong
        (message,) = node({**request, "content": values.tobytes()})
        assert message.startswith("expected numbers from the recipe 'float16' for 'a.png', received NaN or infinity. Choose wasm, or another recipe")


def test_scores_that_are_no_probabilities_are_refused(node):
    request = {"name": "checkProbabilities", "recipe": "float16"}
    right, high, low = node({**request, "values": [-0.004, 1.0039, 0.2]}, {**request, "values": [4.1214, 0.5, -2]}, {**request, "values": [-3, 0.5]})
    expected = "expected values from 0 to 1 from the recipe 'float16', since model.json says that its output_kind is probabilities, received"
    assert right is None and high == f"{expected} -2 to 4.121. Export the bundle again." and low == f"{expected} -3 to 0.5. Export the bundle again."


def test_no_text_turns_the_direction_of_what_follows_it(node):
    assert node(*({"name": "legible", "text": text} for text in ("a\u202ebc", "\u2067", LABELS[-1]))) == ["a\\u202ebc", "\\u2067", LABELS[-1]]


def changed(**changes):
    files = [{"recipe": "float32", "file": "float32.tflite", "bytes": 7, "sha256": "0" * 64}]
    return {**DESCRIPTION, "files": files, **changes}


SETTING = DESCRIPTION["preprocessing"]


@pytest.mark.parametrize(
    "description",
    [
        None,
        [],
        7,
        changed(format_version=2),
        changed(format_version="1"),
        changed(format_version=True),
        changed(labels=["one"]),
        changed(labels="ab"),
        changed(labels=[1, 2]),
        changed(preprocessing={**SETTING, "mode": "fit"}),
        changed(preprocessing={**SETTING, "interpolation": "nearest"}),
        changed(preprocessing={**SETTING, "resize": [24, 39]}),
        changed(preprocessing={**SETTING, "resize": [24, 1e9]}),
        changed(preprocessing={**SETTING, "resize": [24.5, 40]}),
        changed(preprocessing={**SETTING, "crop": [24]}),
        changed(preprocessing={**SETTING, "mean": [0.5, 0.5]}),
        changed(preprocessing={**SETTING, "mean": [0.5, 0.5, "x"]}),
        changed(preprocessing={**SETTING, "std": [0.5, 0.5, 0]}),
        changed(preprocessing=None),
        changed(input={**DESCRIPTION["input"], "shape": [1, 3, 24, 40]}),
        changed(input={**DESCRIPTION["input"], "dtype": "int8"}),
        changed(input=None),
        changed(files=[]),
        changed(files=[{"recipe": "float32", "file": "../float32.tflite", "sha256": "0"}]),
        changed(files=[{"recipe": "float32", "file": "/etc/passwd", "sha256": "0"}]),
        changed(files=[{"recipe": "float32", "file": "..\\float32.tflite", "sha256": "0"}]),
        changed(files=[{"recipe": "float32", "file": "float32.tflite"}]),
    ],
)
def test_a_broken_description_is_refused_in_pythons_words(node, tmp_path, description):
    (tmp_path / "model.json").write_text(json.dumps(description))
    with pytest.raises(InputError) as error:
        read_bundle(tmp_path)
    (message,) = node({"name": "readBundle", "content": json.dumps(description).encode()})
    expected = str(error.value).replace(f"{str(tmp_path / 'model.json')!r}", "'bundle/model.json'").replace("program", "app")
    # Python also says what came, and the range of numbers.
    expected = re.sub(r", received .*(?=\. Export the bundle again\.$)| from -1000 to 1000| from 0\.001 to 1000", "", expected)
    assert message.replace('"1"', "'1'").replace("true", "True").replace("received none", "received None") == expected


def test_a_right_description_is_read_and_unknown_keys_are_left_alone(node):
    features = changed(output_kind="features", labels=None, outputs=[{"name": "stage1", "index": 0, "shape": [1, 6, 10, 8]}])
    both = changed(outputs=[*features["outputs"], *DESCRIPTION["outputs"]])
    finders = describe_dense("boxes"), describe_dense("masks")
    for description in (changed(), changed(labels=None), changed(signatures={"serving_default": {}}), features, both, *finders):
        assert node({"name": "readBundle", "content": json.dumps(description).encode()}) == [None]
    (file,) = changed()["files"]
    sizes = [changed(files=[{**file, "bytes": size}]) for size in (None, 0, -7, 7.5, "7")]
    for wrong in (changed(outputs=[]), changed(output_kind="boxes"), changed(outputs=[{"name": "logits", "index": 0, "shape": [2]}]), *sizes):
        assert "Export the bundle again." in node({"name": "readBundle", "content": json.dumps(wrong).encode()})[0]
    assert "expected JSON in 'bundle/model.json'" in node({"name": "readBundle", "content": b'{"format'})[0]


def test_sizes_are_those_that_the_app_can_run(node):
    default = {"key": "serving_default", **{key: DESCRIPTION[key] for key in ("input", "preprocessing")}}
    default["outputs"] = [{key: output[key] for key in ("name", "shape")} for output in DESCRIPTION["outputs"]]
    shape = [1, 48, 64, 3]
    large = {
        **default,
        "key": "size_48x64",
        "input": {**default["input"], "shape": shape},
        "preprocessing": {**default["preprocessing"], "resize": shape[1:3], "crop": shape[1:3]},
    }
    unfit = [
        {**large, "key": "uint8_48x64", "input": {**large["input"], "dtype": "uint8"}},
        {**large, "key": "lacks", "outputs": None},
        {**large, "key": "other", "outputs": [{**default["outputs"][0], "name": "probabilities"}]},
        {**large, "key": 7},
        {"key": "nothing"},
        None,
    ]
    own = {"shape": DESCRIPTION["input"]["shape"], "outputs": DESCRIPTION["outputs"]}
    other = {"signature": "size_48x64", "shape": shape, "outputs": [{**default["outputs"][0], "index": 0}]}
    requests = [{"name": "listSizes", "description": changed(signatures=s)} for s in ([default, large, *unfit], [default], {"a": 1}, None)]
    assert node(*requests) == [[own, other], [own], [own], [own]]


def test_damaged_metadata_says_nothing(node):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = exif.tobytes()
    assert node({"name": "orientation", "content": content}) == [6]
    assert node({"name": "orientation", "content": content.removeprefix(b"Exif\0\0")}) == [6]
    assert node(*({"name": "orientation", "content": content[:n]} for n in range(len(content) - 6))) == [1] * (len(content) - 6)
    assert node({"name": "orientation", "content": b"\xff" * 40}) == [1]


def test_the_size_of_a_picture_is_read_before_it_is_decoded(node, tmp_path):
    write_pictures(tmp_path)
    pictures = sorted(tmp_path.iterdir())
    kinds = {".jpg": "jpeg"}
    for path, header in zip(pictures, node(*({"name": "readHeader", "content": path.read_bytes()} for path in pictures)), strict=True):
        with Image.open(path) as picture:
            expected = {"kind": kinds.get(path.suffix, path.suffix[1:]), "size": list(picture.size)}
        assert header == expected, path.name
    for path in pictures[::5]:
        content = path.read_bytes()
        for header in node(*({"name": "readHeader", "content": content[:n]} for n in range(60))):
            assert header.get("kind") in (None, kinds.get(path.suffix, path.suffix[1:]))
    assert node({"name": "readHeader", "content": b"Dear reader"}) == [{"size": None}]


def test_a_file_takes_no_more_memory_than_its_description_tells_of(node, rng):
    content = rng.bytes(1000)
    (file,) = changed()["files"]
    description = changed(files=[{**file, "bytes": 1000, "sha256": hashlib.sha256(content).hexdigest()}])
    right, longer, shorter, huge = node(
        {"name": "readFile", "description": description, "content": content},
        {"name": "readFile", "description": description, "content": content + b"x"},
        {"name": "readFile", "description": description, "content": content[:-1]},
        {"name": "readFile", "description": changed(files=[{**file, "bytes": 10**15}]), "content": content},
    )
    assert base64.b64decode(right) == content
    assert longer.startswith("expected 1000 bytes of 'bundle/float32.tflite', received more: the file was changed after export.")
    assert shorter.startswith("expected 1000 bytes of 'bundle/float32.tflite', received 999: the file was changed after export.")
    upper = {**description["files"][0], "sha256": description["files"][0]["sha256"].upper()}
    assert base64.b64decode(node({"name": "readFile", "description": {**description, "files": [upper]}, "content": content})[0]) == content
    assert huge.startswith("expected memory for the 1000000000000000 bytes of 'bundle/float32.tflite', which this browser does not give.")


def test_a_recommended_recipe_that_is_not_there_is_refused_in_pythons_words(node):
    (message,) = node({"name": "readFile", "description": changed(), "recipe": "nope", "content": b""})
    expected = "expected as recommended.cpu in 'bundle/model.json' one of the bundle's recipes float32, received 'nope'. "
    assert message == f"{expected}Choose one of them, or export the bundle again."


def test_a_picture_is_called_damaged_only_where_it_is(node):
    said = {
        "InputError": "x.",
        "InvalidStateError": "this picture is damaged (x)",
        "EncodingError": "this picture is damaged (x)",
        "RangeError": "it takes more memory than this browser gives: give a smaller picture",
        "NotReadableError": "it cannot be read: save it on this device first",
        "ReferenceError": "this browser lacks what reading it takes (x): update it",
    }
    assert node(*({"name": "explain", "error": [name, "x."]} for name in said)) == list(said.values())


def place_windows(received, grid, window, shift):
    """Puts `(windows, tokens)` on the grid they were cut from, by cutting the grid of numbers of tokens in the same way."""
    padded = [-(-g // w) * w for g, w in zip(grid, window, strict=True)]
    numbers = np.roll(np.arange(padded[0] * padded[1]).reshape(padded), [-s for s in shift], (0, 1))
    cut = numbers.reshape(padded[0] // window[0], window[0], padded[1] // window[1], window[1]).transpose(0, 2, 1, 3).reshape(-1)
    placed = np.empty(padded[0] * padded[1])
    placed[cut] = received.reshape(-1)
    return placed.reshape(padded)[: grid[0], : grid[1]]


def stretched(values):
    return (values - values.min()) / (values.max() - values.min())


@pytest.mark.parametrize(
    ("size", "stage", "block", "grid", "window", "shift"),
    [
        ((32, 40), 0, 0, (8, 10), (4, 4), (0, 0)),  # padded to 8x12
        ((32, 40), 0, 1, (8, 10), (4, 4), (2, 2)),
        ((32, 40), 1, 1, (4, 5), (4, 4), (0, 2)),  # one window high: no shift there
        ((16, 64), 0, 1, (4, 16), (4, 7), (0, 3)),
        ((224, 224), 2, 5, (14, 14), (7, 7), (3, 3)),
    ],
)
def test_attention_is_put_back_where_its_windows_were(node, rng, size, stage, block, grid, window, shift):
    windows = -(-grid[0] // window[0]) * -(-grid[1] // window[1])
    tokens, heads = window[0] * window[1], 3
    weights = rng.random((windows, heads, tokens, tokens)).astype("float32")
    output = {"name": f"layers_{stage}_blocks_{block}_attention", "shape": weights.shape}
    (result,) = node({"name": "map", "output": output, "values": weights.tobytes(), "size": size})
    expected = stretched(place_windows(weights.mean((1, 2)), grid, window, shift))
    assert (result["rows"], result["columns"], result["cell"]) == (*grid, 4 * 2**stage)
    np.testing.assert_allclose(np.reshape(result["values"], grid), expected, atol=1e-5)


def test_features_are_drawn_by_their_distance_from_the_mean(node, rng):
    features = rng.standard_normal((1, 8, 10, 24)).astype("float32")
    (result,) = node({"name": "map", "output": {"name": "stage1", "shape": features.shape}, "values": features.tobytes(), "size": (32, 40)})
    expected = stretched(np.linalg.norm(features[0] - features.mean((0, 1, 2)), axis=-1))
    assert (result["rows"], result["columns"], result["cell"]) == (8, 10, 4)
    np.testing.assert_allclose(np.reshape(result["values"], (8, 10)), expected, atol=1e-5)
    assert node({"name": "map", "output": {"name": "logits", "shape": [1, 7]}, "values": bytes(28), "size": (32, 40)}) == [None]


def test_the_service_worker_lists_the_app():
    listed = set(re.findall(r'"([\w./-]+\.\w+)"', re.search(r"const APP = \[(.*?)\];", (WEB / "sw.js").read_text(), re.DOTALL)[1]))
    files = {path.name for path in WEB.iterdir() if path.suffix in (".js", ".css", ".svg", ".png", ".webmanifest")} - {"sw.js"}
    assert listed == files | {"litert/core.js", "litert/wasm-utils.js"}


# --- Its installation ---

NPM = """#!/bin/sh
[ "$1" != ci ] || { mkdir busy && sleep 0.5 && rmdir busy && mkdir -p node_modules && touch node_modules/.package-lock.json; } || exit 9
[ "$1" != run ] || { mkdir -p litert && touch litert/core.js; }
echo "$1" >> log
"""


@pytest.fixture
def installer(tmp_path):
    """Starts a copy of install.sh with an npm and a Node.js that are none; `None` takes one away."""
    for name in ("install.sh", "package-lock.json", "vendor.mjs"):
        shutil.copy2(WEB / name, tmp_path)
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("bash", "dirname", "flock", "mkdir", "rmdir", "sleep", "touch"):
        (tools / name).symlink_to(shutil.which(name))

    def start(node="v22.1.0", npm=NPM):
        for name, text in (("node", node and f"#!/bin/sh\necho {node}"), ("npm", npm)):
            (tools / name).unlink(missing_ok=True)
            if text:
                (tools / name).write_text(text)
                (tools / name).chmod(0o755)
        return subprocess.Popen([tmp_path / "install.sh"], env={"PATH": str(tools)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_two_installations_at_once_take_turns_and_the_second_finds_all_done(installer, tmp_path):
    both = [installer(), installer()]
    errors = [process.communicate(timeout=30)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert sorted(errors) == ["", "waiting for another install.sh to end\n"]
    assert (tmp_path / "log").read_text() == "ci\nrun\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"node": "v20.10.0"}, "error: expected Node.js 20.11 or newer and npm, received Node.js 20.10.0. Install Node.js"),
        ({"node": None}, "error: expected Node.js 20.11 or newer and npm; this machine has no node. Install Node.js"),
        ({"npm": None}, "error: expected Node.js 20.11 or newer and npm; this machine has no npm. Install Node.js"),
        ({"npm": "#!/bin/sh\nexit 1"}, "error: expected npm to install what package-lock.json lists. Check the network"),
        ({"npm": NPM.replace("touch litert/core.js", "exit 1")}, "error: expected LiteRT in node_modules/, to be copied to litert/."),
    ],
)
def test_what_the_installation_lacks_is_told_in_a_line(installer, given, said):
    process = installer(**given)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 2 and errors.splitlines()[-1].startswith(said), errors


@pytest.mark.parametrize("node", ["v20.11.0", "v21.0.0", "v100.1.0"])
def test_newer_versions_of_node_will_do(installer, node):
    process = installer(node=node)
    assert process.communicate(timeout=30) == ("", "") and process.returncode == 0


def test_make_web_serves_without_loading_the_library():
    # Inside another make, as in `make test`, make also prints the folders that it enters and leaves.
    command = ["make", "--no-print-directory", "--dry-run", "web", "BUNDLE=some", "PORT=8001"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-1].endswith("python -m edge_demo.serve --bundle some --port 8001 --open")


# --- In the browser ---


def chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(size, depth, colour, rows, interlaced=0, extra=b""):
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def interlaced(size, bits, rng):
    """Rows of the seven passes, each filtered in some way."""
    rows = b""
    for left, top, across, down in ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)):
        columns, count = -(-(size[0] - left) // across), -(-(size[1] - top) // down)
        for _ in range(count if columns > 0 else 0):
            rows += bytes([rng.integers(0, 5)]) + rng.bytes((columns * bits + 7) // 8)
    return rows


def write_pictures(folder):
    """Writes pictures of all kinds."""
    rng = np.random.default_rng(0)
    height, width = 83, 117
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 17 + y / 23), np.sin(x / 29 - y / 13 + 1), np.cos(x / 11 + y / 31)], -1)
    picture = Image.fromarray(np.clip(127 + 110 * waves + rng.normal(0, 12, waves.shape), 0, 255).astype("uint8"))
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3)).astype("uint8"))
    transparent = picture.copy()
    transparent.putalpha(Image.fromarray(rng.integers(0, 256, (height, width)).astype("uint8")))
    palette = picture.quantize(13)

    for mode in ("RGB", "L", "P", "1"):
        picture.convert(mode).save(folder / f"kind_{mode}.png")
    transparent.save(folder / "kind_RGBA.png")
    transparent.convert("LA").save(folder / "kind_LA.png")
    palette.save(folder / "kind_palette_transparent.png", transparency=3)
    Image.fromarray(rng.integers(0, 65536, (height, width)).astype("uint16")).save(folder / "kind_I16.png")
    size = (width, height)
    for name, depth, colour, bits in [("grey2", 2, 0, 2), ("grey4", 4, 0, 4), ("RGB16", 16, 2, 48), ("LA16", 16, 4, 32), ("RGBA16", 16, 6, 64)]:
        rows = b"".join(b"\0" + rng.bytes((width * bits + 7) // 8) for _ in range(height))
        (folder / f"kind_{name}.png").write_bytes(png(size, depth, colour, rows))
    (folder / "kind_interlaced_RGB.png").write_bytes(png(size, 8, 2, interlaced(size, 24, rng), 1))
    (folder / "kind_interlaced_1.png").write_bytes(png((3, 2), 1, 0, interlaced((3, 2), 1, rng), 1))
    # A palette that is shorter than the indices.
    short = png((256, 1), 8, 3, b"\0" + bytes(range(256)), extra=chunk(b"PLTE", rng.bytes(30)))
    (folder / "kind_short_palette.png").write_bytes(short)

    for subsampling in (0, 1, 2):
        for name, image in (("waves", picture), ("noise", noise)):
            image.save(folder / f"kind_{name}{subsampling}.jpg", quality=90, subsampling=subsampling)
    picture.save(folder / "kind_progressive.jpg", progressive=True)
    picture.convert("L").save(folder / "kind_L.jpg")
    picture.convert("CMYK").save(folder / "kind_CMYK.jpg")
    # A profile that exchanges nothing but would change every colour if it were applied: the linear one of sRGB's primaries.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    picture.save(folder / "kind_profile.jpg", icc_profile=linear(profile))
    picture.save(folder / "kind_lossless.webp", lossless=True)
    picture.save(folder / "kind_lossy.webp")
    transparent.save(folder / "kind_transparent.webp", lossless=True, exact=True)
    palette.save(folder / "kind_P.gif")
    palette.save(folder / "kind_transparent.gif", transparency=3)
    picture.save(folder / "kind_RGB.bmp")
    with contextlib.suppress(KeyError, OSError):  # A Pillow without it.
        picture.save(folder / "kind_RGB.avif")
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "png", "webp"):
            options = {"lossless": True} if suffix == "webp" else {}
            picture.save(folder / f"kind_exif{orientation}.{suffix}", exif=exif, **options)


def linear(profile):
    """Replaces the tone curves of a profile by a power of 1.0."""
    count = struct.unpack(">I", profile[128:132])[0]
    for tag in range(count):
        name, offset, _ = struct.unpack(">4sII", profile[132 + 12 * tag : 144 + 12 * tag])
        if name in (b"rTRC", b"gTRC", b"bTRC"):
            profile[offset : offset + 8] = b"curv\0\0\0\0"
            profile[offset + 8 : offset + 12] = struct.pack(">I", 0)
    return bytes(profile)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Installs what is missing. Nothing but a Chromium that cannot be installed skips a test."""
    folder = tmp_path_factory.mktemp("install")
    with open(folder / "log", "w+") as log:
        finished = subprocess.run([WEB / "install.sh", "tests"], stdout=log, stderr=log, check=False, timeout=900)
        log.seek(0)
        said = log.read()
    if finished.returncode == 3:
        pytest.skip(said.splitlines()[-1].removeprefix("error: "))
    assert finished.returncode == 0, said


CLASSIFIED = ["a.jpg", "b.png", "c.webp", "large.jpg", "tiny.png"]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A classifier, a backbone with attention, and samples."""
    from swin_keras.export import export_bundle

    import swin_keras
    from swin_keras.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("web")
    shape, name = (32, 40, 3), "swin_nano_patch4_window4_32"
    settings = Preprocessing(**{key: tuple(value) if isinstance(value, list) else value for key, value in COVER.items()})
    model = randomize(swin_keras.create_model(name, input_shape=shape, num_classes=7), scale=0.15)
    export_bundle(model, folder / "bundle", labels=LABELS, preprocessing=settings)
    # Its name alone is what the page refuses on a GPU.
    description = json.loads((folder / "bundle" / "model.json").read_text())
    description["files"].append({**description["files"][0], "recipe": "int16x8"})
    (folder / "bundle" / "model.json").write_text(json.dumps(description, indent=2))
    last = next(weight for weight in model.weights if weight.path == "layers_1_blocks_1/mlp/fc2/bias")  # It stands in the file as it is.
    write_other(folder, np.asarray(last))
    write_unfit(folder)
    backbone = randomize(swin_keras.create_backbone(name, input_shape=shape, return_attention=True))
    export_bundle(backbone, folder / "features", recipes=["float32"], preprocessing=settings)
    export_bundle(model, folder / "sizes", recipes=["float32"], labels=LABELS, preprocessing=settings, sizes=[(48, 64)], uint8_input=True)

    write_bundles(folder)

    samples = folder / "samples"
    samples.mkdir()
    write_pictures(samples)
    rng = np.random.default_rng(1)
    coarse = [Image.fromarray(rng.integers(0, 256, (5, 7, 3)).astype("uint8")) for _ in range(4)]
    exif = Image.Exif()
    exif[0x0112] = 6
    coarse[0].resize((300, 200)).save(samples / "a.jpg", exif=exif)
    coarse[1].resize((61, 90)).save(samples / "b.png")
    coarse[2].resize((90, 61)).save(samples / "c.webp", lossless=True)
    coarse[3].resize((4032, 3024)).save(samples / "large.jpg", quality=90)
    Image.fromarray(rng.integers(0, 256, (8, 8)).astype("uint8")).save(samples / "tiny.png")
    for name, whole in (("cut.jpg", "a.jpg"), ("cut.png", "b.png"), ("cut.webp", "c.webp")):
        content = (samples / whole).read_bytes()
        (samples / name).write_bytes(content[: len(content) // 2])
    (samples / "letter.png").write_text("Dear reader")
    broken = bytearray((samples / "b.png").read_bytes())
    broken[20] ^= 1  # the header's width
    (samples / "wrong_checksum.png").write_bytes(broken)
    bomb = bytearray((samples / "kind_L.jpg").read_bytes())
    at = bomb.index(b"\xff\xc0")
    bomb[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    (samples / "bomb.jpg").write_bytes(bomb)
    (samples / "bomb.png").write_bytes(png((20_000, 20_000), 8, 2, b"\0"))
    (samples / "large.png").write_bytes(png((9_460, 9_460), 8, 2, b"\0"))  # above 89 megapixels, but not twice as many
    return folder


def write_other(folder, bias):
    """Writes a bundle whose float32 file gives no numbers: a bias of the bundle's is NaN in it."""
    shutil.copytree(folder / "bundle", folder / "other")
    path = folder / "other" / "float32.tflite"
    content = path.read_bytes()
    assert content.count(bias.tobytes()) == 1
    path.write_bytes(content.replace(bias.tobytes(), np.full_like(bias, np.nan).tobytes()))
    describe_again(folder / "other")


def write_unfit(folder):
    """Writes a bundle whose dynamic_int8 file loads and does not run: a scale of its weights is negative, which XNNPACK refuses."""
    from ai_edge_litert import schema_py_generated as schema

    shutil.copytree(folder / "bundle", folder / "unfit")
    path = folder / "unfit" / "dynamic_int8.tflite"
    content = path.read_bytes()
    tensors = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content)).subgraphs[0].tensors
    scales = next(tensor.quantization.scale for tensor in tensors if tensor.quantization is not None and np.size(tensor.quantization.scale) > 4)
    assert content.count(scales.tobytes()) == 1
    path.write_bytes(content.replace(scales.tobytes(), (-scales).tobytes()))
    describe_again(folder / "unfit")


def describe_again(bundle):
    """Writes the sha256 of files that were changed."""
    description = json.loads((bundle / "model.json").read_text())
    for file in description["files"]:
        file["sha256"] = hashlib.sha256((bundle / file["file"]).read_bytes()).hexdigest()
    (bundle / "model.json").write_text(json.dumps(description))


@pytest.fixture(scope="module")
def seen(browser, served):
    """What suite.mjs reports. SWIN_WEB_SCREENSHOTS names a folder for pictures of the page."""
    config = {
        "python": sys.executable,
        "root": str(ROOT),
        "bundle": str(served / "bundle"),
        "features": str(served / "features"),
        "other": str(served / "other"),
        "unfit": str(served / "unfit"),
        "sizes": str(served / "sizes"),
        "dense": [str(served / kind) for kind in ("boxes", "masks")],
        "samples": str(served / "samples"),
        "classified": CLASSIFIED,
        "settings": SETTINGS,
        "screenshots": os.environ.get("SWIN_WEB_SCREENSHOTS"),
    }
    (served / "config.json").write_text(json.dumps(config))
    # One browser and one run for all; the tests below look at its parts.
    finished = subprocess.run(["node", TESTS / "suite.mjs", served / "config.json"], capture_output=True, text=True, timeout=900, check=False)
    assert finished.returncode == 0, finished.stderr
    facts = json.loads(finished.stdout)
    (served / "facts.json").write_text(finished.stdout)
    print(facts["browser"], facts["seconds"])
    return facts


@pytest.fixture
def part(seen):
    def part(name):
        assert "failed" not in seen[name], seen[name]["failed"]
        return seen[name]

    return part


def expected_classes(served, recipe, name):
    classifier = Classifier(served / "bundle", recipe)
    probabilities = classifier.probabilities(preprocess(open_picture(served / "samples" / name), classifier.description["preprocessing"]))
    return {int(i): float(probabilities[i]) for i in np.argsort(-probabilities, kind="stable")}


def quiet(seen):
    """Nothing went wrong unseen, and nothing left the page."""
    return seen == {"errors": [], "elsewhere": []}


@pytest.mark.slow
def test_the_page_loads_and_says_what_runs(part):
    facts = part("load")
    assert quiet(facts["seen"]) and facts["isolated"]
    text, data = facts["running"]
    assert re.fullmatch(r"dynamic_int8 runs on wasm with \d+ threads?: all of the graph, by XNNPACK\.", text)
    assert data["recipe"] == "dynamic_int8" and data["accelerator"] == "wasm" and data["whole"] == "true"
    assert facts["model"].endswith("· 7 classes · 32×40")
    recipes = dict(facts["recipes"])
    # Recommended first. What a narrow control cuts off stands above it in the list.
    assert list(recipes) == ["float16", "dynamic_int8", "float32", "int16x8"]
    assert [group for _, group in recipes.values()] == ["Best for WebGPU", "Best for wasm", None, None]
    assert all(re.fullmatch(rf"{recipe}, \d+\.\d MB", text) for recipe, (text, _) in recipes.items())
    assert set(CLASSIFIED) < set(facts["samples"])


# The integer products of dynamic_int8 are those of another build of XNNPACK, for another processor.
BOUNDS = {
    "float32 wasm": 1e-3,
    "float32 wasm, 1 thread": 1e-3,
    "float32 webgpu": 1e-3,
    "float16 wasm": 1e-3,
    "dynamic_int8 wasm": 1e-2,
}


@pytest.mark.slow
@pytest.mark.parametrize("how", BOUNDS)
def test_each_sample_is_classified_as_in_python(part, served, how):
    results = part("load")["results"][how]
    assert list(results) == [name for name in CLASSIFIED if name != "large.jpg" or how == "float32 wasm"]
    winners = set()
    for name, rows in results.items():
        expected = expected_classes(served, how.split()[0], name)
        received = {row["index"]: row["probability"] for row in rows}
        assert received.keys() == expected.keys() and rows[0]["index"] == next(iter(expected)), (how, name)
        assert max(abs(received[i] - expected[i]) for i in expected) < BOUNDS[how], (how, name)
        assert [row["label"] for row in rows] == [LABELS[row["index"]] for row in rows]
        winners.add(rows[0]["index"])
    assert len(winners) > 1  # otherwise the test would say little


@pytest.mark.slow
def test_a_photo_that_python_decodes_reduced_is_classified_nearly_alike(part, served):
    # A page decodes all of a JPEG file; classify() decodes a large one at a fraction of its size.
    received = {row["index"]: row["probability"] for row in part("load")["results"]["float32 wasm"]["large.jpg"]}
    expected = Classifier(served / "bundle", "float32").classify(served / "samples" / "large.jpg", top_k=7)["top"]
    assert len(expected) == len(received) == 7
    assert max(abs(received[row["index"]] - row["probability"]) for row in expected) < REDUCED_BOUND


@pytest.mark.slow
def test_threads_and_gpu_are_chosen_and_reported(part):
    facts = part("load")
    assert "wasm with 1 thread: all of the graph" in facts["oneThread"]
    text, data = facts["gpu"]
    assert re.fullmatch(r"float32 runs on WebGPU \(.+\): all of the graph\.", text) and data["accelerator"] == "webgpu" and data["whole"] == "true"
    assert facts["gpuThreads"]
    message, running = facts["int16x8"]
    assert "received 'int16x8', which Chromium's computes wrong. Choose wasm, or another recipe." in message and running == "Nothing runs."
    assert facts["afterRefusal"]
    assert facts["offline"] == "Kept for offline use: this page and float32, float16, dynamic_int8, int16x8."


@pytest.mark.slow
def test_a_photo_of_12_megapixels_leaves_the_page_responsive(part):
    large = part("load")["large"]
    assert large["total"] > 100 and large["ticks"] >= 3, large


@pytest.mark.slow
def test_controls_change_what_is_shown(part, served):
    facts = part("controls")
    assert quiet(facts["seen"])
    assert [len(facts[key]) for key in ("five", "two", "emptyTopK")] == [5, 2, 1] and facts["two"] == facts["five"][:2]
    assert facts["corrected"] == ["1", "1", "3"]
    first = facts["five"][0]
    assert first["share"] == f"{100 * first['probability']:.1f} %"
    scale = float(re.match(r"matrix\(([\d.]+)", first["bar"])[1])
    assert 0 < scale <= first["probability"] + 1e-3  # it may still be growing
    assert facts["none"] == [[], "No class reaches 99 %.", "99 %"]
    names, last, *_ = zip(*facts["times"], strict=True)
    assert names == ("Decode", "Preprocess", "Inference", "Total")
    assert sum(map(float, last[:3])) == pytest.approx(float(last[3]), abs=0.16)
    for key, name in (("file", CLASSIFIED[1]), ("drop", CLASSIFIED[2]), ("paste", CLASSIFIED[3])):
        assert facts[key][0]["index"] == next(iter(expected_classes(served, "dynamic_int8", name))), key
    assert facts["preview"] == [f"Picture {CLASSIFIED[3]}", True]


@pytest.mark.slow
def test_a_picture_that_cannot_be_read_says_what_to_do(part):
    facts = part("controls")
    link, shown = facts["link"]
    assert link == "Expected a picture file, received a link or text. Save the picture of another page on this device first, then open the file."
    assert shown == f"Picture {CLASSIFIED[3]}"
    message, rows, again = facts["letter.png"]
    assert (
        rows == 0
        and not again
        and message.startswith("Expected a picture file, received 'letter.png': this is not a picture")
        and message.endswith("WebP file.")
    )
    for name in ("cut.jpg", "cut.png"):
        assert f"received '{name}': this picture is damaged (" in facts[name][0]
    assert facts["dismissed"] and len(facts["again"]) == 3
    message, kept, visible = facts["bomb"]
    assert "received 'bomb.jpg': this picture is too large (20000x20000 pixels)" in message and kept and not visible


@pytest.mark.slow
def test_pictures_of_all_kinds_are_read_and_prepared_as_in_python(part, served):
    facts = part("pictures")
    assert quiet(facts["seen"])
    lossy, checked = re.compile(r".*\.(jpg|avif)|kind_lossy\.webp"), []
    for name, received in facts.items():
        if not name.startswith("kind_"):
            continue
        picture = open_picture(served / "samples" / name)
        if name == "kind_transparent.gif":
            # The one kind whose colours the browser keeps to itself, where it is transparent; the page says so.
            assert received["hidden"]
            continue
        assert (received["width"], received["height"], received["hidden"]) == (*picture.size, False), name
        for setting, values in zip(SETTINGS, received["inputs"], strict=True):
            expected = preprocess(picture, setting)
            difference = np.abs(floats(values).reshape(expected.shape) - expected) * np.float32(setting["std"]) * 255
            assert difference.max() <= (LOSSY_BOUND + 0.01 if lossy.fullmatch(name) else 0), (name, setting, difference.max())
        checked.append(name)
    assert len(checked) >= 50


@pytest.mark.slow
def test_what_python_refuses_the_page_refuses(part, served):
    facts = part("pictures")
    refused = ["cut.jpg", "cut.png", "cut.webp", "letter.png", "wrong_checksum.png", "bomb.jpg", "bomb.png", "large.png"]
    for name in refused:
        with pytest.raises(InputError):
            open_reduced(served / "samples" / name, COVER)
        assert facts[name]["error"].startswith("InputError: expected a picture file, received"), name
    for name, side in (("bomb.jpg", 20_000), ("bomb.png", 20_000), ("large.png", 9_460)):
        assert f"this picture is too large ({side}x{side} pixels)" in facts[name]["error"]
    assert [name for name, received in facts.items() if "error" in received] == sorted(refused)


@pytest.mark.slow
def test_the_camera_is_classified_live_without_a_queue(part, served):
    facts = part("camera")
    assert quiet(facts["seen"]) and facts["mostAtOnce"] == 1
    before, after = ([int(n) for n in re.findall(r"\d+", facts[key])] for key in ("before", "after"))
    classified, dropped = after[0] - before[0], after[1] - before[1]
    # Of some 20 pictures a second, each classification misses those of 300 ms.
    assert 1 <= classified <= facts["seconds"] / 0.3 + 3 and dropped > 0, facts
    for name, last, median, p90 in facts["times"]:
        assert float(last) >= 0 and 0 <= float(median) <= float(p90), name
    assert facts["classes"] == 5 and facts["aloud"] == "off" and facts["button"] == ["Camera", "true"]
    assert facts["switched"].startswith("float16 runs on wasm")
    # From the switch on it is counted anew, and each picture once.
    for key in ("counts", "restarted"):
        counts = facts[key][facts[key].index(1) :]
        assert counts == list(range(1, len(counts) + 1)) and len(counts) >= 5, facts[key]
    assert facts["stopped"] == [None, "false"] and facts["emptied"] == 0
    assert len(facts["chosenMeanwhile"]) == 5 and facts["late"] == [0, True, False]
    assert facts["ended"] == ["Expected pictures from the camera, which ended by itself. Connect it again, then try again.", "false"]
    assert facts["sampleAfter"][0]["index"] == next(iter(expected_classes(served, "float16", CLASSIFIED[0])))
    message, marked, rows, seen = facts["denied"]
    assert marked == [CLASSIFIED[0]] and rows == 5
    assert quiet(seen) and message.startswith("Expected permission for the camera, which was denied. Allow the camera")


@pytest.mark.slow
def test_what_was_chosen_last_is_what_is_shown(part, served):
    facts = part("chosen")
    assert quiet(facts["seen"])
    winner = next(iter(expected_classes(served, "dynamic_int8", CLASSIFIED[0])))
    assert set(facts["between"]) == {"–"} and facts["before"][0]["index"] == facts["after"][0]["index"] == winner
    first, second = CLASSIFIED[:2]
    assert facts["late"] == [f"Picture {first}", [first]] and facts["latePaste"] == [f"Picture {second}", [second]]
    assert facts["deniedPaste"] == [
        f"Picture {second}",
        [second],
        "Expected permission to read the clipboard. Allow it for this address, or press Ctrl+V.",
    ]
    rows, given_up = facts["superseded"]
    assert rows[0]["index"] == next(iter(expected_classes(served, "float32", CLASSIFIED[2]))) and "/bundle/float16.tflite?" in given_up
    assert facts["runs"] == 1


@pytest.mark.slow
def test_another_worker_takes_the_place_of_one_that_ended(part, served):
    facts = part("chosen")
    assert facts["died"] == ["Expected the runtime to work, which failed. Try again, or choose wasm.", "Nothing runs.", "out of memory"]
    assert facts["revived"][0]["index"] == next(iter(expected_classes(served, "float32", CLASSIFIED[1])))


@pytest.mark.slow
def test_a_map_is_laid_over_what_the_model_sees(part, served):
    facts = part("map")
    assert quiet(facts["seen"]) and facts["none"]
    description = json.loads((served / "features" / "model.json").read_text())
    assert facts["options"] == ["none", *(output["name"] for output in description["outputs"])]
    assert {"stage1", "stage2", "layers_0_blocks_1_attention"} < set(facts["options"])
    assert facts["note"].startswith("This model gives features, not classes") and facts["ofClasses"] == [False, False]

    picture = open_picture(served / "samples" / CLASSIFIED[0])
    model = TFLiteModel((served / "features" / "float32.tflite").read_bytes())
    outputs = model.outputs(preprocess(picture, description["preprocessing"]))
    for output in description["outputs"]:
        values, received = outputs[output["index"]], facts["maps"][output["name"]]
        assert list(values.shape) == output["shape"]
        if output["name"].startswith("stage"):
            grid = values.shape[1:3]
            expected = np.linalg.norm(values[0] - values.mean((0, 1, 2)), axis=-1)
            cell = 2 ** (1 + int(output["name"][-1]))
        else:
            stage, block = map(int, re.findall(r"\d+", output["name"]))
            grid, cell = ((8, 10), (4, 5))[stage], 4 * 2**stage
            shift = [2 if block and side > 4 else 0 for side in grid]
            expected = place_windows(values.mean((1, 2)), grid, (4, 4), shift)
        assert (received["rows"], received["columns"]) == tuple(grid), output
        colours = np.reshape(received["data"], (*grid, 4))
        assert (colours[..., 3] == 255).all()
        # The first colour is dark blue, the last yellow; between them red and green rise.
        brightness = colours[..., 0].astype(float) + colours[..., 1]
        order = np.argsort(expected, axis=None)
        assert (np.diff(brightness.reshape(-1)[order]) >= -2).all() and brightness.min() <= 22 and brightness.max() >= 487, output
        # Of 200x300 pixels the middle is seen: 36x44 covers it by 44 across and 66 down, of which 40x32 are cut out.
        wide, high, client_wide, client_high = received["shape"]
        assert (wide, high) == picture.size == (200, 300)
        scale = min(client_wide / wide, client_high / high)
        left, top = (client_wide - wide * scale) / 2, (client_high - high * scale) / 2
        box = [2 * 200 / 44, 17 * 300 / 66, 42 * 200 / 44, 49 * 300 / 66]
        place = [(left + box[0] * scale) / client_wide, (top + box[1] * scale) / client_high]
        place += [(box[2] - box[0]) * scale / client_wide, (box[3] - box[1]) * scale / client_high]
        np.testing.assert_allclose(received["part"], place, atol=0.01)
        np.testing.assert_allclose(received["drawn"], [0, 0, grid[1] * cell / 40, grid[0] * cell / 32], atol=0.02)


@pytest.mark.slow
def test_boxes_and_masks_are_laid_over_the_picture(part, served):
    boxes, masks = part("dense")
    name = CLASSIFIED[1]
    expected = open_bundle(served / "boxes").classify(served / "samples" / name, threshold=0.2)
    assert quiet(boxes["seen"]) and boxes["titles"] == ["Objects", "Objects shown", "50 %"] and boxes["part"] == [False, False]
    assert [row["index"] for row in boxes["rows"]] == [answer["index"] for answer in expected["top"]] and len(boxes["rows"]) > 3
    np.testing.assert_allclose([row["probability"] for row in boxes["rows"]], [answer["probability"] for answer in expected["top"]], atol=1e-3)
    assert len(boxes["drawn"]) == len(boxes["rows"]) and len(boxes["few"]) < len(boxes["drawn"])
    width, height = expected["size"]
    for drawn, answer in zip(boxes["drawn"], expected["top"], strict=True):
        left, top, right, bottom = answer["box"]
        np.testing.assert_allclose(drawn["place"], [left / width, top / height, (right - left) / width, (bottom - top) / height], atol=0.03)
        assert drawn["text"] == f"{answer['label']} {100 * answer['probability']:.0f} %"

    expected = open_bundle(served / "masks").classify(served / "samples" / name)
    assert quiet(masks["seen"]) and masks["titles"] == ["Classes by area", "Classes shown", "0 %"] and masks["part"] == [True, False]
    received = {row["index"]: row["probability"] for row in masks["rows"]}
    assert list(received) == [answer["index"] for answer in expected["top"]] and masks["drawn"] == []
    np.testing.assert_allclose(list(received.values()), [answer["share"] for answer in expected["top"]], atol=5e-3)
    classes = unpack(expected["mask"])
    colours = np.reshape(masks["map"]["data"], (*classes.shape, 4))
    shown = np.mean((colours[..., 3] > 0) == (classes > 0))  # The first class is the background.
    assert shown > 0.99 and len(np.unique(colours[classes == 1], axis=0)) <= 3


@pytest.mark.slow
def test_the_size_of_the_input_is_chosen_where_files_take_several(part, served):
    facts = part("sizes")
    assert quiet(facts["seen"]) and facts["hidden"]
    assert facts["options"] == ["32×40", "48×64"]
    assert [facts["model"][size].split(" · ")[-1] for size in ("0", "1")] == facts["options"]
    description = json.loads((served / "sizes" / "model.json").read_text())
    interpreter = Interpreter(str(served / "sizes" / "float32.tflite"))
    for at, key in (("0", "serving_default"), ("1", "size_48x64")):
        (signature,) = [signature for signature in description["signatures"] if signature["key"] == key]
        values = preprocess(open_picture(served / "samples" / CLASSIFIED[0]), signature["preprocessing"])
        logits = interpreter.get_signature_runner(key)(image=values)["logits"][0].astype("float64")
        expected = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for accelerator in ("wasm", "webgpu"):
            received = {row["index"]: row["probability"] for row in facts["results"][f"{at} {accelerator}"]}
            np.testing.assert_allclose([received[i] for i in range(7)], expected, atol=1e-3)
        # The cast of the signatures for pixels is in the file too, and XNNPACK does not take it.
        assert "wasm with" in facts["running"][f"{at} wasm"] and "not all of the graph by XNNPACK" in facts["running"][f"{at} wasm"]
        assert facts["running"][f"{at} webgpu"].endswith(": all of the graph.")


@pytest.mark.slow
def test_after_one_visit_the_page_works_without_its_server(part):
    facts = part("offline")
    assert quiet(facts["seen"]) and facts["unreachable"] and facts["isolated"]
    assert [row["probability"] for row in facts["after"]] == [row["probability"] for row in facts["before"]]
    assert facts["running"].startswith("float32 runs on wasm")
    assert facts["gpu"][0]["probability"] == pytest.approx(facts["float32"][0]["probability"], abs=1e-3)
    # The contexts of these tests are private windows, which is all that keeps the page from being installed there.
    assert [error["errorId"] for error in facts["installable"]["installabilityErrors"]] == ["in-incognito"] and facts["manifest"] == []


@pytest.mark.slow
def test_a_bundle_that_took_anothers_place_is_the_one_that_is_kept(part, served):
    facts = part("replaced")
    assert quiet(facts["seen"])
    sha256 = {file["file"]: file["sha256"] for file in json.loads((served / "other" / "model.json").read_text())["files"]}
    kept = [re.fullmatch(r"http://[^/]+/bundle/(.+\.tflite)\?sha256=(\w{12})", url).groups() for url in facts["kept"]]
    assert sorted(kept) == sorted((file, digits[:12]) for file, digits in sha256.items())
    assert facts["running"].startswith("float32 runs on wasm") and facts["rows"] == 0
    assert facts["problem"].startswith(f"Expected numbers from the recipe 'float32' for '{CLASSIFIED[0]}', received NaN or infinity. Choose wasm")


@pytest.mark.slow
def test_a_broken_or_changed_bundle_is_refused_and_a_repaired_one_runs(part):
    facts = part("broken")
    assert quiet(facts["seen"])
    message, running = facts["changed"]
    assert re.match(r"Expected sha256 \w{12}\.\.\. for 'bundle/float16\.tflite', received \w{12}\.\.\.: the file was changed after export\.", message)
    assert running == "Nothing runs." and facts["repaired"][0] and facts["repaired"][1].startswith("float16 runs on")
    assert quiet(facts["json"][2]) and quiet(facts["version"][2])
    assert facts["json"][0].startswith("Expected JSON in 'bundle/model.json'") and facts["json"][1] == "Nothing runs."
    assert facts["version"][0].startswith("Expected a bundle of format version 1, received 2 in 'bundle/model.json'. Export the bundle again")
    assert "runs on wasm" in facts["reloaded"]


@pytest.mark.slow
def test_a_bundle_that_recommends_what_it_lacks_runs_once_a_recipe_is_chosen(part):
    message, running, chosen, after = part("broken")["recommended"]
    assert message.startswith("Expected as recommended.cpu in 'bundle/model.json' one of the bundle's recipes float32, float16, dynamic_int8")
    assert "received 'nope'" in message and (running, chosen) == ("Nothing runs.", "") and after.startswith("float16 runs on wasm")


@pytest.mark.slow
def test_a_file_that_the_runtime_fails_on_without_an_exception_is_refused(part, served):
    with pytest.raises(InputError):
        Classifier(served / "unfit", "dynamic_int8")
    message, running, rows, details = part("broken")["unfit"]
    expected = "Expected a file that runs on wasm for the recipe 'dynamic_int8', received one that does not."
    assert message == f"{expected} Choose another recipe, or export the bundle again." and (running, rows) == ("Nothing runs.", 0)
    # What the runtime says is for who asks for it.
    text, before, after = details
    assert (before, after) == (False, True) and "unsupported scale value" in text and "Failed to allocate tensors" in text


@pytest.mark.slow
def test_browsers_that_lack_something_do_what_they_can(part):
    facts = part("lacking")
    for lack in ("no WebGPU", "no adapter"):
        assert quiet(facts[lack]["seen"]) and facts[lack]["disabled"] and len(facts[lack]["result"]) == 5
        assert facts[lack]["note"].startswith("WebGPU is not available: this browser gives no GPU here. Use a browser and a device with WebGPU.")
    insecure = facts["insecure"]
    assert quiet(insecure["seen"]) and len(insecure["result"]) == 5
    assert insecure["problem"].startswith("Expected an address by https, or localhost: only there do browsers give the camera.")
    assert insecure["note"].startswith("One thread only") and "with 1 thread:" in insecure["running"]


@pytest.mark.slow
def test_the_page_is_for_narrow_screens_all_eyes_and_keyboards(part):
    facts = part("reading")
    assert quiet(facts["seen"])
    assert facts["width"] <= 360 and facts["small"] == [] and facts["unnamed"] == []
    # So that a name that is missing would be seen.
    assert {"Open picture", "Recipe", "Threads", "Threshold", f"Sample {CLASSIFIED[0]}", f"Picture {CLASSIFIED[0]}"} <= set(facts["named"]), facts
    assert facts["contrast"] == {"light": [], "dark": []}
    assert facts["motion"] == "0s"
    controls = ["open", "camera", "paste", "recipe", "accelerator", "threads", "top-k", "threshold"]
    assert [name for name in facts["reached"] if name in controls] == controls
    assert set(CLASSIFIED) < set(facts["reached"]) and "none" not in facts["outlines"]
    assert len(facts["byKeyboard"]) == 5
    top, height = facts["problemAt"]
    assert -1 < top < height and facts["focused"] == "letter.png"


@pytest.mark.slow
def test_types_and_no_framework(browser):
    finished = subprocess.run(["npm", "run", "--silent", "types"], cwd=WEB, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout
    packages = json.loads((WEB / "package.json").read_text())
    assert packages["dependencies"] == {"@litertjs/core": "2.5.3"}
