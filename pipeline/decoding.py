"""Decoding in child processes, so that an image which crashes or hangs a decoder costs itself alone.

A `Decoder` is one child, asked by one thread at a time; `Decoders` are those of a process. A
child answers image by image, so the one that killed it is known, and it ends when its parent
does, however that ends. Between them, by pipes:

    parent to child   [[sha256, path], ...]          a line of JSON
    child to parent   {"reason": null, ...}          a line of JSON an image, and
                      crop * crop * 3 bytes          its pixels where there is no reason
"""

import errno
import fcntl
import hashlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from pipeline.errors import ImageError, ResourceError
from pipeline.images import Pixels, Preprocessing, preprocess

CPU_SECONDS = 30
"""What an image may take of a processor: many times what the largest one needs."""

CLOCK_SECONDS = 120
"""What an image may take by the clock, for a decoder that waits for something for ever."""

MAX_BYTES = 1 << 30
"""The largest file that is read; what holds MAX_PIXELS uncompressed is smaller."""

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of this machine, not of the image that happens to meet them."""

_PIPE_BYTES = 1 << 20
_LIBRARY = str(Path(__file__).parents[1])


class Stopped(Exception):  # noqa: N818 - no error: the run is ending, nobody waits for the result
    """The decoders were closed while one was at work."""


@dataclass
class Batch:
    """What became of some images, in their order.

    sha256: of those that were decoded; pixels: (N, crop, crop, 3) uint8, theirs; failed:
    (path, sha256, reason, detail) of the others; read, decode: seconds.
    """

    sha256: list[str]
    pixels: Pixels
    failed: list[tuple[str, str, str, str]]
    read: float = 0.0
    decode: float = 0.0


class Decoder:
    """One child that reads, checks, decodes and cuts images below `root`.

    Starting does not wait until the child is up.
    """

    def __init__(self, root: Path, recipe: Preprocessing) -> None:
        limits = {"cpu_seconds": CPU_SECONDS, "clock_seconds": CLOCK_SECONDS}
        self._order = json.dumps({"root": str(root), "recipe": recipe.as_dict(), **limits})
        self._shape = (recipe.crop, recipe.crop, 3)
        self._stopped = False
        self._child = _start(self._order)

    def decode(self, images: Sequence[tuple[str, str]]) -> Batch:
        """Decode the images, given as (sha256, path).

        One that cannot be embedded is listed with its reason: that of `images.preprocess`,
        `changed` where its bytes are not those of the digest, `unreadable`, `too_many_bytes`,
        `crashed` or `timeout`. Raises ResourceError where this machine is short of something,
        Stopped where `close` was called.
        """
        batch = Batch([], np.empty((len(images), *self._shape), np.uint8), [])
        todo = list(images)
        while (answered := self._ask(todo, batch)) < len(todo):
            self._blame(todo[answered], batch)
            todo = todo[answered + 1 :]
        batch.pixels = batch.pixels[: len(batch.sha256)]
        return batch

    def close(self) -> None:
        """End the child, whatever it is at."""
        self._stopped = True
        self._child.kill()

    def reap(self) -> None:
        """Wait for the end of a child that was closed."""
        _wait(self._child)

    def _ask(self, images: Sequence[tuple[str, str]], batch: Batch) -> int:
        """Have images decoded; how many were answered before the child died, if it did."""
        with suppress(BrokenPipeError):
            to_child = cast("IO[bytes]", self._child.stdin)
            to_child.write(json.dumps(images).encode() + b"\n")
            to_child.flush()
        for number, image in enumerate(images):
            if not self._answer(image, batch):
                return number
        return len(images)

    def _answer(self, image: tuple[str, str], batch: Batch) -> bool:
        """Take in one answer; False where the child died instead."""
        sha256, path = image
        from_child = cast("IO[bytes]", self._child.stdout)
        line = from_child.readline()
        if not line.endswith(b"\n"):
            return False
        answer: dict[str, Any] = json.loads(line)
        if "fault" in answer:
            raise RuntimeError(f"the decoder failed on {path}:\n{answer['fault']}")
        if "machine" in answer:
            raise ResourceError(f"{path} cannot be read: {answer['machine']}")
        if answer["reason"] is None:
            room = memoryview(batch.pixels[len(batch.sha256)]).cast("B")
            if from_child.readinto(room) < len(room):  # type: ignore[attr-defined]
                return False
            batch.sha256.append(sha256)
        else:
            batch.failed.append((path, sha256, answer["reason"], answer["detail"]))
        batch.read += answer["read"]
        batch.decode += answer["decode"]
        return True

    def _blame(self, image: tuple[str, str], batch: Batch) -> None:
        """The child died at this image: give it one more try, alone, then list it."""
        sha256, path = image
        died = self._restart()
        if died not in _TIMED_OUT:
            if self._ask([image], batch):
                return
            died = self._restart()
        if died == -signal.SIGKILL:
            raise ResourceError(
                f"decoding {path} was killed twice, as where memory runs out; "
                "lower execution.threads or execution.workers in params.yaml"
            )
        batch.failed.append((path, sha256, *reason(died)))

    def _restart(self) -> int:
        """A new child for the one that died; the exit code of that."""
        code = _wait(self._child)
        if self._stopped:
            raise Stopped
        self._child = _start(self._order)
        return code


_TIMED_OUT = (-signal.SIGPROF, -signal.SIGALRM)


def reason(code: int) -> tuple[str, str]:
    """Reason and detail for a child that ended with `code`."""
    if code in _TIMED_OUT:
        by_clock = code == -signal.SIGALRM
        limit = f"{CLOCK_SECONDS} s" if by_clock else f"{CPU_SECONDS} s of a processor"
        return "timeout", f"decoding took more than {limit}"
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return "crashed", f"the decoder crashed ({how})"


def _start(order: str) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, (_LIBRARY, os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", "pipeline.decoding", order],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1"},
        process_group=0,  # Ctrl-C is for the parent, which ends its children
    )
    if hasattr(fcntl, "F_SETPIPE_SZ"):
        with suppress(OSError):  # a user's pipes may have used up what the kernel gives
            fcntl.fcntl(cast("IO[bytes]", child.stdout), fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    return child


def _wait(child: "subprocess.Popen[bytes]") -> int:
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what is still buffered for a dead child
            cast("IO[bytes]", pipe).close()
    return child.wait()


@dataclass(eq=False)
class Decoders:
    """The children of one process for one data root and recipe, started as threads ask for them."""

    root: Path
    recipe: Preprocessing
    _idle: list[Decoder] = field(default_factory=list)
    _all: list[Decoder] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _closed: bool = False

    def __post_init__(self) -> None:
        weakref.finalize(self, _end, self._all)

    @contextmanager
    def borrow(self) -> Iterator[Decoder]:
        """One decoder, for one thread. Raises Stopped where they were closed."""
        with self._lock:
            if self._closed:
                raise Stopped
            decoder = self._idle.pop() if self._idle else Decoder(self.root, self.recipe)
            if decoder not in self._all:
                self._all.append(decoder)
        yield decoder
        with self._lock:
            self._idle.append(decoder)

    def close(self) -> None:
        """End every child; who waits for one gets Stopped."""
        with self._lock:
            self._closed = True
            for decoder in self._all:
                decoder.close()


def _end(decoders: list[Decoder]) -> None:
    for decoder in decoders:
        decoder.close()
    for decoder in decoders:
        decoder.reap()


def main() -> None:
    """What the child does: answer until its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    order = json.loads(sys.argv[1])
    root, recipe = Path(order["root"]), Preprocessing(**order["recipe"])
    timers = {
        signal.ITIMER_PROF: order["cpu_seconds"],  # ends the child, also inside a C library
        signal.ITIMER_REAL: order["clock_seconds"],
    }
    with os.fdopen(os.dup(1), "wb") as to_parent:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)  # what a library prints is no answer of ours
        os.dup2(silence, 2)
        for line in sys.stdin.buffer:
            for sha256, path in json.loads(line):
                for timer, limit in timers.items():
                    signal.setitimer(timer, limit)
                answer, pixels = _serve(root / path, sha256, recipe)
                for timer in timers:
                    signal.setitimer(timer, 0)
                to_parent.write(json.dumps(answer).encode() + b"\n" + pixels)
                to_parent.flush()  # before the next image, which may be the last


