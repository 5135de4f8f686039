"""The server of the browser app: what it gives, what it refuses, what it survives."""

import asyncio
import concurrent.futures
import contextlib
import errno
import hashlib
import http.client
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT, free_ports
from swin_keras.edge_demo import serve
from swin_keras.edge_demo.__main__ import main as edge_main

DESCRIPTION = {
    "format_version": 1,
    "model": "a model",
    "input": {"shape": [1, 24, 40, 3], "dtype": "float32", "layout": "NHWC"},
    "preprocessing": {"mode": "exact", "resize": [24, 40], "crop": [24, 40], "interpolation": "bicubic", "mean": [0.5] * 3, "std": [0.25] * 3},
    "labels": ["ant", "bee"],
    "output_kind": "logits",
    "outputs": [{"name": "logits", "index": 0, "shape": [1, 2]}],
    "files": [],
    "recommended": {"cpu": "float32", "gpu": "float32", "npu": "float32"},
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle with a file of 3 MB, samples beside it, and a secret above and outside."""
    outside = tmp_path_factory.mktemp("served")
    (outside / "secret.txt").write_text("secret")
    folder = outside / "a bündle"
    (folder / "report").mkdir(parents=True)
    content = bytes(range(256)) * 12_000
    (folder / "float32.tflite").write_bytes(content)
    files = [{"recipe": "float32", "file": "float32.tflite", "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}]
    (folder / "model.json").write_text(json.dumps({**DESCRIPTION, "files": files}))
    (folder / "report" / "a picture & more.png").write_bytes(b"png")
    (folder / ".hidden").write_text("secret")
    (folder / "link.txt").symlink_to(outside / "secret.txt")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    (outside / "samples").mkdir()
    for name in ("b.png", "ä.JPG", "notes.txt", ".c.png"):
        (outside / "samples" / name).write_bytes(name.encode())
    return folder


@pytest.fixture(scope="module")
def address(bundle):
    """A server in a thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = serve.Server(bundle, bundle.parent / "samples")
    (address,) = asyncio.run_coroutine_threadsafe(server.start("127.0.0.1", 0), loop).result()
    yield address
    loop.call_soon_threadsafe(loop.stop)


@pytest.fixture
def get(address):
    def get(path, method="GET", **headers):
        with contextlib.closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
            connection.request(method, path, headers=headers)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()

    return get


@pytest.fixture
def raw(address):
    """Sends bytes as they are, and returns all that comes back."""

    def raw(content):
        with socket.create_connection(address, timeout=30) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
            pieces = []
            while piece := connection.recv(2**16):
                pieces.append(piece)
            return b"".join(pieces)

    return raw


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/?from=home#top", "text/html; charset=utf-8"),
        ("/app.js", "text/javascript; charset=utf-8"),
        ("/style.css", "text/css; charset=utf-8"),
        ("/manifest.webmanifest", "application/manifest+json"),
        ("/icon.svg", "image/svg+xml"),
        ("/bundle/model.json", "application/json"),
        ("/bundle/float32.tflite", "application/octet-stream"),
        ("/bundle/report/a%20picture%20%26%20more.png", "image/png"),
        ("/samples/%C3%A4.JPG", "image/jpeg"),
        ("/samples.json", "application/json"),
    ],
)
def test_each_file_comes_with_its_type_and_what_threads_need(get, path, kind):
    status, headers, content = get(path)
    assert (status, headers["content-type"], len(content)) == (200, kind, int(headers["content-length"])) and content
    assert headers["cross-origin-opener-policy"] == "same-origin" and headers["cross-origin-embedder-policy"] == "require-corp"
    assert headers["x-content-type-options"] == "nosniff"
    status, head, content = get(path, "HEAD")
    assert (status, content, head) == (200, b"", headers)
    assert get(path, **{"If-None-Match": headers["etag"]})[::2] == (304, b"")


def test_wasm_has_the_type_that_browsers_insist_on():
    assert serve._TYPES[".wasm"] == "application/wasm"


def test_a_file_arrives_whole_and_a_changed_one_again(get, bundle):
    content = (bundle / "float32.tflite").read_bytes()
    _, headers, received = get("/bundle/float32.tflite")
    assert received == content
    (bundle / "float32.tflite").write_bytes(content)  # of the same size
    assert get("/bundle/float32.tflite", **{"If-None-Match": headers["etag"]})[0] == 200


@pytest.mark.parametrize("path", ["/package.json", "/package-lock.json", "/tsconfig.json", "/vendor.mjs", "/install.sh", "/samples/notes.txt"])
def test_what_is_no_part_of_the_app_and_no_picture_of_the_samples_is_not_given(get, path):
    assert get(path)[0] == 404


