"""Breaks pictures and bundles in every way, and shows that the device program ends each with a result or one line, and touches nothing else.

`python benchmarks/fuzz_edge.py --bundle demo-out/bundle`; some minutes for 2,000 pictures and 200 bundles, always the same ones for a seed.
Its last line is JSON: counts, and `problems`, which are none if all is well.
"""

import argparse
import copy
import csv
import hashlib
import io
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).parent.parent
PICTURES_LIMIT, BUNDLE_LIMIT = 600, 100  # seconds for a folder of pictures, and for one bundle
_BATCH = 250  # pictures in a folder

# Runs a module of the device program and notes each file that it opens where it has no business.
_GUARD = """
import os, runpy, sys
log, readable, writable = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT), *(tuple(a.split(os.pathsep)) for a in sys.argv[2:4])
sys.argv = sys.argv[4:]
def watch(event, arguments):
    if event == "open" and not isinstance(arguments[0], int):
        path, writes = os.path.realpath(os.fsdecode(arguments[0])), (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate"):
        path, writes = os.path.realpath(os.fsdecode(arguments[1 if event in ("os.rename", "os.link", "os.symlink") else 0])), True
    else:
        return
    if not path.startswith(writable) and (writes or not path.startswith(readable)):
        os.write(log, f"{event} {path}\\n".encode(errors="surrogateescape"))
sys.addaudithook(watch)
runpy.run_module("edge_demo", run_name="__main__", alter_sys=True)
"""


