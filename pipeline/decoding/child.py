"""What a decoding child does: answer until its parent is gone, or has not asked for a while."""

import hashlib
import json
import mmap
import os
import resource
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.decoding.memory import begin
from pipeline.errors import ImageError, is_shortage
from pipeline.images import Preprocessing
from pipeline.images.views import Views, render

READY = b"ready\n"
"""The first line: everything is imported."""

MAX_BYTES = 1 << 30
"""The largest file that is read; what holds MAX_PIXELS uncompressed is smaller."""

IDLE_SECONDS = 60.0
"""After so long without a question the child ends; a cluster's worker may live for days."""


def main() -> None:
    """Serve the questions on stdin; see `pipeline.decoding` for the protocol."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    order = json.loads(sys.argv[1])
    root, recipe = Path(order["root"]), Preprocessing(**order["recipe"])
    views = Views(**{**order["views"], "augmented": tuple(order["views"]["augmented"])})
    limits = order["cpu_seconds"], order["clock_seconds"]
    with os.fdopen(os.dup(1), "wb") as to_parent:
        _silence()
        to_parent.write(READY)
        to_parent.flush()
        shared = mmap.mmap(-1, mmap.PAGESIZE)
        while line := _question():
            question = json.loads(line)
            if len(shared) < question["bytes"]:
                shared = mmap.mmap(order["memory"], question["bytes"])
            for path in question["next"]:
                fetch(root / path)
            answers = []
            at = question["at"]
            for number, (sha256, path) in enumerate(question["images"]):
                begin(shared, number)  # it may be the last
                answer, pixels = serve(root / path, sha256, (recipe, views), limits)
                answers.append({**answer, "path": path})
                shared[at : at + len(pixels)] = pixels
                at += len(pixels)
            to_parent.write(json.dumps(answers).encode() + b"\n")
            to_parent.flush()


def _silence() -> None:
    """What a library prints is no answer of ours."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)


def _question() -> bytes:
    """The next line of stdin; empty where there will be none."""
    if not select.select([sys.stdin], [], [], IDLE_SECONDS)[0]:
        return b""
    return sys.stdin.buffer.readline()


def fetch(path: Path) -> None:
    """Have the system read a file ahead, while others are decoded; whatever is wrong shows later."""
    if not hasattr(os, "posix_fadvise"):
        return
    try:
        with files.open_plain(path) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
    except (OSError, ImageError):
        pass


def serve(
    path: Path, sha256: str, making: tuple[Preprocessing, Views], limits: tuple[float, float]
) -> tuple[dict[str, Any], bytes]:
    """The answer on one image, and its pixels, those of all views.

    sha256: of its bytes, empty where any will do; limits: processor and clock seconds to decode it.
    """
    begun = read = time.perf_counter()
    answer: dict[str, Any] = {"reason": None}
    pixels = b""
    try:
        content = _read(path, sha256)
        read = time.perf_counter()
        _limit(*limits)
        pixels = render(content, sha256, *making).tobytes()
    except ImageError as error:
        answer = {"reason": error.reason, "detail": error.detail}
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel would; what is left of us is unsure
    except OSError as error:
        answer = {"machine": error.strerror or str(error), "errno": error.errno}
    except Exception:  # noqa: BLE001 - a fault of ours, told where it can be seen
        answer = {"fault": traceback.format_exc()}
    finally:
        _limit(0, 0)
    return {**answer, "read": read - begun, "decode": time.perf_counter() - read}, pixels


def _limit(cpu_seconds: float, clock_seconds: float) -> None:
    """End this process by a signal after so long, also inside a C library; 0: no more."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    signal.setitimer(signal.ITIMER_REAL, clock_seconds)


def _read(path: Path, sha256: str) -> bytes:
    """The bytes of an image. Raises ImageError, and OSError where it is this machine's fault."""
    try:
        with files.open_plain(path) as file:
            if (size := os.fstat(file.fileno()).st_size) > MAX_BYTES:
                raise ImageError("too_many_bytes", f"{size} are more than {MAX_BYTES}")
            content = file.read()
    except OSError as error:
        if is_shortage(error):
            raise
        raise ImageError("unreadable", error.strerror or str(error)) from None
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError(
            "changed",
            "not the bytes that prepare saw; run 'dvc repro -f prepare', then 'dvc repro'",
        )
    return content
