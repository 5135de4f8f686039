"""Breaks pictures and bundles in every way, and shows that the device program ends each with a result or one line, and touches nothing else.

Watched, in the program's processes, are the files that Python opens, lists, makes, changes and removes, the programs that it starts, and the
network. It may read what it is given, Python with its packages, and /usr, /lib, /proc and /sys; it may write in its home and the current folder.

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
from PIL import ExifTags, Image, features

ROOT = pathlib.Path(__file__).parent.parent
PICTURES_LIMIT, BUNDLE_LIMIT = 600, 100  # seconds for a folder of pictures, and for one bundle
_BATCH = 250  # pictures in a folder
_COMMAND = ["-P", "-m", "edge_demo"]

# As sitecustomize.py it is run by the program and by each Python that the program starts. What Pillow's or the runtime's compiled code does by
# itself, it does not see: that nothing was written is what `_snapshot` shows, of the folders that the program is given.
_GUARD = """
import os, sys
log = os.open(os.environ["FUZZ_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
readable, writable = (os.environ[name].split(os.pathsep) for name in ("FUZZ_READABLE", "FUZZ_WRITABLE"))
writable.append(f"/proc/{os.getpid()}/oom_score_adj")  # of the process that tries a file
changes = {f"os.{name}": 1 for name in ("remove", "mkdir", "rmdir", "chmod", "chown", "truncate", "utime")}
changes |= {f"os.{name}": 2 for name in ("rename", "link", "symlink")}  # each with a path at both ends
def is_in(path, places):
    return any(path == place or path.startswith(os.path.join(place, "")) for place in places)
def note(event, what):
    os.write(log, f"{event} {what}\\n".encode(errors="surrogateescape"))
def watch(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        writes = event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        if not is_in(path, writable) and (writes or not is_in(path, readable)):
            note(event, path)
    elif event in changes:
        for path in arguments[: changes[event]]:
            if not is_in(os.path.realpath(os.fsdecode(path)), writable):
                note(event, path)
    elif event == "subprocess.Popen" and os.fsdecode(arguments[0]) != sys.executable:
        note(event, arguments[0])
    elif event in ("socket.connect", "socket.bind", "socket.getaddrinfo", "os.system", "os.exec", "os.posix_spawn", "os.kill"):
        note(event, arguments)
sys.addaudithook(watch)
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
    rgba, exif = rgb.copy(), full_exif()
    rgba.putalpha(grey)
    frames = [rgb, rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    whole = {
        "jpg": [
            _encoded(rgb.resize((1200, 900)), "JPEG"),  # decoded at half its size
            _encoded(rgb, "JPEG", progressive=True),
            _encoded(rgb, "JPEG", exif=exif, xmp=_XMP, comment=b"a comment"),
            _encoded(rgb.convert("CMYK"), "JPEG"),
            _encoded(grey, "JPEG", restart_marker_blocks=2),
        ],
        "png": [_encoded(p, "PNG") for p in (rgb, rgba, wide, rgb.convert("P"), grey.convert("1"))] + [_encoded(rgb, "PNG", exif=exif)],
        "webp": [_encoded(rgb, "WEBP"), _encoded(rgba, "WEBP", lossless=True), _encoded(rgb, "WEBP", save_all=True, append_images=frames, exif=exif)],
        "gif": [_encoded(rgb, "GIF"), _encoded(rgb, "GIF", save_all=True, append_images=frames)],
        "bmp": [_encoded(rgb, "BMP"), _encoded(rgb.convert("P"), "BMP")],
        "tif": [_encoded(p, "TIFF", compression=c) for p, c in ((rgb, "tiff_lzw"), (wide, None), (rgb, "jpeg"), (grey.convert("1"), "group4"))]
        + [_encoded(rgb, "TIFF", exif=exif.tobytes())],
        "ppm": [_encoded(p, "PPM") for p in (rgb, grey, wide, grey.convert("1"))] + [b"P3\n# plain\n2 2\n255\n" + b"255 0 7 " * 4],
    }
    if features.check("jpg_2000"):
        whole["jp2"] = [
            _encoded(p, "JPEG2000", **options) for p, options in ((rgb, {}), (wide, {}), (rgba, {"num_resolutions": 2, "tile_size": (32, 32)}))
        ]
    if features.check("avif"):
        whole["avif"] = [
            _encoded(rgb, "AVIF", exif=exif.tobytes()),
            _encoded(rgba, "AVIF", save_all=True, append_images=[rgba.transpose(Image.Transpose.ROTATE_180)]),
        ]
    return whole


_XMP = (
    b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF xmlns:rdf='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>"
    b"<rdf:Description xmlns:tiff='http://ns.adobe.com/tiff/1.0/' tiff:Orientation='6'/></rdf:RDF></x:xmpmeta>"
)


def full_exif():
    """Returns the EXIF of a phone's photo: an orientation, and directories of the exposure and of the place, below one another."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.XResolution] = 6, "a picture", 72.0
    exif[ExifTags.IFD.Exif] = {
        ExifTags.Base.ExposureTime: 0.01,
        ExifTags.Base.FNumber: 1.8,
        ExifTags.Base.MakerNote: bytes(range(256)) * 4,
        ExifTags.Base.UserComment: b"ASCII\0\0\0" + b"x" * 300,
        ExifTags.Base.ExifImageWidth: 61,
    }
    exif[ExifTags.IFD.GPSInfo] = {ExifTags.GPS.GPSLatitude: (52.0, 30.0, 1.5), ExifTags.GPS.GPSLatitudeRef: "N", ExifTags.GPS.GPSAltitude: 34.5}
    return exif


def _broken_exif(rng, picture):
    """A whole picture whose EXIF is damaged: its first directories, anywhere, its orientation, or cut."""
    kind = str(rng.choice(["JPEG", "PNG", "WEBP"]))  # For AVIF, Pillow would read what it is to write.
    exif = np.frombuffer(full_exif().tobytes(), "uint8").copy()  # which begins with Exif, two zeros, and the order of bytes
    damage = rng.integers(0, 4)
    if damage < 2:
        where = rng.integers(6, 200 if damage else len(exif), rng.integers(1, 20))
        exif[where] = rng.choice([0, 1, 8, 127, 128, 255, *rng.integers(0, 256, 6)], len(where))
    content = exif.tobytes()
    if damage == 2:
        content = content[: int(rng.integers(6, len(content)))]
    elif damage == 3:
        changed = full_exif()
        changed[ExifTags.Base.Orientation] = int(rng.choice([0, 1, 2, 3, 4, 5, 7, 8, 9, 255, 65535]))
        content = changed.tobytes()
    return kind.lower().replace("jpeg", "jpg"), _encoded(picture, kind, exif=content)


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
    elif suffix == "ppm":
        return content[:3] + f"{width} {height}\n".encode() + content[content.find(b"\n", 3) + 1 :]
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
    damage = str(
        rng.choice(["truncated", "bits", "bytes", "header", "wrong size", "filled", "cut out", "other suffix", "bomb", "no picture", "exif"])
    )
    changed = np.frombuffer(content, "uint8").copy()
    if damage == "truncated":
        return damage, suffix, content[: int(rng.integers(0, len(content)))]
    if damage == "wrong size":
        return damage, suffix, _wrong_size(rng, content, suffix)
    if damage == "other suffix":
        return damage, str(rng.choice(list(whole))), content
    if damage == "exif":
        return damage, *_broken_exif(rng, Image.open(io.BytesIO(whole["png"][0])))
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


def _change_shapes(rng, content, description):
    """Lets a file and what model.json says of it tell the same lie about the size of the picture, the number of classes, or both."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    what = rng.integers(0, 3)
    if what != 1:
        size = [int(side) for side in rng.choice([1, 3, 8, 31, 33, 64, 255, 2048, 2**14], 2)]
        description["preprocessing"].update(crop=size, resize=size)
        description["input"]["shape"] = [1, *size, 3]
        graph.tensors[graph.inputs[0]].shape = np.array([1, *size, 3], "int32")
    if what != 0:
        classes = int(rng.choice([1, 2, 9, 1000, 2**20, 2**31 - 1]))
        description["outputs"][0]["shape"] = [1, classes]
        description["labels"] = None if rng.random() < 0.5 or classes > 10**6 else ["x"] * classes
        graph.tensors[graph.outputs[0]].shape = np.array([1, classes], "int32")
    for tensor in (*graph.inputs, *graph.outputs):
        if rng.random() < 0.3:  # Which a file with sizes that change has besides, and may contradict it.
            graph.tensors[tensor].shapeSignature = np.array([-1, *graph.tensors[tensor].shape[1:]], "int32")
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def break_bundle(rng, folder, secret):
    """Damages a copy of a bundle in one way, and returns which."""
    path = folder / "model.json"
    description = json.loads(path.read_text())
    name = next(file["file"] for file in description["files"] if file["recipe"] == description["recommended"]["cpu"])
    damage = str(rng.choice(["values", "text", "model", "model with its sha256", "shapes of both", "link"], p=[0.2, 0.1, 0.1, 0.4, 0.15, 0.05]))
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
        content = (folder / name).read_bytes()
        content = _change_shapes(rng, content, description) if damage == "shapes of both" else _change_model(rng, content)
        (folder / name).write_bytes(content)
        if damage != "model":
            for file in description["files"]:
                file["sha256"] = hashlib.sha256(content).hexdigest() if file["file"] == name else file["sha256"]
            path.write_text(json.dumps(description))
    return damage


def _run(sandbox, arguments, readable, limit):
    """Runs the device program; returns the process, or `None` if it had to be ended, and the files it had no business with."""
    home, work, log, guard = (sandbox / name for name in ("home", "work", "opened", "guard"))
    log.write_bytes(b"")
    guard.mkdir(exist_ok=True)
    (guard / "sitecustomize.py").write_text(_GUARD)
    system = ["/usr", "/lib", "/etc/localtime", "/proc", "/sys"]
    readable = [*readable, guard, ROOT, sys.prefix, sys.base_prefix, *system, *filter(None, sys.path)]
    environment = {
        **os.environ,
        "HOME": str(home),
        "PYTHONPATH": os.pathsep.join(map(str, (guard, ROOT))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "FUZZ_LOG": str(log),
        "FUZZ_READABLE": os.pathsep.join({os.path.realpath(path) for path in readable}),
        "FUZZ_WRITABLE": os.pathsep.join(map(str, (home, work, os.path.realpath(os.devnull)))),
    }
    environment.pop("XDG_CACHE_HOME", None)
    try:
        finished = subprocess.run(
            [sys.executable, *_COMMAND, *map(str, arguments)],
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
            finished, opened = _run(sandbox, ["--folder", sandbox / "pictures", "--bundle", bundle], [sandbox / "pictures", bundle], PICTURES_LIMIT)
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
            untouched = [path for path in sandbox.iterdir() if path.name not in ("home", "work", "opened", "guard")]
            before, started = {path: _snapshot(path) if path.is_dir() else path.read_bytes() for path in untouched}, time.monotonic()
            finished, opened = _run(sandbox, [sandbox / "picture.png", "--bundle", broken, "--json"], [broken, sandbox / "picture.png"], BUNDLE_LIMIT)
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
