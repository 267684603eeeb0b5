"""A server on loopback that serves one file, as well or as badly as it is told."""

import http.server
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class FileServer:
    """content: of every path. faults: one a request, the last for all that follow.

    A fault answers a request instead of `whole`; more: headers of right answers; asked:
    the Range of each request so far.
    """

    content: bytes
    faults: list[Callable] = field(default_factory=list)
    etag: str = '"one"'
    ranges: bool = True
    more: dict[str, str] = field(default_factory=dict)
    asked: list[str | None] = field(default_factory=list)
    port: int = 0

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/files/{name}?download=1"

    def answer(self, request) -> None:
        self.asked.append(request.headers.get("Range"))
        place = len(self.asked) - 1
        fault = self.faults[min(place, len(self.faults) - 1)] if self.faults else whole
        fault(self, request)


def start_of(server: FileServer, request) -> int:
    """Where the asked range begins; 0 where it is not served."""
    asked = request.headers.get("Range")
    unchanged = request.headers.get("If-Range") in (None, server.etag)
    if not asked or not server.ranges or not unchanged:
        return 0
    return int(asked.removeprefix("bytes=").removesuffix("-"))


def begin(server: FileServer, request) -> bytes:
    """Status and headers of a right answer; the bytes that should follow."""
    start, size = start_of(server, request), len(server.content)
    if start >= size > 0 and start:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{size}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return b""
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    if server.etag:
        request.send_header("ETag", server.etag)
    request.send_header("Content-Length", str(size - start))
    for name, value in server.more.items():
        request.send_header(name, value)
    request.end_headers()
    return server.content[start:]


def whole(server: FileServer, request) -> None:
    request.wfile.write(begin(server, request))


def cut(after: int) -> Callable:
    """Break the connection after so many bytes."""

    def fault(server: FileServer, request) -> None:
        request.wfile.write(begin(server, request)[:after])

    return fault


def slowly(pieces: int, pause: float) -> Callable:
    """All of it, in pieces with a pause after each."""

    def fault(server: FileServer, request) -> None:
        content = begin(server, request)
        step = max(1, len(content) // pieces)
        for start in range(0, len(content), step):
            request.wfile.write(content[start : start + step])
            request.wfile.flush()
            time.sleep(pause)

    return fault


def silent(seconds: float) -> Callable:
    """No word for so long."""

    def fault(server: FileServer, request) -> None:
        time.sleep(seconds)

    return fault


def status(code: int, body: bytes = b"", **headers: str) -> Callable:
    """Another answer than the file."""

    def fault(server: FileServer, request) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    return fault


def without_length(server: FileServer, request) -> None:
    request.send_response(200)
    request.end_headers()
    request.wfile.write(server.content)


@contextmanager
def serving(content: bytes, *faults: Callable, **options) -> Iterator[FileServer]:
    """A running server; ends with the block."""
    server = FileServer(content, list(faults), **options)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # the client has gone
                server.answer(self)

        do_CONNECT = do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    listening = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.port = listening.server_port
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.socket.close()
