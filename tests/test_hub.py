"""Weights from a repository of the Hugging Face hub: against a stand-in for it on this machine, over HTTP."""

import contextlib
import hashlib
import http.server
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import GOLDENS, randomize

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "swin", "id2label": {"1": "bee", "0": "ant", "2": "cat"}}
PROCESSOR = {
    "do_normalize": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
    "resample": 3,
    "size": {"height": 32, "width": 32},
}


class Hub:
    """Serves repositories as the hub does, and counts who asks for what."""

    def __init__(self):
        self.files = {}  # {"owner/name": {"file": bytes}}
        self.requests = []
        self.cut = 0  # so many downloads break off half-way
        self.lie = 0  # so many bytes more are announced than there are
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.answer(body=False)

            def do_GET(self):
                self.answer(body=True)

            def answer(self, body):
                hub.requests.append((self.command, self.path))
                match = re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", self.path.split("?")[0])
                repository = hub.files.get(match[1]) if match else None
                if repository is None or match[2] not in ("main", COMMIT, "v1"):
                    return self.refuse("RepoNotFound" if repository is None else "RevisionNotFound")
                if match[3] not in repository:
                    return self.refuse("EntryNotFound")
                content = repository[match[3]]
                whole, start = content, 0
                if found := re.fullmatch(r"bytes=(\d+)-.*", self.headers.get("Range", "")):
                    start = int(found[1])
                self.send_response(206 if start else 200)
                content = content[start:]
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{len(whole) - 1}/{len(whole)}")
                self.send_header("Content-Length", str(len(content) + hub.lie))
                self.send_header("ETag", f'"{hashlib.sha256(whole).hexdigest()}"')
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Accept-Ranges", "bytes")
                self.end_headers()
                if body and hub.cut and match[3].endswith((".safetensors", ".bin")):
                    hub.cut -= 1
                    content = content[: len(content) // 2]
                    self.close_connection = True
                elif hub.lie:
                    self.close_connection = True
                if body:
                    self.wfile.write(content)

            def refuse(self, code):
                self.send_response(404)
                self.send_header("X-Error-Code", code)
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"

    def downloads(self, suffix):
        return [path for command, path in self.requests if command == "GET" and path.endswith(suffix)]


@pytest.fixture
def hub():
    stand_in = Hub()
    thread = threading.Thread(target=stand_in.server.serve_forever, daemon=True)
    thread.start()
    yield stand_in
    stand_in.server.shutdown()
    thread.join()
    stand_in.server.server_close()


@pytest.fixture(scope="module")
def nano():
    """A model, and its weights as transformers and as timm keep them."""
    import swin_keras

    return randomize(swin_keras.create_model("swin_nano_patch4_window4_32", num_classes=3))


def published(model, layout, folder):
    import swin_keras

    swin_keras.save_weights(model, folder / "written.safetensors", layout=layout)
    return (folder / "written.safetensors").read_bytes()


@pytest.fixture
def ask(hub, tmp_path):
    """Runs Python in a process that knows the stand-in as the hub, and returns it finished."""

    def run(code, arguments=(), **environment):
        variables = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_ETAG_TIMEOUT": "5",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            **environment,
        }
        command = [sys.executable, "-m", "swin_keras.cli", *map(str, arguments)] if arguments else [sys.executable, "-c", code]
        return subprocess.run(command, env={**os.environ, **variables}, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)

    return run


LOAD = """
import json, sys, hashlib
import numpy as np
import swin_keras
found = swin_keras.find_weights("hf://someone/nano")
model = swin_keras.create_model("swin_nano_patch4_window4_32", weights="hf://someone/nano", num_classes=3)
total = hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in model.weights)).hexdigest()
print(json.dumps({"total": total, "labels": found.labels, "preprocessing": found.preprocessing.to_dict(), "origin": found.origin}))
"""


def total(model):
    return hashlib.sha256(b"".join(np.asarray(weight).tobytes() for weight in model.weights)).hexdigest()


