"""A file that HDF5 can write to until the end, though the disk is full."""

import io
from typing import Any


class Sink(io.FileIO):
    """A file for HDF5 to write to that keeps a failure to itself until `check`.

    HDF5 cannot close a file whose disk is full: it goes on, then crashes as Python exits.
    """

    _error: OSError | None = None

    def write(self, content: Any) -> int:
        left = memoryview(content)
        size = left.nbytes
        try:
            while left.nbytes and self._error is None:
                left = left[super().write(left) :]
        except OSError as error:
            self._error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        try:
            return super().truncate(size) if self._error is None else 0
        except OSError as error:
            self._error = error
            return 0

    def check(self) -> None:
        """Raise what went wrong since the file was opened."""
        if self._error is not None:
            raise OSError(self._error.errno, self._error.strerror, str(self.name))
