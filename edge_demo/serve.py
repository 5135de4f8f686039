"""`python -m edge_demo.serve --bundle DIR`: the browser app of `web/` and a bundle over HTTP, which is the standard library's: no framework."""

import argparse
import asyncio
import contextlib
import errno
import hashlib
import io
import ipaddress
import json
import os
import pathlib
import re
import socket
import sys
import threading
import urllib.parse
import webbrowser

from . import __main__ as edge_main
from .bundle import read_bundle
from .errors import InputError, printable

WEB = pathlib.Path(__file__).parent / "web"
# What `make web` puts beside the app: LiteRT for the browser is not part of this project.
RUNTIME = "litert/core.js"

MAX_CONNECTIONS = 400  # each with a file to send: below the 1,024 open files that a process may usually have
MAX_HEADERS = 16 * 1024  # bytes, of the request line and all headers
MAX_SAMPLES = 100
REQUEST_SECONDS = 15  # for a whole request to arrive, also on a connection that was used before
SEND_SECONDS = 30  # for the client to take one piece of an answer
PIECE = 64 * 1024  # bytes

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".wasm": "application/wasm",
    ".txt": "text/plain; charset=utf-8",
    ".md": "text/markdown; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".bmp": "image/bmp",
    ".avif": "image/avif",
}
_OF_THE_APP = (".html", ".js", ".css", ".webmanifest", ".svg", ".png")  # what else stands in its folder is for who develops it
_PICTURES = {suffix for suffix, kind in _TYPES.items() if kind.startswith("image/") and suffix != ".svg"}
_REASONS = {
    200: "OK",
    304: "Not Modified",
    400: "Bad Request",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}
_LATER = 503, {"Retry-After": "1"}
_HEADERS = {
    # These two give the page threads: only an isolated page may share memory between them.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The page can talk to this server and to nobody else: pictures cannot leave it.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; img-src 'self' blob:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    # Kept, but asked for again each time: a changed file is seen, and one that did not change is not sent again.
    "Cache-Control": "no-cache",
}


class _Refusal(Exception):
    """An answer other than the file. `args` are the status, further headers and, for a person, a line that says more."""


def find(target, roots):
    """Finds the file that a request asks for.

    Args:
        target: The target of the request line, such as `"/bundle/model.json?x"`.
        roots: Dictionary from the first part of a path to a folder; `""` is for paths that begin with no other.

    Returns:
        The path of a regular file inside one of the folders, or `None`. Symbolic links that lead out of its folder are not followed.

    Raises:
        OSError: If the system has nothing left to look with, such as open files.
    """
    if match := re.match(r"https?://[^/?#]*", target, re.IGNORECASE):
        target = target[match.end() :] or "/"  # the form that a proxy sends
    path = re.split("[?#]", target, maxsplit=1)[0]
    try:
        path = urllib.parse.unquote(path, errors="strict")
    except UnicodeDecodeError:
        return None
    if not path.startswith("/"):
        return None
    names = path[1:].split("/") if path != "/" else ["index.html"]
    # No hidden files and no way up; the rest are names that some system reads as a path, a drive or the end of a string.
    if any(not name or name.startswith(".") or re.search(r"[\\:\x00-\x1f\x7f]", name) for name in names):
        return None
    suffix = os.path.splitext(names[-1])[1].lower()
    if names[0] in roots:
        if names[0] == "samples" and suffix not in _PICTURES:
            return None
        folder = roots[names.pop(0)]
    elif len(names) == 1 and suffix not in _OF_THE_APP:
        return None
    elif len(names) > 1 and names[0] != RUNTIME.split("/")[0]:
        return None  # Of the app's folders the runtime's alone is part of it, and not, where case does not count, /NODE_MODULES/.
    else:
        folder = roots[""]
    if folder is None:
        return None
    try:
        found, folder = folder.joinpath(*names).resolve(), folder.resolve()
        return found if found.is_relative_to(folder) and found.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:  # A name that is too long, a folder that may not be entered, a loop of links.
        return _none_unless_exhausted(error)


def list_samples(folder):
    """Returns the names of the pictures in a folder, sorted, at most a hundred; none for `None`.

    Raises:
        OSError: As `find`.
    """
    try:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in _PICTURES and not path.name.startswith("."))
    except (OSError, AttributeError) as error:
        return _none_unless_exhausted(error) or []
    return names[:MAX_SAMPLES]


def _none_unless_exhausted(error):
    # Not that there is no such file: it may be had a moment later.
    if _is_exhausted(error):
        raise error
    return None