@pytest.mark.slow
def test_a_repository_is_downloaded_once_and_used_offline(hub, ask, nano, tmp_path):
    hub.files["someone/nano"] = {
        "model.safetensors": published(nano, "huggingface", tmp_path),
        "config.json": json.dumps(CONFIG).encode(),
        "preprocessor_config.json": json.dumps(PROCESSOR).encode(),
    }
    cold = ask(LOAD)
    assert cold.returncode == 0, cold.stderr
    answer = json.loads(cold.stdout)
    assert answer["total"] == total(nano) and answer["labels"] == ["ant", "bee", "cat"] and answer["origin"] == "hf://someone/nano"
    assert answer["preprocessing"] == {
        "mode": "exact",
        "resize": [32, 32],
        "crop": [32, 32],
        "interpolation": "bicubic",
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.25, 0.3],
    }
    assert len(hub.downloads("model.safetensors")) == 1
    warm = ask(LOAD)
    assert warm.stdout == cold.stdout and len(hub.downloads("model.safetensors")) == 1
    asked = len(hub.requests)
    offline = ask(LOAD, HF_HUB_OFFLINE="1")
    assert offline.stdout == cold.stdout and len(hub.requests) == asked, offline.stderr
    # The same without a word that there is no network: nobody listens at this port.
    unplugged = ask(LOAD, HF_ENDPOINT="http://127.0.0.1:9")
    assert unplugged.stdout == cold.stdout, unplugged.stderr


def test_a_cut_connection_is_taken_up_again(hub, ask, nano, tmp_path):
    hub.files["someone/nano"] = {
        "model.safetensors": published(nano, "huggingface", tmp_path),
        "config.json": json.dumps(CONFIG).encode(),
        "preprocessor_config.json": json.dumps(PROCESSOR).encode(),
    }
    hub.cut = 1
    first = ask(LOAD)
    second = first if first.returncode == 0 else ask(LOAD)
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["total"] == total(nano)
    assert len(hub.downloads("model.safetensors")) == 2


def test_a_connection_that_is_always_cut_is_one_line_and_code_2_and_leaves_no_file(hub, ask, nano, tmp_path):
    hub.files["someone/nano"] = {"model.safetensors": published(nano, "huggingface", tmp_path)}
    hub.cut = 10**6
    finished = ask(None, ["convert", "hf://someone/nano", "out.safetensors"])
    assert finished.returncode == 2 and not (tmp_path / "out.safetensors").exists()
    lines = [line for line in finished.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "was not downloaded" in lines[0] and "Traceback" not in finished.stderr
    assert not [path for path in (tmp_path / "hf").rglob("model.safetensors") if path.is_file()]


def test_a_wrong_length_is_one_line_and_code_2_and_nothing_is_kept(hub, ask, nano, tmp_path):
    hub.files["someone/nano"] = {"model.safetensors": published(nano, "huggingface", tmp_path), "config.json": json.dumps(CONFIG).encode()}
    hub.lie = 1000
    finished = ask(None, ["convert", "hf://someone/nano", "out.safetensors"])
    assert finished.returncode == 2 and "Traceback" not in finished.stderr
    assert finished.stderr.count("error: ") == 1 and not (tmp_path / "out.safetensors").exists()
    assert not [path for path in (tmp_path / "hf").rglob("model.safetensors") if path.is_file()]


def test_a_released_tag_and_a_revision_lead_to_their_repository(hub, ask, tmp_path):
    import swin_keras

    tiny = {"embed_dim": 8, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 7}
    model = randomize(swin_keras.create_model("swin_tiny_patch4_window7_224", **tiny))
    config = {
        "architecture": "swin_tiny_patch4_window7_224",
        "num_classes": 7,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.9,
            "crop_mode": "center",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
    }
    hub.files["timm/swin_tiny_patch4_window7_224.ms_in1k"] = {
        "model.safetensors": published(model, "timm", tmp_path),
        "config.json": json.dumps(config).encode(),
    }
    code = f"""
import json, hashlib
import numpy as np
import swin_keras
model = swin_keras.create_model("swin_tiny_patch4_window7_224", weights="ms_in1k", **{tiny!r})
found = swin_keras.find_weights("hf://timm/swin_tiny_patch4_window7_224.ms_in1k@v1/model.safetensors")
total = hashlib.sha256(b"".join(np.asarray(w).tobytes() for w in model.weights)).hexdigest()
print(json.dumps([total, found.labels, found.preprocessing.to_dict()]))
"""
    finished = ask(code)
    assert finished.returncode == 0, finished.stderr
    found, labels, preprocessing = json.loads(finished.stdout)
    assert found == total(model) and labels is None
    # timm's transform: the shorter side to floor(224 / 0.9), then the centre.
    assert preprocessing["mode"] == "cover" and preprocessing["resize"] == [248, 248] and preprocessing["crop"] == [224, 224]


def test_files_of_pytorch_and_a_folder_of_transformers_are_found(hub, ask, nano, tmp_path):
    hub.files["someone/old"] = {"pytorch_model.bin": (GOLDENS / "huggingface_v4.bin").read_bytes()}
    finished = ask(None, ["convert", "hf://someone/old", "out.safetensors", "--layout", "timm", "--json"])
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout)["source"] == "huggingface" and (tmp_path / "out.safetensors").is_file()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(published(nano, "huggingface", tmp_path))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    import swin_keras

    found = swin_keras.find_weights(folder)
    assert found.path == folder / "model.safetensors" and found.labels == ["ant", "bee", "cat"] and found.preprocessing is None
    assert total(swin_keras.create_model("swin_nano_patch4_window4_32", weights=folder, num_classes=3)) == total(nano)


