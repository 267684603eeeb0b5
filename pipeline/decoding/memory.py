"""Memory that a parent and its decoding child share, for pixels and the number of the image at hand."""

import math
import mmap
import os
import sys
import tempfile
from typing import IO

import numpy as np

from pipeline.errors import ResourceError
from pipeline.images import Pixels

_HEADER_BYTES = mmap.PAGESIZE
_NUMBER_BYTES = 8
_NONE = b"\xff" * _NUMBER_BYTES


class SharedPixels:
    """Two halves, used in turn, so that one batch can be worked on while the next is decoded.

    shape: of an image's pixels.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._file = _memory()
        self._shape = shape
        self._half = 0
        self._resize(1)

    def fileno(self) -> int:
        """What the child inherits, to map by itself."""
        return self._file.fileno()

    def make_room(self, count: int) -> None:
        """See that a half holds `count` images; what is in them is lost where it grows."""
        if count > self._halves.shape[1]:
            self._resize(count)

    def _resize(self, count: int) -> None:
        shape = (2, count, *self._shape)
        size = _HEADER_BYTES + math.prod(shape)
        try:
            os.ftruncate(self._file.fileno(), size)
        except OSError as error:  # a limit on the size of files holds for this one as well
            raise ResourceError(
                f"no {size} bytes to share with a decoder ({error.strerror}); type 'ulimit -f "
                "unlimited' or lower execution.batch_size in params.yaml"
            ) from None
        self._map = mmap.mmap(self._file.fileno(), size)
        self._halves: Pixels = np.frombuffer(self._map, np.uint8, offset=_HEADER_BYTES).reshape(
            shape
        )

    def turn(self) -> dict[str, int]:
        """Go on to the other half; where in the memory it is, for the child, and the whole size."""
        self._half = 1 - self._half
        self._map[:_NUMBER_BYTES] = _NONE
        at = _HEADER_BYTES + self._half * self._halves[0].nbytes
        return {"at": at, "bytes": len(self._map)}

    @property
    def pixels(self) -> Pixels:
        """The present half: (N, *shape) uint8."""
        half: Pixels = self._halves[self._half]
        return half

    @property
    def at_hand(self) -> int:
        """The number of the image that the child began last, of those of its question."""
        return int.from_bytes(self._map[:_NUMBER_BYTES], sys.byteorder)

    def close(self) -> None:
        """Give up the file; arrays that are still used keep their memory."""
        self._file.close()


def begin(shared: mmap.mmap, number: int) -> None:
    """Note, in the child, which image of the question is at hand."""
    shared[:_NUMBER_BYTES] = number.to_bytes(_NUMBER_BYTES, sys.byteorder)


def _memory() -> IO[bytes]:
    """A file that is memory, or where there is no such thing, one without a name."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("headstart-pixels"), "r+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)