def _serve(path: Path, sha256: str, recipe: Preprocessing) -> tuple[dict[str, Any], bytes]:
    begun = read = time.perf_counter()
    answer: dict[str, Any] = {"reason": None}
    pixels = b""
    try:
        content = _read(path, sha256)
        read = time.perf_counter()
        pixels = preprocess(content, recipe).tobytes()
    except ImageError as error:
        answer = {"reason": error.reason, "detail": error.detail}
    except MemoryError:
        answer = {"machine": "memory ran out; lower execution.threads in params.yaml"}
    except OSError as error:
        answer = {"machine": error.strerror or str(error)}
    except Exception:  # noqa: BLE001 - a fault of ours, told where it can be seen
        answer = {"fault": traceback.format_exc()}
    end = time.perf_counter()
    return {**answer, "read": read - begun, "decode": end - read}, pixels


def _read(path: Path, sha256: str) -> bytes:
    """The bytes of an image. Raises ImageError, and OSError where it is this machine's fault."""
    try:
        # opening a pipe that took the place of the file would wait for a writer
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", "not a plain file")
            if status.st_size > MAX_BYTES:
                raise ImageError("too_many_bytes", f"{status.st_size} are more than {MAX_BYTES}")
            content = file.read()
    except OSError as error:
        if error.errno in _OURS:
            raise
        raise ImageError("unreadable", error.strerror or str(error)) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError(
            "changed",
            "its bytes are not those of the sha256 that prepare, or the manifest, gave; "
            "run 'dvc repro -f prepare'",
        )
    return content


if __name__ == "__main__":
    main()
