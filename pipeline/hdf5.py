"""Plain HDF5: whole contiguous datasets, written in order, opened with suspicion, mapped.

Plain means hard links to contiguous, uncompressed, local datasets, some of them in groups, and
nothing else, so that equal content gives equal bytes and `numpy.memmap` can map it.
"""

import hashlib
import io
import math
import mmap
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
import numpy.typing as npt

from pipeline import plainness
from pipeline.errors import IntegrityError, ResourceError, is_failing, is_shortage
from pipeline.sink import Sink

Array = npt.NDArray[Any]
Mapped = np.memmap[Any, np.dtype[Any]]
Attributes = Mapping[str, str | int]
Buffer = bytes | mmap.mmap

_KINDS = "fS"
"""numpy kinds a dataset may have: floats and fixed-length bytes."""


_READ_BYTES = 1 << 20
_SHA256_DIGITS = 64


@dataclass(frozen=True)
class PlainFile:
    """Read-only maps of a file's datasets, by name, and its root attributes."""

    arrays: dict[str, Mapped]
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Column:
    """A dataset to write. blocks: arrays that follow each other along the first axis."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    blocks: Iterable[Array]


def image(arrays: Mapping[str, Array], attributes: Attributes) -> bytes:
    """A whole HDF5 file as bytes, for content that fits in memory."""
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, track_times=False)
        _set(file, attributes)
    return buffer.getvalue()


def write_blocks(
    path: Path,
    columns: Iterable[Column],
    attributes: Callable[[dict[str, str]], Attributes],
) -> None:
    """Write datasets one after another, block by block, then the root attributes.

    attributes: given the sha256 of each dataset's bytes, by name. Raises OSError where the disk
    is full.
    """
    with Sink(path, "w+b") as sink:
        with h5py.File(sink, "w") as file:
            digests = {column.name: _write(file, column, sink) for column in columns}
            _set(file, attributes(digests))
        sink.check()


def _write(file: h5py.File, column: Column, sink: Sink) -> str:
    """Write a dataset; the sha256 of its bytes."""
    fill = np.nan if np.dtype(column.dtype).kind == "f" else None
    target = file.create_dataset(
        column.name, column.shape, column.dtype, fillvalue=fill, track_times=False
    )
    total, start = hashlib.sha256(), 0
    for block in column.blocks:
        target[start : start + len(block)] = block
        sink.check()
        total.update(np.ascontiguousarray(block).view(np.uint8).data)
        start += len(block)
    return total.hexdigest()


def _set(file: h5py.File, attributes: Attributes) -> None:
    for key in sorted(attributes):
        file.attrs[key] = attributes[key]


def digest(array: Array) -> str:
    """Hex sha256 of an array's bytes, in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def digest_on_disk(array: Mapped) -> str:
    """Hex sha256 of a mapped dataset's bytes, read rather than mapped: memory stays flat."""
    with open(str(array.filename), "rb", buffering=0) as file:
        file.seek(array.offset)
        return _sha256_of_next(file, array.nbytes)


def _sha256_of_next(file: io.FileIO, count: int) -> str:
    """Of the next `count` bytes, or of as many as there are."""
    total = hashlib.sha256()
    buffer = memoryview(bytearray(_READ_BYTES))
    while count > 0 and (size := file.readinto(buffer[: min(count, _READ_BYTES)])):
        total.update(buffer[:size])
        count -= size
    return total.hexdigest()


def seal(path: Path) -> None:
    """Append the sha256 of all the file's bytes, where HDF5 does not look."""
    with path.open("rb", buffering=0) as file:
        mark = _seal(_sha256_of_next(file, os.fstat(file.fileno()).st_size))
    with path.open("ab") as file:  # buffered: an unbuffered write may stop short in silence
        file.write(mark)


def is_sealed(path: Path) -> bool:
    """Whether a file is, to the last bit, what `seal` saw; False where there is none.

    HDF5's own reader neither sees a flipped bit nor always survives one. Raises ResourceError
    where the file cannot be read now.
    """
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb", buffering=0) as file:
            content = os.fstat(file.fileno()).st_size - len(_seal("")) - _SHA256_DIGITS
            found = _sha256_of_next(file, content)
            return file.read() == _seal(found)
    except (FileNotFoundError, IsADirectoryError):
        return False
    except OSError as error:
        if is_failing(error) or is_shortage(error):
            raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
        raise


def _seal(sha256: str) -> bytes:
    return f"\nsha256 {sha256}\n".encode()


def open_plain(path: Path) -> PlainFile:
    """Map every dataset of a plain file.

    Raises IntegrityError for anything that is not plain, and ResourceError where the file is
    there but cannot be read now, which says nothing about its content.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise IntegrityError(f"{path} is not a plain file")
        with path.open("rb") as raw:
            places, attributes = _read(path, raw)
            _refuse_beyond(path, places, os.fstat(raw.fileno()).st_size)
            arrays = {name: place.map(raw) for name, place in places.items()}
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing") from None
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror or error}") from None
    return PlainFile(arrays, attributes)


def places_in(path: Path, content: bytes) -> dict[str, "Place"]:
    """Where the datasets of a plain file lie, by name; the file's checked bytes are given.

    Raises IntegrityError for anything that is not plain.
    """
    places, _ = _read(path, io.BytesIO(content))
    _refuse_beyond(path, places, len(content))
    return places


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dataset lies in its file; offset in bytes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def end(self) -> int:
        """In bytes."""
        return self.offset + math.prod(self.shape) * self.dtype.itemsize

    def within(self, content: Buffer) -> Array:
        """The dataset as an array over the file's bytes. Raises TypeError where they end before."""
        return np.ndarray(self.shape, self.dtype, content, self.offset)

    def map(self, raw: BinaryIO) -> Mapped:
        """The dataset as an array over the file."""
        return np.memmap(raw, self.dtype, mode="r", offset=self.offset, shape=self.shape)


_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, MemoryError, OverflowError)


def _read(path: Path, raw: BinaryIO | io.BytesIO) -> tuple[dict[str, Place], dict[str, Any]]:
    try:
        with h5py.File(plainness.Metered(raw), "r") as file:
            names = plainness.names(file, str(path))
            places = {name: _place(path, file, name) for name in names}
            return places, plainness.attributes(file, str(path))
    except _HDF5_ERRORS as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(f"{path} is not a whole HDF5 file ({reason})") from None


def _refuse_beyond(path: Path, places: dict[str, Place], size: int) -> None:
    for name, place in places.items():
        if place.end > size:
            raise IntegrityError(f"{path}: dataset {name} reaches beyond the end of the file")


def _place(path: Path, file: h5py.File, name: str) -> Place:
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise IntegrityError(f"{path}: {name} is not a dataset; refused")
    if item.external or item.is_virtual or item.chunks is not None:
        raise IntegrityError(f"{path}: {name} is not stored whole in this file; refused")
    offset = item.id.get_offset()
    if item.dtype.kind not in _KINDS or not item.shape or 0 in item.shape or offset is None:
        raise IntegrityError(f"{path}: {name} has type {item.dtype}, shape {item.shape}; refused")
    return Place(int(offset), item.shape, item.dtype)