def test_samples_are_the_pictures_of_their_folder(get):
    assert json.loads(get("/samples.json")[2]) == ["b.png", "ä.JPG"]
    assert get("/samples/b.png")[2] == b"b.png"
    assert serve.list_samples(None) == [] == serve.list_samples(pathlib.Path("/no/such/folder"))


@pytest.mark.parametrize(
    "path",
    [
        "/bundle/../secret.txt",
        "/bundle/%2e%2e/secret.txt",
        "/bundle/%2E%2E%2Fsecret.txt",
        "/bundle/..%2fsecret.txt",
        "/bundle/..%5csecret.txt",
        "/bundle/..\\secret.txt",
        "/bundle/%252e%252e/secret.txt",
        "/bundle/%252e%252e%252fsecret.txt",
        "/bundle/%c0%ae%c0%ae/secret.txt",
        "/bundle/%c0%ae%c0%ae%c0%afsecret.txt",
        "/bundle/%uff0e%uff0e/secret.txt",
        "/bundle/%EF%BC%8E%EF%BC%8E/secret.txt",
        "/bundle/.%00./secret.txt",
        "/bundle/model.json%00.txt",
        "/bundle/./model.json",
        "/bundle//model.json",
        "//bundle/model.json",
        "/bundle/report/../model.json",
        "/bundle/..;/secret.txt",
        "/bundle/.hidden",
        "/bundle/link.txt",
        "/bundle/loop",
        "/bundle/pipe",
        "/bundle/C:/secret.txt",
        "/bundle/model.json::$DATA",
        "/bundle/" + "a" * 300,
        "/bundle/" + "a/" * 3000,
        "/bundle/%ff",
        "/bundle/%",
        "/bundle/model.json%0d%0aX: y",
        "/../serve.py",
        "/..%2fserve.py",
        "/%2e%2e/serve.py",
        "/web/../../serve.py",
        "/serve.py",
        "/etc/passwd",
        "/%2fetc/passwd",
        "//etc/passwd",
        "/file:///etc/passwd",
        "/node_modules/typescript/package.json",
        "/node_modules%2ftypescript/package.json",
        "/.npmrc",
        "/samples/../secret.txt",
        "/samples/notes.txt/..",
        "*",
        "bundle/model.json",
        "file:///etc/passwd",
        "http://127.0.0.1/../serve.py",
        "http://127.0.0.1/bundle/..%2fsecret.txt",
    ],
)
def test_nothing_outside_of_app_and_bundle_is_given(raw, path):
    answer = raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode("latin-1"))
    assert answer.split(b" ")[1] in (b"404", b"400") and b"secret" not in answer and b"root:" not in answer


@pytest.mark.parametrize("path", ["/bundle", "/bundle/", "/bundle/report", "/bundle/report/", "/samples/", "/litert", "/litert/"])
def test_no_folder_is_listed(get, path):
    status, _, content = get(path)
    assert (status, content) == (404, b"404 Not Found\n")


@pytest.mark.parametrize("path", ["/node_modules/a.js", "/NODE_MODULES/a.js", "/Node_Modules./a.js", "/src/a.js"])
def test_of_the_apps_folders_only_the_runtimes_is_served_whatever_a_disk_takes_for_the_same_name(monkeypatch, tmp_path, path):
    for folder in ("litert", *path.split("/")[1:2]):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.js").write_text("")
    roots = {"": tmp_path, "bundle": tmp_path / "bundle", "samples": None}
    assert serve.find(path, roots) is None and serve.find("/litert/a.js", roots) == tmp_path / "litert" / "a.js"


@pytest.fixture
def status_for(bundle):
    """What a server that was started with `--host` answers to a request with a header Host."""

    async def ask(host, names):
        server, found = serve.Server(bundle), []
        addresses = await server.start(host, 0)
        for name in names:
            reader, writer = await asyncio.open_connection(*addresses[0])
            writer.write(f"GET /bundle/model.json HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            found.append(int(answer.split()[1]))
            assert found[-1] != 403 or (b"expected as Host " in answer and b'"labels"' not in answer)
            writer.close()
        server._server.close()
        return found

    return lambda host, *names: asyncio.run(ask(host, names))


def test_on_loopback_only_its_own_names_are_answered_so_that_no_page_can_give_it_another(status_for):
    assert status_for("127.0.0.1", "localhost", "LocalHost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]:8000", "[::1]", "localhost.:8000") == [200] * 7
    foreign = ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "192.168.0.7", "", "::", "[", "a\x1b[2J"]
    assert status_for("127.0.0.1", *foreign, f"{socket.gethostname()}x") == [403] * 10
    assert status_for("127.0.0.2", "127.0.0.2:8000", "localhost", "127.0.0.3") == [200, 200, 403]