def test_what_is_not_there_is_refused(hub, ask):
    hub.files["someone/empty"] = {"README.md": b"nothing"}
    cases = [
        ("hf://someone/gone", "There is no repository hf://someone/gone"),
        ("hf://someone/empty", "Expected model.safetensors or pytorch_model.bin or model.weights.h5"),
        ("hf://someone/empty@v7", "was not downloaded|has no such file"),
        ("hf://someone/empty/weights.pth", "Expected weights.pth in"),
        ("hf://someone", "Expected hf://owner/name"),
        ("hf://../../etc/passwd", "Expected hf://owner/name|was not downloaded|There is no repository"),
    ]
    code = "import swin_keras, sys\n" + "\n".join(
        f"try:\n    swin_keras.find_weights({weights!r})\nexcept ValueError as error:\n    print(' '.join(str(error).split()))"
        for weights, _ in cases
    )
    finished = ask(code)
    assert finished.returncode == 0, finished.stderr
    for (_, message), line in zip(cases, finished.stdout.splitlines(), strict=True):
        assert re.search(message, line), line


def test_offline_with_an_empty_cache_says_so(ask):
    finished = ask(None, ["convert", "hf://someone/nano", "out.safetensors"], HF_HUB_OFFLINE="1")
    assert finished.returncode == 2 and "the cache has no such file, and HF_HUB_OFFLINE is set" in finished.stderr


@pytest.mark.slow  # the hub's client tries for half a minute
def test_without_a_network_and_an_empty_cache_one_line_says_so(ask):
    finished = ask(None, ["convert", "hf://someone/nano", "out.safetensors"], HF_ENDPOINT="http://127.0.0.1:9")
    assert finished.returncode == 2 and finished.stderr.count("error: ") == 1 and "cannot be reached" in finished.stderr


def test_tags_follow_the_names_of_timm():
    import swin_keras
    from swin_keras.models import released_tags

    assert released_tags("swin_tiny_patch4_window7_224") == {
        "ms_in1k": "hf://timm/swin_tiny_patch4_window7_224.ms_in1k",
        "ms_in22k_ft_in1k": "hf://timm/swin_tiny_patch4_window7_224.ms_in22k_ft_in1k",
        "ms_in22k": "hf://timm/swin_tiny_patch4_window7_224.ms_in22k",
    }
    assert released_tags("swin_large_patch4_window12_384_22k") == {
        "ms_in22k_ft_in1k": "hf://timm/swin_large_patch4_window12_384.ms_in22k_ft_in1k",
        "ms_in22k": "hf://timm/swin_large_patch4_window12_384.ms_in22k",
    }
    assert released_tags("swinv2_base_patch4_window12to24_192to384_22kto1k_ft") == {
        "ms_in22k_ft_in1k": "hf://timm/swinv2_base_window12to24_192to384.ms_in22k_ft_in1k"
    }
    assert released_tags("swin_s3_base_224") == {"ms_in1k": "hf://timm/swin_s3_base_224.ms_in1k"}
    assert released_tags("swin_mlp_base_patch4_window7_224") == released_tags("swin_nano_patch4_window4_32") == {}
    with pytest.raises(ValueError, match="there are no weights 'ms_in22k' of swin_s3_base_224. Its tags are ms_in1k"):
        swin_keras.create_model("swin_s3_base_224", weights="ms_in22k", embed_dim=24, num_heads=(1, 2, 4, 8), depths=(1, 1, 1, 1))
    # timm 1.0.31 lists as many with these tags, and no address twice.
    assert len({address for name in swin_keras.VARIANTS for address in released_tags(name).values()}) == 31


