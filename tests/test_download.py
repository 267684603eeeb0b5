"""Downloads from a server on loopback that does what servers and networks do."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from pipeline import files
from pipeline.backbones.download import fetch
from pipeline.backbones.transfer import FailedError, Patience
from tests.conftest import ROOT
from tests.file_server import cut, serving, silent, slowly, status, whole, without_length

CONTENT = bytes(range(256)) * 8000
DIGEST = files.sha256_of_bytes(CONTENT)
QUICK = Patience(timeout=5.0, attempts=3, pause=0.01)


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "checkpoints" / f"net-{DIGEST[:8]}.pth"


def bring(server, path: Path, *, digest: str = DIGEST[:8], patience: Patience = QUICK) -> None:
    fetch(server.url(path.name), path, digest=digest, patience=patience)


def left(path: Path) -> list[Path]:
    return [other for other in path.parent.iterdir() if other != path]


def refused(server, path: Path, *said: str, digest: str = DIGEST[:8], patience=QUICK) -> str:
    with pytest.raises(FailedError) as error:
        bring(server, path, digest=digest, patience=patience)
    message = str(error.value)
    assert "\n" not in message
    for part in said:
        assert part in message
    assert not path.exists()
    return message


def test_fetch__file__is_there_whole_and_alone(path, capsys):
    with serving(CONTENT) as server:
        bring(server, path)
    assert path.read_bytes() == CONTENT
    assert left(path) == []
    assert capsys.readouterr().err.startswith("headstart: downloading http://127.0.0.1:")


@pytest.mark.parametrize("digest", [DIGEST[:8], ""], ids=["digest", "no digest"])
def test_fetch__connection_cut_again_and_again__goes_on_where_it_broke_off(path, digest):
    """More often than there are attempts, for each brought something."""
    size = len(CONTENT)
    with serving(CONTENT, *[cut(size // 8)] * 7, whole) as server:
        bring(server, path, digest=digest)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None] + [f"bytes={size // 8 * n}-" for n in range(1, 8)]


@pytest.mark.parametrize("digest", [DIGEST[:8], ""], ids=["digest", "no digest"])
def test_fetch__server_that_ignores_ranges__starts_anew(path, digest):
    with serving(CONTENT, cut(1000), cut(500_000), whole, ranges=False) as server:
        bring(server, path, digest=digest)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=500000-"]


def test_fetch__server_that_never_gets_further__is_given_up(path):
    with serving(CONTENT, cut(1000), ranges=False) as server:
        refused(server, path, "1000 of 2048000 bytes", "tried 3 times")
    assert len(server.asked) == 3


def test_fetch__file_changed_on_the_server_midway__starts_anew(path):
    def change(server, request):
        server.content, server.etag = CONTENT, '"two"'
        whole(server, request)

    with serving(b"\x80" * 90_000, cut(40_000), change) as server:
        bring(server, path, digest="")
    assert path.read_bytes() == CONTENT


def test_fetch__no_digest_and_no_version__mixes_no_parts(path):
    with serving(CONTENT, cut(1000), whole, etag="") as server:
        bring(server, path, digest="")
    assert server.asked == [None, None]
    assert path.read_bytes() == CONTENT


def test_fetch__part_from_another_place_than_asked__is_not_mixed_in(path):
    def elsewhere(server, request):
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 5-{len(CONTENT) - 1}/{len(CONTENT)}")
        request.send_header("Content-Length", str(len(CONTENT) - 5))
        request.end_headers()
        request.wfile.write(CONTENT[5:])

    with serving(CONTENT, cut(1000), elsewhere, whole) as server:
        bring(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_fetch__server_that_is_busy_once__is_asked_again(path, code):
    with serving(CONTENT, status(code, b"busy", Retry_After="0"), whole) as server:
        bring(server, path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("code", [401, 403, 404, 407, 410, 451])
def test_fetch__refusal__is_told_at_once(path, code):
    with serving(CONTENT, status(code)) as server:
        refused(server, path, f"the server answers {code}")
    assert len(server.asked) == 1
    assert left(path) == []


def test_fetch__server_that_stays_busy__is_given_up(path):
    with serving(CONTENT, status(503)) as server:
        refused(server, path, "the server answers 503 Service Unavailable; tried 3 times")


def test_fetch__wrong_bytes__are_removed_and_named(path):
    other = bytes(len(CONTENT))
    with serving(other) as server:
        refused(
            server, path, "2048000 bytes", files.sha256_of_bytes(other)[:12], DIGEST[:8], "removed"
        )
    assert left(path) == []


PAGE = b"<!DOCTYPE html><html><body>Please sign in</body></html>"


@pytest.mark.parametrize("digest", [DIGEST[:8], ""], ids=["digest", "no digest"])
@pytest.mark.parametrize(
    ("body", "kind", "said"),
    [
        (PAGE, "text/html; charset=utf-8", "a web page, likely of a proxy"),
        (PAGE, "application/octet-stream", "a web page"),
        (b"<p>Welcome to the network</p>", "text/html", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text/plain", "a Git LFS pointer"),
        (b'{"error": "rate limit"}', "application/json", "a JSON text"),
        (b"", "application/octet-stream", "empty"),
    ],
)
def test_fetch__something_else_with_status_200__is_told(path, body, kind, said, digest):
    with serving(CONTENT, status(200, body, Content_Type=kind)) as server:
        refused(server, path, said, digest=digest)
    assert left(path) == []


def test_fetch__no_content_length__is_checked_by_the_digest(path):
    with serving(CONTENT, without_length) as server:
        bring(server, path)
        assert path.read_bytes() == CONTENT
        path.unlink()
        server.content = CONTENT[:-1]
        refused(server, path, "wrong sha256")


def test_fetch__silent_server__is_given_up_in_time(path):
    patience = Patience(timeout=0.1, attempts=2, pause=0.01)
    with serving(CONTENT, silent(0.5)) as server:
        refused(server, path, "the server does not answer; tried 2 times", patience=patience)


def test_fetch__slow_server__is_waited_for(path):
    """The limit is on silence, not on the whole."""
    with serving(CONTENT, slowly(8, 0.05)) as server:
        bring(server, path, patience=Patience(timeout=0.3, attempts=1))
    assert path.read_bytes() == CONTENT


def test_fetch__nobody_listens__is_told_at_once(path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(FailedError, match="refused"):
        fetch(f"http://127.0.0.1:{port}/x", path, digest=DIGEST, patience=QUICK)


def test_fetch__unknown_host__is_told_as_no_network(path, monkeypatch):
    def resolve(*_arguments, **_keys):
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with pytest.raises(FailedError, match="no network, or no such host"):
        fetch("https://download.example.org/x.pth", path, digest=DIGEST, patience=QUICK)


def test_fetch__proxy_that_wants_a_password__is_told(path, monkeypatch):
    monkeypatch.setattr(urllib.request, "_opener", None)  # made once a process, with its proxies
    with serving(CONTENT, status(407)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.port}")
        with pytest.raises(FailedError, match="Tunnel connection failed: 407"):
            fetch("https://download.example.org/x.pth", path, digest=DIGEST, patience=QUICK)
    assert len(server.asked) == 1


def test_fetch__failed__leaves_what_it_got_to_the_next_run(path):
    size = len(CONTENT)
    with serving(CONTENT, cut(size // 2), status(503)) as server:
        refused(server, path, "503")
        (part,) = left(path)
        assert part.read_bytes() == CONTENT[: size // 2]
    with serving(CONTENT) as server:
        bring(server, path)
    assert server.asked == [f"bytes={size // 2}-"]
    assert path.read_bytes() == CONTENT
    assert left(path) == []


def test_fetch__left_part_is_of_another_version__starts_anew(path):
    with serving(bytes(90_000), cut(50_000), status(404)) as server:
        refused(server, path, "404")
    with serving(CONTENT) as server:
        bring(server, path)
    assert server.asked == ["bytes=50000-", None]
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("much", [len(CONTENT), len(CONTENT) + 5])
def test_fetch__left_part_is_all_or_more__ends_well(path, much):
    path.parent.mkdir()
    path.with_name(f".{path.name}{files.PARTIAL}").write_bytes((CONTENT + bytes(9))[:much])
    with serving(CONTENT) as server:
        bring(server, path)
    assert path.read_bytes() == CONTENT
    assert left(path) == []


def start(server, path: Path) -> subprocess.Popen:
    """A process of its own that fetches the file."""
    program = (
        "import sys; from pathlib import Path; from pipeline.backbones.download import fetch; "
        "fetch(sys.argv[1], Path(sys.argv[2]), digest=sys.argv[3])"
    )
    command = [sys.executable, "-c", program, server.url(path.name), str(path), DIGEST[:8]]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)


def wait_for(there) -> None:
    limit = time.monotonic() + 60
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_fetch__killed_midway__leaves_no_file_and_the_next_run_goes_on(path):
    with serving(CONTENT, slowly(40, 0.05), whole) as server:
        process = start(server, path)
        wait_for(lambda: path.parent.is_dir() and any(p.stat().st_size for p in left(path)))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not path.exists()
        (part,) = left(path)
        got = part.stat().st_size
        assert 0 < got < len(CONTENT)
        bring(server, path)
    assert server.asked == [None, f"bytes={got}-"]
    assert path.read_bytes() == CONTENT
    assert left(path) == []


def test_fetch__two_processes_at_once__both_end_well(path):
    """Neither takes over the part that the other is still writing."""
    with serving(CONTENT, slowly(20, 0.05)) as server:
        both = [start(server, path) for _ in range(2)]
        wait_for(lambda: len(server.asked) == 2)
        assert [process.wait() for process in both] == [0, 0]
    assert server.asked == [None, None]
    assert path.read_bytes() == CONTENT
    assert left(path) == []


def test_fetch__many_after_a_killed_one__share_nothing_and_all_end_well(path):
    """One of them takes the dead one's part."""
    path.parent.mkdir()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    living = files.unused(path).name
    path.with_name(living.replace(f"-{os.getpid()}-", f"-{dead.pid}-")).write_bytes(CONTENT[:999])
    with serving(CONTENT) as server:
        threads = [threading.Thread(target=bring, args=(server, path)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(server.asked, key=str) == [None, None, None, "bytes=999-"]
    assert path.read_bytes() == CONTENT
    assert left(path) == []