def test_elsewhere_addresses_and_the_machines_own_name_are_answered_too(status_for):
    own = socket.gethostname()
    assert status_for("0.0.0.0", "192.168.0.7:8000", "[fe80::1]:8000", own, f"{own.upper()}.local:8000", "localhost") == [200] * 5
    assert status_for("0.0.0.0", "evil.example", "192.168.0.7.evil.example") == [403] * 2


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET http://evil.example/bundle/model.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 403),
        (b"GET /bundle/model.json HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n", 400),
        (b"GET /bundle/model.json HTTP/1.0\r\nHost: evil.example\r\n\r\n", 403),
        (b"GET /bundle/model.json HTTP/1.0\r\n\r\n", 200),  # No browser sends this.
    ],
)
def test_no_form_of_a_request_gets_around_the_check_of_its_host(raw, request_, status):
    assert raw(request_).startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("path", ["/bundle/model.json", "/samples.json"])
def test_a_server_out_of_open_files_says_come_again_and_not_that_there_is_no_such_file(get, monkeypatch, path):
    def fail(self, *_):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(pathlib.Path, "open", fail)
        patch.setattr(pathlib.Path, "iterdir", fail)
        status, headers, _ = get(path)
    assert (status, headers["retry-after"]) == (503, "1")
    assert get(path)[0] == 200


def test_a_limit_of_open_files_that_cannot_be_raised_stays_as_it_is(monkeypatch):
    resource = pytest.importorskip("resource")
    asked = []

    def refuse(which, limits):
        asked.append(limits)
        raise ValueError("not allowed to raise maximum limit")  # as macOS does

    monkeypatch.setattr(resource, "setrlimit", refuse)
    for now, most in ((256, resource.RLIM_INFINITY), (256, 600), (2000, 4000), (resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
        monkeypatch.setattr(resource, "getrlimit", lambda which, limits=(now, most): limits)
        serve._allow_open_files()
    assert asked == [(1024, resource.RLIM_INFINITY), (600, 600)]
    monkeypatch.setitem(sys.modules, "resource", None)
    serve._allow_open_files()


def test_a_proxys_form_of_a_target_is_read(raw):
    assert raw(b"GET http://localhost:80/bundle/model.json HTTP/1.1\r\nHost: localhost\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nabc", 405),
        (b"DELETE /bundle/model.json HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n folded: y\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\xff\xfe GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 40_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 200_000 + b"\r\n", 431),
        (b"GET /" + b"a" * 3_000_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 431),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(raw, get, request_, status):
    answer = raw(request_)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode()) and b"\r\nConnection: close\r\n" in answer
    assert answer.count(b"HTTP/1.1 ") == 1  # nothing behind it was taken for a request
    assert get("/bundle/model.json")[0] == 200


def test_a_connection_serves_several_requests_and_ends_when_asked(raw):
    one = b"GET /samples/b.png HTTP/1.1\r\nHost: localhost\r\n"
    assert raw((one + b"\r\n") * 3).count(b"HTTP/1.1 200 OK") == 3
    assert raw(one + b"Connection: close\r\n\r\n" + one + b"\r\n").count(b"HTTP/1.1 ") == 1
    assert raw(b"GET /samples/b.png HTTP/1.0\r\n\r\n" + one + b"\r\n").count(b"HTTP/1.1 ") == 1
    # A body of a GET is not taken for the next request.
    assert raw(one + b"Content-Length: 60\r\n\r\n" + one + b"\r\n").count(b"HTTP/1.1 ") == 1


def test_200_parallel_requests_are_answered(get, bundle):
    content = (bundle / "float32.tflite").read_bytes()
    with concurrent.futures.ThreadPoolExecutor(200) as pool:
        answers = list(pool.map(get, ["/bundle/float32.tflite", "/"] * 100))
    assert all(status == 200 for status, _, _ in answers)
    assert all(received == content for _, _, received in answers[::2])


def open_files():
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files as Linux shows them")
def test_slow_clients_hold_up_nobody_and_are_dropped(monkeypatch, address, bundle, get):
    (bundle / "large.bin").write_bytes(bytes(20_000_000))  # more than the system keeps for a client
    monkeypatch.setattr(serve, "REQUEST_SECONDS", 4)
    monkeypatch.setattr(serve, "SEND_SECONDS", 4)
    before = open_files()
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(150)]
        for connection in slow[:100]:
            connection.sendall(b"GET / HTTP/1.1\r\nHo")  # and no more
        for connection in slow[100:]:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(b"GET /bundle/large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")  # and never reads
        started = time.monotonic()
        assert get("/bundle/model.json")[0] == 200
        assert time.monotonic() - started < 4  # before any of them is dropped
        assert b"408 Request Timeout" in slow[0].recv(2**16)
        # A byte now and then does not buy time.
        with socket.create_connection(address, timeout=10) as drip, contextlib.suppress(ConnectionError):
            for byte in b"GET / HTTP/1.1\r\n":
                drip.sendall(bytes([byte]))
                time.sleep(0.2)
            assert drip.recv(2**16).startswith(b"HTTP/1.1 408")
        # Nor does not reading: the server's ends of all are closed, while ours are open.
        while open_files() > before + len(slow) and time.monotonic() - started < 30:
            time.sleep(0.1)
    assert time.monotonic() - started < 30


def test_clients_beyond_the_limit_are_told_to_come_again(monkeypatch, address, get):
    monkeypatch.setattr(serve, "MAX_CONNECTIONS", 20)
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(socket.create_connection(address)).sendall(b"GET")
        deadline = time.monotonic() + 10
        while (status := get("/")[0]) == 200 and time.monotonic() < deadline:
            time.sleep(0.05)  # until the twenty have arrived
        assert status == 503
    deadline = time.monotonic() + 10
    while (status := get("/")[0]) == 503 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert status == 200


def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(address, bundle):
    path = bundle / "shrinking.bin"
    path.write_bytes(bytes(20_000_000))
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(b"GET /bundle/shrinking.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        received = len(connection.recv(1000))
        path.write_bytes(b"")
        while piece := connection.recv(2**20):
            received += len(piece)
    assert received < 20_000_000
    path.unlink()


@pytest.fixture
def installed(monkeypatch, tmp_path):
    """The app with a file in place of the runtime, which tests of the server do not run."""
    (tmp_path / "web" / "litert").mkdir(parents=True)
    (tmp_path / "web" / "litert" / "core.js").write_text("")
    monkeypatch.setattr(serve, "WEB", tmp_path / "web")


def serve_main(*arguments):
    arguments = [str(argument) for argument in arguments]
    return edge_main(arguments, prog="python -m edge_demo.serve", description="", add_arguments=serve.add_arguments, run=serve.run)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: ["--bundle", folder / "gone"], "which has no model.json"),
        (lambda folder: ["--bundle", folder, "--port", "70000"], "expected a number from 0 to 65535, received '70000'"),
        (lambda folder: ["--bundle", folder, "--port", "-1"], "--port"),
        (lambda folder: ["--bundle", folder, "--samples", folder / "gone"], "expected a folder of pictures"),
        (lambda folder: ["--bundle", folder, "--host", "no.such.host.invalid", "--port", "0"], "Give another --port or --host"),
    ],
)
def test_what_cannot_be_served_ends_in_one_line_and_code_2(installed, bundle, capsys, change, message):
    assert serve_main(*change(bundle)) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error