@pytest.mark.parametrize(
    ("config", "processor", "message"),
    [
        (b"{", None, "config.json of .* cannot be read"),
        (b"[]", None, "it holds no dictionary"),
        (json.dumps({"id2label": {"0": "a", "2": "b"}}).encode(), None, "number the classes from 0 on"),
        (json.dumps({"id2label": {"0": 3}}).encode(), None, "Expected names of classes"),
        (b"{}", {**PROCESSOR, "rescale_factor": 1}, "scaled by 1 in place of 1/255"),
        (b"{}", {**PROCESSOR, "resample": 4}, "is none that can be done here"),
        (b"{}", {**PROCESSOR, "size": {"longest_edge": 3}}, "is none that can be done here"),
        (b"{}", {**PROCESSOR, "image_mean": None}, "is none that can be done here"),
        (json.dumps({"pretrained_cfg": {"input_size": [3, 0, 0]}}).encode(), None, "is none that can be done here"),
        (
            json.dumps({"pretrained_cfg": {"input_size": [3, 9, 9], "crop_pct": 0, "test_crop_pct": 0}}).encode(),
            None,
            "is none that can be done here",
        ),
        (json.dumps({"id2label": {"0": "two\nlines"}}).encode(), None, "Expected names of classes"),
    ],
)
def test_a_folder_whose_description_is_wrong_is_refused(tmp_path, config, processor, message):
    import swin_keras

    (tmp_path / "config.json").write_bytes(config)
    (tmp_path / "model.safetensors").write_bytes(b"")
    if processor:
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    with pytest.raises(ValueError, match=message):
        swin_keras.find_weights(tmp_path)


def test_a_folder_that_names_the_windows_before_fine_tuning_is_held_against_the_model(tmp_path):
    import warnings

    import swin_keras

    config = {"input_shape": (48, 48, 3), "embed_dim": 8, "depths": (2, 2, 2), "num_heads": (1, 2, 4), "window_size": 6, "num_classes": 7}
    (tmp_path / "model.safetensors").write_bytes((GOLDENS / "huggingface_v2.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_window_sizes": [4, 4, 2]}))
    with pytest.warns(UserWarning, match=r"Build it with pretrained_window_sizes=\(4, 4, 2\)"):
        swin_keras.create_model("swinv2_tiny_patch4_window8_256", weights=tmp_path, **config)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        swin_keras.create_model("swinv2_tiny_patch4_window8_256", weights=tmp_path, pretrained_window_sizes=(4, 4, 2), **config)
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_window_sizes": [0, 0, 0]}))  # none, as the official code writes it
        swin_keras.create_model("swinv2_tiny_patch4_window8_256", weights=tmp_path, **config)


def test_preprocessing_of_transformers_with_a_crop_is_that_of_the_official_protocol(tmp_path):
    import swin_keras
    from swin_keras.preprocessing import Preprocessing

    processor = {**PROCESSOR, "size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": {"height": 224, "width": 224}}
    processor |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    assert swin_keras.find_weights(tmp_path).preprocessing == Preprocessing.official(224, 224)
    with contextlib.suppress(FileNotFoundError):
        pathlib.Path(tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}))
    assert swin_keras.find_weights(tmp_path).labels is None
