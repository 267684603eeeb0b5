"""One child process that decodes, as its parent sees it; see `pipeline.decoding`."""

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from pipeline import children
from pipeline.decoding.batch import Batch
from pipeline.decoding.child import READY
from pipeline.decoding.memory import SharedPixels
from pipeline.errors import ResourceError
from pipeline.images import Preprocessing
from pipeline.images.views import CLEAN, Views

CPU_SECONDS = 30.0
"""What decoding an image may take of a processor: many times what the largest one needs."""

CLOCK_SECONDS = 120.0
"""What it may take by the clock, for a decoder that waits for something for ever."""

SLOW_READING = 0.5
"""Reading is slow where it takes more than this share of the time that decoding does."""

_KEEPING = {"MALLOC_TRIM_THRESHOLD_": str(2**26), "MALLOC_MMAP_THRESHOLD_": str(2**25)}
"""glibc would give freed memory back and take it again for each image."""

_CHILD = "from pipeline.decoding.child import main; main()"


class Stopped(Exception):  # noqa: N818 - no error: the run is ending, nobody waits for the result
    """The decoders were closed while one was at work."""


class Decoder:
    """One child that reads, checks, decodes and cuts images below `root`.

    Starting does not wait until the child is up. Raises OSError where it cannot be started.
    """

    def __init__(self, root: Path, recipe: Preprocessing, views: Views = CLEAN) -> None:
        limits = {"cpu_seconds": CPU_SECONDS, "clock_seconds": CLOCK_SECONDS}
        self._shape = (len(views), recipe.crop, recipe.crop, 3)
        self._shared = SharedPixels(self._shape)
        making = {"recipe": recipe.as_dict(), "views": views.as_dict()}
        place = {"root": str(root), "memory": self._shared.fileno()}
        self._order = json.dumps({**place, **making, **limits})
        self._stopped = False
        self._asked = 0.0
        self._changing = threading.Lock()
        self._ready = False
        self._child = _start(self._order, self._shared.fileno())

    def stream(
        self, images: Sequence[tuple[str, str]], size: int, *, ahead: bool = False
    ) -> Iterator[Batch]:
        """Decode the images in batches of `size`; see `decode`.

        ahead: ask for the next batch before the one at hand is worked on, for work that leaves
        the processor free; where reading is slow, that is done anyway. A batch's pixels are
        overwritten when the next but one is asked for.
        """
        self._shared.make_room(min(size, len(images)))
        batches = [images[start : start + size] for start in range(0, len(images), size)]
        after: list[Sequence[tuple[str, str]]] = [*batches[1:], (), ()]
        asked = False
        for number, batch in enumerate(batches):
            following, later = after[number : number + 2]
            if not asked:
                self._ask(batch, following)
            done = self._answers(batch)
            asked = bool(following) and (ahead or done.read > SLOW_READING * done.decode)
            if asked:
                self._ask(following, later)
            yield done

    def decode(self, images: Sequence[tuple[str, str]]) -> Batch:
        """Decode the images, given as (sha256, path); an empty sha256 is not checked.

        One that cannot be embedded is listed with its reason: that of `images.preprocess`,
        `changed` where its bytes are not those of the digest, `unreadable`, `too_many_bytes`,
        `crashed`, `timeout` or `out_of_memory`. Raises OSError or ResourceError where this
        machine is short of something, Stopped where `close` was called.
        """
        return next(self.stream(images, len(images)))

    def _answers(self, images: Sequence[tuple[str, str]]) -> Batch:
        """What was asked for; where the child died, each image alone."""
        batch = Batch([], self._shared.pixels, [], began=self._asked)
        answers = self._take()
        if answers is None:
            return self._one_by_one(images, batch)
        for image, answer in zip(images, answers, strict=True):
            batch.add(image, answer)
        return self._cut(batch)

    def _cut(self, batch: Batch) -> Batch:
        """Its pixels without room for images that failed, the views of an image together."""
        batch.pixels = batch.pixels[: len(batch.sha256)].reshape(-1, *self._shape[1:])
        return batch

    def _one_by_one(self, images: Sequence[tuple[str, str]], batch: Batch) -> Batch:
        """The child died: its image at hand gets one more try, every other one two."""
        culprit, died = self._shared.at_hand, self._restart()
        batch.pixels = np.empty((len(images), *self._shape), np.uint8)
        for number, image in enumerate(images):
            tries = 2
            if number == culprit:  # the limit of processor time is the same the next time
                tries = 0 if died == -signal.SIGPROF else 1
            answer, code = self._alone(image, tries)
            if answer is None:
                sha256, path = image
                batch.failed.append((path, sha256, *reason(code or died)))
            elif batch.add(image, answer):
                batch.pixels[len(batch.sha256) - 1] = self._shared.pixels[0]
        return self._cut(batch)

    def _alone(self, image: tuple[str, str], tries: int) -> tuple[dict[str, Any] | None, int]:
        """The answer on one image, or None and the exit code of the child that it killed last."""
        code = 0
        for _ in range(tries):
            self._ask([image])
            if (answers := self._take()) is not None:
                return answers[0], 0
            code = self._restart()
            if code == -signal.SIGPROF:
                break
        return None, code

    def close(self) -> None:
        """End the child, whatever it is at."""
        with self._changing:
            self._stopped = True
            self._child.kill()

    def reap(self) -> None:
        """Wait for the end of a child that was closed."""
        _wait(self._child)
        self._shared.close()

    def _ask(
        self, images: Sequence[tuple[str, str]], following: Sequence[tuple[str, str]] = ()
    ) -> None:
        """Ask for images; following: those of the next question, which are read ahead."""
        self.wait_until_ready()
        place = self._shared.turn()
        self._asked = time.time()
        question = {"images": images, "next": [path for _, path in following], **place}
        with suppress(BrokenPipeError):
            to_child = cast("IO[bytes]", self._child.stdin)
            to_child.write(json.dumps(question).encode() + b"\n")
            to_child.flush()

    def _take(self) -> list[dict[str, Any]] | None:
        """The answers, None where the child died before it gave them."""
        line = cast("IO[bytes]", self._child.stdout).readline()
        if not line.endswith(b"\n"):
            return None
        answers: list[dict[str, Any]] = json.loads(line)
        for answer in answers:
            if "fault" in answer:
                raise RuntimeError(f"the decoder failed on {answer['path']}:\n{answer['fault']}")
            if "machine" in answer:
                raise OSError(answer["errno"], answer["machine"], answer["path"])
        return answers

    def wait_until_ready(self) -> None:
        """Wait for its first line. Raises ResourceError where it does not start, and Stopped."""
        if self._ready:
            return
        if cast("IO[bytes]", self._child.stdout).readline() != READY:
            code = _wait(self._child)
            if self._stopped:
                raise Stopped
            raise ResourceError(
                f"the decoder's process does not start ({_ending(code)}); run 'headstart doctor'"
            )
        self._ready = True

    def _restart(self) -> int:
        """A new child for the one that died; the exit code of that."""
        code = _wait(self._child)
        with self._changing:
            if self._stopped:
                raise Stopped
            self._child, self._ready = _start(self._order, self._shared.fileno()), False
        return code


def reason(code: int) -> tuple[str, str]:
    """Reason and detail for an image whose child ended with `code`, alone and twice."""
    if code == -signal.SIGPROF:
        return "timeout", f"decoding took more than {CPU_SECONDS:g} s of a processor"
    if code == -signal.SIGALRM:
        return "timeout", f"decoding took more than {CLOCK_SECONDS:g} s"
    if code == -signal.SIGKILL:
        return "out_of_memory", "lower execution.threads in params.yaml, or make it smaller"
    return "crashed", f"the decoder crashed ({_ending(code)})"


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def _start(order: str, memory: int) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CHILD, order],
        pass_fds=[memory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**children.environment(), **_KEEPING, "OPENBLAS_NUM_THREADS": "1"},
        process_group=0,  # Ctrl-C is for the parent, which ends its children
    )


def _wait(child: "subprocess.Popen[bytes]") -> int:
    for pipe in (child.stdin, child.stdout):
        with suppress(OSError):  # what is still buffered for a dead child
            cast("IO[bytes]", pipe).close()
    return child.wait()