def test_a_port_in_use_and_a_runtime_that_is_not_installed_are_refused(installed, bundle, capsys, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve_main("--bundle", bundle, "--port", taken.getsockname()[1]) == 2
    assert "in use. Give another --port" in capsys.readouterr().err
    monkeypatch.setattr(serve, "WEB", tmp_path)
    assert serve_main("--bundle", bundle) == 2
    assert "which is not installed. Run `make web`, or " in capsys.readouterr().err


@pytest.mark.parametrize(("host", "noted"), [("127.0.0.1", False), ("0.0.0.0", True)])
def test_it_listens_on_loopback_and_elsewhere_only_when_told_to_which_it_says(bundle, tmp_path, host, noted):
    (port,) = free_ports(1)
    (tmp_path / "edge_demo").symlink_to(ROOT / "edge_demo")
    code = (
        "import sys; from edge_demo import serve, __main__ as m; serve.RUNTIME = 'index.html'; "
        "sys.exit(m.main(add_arguments=serve.add_arguments, run=serve.run))"
    )
    command = [sys.executable, "-c", code, "--bundle", bundle, "--port", str(port)] + (["--host", host] if noted else [])
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        assert line.startswith(f"http://{host}:{port}/ serves the bundle ") and f"samples from {str(bundle.parent / 'samples')!r}" in line
        if noted:
            assert process.stdout.readline().startswith("note: 0.0.0.0 is not only this machine")
        listening = [line.split()[1] for line in pathlib.Path("/proc/net/tcp").read_text().splitlines()[1:] if line.split()[3] == "0A"]
        assert f"{'00000000' if noted else '0100007F'}:{port:04X}" in listening
        connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(3)]
        connections[0].sendall(b"GET / HTTP/1.1\r\n")
        connections[1].sendall(b"GET /bundle/float32.tflite HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connections[1].recv(15) == b"HTTP/1.1 200 OK"
    finally:
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=20)
    # Ctrl-C ends it without a word, whatever is open.
    assert (process.returncode, rest, errors) == (0, "", "")
