"""Decoding in child processes, so that an image which crashes or hangs a decoder costs itself alone.

A `Decoder` is one child, asked by one thread at a time; `Decoders` are those of a process. Pixels
come back in memory that both share, everything else by pipes, a line of JSON each:

    child to parent   ready                                    once
    parent to child   {"images": [[sha256, path], ...], "next": [path, ...], "at": ..., "bytes": ...}
    child to parent   [{"reason": null, ...}, ...]             an answer an image

`at` is where in that memory the first decoded image goes, the others behind it; `bytes` its
whole size; it begins with the number of the image at hand, so that the one which killed a child
is known. A child ends when its parent does, however that ends.
"""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.decoding.batch import Batch
from pipeline.decoding.parent import Decoder, Stopped
from pipeline.images import Preprocessing
from pipeline.images.views import CLEAN, Views

__all__ = ["Batch", "Decoder", "Decoders", "Stopped"]


@dataclass(eq=False)
class Decoders:
    """The children of one process for one data root and recipe, started as threads ask for them.

    views: which of each image they make.
    """

    root: Path
    recipe: Preprocessing
    views: Views = CLEAN
    _idle: list[Decoder] = field(default_factory=list)
    _all: list[Decoder] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    closed: bool = False

    def __post_init__(self) -> None:
        weakref.finalize(self, _end, self._all)

    @contextmanager
    def borrow(self) -> Iterator[Decoder]:
        """One decoder, for one thread. Raises Stopped where they were closed."""
        decoder = self._take()
        try:
            yield decoder
        except BaseException:
            decoder.close()
            decoder.reap()
            with self._lock:
                self._all.remove(decoder)
            raise
        with self._lock:
            self._idle.append(decoder)

    def _take(self) -> Decoder:
        with self._lock:
            if self.closed:
                raise Stopped
            if self._idle:
                return self._idle.pop()
            self._all.append(Decoder(self.root, self.recipe, self.views))
            return self._all[-1]

    def start(self, count: int) -> None:
        """Start children for that many threads now, rather than as each is asked for.

        Does not wait until they are up; `wait_until_ready` does.
        """
        with self._lock:
            while len(self._all) < count and not self.closed:
                self._all.append(Decoder(self.root, self.recipe, self.views))
                self._idle.append(self._all[-1])

    def wait_until_ready(self) -> None:
        """Wait for the children that no thread has borrowed. Raises as `Decoder.decode` does."""
        with self._lock:
            idle = list(self._idle)
        for decoder in idle:
            decoder.wait_until_ready()

    def close(self) -> None:
        """End every child; who waits for one gets Stopped."""
        with self._lock:
            self.closed = True
            for decoder in self._all:
                decoder.close()


def _end(decoders: list[Decoder]) -> None:
    for decoder in decoders:
        decoder.close()
    for decoder in decoders:
        decoder.reap()