def _is_exhausted(error):
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Server:
    """Answers GET and HEAD for the app, a bundle and samples, and nothing else.

    Args:
        bundle: Path of the folder with model.json, served under /bundle/.
        samples: Path of a folder with pictures, served under /samples/, or `None`.
    """

    def __init__(self, bundle, samples=None):
        self._roots = {"": WEB, "bundle": pathlib.Path(bundle), "samples": None if samples is None else pathlib.Path(samples)}
        self._connections = 0
        self._server = None
        # A page from elsewhere can let its own name lead to this address, and the browser takes our answers for that page's. So only names that
        # nobody else can give away are answered.
        self._names, self._addresses = {"localhost", "127.0.0.1", "::1"}, False

    async def start(self, host, port):
        """Listens, and returns the addresses as `(host, port)`."""
        asyncio.get_running_loop().set_exception_handler(_report)
        self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEADERS, backlog=512)
        addresses = [listening.getsockname()[:2] for listening in self._server.sockets]
        self._names.add(host.lower())
        if not all(_is_loopback(name) for name, _ in addresses):
            own = socket.gethostname().lower()
            self._names |= {own, f"{own}.local"}
            self._addresses = True
        return addresses

    def _check_host(self, host):
        name = re.sub(r":\d*$", "", host).strip("[]").lower().removesuffix(".")
        with contextlib.suppress(ValueError):
            if self._addresses and ipaddress.ip_address(name):
                return
        if name not in self._names:
            known = ", ".join(sorted(self._names)) + (" or an IP address" if self._addresses else "")
            raise _Refusal(403, {}, f"expected as Host {known}; received {printable(host)[:100]!r}. Open one of these, or start with --host.")

    async def wait(self):
        """Serves until it is cancelled. `serve_forever` would first wait for every open connection, from Python 3.12 on."""
        await asyncio.Event().wait()

    async def _connected(self, reader, writer):
        self._connections += 1
        clean = False
        # A client that goes away, or is too slow, ends its own connection and nothing else; so does the end of the server, quietly.
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.CancelledError):
            if self._connections > MAX_CONNECTIONS:
                await _send(writer, _LATER[0], {**_LATER[1], "Connection": "close"})
            else:
                while await self._answer(reader, writer):
                    pass
            await _hang_up(reader, writer)
            writer.close()
            async with asyncio.timeout(SEND_SECONDS):
                await writer.wait_closed()
            clean = True
        if not clean:
            writer.transport.abort()  # `close` would wait without end for a client that does not read.
        self._connections -= 1

    async def _answer(self, reader, writer):
        """Answers one request, and returns whether the connection stays."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                request = await reader.readuntil(b"\r\n\r\n")
            method, target, headers = _parse(request)
            # The form that a proxy sends names the host once more.
            for host in (headers.get("host"), *re.findall("^https?://([^/?#]*)", target, re.IGNORECASE)):
                if host is not None:
                    self._check_host(host)
            file, kind, etag = self._look_up(method, target)
        except asyncio.LimitOverrunError:
            refusal = 431, {}
        except TimeoutError:
            refusal = 408, {}
        except _Refusal as error:
            refusal = error.args
        except OSError as error:
            if not _is_exhausted(error):
                raise
            refusal = _LATER
        else:
            keep = headers.get("connection", "").lower() != "close" and not {"content-length", "transfer-encoding"} & set(headers)
            own = {"ETag": etag, "Connection": "keep-alive" if keep else "close"}
            with file:
                if etag in headers.get("if-none-match", ""):
                    await _send(writer, 304, own)
                else:
                    await _send_file(writer, file, own | {"Content-Type": kind}, method == "HEAD")
            return keep
        status, headers, *reason = refusal
        # After 404 all is well; after the others nobody knows where the next request begins.
        keep = status == 404
        content = "\n".join([f"{status} {_REASONS[status]}", *reason, ""]).encode()
        headers = {"Content-Type": _TYPES[".txt"], "Connection": "keep-alive" if keep else "close", **headers}
        await _send(writer, status, headers, content, head=status == 404 and method == "HEAD")
        return keep

    def _look_up(self, method, target):
        """Returns an open file, its type and an ETag."""
        if method not in ("GET", "HEAD"):
            raise _Refusal(405, {"Allow": "GET, HEAD"})
        if re.split("[?#]", target, maxsplit=1)[0] == "/samples.json":
            content = json.dumps(list_samples(self._roots["samples"])).encode()
            return io.BytesIO(content), _TYPES[".json"], f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        path = find(target, self._roots)
        if path is None:
            raise _Refusal(404, {})
        try:
            file = path.open("rb")
        except OSError as error:
            _none_unless_exhausted(error)
            raise _Refusal(404, {}) from None
        status = os.fstat(file.fileno())
        kind = _TYPES.get(path.suffix.lower(), "application/octet-stream")
        return file, kind, f'"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ctime_ns:x}"'


def _parse(request):
    """Returns method, target and headers, with names in lower case."""
    first, *lines = request.decode("latin-1").strip("\r\n").split("\r\n")
    match = re.fullmatch(r"([A-Z]+) (\S+) HTTP/(\d\.\d)", first)
    if match is None or any(not re.match(r"[!-9;-~]+:", line) for line in lines):
        raise _Refusal(400, {})
    method, target, version = match.groups()
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if sum(line.lower().startswith("host:") for line in lines) > 1:
        raise _Refusal(400, {})
    if version not in ("1.0", "1.1"):
        raise _Refusal(505, {})
    if version == "1.0":
        headers["connection"] = "close"
    elif "host" not in headers:
        raise _Refusal(400, {})
    return method, target, headers


def _is_loopback(address):
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _report(loop, context):
    # More clients than open files: those that wait are accepted a second later.
    if not _is_exhausted(context.get("exception")):
        loop.default_exception_handler(context)


async def _send(writer, status, headers, content=b"", head=False):
    if status != 304:
        headers = {"Content-Length": str(len(content)), **headers}
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}", *(f"{name}: {value}" for name, value in {**_HEADERS, **headers}.items())]
    await _write(writer, "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if head else content))


async def _send_file(writer, file, headers, head):
    left = file.seek(0, os.SEEK_END)
    file.seek(0)
    await _send(writer, 200, {**headers, "Content-Length": str(left)}, head=True)
    while left and not head:
        piece = file.read(min(PIECE, left))
        if not piece:  # It became shorter. The client sees that the answer is not whole.
            raise ConnectionAbortedError
        left -= len(piece)
        await _write(writer, piece)


async def _write(writer, content):
    writer.write(content)
    async with asyncio.timeout(SEND_SECONDS):
        await writer.drain()


async def _hang_up(reader, writer):
    """Lets the client read the last answer: closing while it still sends would take the answer away from it."""
    writer.write_eof()
    async with asyncio.timeout(2):
        for _ in range(64):
            if not await reader.read(PIECE):
                break


def _allow_open_files():
    """Lets this process open as many files as it has connections for, where the usual limit is lower, as macOS's of 256 is."""
    # Windows has no such limit, and macOS refuses some numbers that are below what it says to be the highest.
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = 1024 if most == resource.RLIM_INFINITY else min(1024, most)
        if now != resource.RLIM_INFINITY and now < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def serve(bundle, samples=None, host="127.0.0.1", port=8000, open_page=False, log=print):
    """Serves until it is interrupted.

    Raises:
        InputError: If the bundle or the folder of samples cannot be used, the runtime is not installed, or the address cannot be had.
    """
    read_bundle(bundle, task=None)
    if samples is not None and not pathlib.Path(samples).is_dir():
        raise InputError(f"expected a folder of pictures, received {str(samples)!r}. Leave --samples out, or name one.")
    if not (WEB / RUNTIME).is_file():
        path, script = str(WEB / RUNTIME), WEB / "install.sh"
        raise InputError(f"expected LiteRT for the browser in {path!r}, which is not installed. Run `make web`, or {script}.")
    beside = pathlib.Path(bundle).resolve().parent / "samples"
    if samples is None and beside.is_dir():
        samples = beside  # as `swin-keras demo` writes them

    _allow_open_files()

    async def main():
        server = Server(bundle, samples)
        try:
            addresses = await server.start(host, port)
        except (OSError, OverflowError) as error:
            message = getattr(error, "strerror", None) or error
            raise InputError(
                f"expected an address to listen on, received {host!r}, port {port}: {message}. Give another --port or --host."
            ) from error
        urls = [f"http://{f'[{name}]' if ':' in name else name}:{number}/" for name, number in addresses]
        line = f"{urls[0]} serves the bundle {str(bundle)!r}" + (f" with samples from {str(samples)!r}" if samples else "") + "; Ctrl-C ends it"
        if not all(_is_loopback(name) for name, _ in addresses):
            line += (
                f"\nnote: {host} is not only this machine: whoever reaches it can read the app, the bundle and the samples. "
                "Browsers give camera, threads, WebGPU and offline use only to https or localhost: docs/demo_apps.md."
            )
        log(line)
        if open_page:
            # A browser in a terminal returns when it ends.
            threading.Thread(target=webbrowser.open, args=(urls[0],), daemon=True).start()
        await server.wait()

    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())


