"""An address's bytes, over as many connections as they take."""

import http.client
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from tqdm import tqdm

from pipeline.backbones import recognition

_PIECE = 1 << 18
_PASSING = {408, 425, 429, 500, 502, 503, 504}
"""HTTP's answers that may be others a moment later."""

_FINAL = (socket.gaierror, ConnectionRefusedError, FileNotFoundError, PermissionError)
"""Errors that another attempt a second later does not mend, unless it worked before."""

_LONGEST_PAUSE = 30.0


@dataclass(frozen=True)
class Patience:
    """How long to wait for a server.

    timeout: seconds without a byte; attempts: in a row that bring none; pause: seconds before the
    second, doubled before each further one.
    """

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


PATIENCE = Patience()


class FailedError(Exception):
    """A download that came to nothing; its text is the reason, for a line of its caller's."""


class _BrokenError(Exception):
    """A connection that may do better when tried again. after: seconds a server asks for."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def bring(url: str, beside: Path, *, checked: bool, patience: Patience) -> None:
    """Append to `beside` what it lacks of the file at `url`, which it may begin.

    checked: whether a digest will tell if parts belong together; without one nothing is gone on
    from but what this call itself received, of the same version. Raises FailedError.
    """
    with (
        beside.open("ab") as file,
        tqdm(unit="B", unit_scale=True, unit_divisor=1024, disable=None, leave=False) as bar,
    ):
        transfer = _Transfer(url, file, bar, patience.timeout, checked=checked)
        failures, furthest = 0, file.tell()
        while True:
            try:
                transfer.go_on()
                return
            except _BrokenError as broken:
                failures = 1 if file.tell() > furthest else failures + 1
                furthest = max(furthest, file.tell())
                if failures >= patience.attempts:
                    raise FailedError(f"{broken}; tried {failures} times") from None
                pause = patience.pause * 2 ** (failures - 1)
                time.sleep(min(max(pause, broken.after), _LONGEST_PAUSE))


@dataclass
class _Transfer:
    """One file on its way. version: the server's strong ETag of what was received so far."""

    url: str
    file: BinaryIO
    bar: "tqdm[Any]"
    timeout: float
    checked: bool
    version: str = field(default="", init=False)
    started: bool = field(default=False, init=False)

    def go_on(self) -> None:
        """Receive what is still missing. Raises _BrokenError, or FailedError for good."""
        response = self._ask()
        if response is None:
            return
        with response:
            have = self._place(response)
            length = response.headers.get("Content-Length") or ""
            whole = have + int(length) if length.isdigit() else None
            self.bar.total = whole
            for piece in _pieces(response):
                if not self.file.tell():
                    _refuse_page(response, piece)
                self.file.write(piece)
                self.started = True
                self.bar.update(len(piece))
        if whole is not None and self.file.tell() != whole:
            raise _BrokenError(f"the connection ended after {self.file.tell()} of {whole} bytes")

    def _ask(self) -> Any:
        """The response with what is missing; None where nothing is."""
        headers = {"User-Agent": "headstart", "Accept-Encoding": "identity"}
        have = self.file.tell()
        if have and (self.checked or self.version):
            headers["Range"] = f"bytes={have}-"
            if self.version:
                headers["If-Range"] = self.version
        try:
            return urlopen(Request(self.url, headers=headers), timeout=self.timeout)  # noqa: S310
        except HTTPError as error:
            with error:
                self._refused(error)
            return None
        except (OSError, http.client.HTTPException) as error:
            raise _of_network(error, started=self.started) from None

    def _refused(self, error: HTTPError) -> None:
        """Return where a server has nothing beyond what is here; else raise."""
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            if error.headers.get("Content-Range") == f"bytes */{self.file.tell()}":
                return
            self._start_anew()
            raise _BrokenError("the server has less than was received before")
        reason = f"the server answers {error.code} {error.reason}"
        if error.code not in _PASSING:
            raise FailedError(reason)
        after = error.headers.get("Retry-After", "")
        raise _BrokenError(reason, float(after) if after.isdigit() else 0.0)

    def _start_anew(self) -> None:
        self.file.truncate(0)
        self.file.seek(0)
        self.version = ""

    def _place(self, response: Any) -> int:
        """Where in the file a response's first byte belongs; a whole file starts it anew."""
        if self.url.startswith("https:") and not response.url.startswith("https:"):
            raise FailedError("the server leads to an address without encryption")
        have = self.file.tell()
        if response.status == http.client.PARTIAL_CONTENT:
            if not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
                self._start_anew()
                raise _BrokenError("the server sent another part than was asked for")
        elif have:
            self._start_anew()
            have = 0
        tag = response.headers.get("ETag", "")
        self.version = "" if tag.startswith("W/") else tag
        self.bar.n = have
        return have


def _pieces(response: Any) -> Iterator[bytes]:
    """What a response holds, as it comes."""
    while True:
        try:
            piece = response.read1(_PIECE)
        except (OSError, http.client.HTTPException) as error:
            raise _of_network(error, started=True) from None
        if not piece:
            return
        yield piece


def _refuse_page(response: Any, start: bytes) -> None:
    """Refuse a sign-in page, a pointer or a message that comes instead of the file."""
    kind = response.headers.get_content_type()
    what = recognition.of_start(start[:64]).partition(";")[0]
    if not what and kind == "text/html":
        what = "a web page"
    if what:
        raise FailedError(f"what comes is {what}, likely of a proxy or a sign-in")


def _of_network(error: Exception, *, started: bool) -> Exception:
    """What an error of the connection means: worth another attempt, or not."""
    cause = error.reason if isinstance(error, URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return FailedError(
            f"the server's certificate is not trusted ({cause.verify_message}); if a proxy of yours "
            "puts its own there, SSL_CERT_FILE names the file that has it"
        )
    if isinstance(cause, socket.gaierror):
        text = f"no network, or no such host ({cause.strerror})"
    elif isinstance(cause, TimeoutError):
        return _BrokenError("the server does not answer")
    else:
        text = " ".join(str(cause).split())[:150] or type(cause).__name__
    final = isinstance(cause, _FINAL) or text.startswith("Tunnel connection failed")
    return FailedError(text) if final and not started else _BrokenError(text)