def _encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def whole_pictures(rng):
    """Returns a dictionary from suffix to a list of small pictures as bytes: each format in several of its kinds."""
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3)).astype("uint8"))
    rgb = coarse.resize((61, 47), Image.Resampling.BICUBIC)
    grey, wide = rgb.convert("L"), Image.fromarray(np.asarray(rgb.convert("L")).astype("uint16") * 257)
    rgba, exif = rgb.copy(), rgb.getexif()
    rgba.putalpha(grey)
    exif[0x0112], exif[0x010E] = 6, "a picture"
    frames = [rgb, rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    return {
        "jpg": [
            _encoded(rgb.resize((1200, 900)), "JPEG"),  # decoded at half its size
            _encoded(rgb, "JPEG", progressive=True),
            _encoded(rgb, "JPEG", exif=exif),
            _encoded(rgb.convert("CMYK"), "JPEG"),
            _encoded(grey, "JPEG", restart_marker_blocks=2),
        ],
        "png": [_encoded(p, "PNG") for p in (rgb, rgba, wide, rgb.convert("P"), grey.convert("1"))],
        "webp": [_encoded(rgb, "WEBP"), _encoded(rgba, "WEBP", lossless=True), _encoded(rgb, "WEBP", save_all=True, append_images=frames, exif=exif)],
        "gif": [_encoded(rgb, "GIF"), _encoded(rgb, "GIF", save_all=True, append_images=frames)],
        "bmp": [_encoded(rgb, "BMP"), _encoded(rgb.convert("P"), "BMP")],
        "tif": [_encoded(p, "TIFF", compression=c) for p, c in ((rgb, "tiff_lzw"), (wide, None), (rgb, "jpeg"), (grey.convert("1"), "group4"))],
    }


def _png(width, height, data, depth=8, colour=2):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def _wrong_size(rng, content, suffix):
    """Another width and height in the header of a whole picture."""
    sizes = [0, 1, 3, 255, 4096, 20000, 65535, 2**31 - 1, 2**32 - 1]
    width, height = (int(rng.choice(sizes)) for _ in range(2))
    if suffix == "png":
        return _png(width, height, zlib.compress(bytes(rng.integers(0, 256, 3000).astype("uint8"))), colour=int(rng.choice([0, 2, 3, 4, 6, 7])))
    changed = bytearray(content)
    if suffix == "bmp":
        changed[18:26] = struct.pack("<II", width, height)
    elif suffix == "gif":
        changed[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif suffix == "jpg":
        marker = next((i for i in range(len(content) - 9) if content[i] == 0xFF and content[i + 1] in (0xC0, 0xC2)), 0)
        changed[marker + 5 : marker + 9] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    else:
        where = int(rng.integers(0, min(60, len(changed) - 4)))
        changed[where : where + 4] = struct.pack("<I", width)
    return bytes(changed)


def broken_picture(rng, whole):
    """Returns a kind of damage, a suffix and the bytes of a picture."""
    suffix = str(rng.choice(list(whole)))
    content = whole[suffix][rng.integers(0, len(whole[suffix]))]
    damage = str(rng.choice(["truncated", "bits", "bytes", "header", "wrong size", "filled", "cut out", "other suffix", "bomb", "no picture"]))
    changed = np.frombuffer(content, "uint8").copy()
    if damage == "truncated":
        return damage, suffix, content[: int(rng.integers(0, len(content)))]
    if damage == "wrong size":
        return damage, suffix, _wrong_size(rng, content, suffix)
    if damage == "other suffix":
        return damage, str(rng.choice(list(whole))), content
    if damage == "bomb":
        side = int(rng.choice([12000, 17000, 30000, 60000]))
        return damage, "png", _png(side, side, zlib.compress(bytes(rng.integers(1, 20) * 2**20), 9), *rng.choice([(1, 0), (8, 0), (8, 2), (16, 6)]))
    if damage == "no picture":
        return damage, suffix, rng.bytes(int(rng.integers(0, 5000)))
    if damage == "bits":
        for where in rng.integers(0, len(changed), rng.integers(1, 30)):
            changed[where] ^= 1 << rng.integers(0, 8)
    elif damage == "bytes":
        where = rng.integers(0, len(changed), rng.integers(1, 60))
        changed[where] = rng.integers(0, 256, len(where))
    elif damage == "header":
        where = rng.integers(0, min(128, len(changed)), rng.integers(1, 6))
        changed[where] = rng.choice([0, 1, 127, 128, 255], len(where))
    elif damage == "filled":
        start = rng.integers(0, len(changed))
        changed[start : start + rng.integers(1, 400)] = rng.choice([0, 255])
    else:
        start = rng.integers(0, len(changed))
        changed = np.delete(changed, slice(start, start + rng.integers(1, 200)))
    return damage, suffix, changed.tobytes()


_HOSTILE = [
    *(None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, -1e308, 1e-320, float("nan"), float("inf")),
    *(
        "",
        ".",
        "..",
        "../secret.tflite",
        "/etc/passwd",
        "a\x00b",
        "\x1b[2J",
        "\ud800",
        "x" * 70_000,
        "saved_model/x.pb",
        "logits",
        "cover",
        "float32",
    ),
    *([], {}, [[]], [1, 2**40, 2**40, 3], [2**14, 2**14], [1, 10**9], [float("nan")] * 3, {"a": 1}, [[[[[[1]]]]]], ["x"] * 10),
]


def _paths(value, here=()):
    yield here
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from _paths(child, (*here, key))


def _change_values(rng, description):
    for _ in range(rng.integers(1, 4)):
        paths = [path for path in _paths(description) if path]
        *parents, last = paths[rng.integers(0, len(paths))]
        holder = description
        for key in parents:
            holder = holder[key]
        if rng.random() < 0.2 and isinstance(holder, dict):
            del holder[last]
        else:
            holder[last] = copy.deepcopy(_HOSTILE[rng.integers(0, len(_HOSTILE))])
        if not description:
            return


def _change_text(rng, text):
    kind = rng.integers(0, 6)
    if kind == 0:
        return text[: int(rng.integers(0, len(text)))]
    if kind == 1:
        changed = bytearray(text)
        for where in rng.integers(0, len(changed), rng.integers(1, 20)):
            changed[where] ^= 1 << int(rng.integers(0, 8))
        return bytes(changed)
    return [b"[" * 200_000, b'{"format_version": 1' + b"0" * 5000 + b"}", rng.bytes(300), b"\xef\xbb\xbf" + text][kind - 2]


def _change_model(rng, content):
    changed = np.frombuffer(content, "uint8").copy()
    kind = rng.integers(0, 10)
    if kind == 0:
        return content[: int(rng.integers(0, len(content)))]
    if kind == 1:
        return rng.bytes(int(rng.integers(0, 3000)))
    if kind >= 4:
        return _change_graph(rng, content)
    if kind == 2:  # The tables stand at the end of what the converter writes, behind the weights.
        where = len(changed) - 1 - rng.integers(0, len(changed) // 8, rng.integers(1, 4))
    else:
        where = rng.integers(0, len(changed), rng.integers(1, 100))
    changed[where] ^= (1 << rng.integers(0, 8, len(where))).astype("uint8")
    return changed.tobytes()


def _change_graph(rng, content):
    """A file that is well-formed, and whose graph is wrong in one to three places."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    numbers = [-(2**31), -2, -1, 0, 1, 2, 3, 7, 1000, 2**16, 2**31 - 1]
    for _ in range(rng.integers(1, 4)):
        tensor, operator = (things[rng.integers(0, len(things))] for things in (graph.tensors, graph.operators))
        kind = rng.integers(0, 7)
        if kind == 0 and tensor.shape is not None and len(tensor.shape):
            tensor.shape = np.array(tensor.shape)
            tensor.shape[rng.integers(0, len(tensor.shape))] = rng.choice(numbers)
        elif kind == 1:
            tensor.buffer = int(rng.integers(0, len(model.buffers) + 3))
        elif kind == 2:
            tensor.type = int(rng.integers(0, 18))
        elif kind == 3:
            operator.inputs = np.array(operator.inputs)
            operator.inputs[rng.integers(0, len(operator.inputs))] = rng.choice([*numbers, *range(len(graph.tensors))])
        elif kind == 4:
            operator.outputs = np.full(len(operator.outputs), rng.integers(-1, len(graph.tensors) + 1))
        elif kind == 5:
            operator.opcodeIndex = int(rng.integers(0, len(model.operatorCodes) + 1))
        elif operator.builtinOptions is not None:
            options = vars(operator.builtinOptions)
            for key in options:
                options[key] = int(rng.choice(numbers)) % 128 if type(options[key]) is int else options[key]
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def break_bundle(rng, folder, secret):
    """Damages a copy of a bundle in one way, and returns which."""
    path = folder / "model.json"
    description = json.loads(path.read_text())
    name = next(file["file"] for file in description["files"] if file["recipe"] == description["recommended"]["cpu"])
    damage = str(rng.choice(["values", "text", "model", "model with its sha256", "link"], p=[0.25, 0.1, 0.1, 0.5, 0.05]))
    if damage == "values":
        _change_values(rng, description)
        path.write_text(json.dumps(description))
    elif damage == "text":
        path.write_bytes(_change_text(rng, path.read_bytes()))
    elif damage == "link":
        target = folder / str(rng.choice([name, "model.json"]))
        target.unlink()
        [lambda: target.symlink_to(secret), lambda: os.mkfifo(target), target.mkdir, lambda: target.symlink_to(target)][rng.integers(0, 4)]()
    else:
        content = _change_model(rng, (folder / name).read_bytes())
        (folder / name).write_bytes(content)
        if damage != "model":
            for file in description["files"]:
                file["sha256"] = hashlib.sha256(content).hexdigest() if file["file"] == name else file["sha256"]
            path.write_text(json.dumps(description))
    return damage


def _run(sandbox, arguments, readable, limit):
    """Runs the device program; returns the process, or `None` if it had to be ended, and the files it had no business with."""
    home, work, log = sandbox / "home", sandbox / "work", sandbox / "opened"
    log.write_bytes(b"")
    readable = [
        *readable,
        ROOT,
        sys.prefix,
        sys.base_prefix,
        "/usr",
        "/lib",
        "/etc/localtime",
        "/proc",
        "/sys",
        "/dev/null",
        *map(os.path.realpath, sys.path),
    ]
    command = [
        sys.executable,
        "-P",
        "-c",
        _GUARD,
        log,
        os.pathsep.join(str(p) for p in readable if str(p)),
        os.pathsep.join((f"{home}/", f"{work}/", "/dev/null")),
    ]
    environment = {**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    environment.pop("XDG_CACHE_HOME", None)
    try:
        finished = subprocess.run(
            [*command, "edge_demo", *map(str, arguments)],
            cwd=work,
            env=environment,
            timeout=limit,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except subprocess.TimeoutExpired:
        finished = None
    return finished, log.read_text(errors="replace").splitlines()


def _snapshot(folder):
    return {
        str(path.relative_to(folder)): None if path.is_symlink() or not path.is_file() else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
    }


def _judge(finished, opened, codes):
    """Returns what is wrong with a run, or `None`."""
    if finished is None:
        return "it did not end"
    if finished.returncode not in codes:
        return f"exit code {finished.returncode}: {finished.stderr[-300:]}"
    lines = finished.stderr.splitlines()
    if (len(lines) != 1 or not lines[0].startswith("error: ")) if finished.returncode else lines:
        return f"exit code {finished.returncode} with standard error {finished.stderr[-300:]!r}"
    return f"it opened {opened[:3]}" if opened else None


def fuzz_pictures(bundle, count, seed=0, log=print):
    """Classifies broken pictures, a folder of up to 250 at a time.

    Returns:
        A dictionary: `pictures`, how many of them were `classified` and `refused`, the `seconds`, and a list of `problems`.
    """
    rng = np.random.default_rng(seed)
    whole = whole_pictures(rng)
    result = {"pictures": count, "classified": 0, "refused": 0, "damages": {}, "seconds": 0.0, "problems": []}
    with tempfile.TemporaryDirectory() as sandbox:
        sandbox = pathlib.Path(sandbox).resolve()
        for start in range(0, count, _BATCH):
            for name in ("pictures", "home", "work"):
                shutil.rmtree(sandbox / name, ignore_errors=True)
                (sandbox / name).mkdir()
            number = min(_BATCH, count - start)
            for index in range(number):
                damage, suffix, content = broken_picture(rng, whole)
                result["damages"][damage] = result["damages"].get(damage, 0) + 1
                (sandbox / "pictures" / f"{index:04}.{suffix}").write_bytes(content)
            before, started = _snapshot(sandbox / "pictures"), time.monotonic()
            finished, opened = _run(
                sandbox, ["--folder", sandbox / "pictures", "--bundle", bundle], [f"{sandbox}/pictures/", f"{bundle}/"], PICTURES_LIMIT
            )
            result["seconds"] += time.monotonic() - started
            problem = _judge(finished, opened, (0, 1)) or ("a picture was changed" if _snapshot(sandbox / "pictures") != before else None)
            if problem:
                result["problems"].append(f"pictures from {start}: {problem}")
            else:
                with open(sandbox / "work" / "results.csv", encoding="utf-8", newline="") as file:
                    rows = list(csv.DictReader(file))
                refused = sum(bool(row["error"]) for row in rows)
                result["refused"] += refused
                result["classified"] += len(rows) - refused
                if len(rows) != number or any(bool(row["error"]) == bool(row["label_1"]) for row in rows):
                    result["problems"].append(f"pictures from {start}: {number} pictures gave {len(rows)} rows, or one with neither answer nor error")
            log(f"{start + number} of {count} pictures, {result['refused']} refused, problems: {len(result['problems'])}")
    return result


def fuzz_bundles(bundle, count, seed=0, log=print):
    """Classifies a picture with broken bundles, each in a process of its own.

    Returns:
        A dictionary as of `fuzz_pictures`, with `bundles`, and `died`, how many refusals saved this process from a crash or a hang.
    """
    rng = np.random.default_rng(seed)
    result = {"bundles": count, "classified": 0, "refused": 0, "died": 0, "damages": {}, "seconds": 0.0, "problems": []}
    with tempfile.TemporaryDirectory() as sandbox:
        sandbox = pathlib.Path(sandbox).resolve()
        for name in ("home", "work"):
            (sandbox / name).mkdir()
        (sandbox / "picture.png").write_bytes(whole_pictures(rng)["png"][0])
        secret = sandbox / "secret.tflite"
        shutil.copy(bundle / json.loads((bundle / "model.json").read_text())["files"][0]["file"], secret)
        for index in range(count):
            broken = sandbox / "bundle"
            shutil.rmtree(broken, ignore_errors=True)
            shutil.copytree(bundle, broken, ignore=shutil.ignore_patterns("report*"))
            damage = break_bundle(rng, broken, secret)
            result["damages"][damage] = result["damages"].get(damage, 0) + 1
            untouched = [path for path in sandbox.iterdir() if path.name not in ("home", "work", "opened")]
            before, started = {path: _snapshot(path) if path.is_dir() else path.read_bytes() for path in untouched}, time.monotonic()
            finished, opened = _run(
                sandbox, [sandbox / "picture.png", "--bundle", broken, "--json"], [f"{broken}/", f"{sandbox}/picture.png"], BUNDLE_LIMIT
            )
            result["seconds"] += time.monotonic() - started
            problem = _judge(finished, opened, (0, 2))
            if before != {path: _snapshot(path) if path.is_dir() else path.read_bytes() for path in untouched} or list((sandbox / "work").iterdir()):
                problem = "a file was changed or made"
            if problem:
                result["problems"].append(f"bundle {index} ({damage}): {problem}")
            elif finished.returncode:
                result["refused"] += 1
                result["died"] += "ended with SIG" in finished.stderr or "had not ended" in finished.stderr
            else:
                if "NaN" in finished.stdout or not json.loads(finished.stdout)["image"]:
                    result["problems"].append(f"bundle {index} ({damage}): it printed {finished.stdout[:300]}")
                result["classified"] += 1
            if (index + 1) % 20 == 0:
                log(f"{index + 1} of {count} bundles, {result['refused']} refused, {result['died']} died, problems: {len(result['problems'])}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", required=True, type=pathlib.Path, metavar="DIR", help="a whole bundle, which stays as it is")
    parser.add_argument("--pictures", type=int, default=2000, metavar="N", help="(default: 2000)")
    parser.add_argument("--bundles", type=int, default=200, metavar="N", help="(default: 200)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="(default: 0)")
    arguments = parser.parse_args()
    bundle = arguments.bundle.resolve()
    results = {
        "pictures": fuzz_pictures(bundle, arguments.pictures, arguments.seed),
        "bundles": fuzz_bundles(bundle, arguments.bundles, arguments.seed),
    }
    for problem in (problem for result in results.values() for problem in result["problems"]):
        print(problem)
    print(json.dumps(results))
    return 1 if any(result["problems"] for result in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