def _port(text):
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 65535, received {text!r}")
    return int(text)


def add_arguments(parser):
    """Adds what this command takes; `swin-keras serve` takes the same."""
    parser.add_argument("--bundle", type=edge_main.not_empty, default="bundle", metavar="DIR", help="folder with model.json (default: bundle)")
    parser.add_argument(
        "--samples",
        type=edge_main.not_empty,
        metavar="DIR",
        help="pictures to choose from (default: the folder samples beside the bundle, if there is one)",
    )
    parser.add_argument("--port", type=_port, default=8000, metavar="N", help="0 takes a free one (default: 8000)")
    parser.add_argument(
        "--host",
        type=edge_main.not_empty,
        default="127.0.0.1",
        metavar="ADDRESS",
        help="listen there too, for other machines (default: 127.0.0.1, this one only)",
    )
    parser.add_argument("--open", action="store_true", help="open the page in the browser")


def run(arguments):
    """Serves the app and prints its address."""
    serve(
        arguments.bundle,
        arguments.samples,
        arguments.host,
        arguments.port,
        open_page=arguments.open,
        log=edge_main.say,
    )


if __name__ == "__main__":
    sys.exit(edge_main.main(prog="python -m edge_demo.serve", description="Serves the browser app.", add_arguments=add_arguments, run=run))
