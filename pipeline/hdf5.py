"""Plain HDF5: whole contiguous datasets, written in order, opened with suspicion, mapped.

Plain means hard links to contiguous, uncompressed, local datasets and nothing else, so that
equal content gives equal bytes and `numpy.memmap` can map it.
"""

import hashlib
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from pipeline.errors import IntegrityError

Array = npt.NDArray[Any]
Attributes = Mapping[str, str | int]

_KINDS = "fS"
"""numpy kinds a dataset may have: floats and fixed-length bytes."""


@dataclass(frozen=True)
class PlainFile:
    """Read-only maps of a file's datasets, by name, and its root attributes."""

    arrays: dict[str, Array]
    attributes: dict[str, Any]


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
    name: str,
    blocks: Iterable[Array],
    *,
    shape: tuple[int, ...],
    dtype: str,
    others: Mapping[str, Array],
) -> dict[str, str]:
    """Write one large dataset block by block, and small ones whole; returns sha256 by dataset.

    blocks: arrays that follow each other along the first axis. The file is not complete until
    `set_attributes`. Raises OSError where the disk is full.
    """
    total = hashlib.sha256()
    digests = {}
    with h5py.File(path, "w") as file:
        target = file.create_dataset(name, shape, dtype, fillvalue=np.nan, track_times=False)
        start = 0
        for block in blocks:
            target[start : start + len(block)] = block
            total.update(np.ascontiguousarray(block).data)
            start += len(block)
        for other, array in others.items():
            file.create_dataset(other, data=array, track_times=False)
            digests[other] = digest(array)
        file.flush()
    return {**digests, name: total.hexdigest()}


def set_attributes(path: Path, attributes: Attributes) -> None:
    """Set the root attributes of a file that `write_blocks` wrote."""
    with h5py.File(path, "r+") as file:
        _set(file, attributes)
        file.flush()


def _set(file: h5py.File, attributes: Attributes) -> None:
    for key in sorted(attributes):
        file.attrs[key] = attributes[key]


def digest(array: Array) -> str:
    """Hex sha256 of an array's bytes, in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data).hexdigest()


def open_plain(path: Path) -> PlainFile:
    """Map every dataset of a plain file. Raises IntegrityError for anything that is not plain."""
    try:
        with h5py.File(path, "r") as file:
            places = {name: _place(path, file, name) for name in file}
            attributes = {key: _value(value) for key, value in file.attrs.items()}
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing") from None
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise IntegrityError(f"{path} is not a whole HDF5 file ({reason})") from None
    size = path.stat().st_size
    arrays = {}
    for name, (offset, shape, dtype) in places.items():
        if offset + int(np.prod(shape, dtype=object)) * dtype.itemsize > size:
            raise IntegrityError(f"{path}: dataset {name} reaches beyond the end of the file")
        arrays[name] = np.memmap(path, mode="r", dtype=dtype, shape=shape, offset=offset)
    return PlainFile(arrays, attributes)


def _place(path: Path, file: h5py.File, name: str) -> tuple[int, tuple[int, ...], np.dtype[Any]]:
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise IntegrityError(f"{path}: {name} is a link to somewhere else; refused")
    item = file[name]
    if not isinstance(item, h5py.Dataset):
        raise IntegrityError(f"{path}: {name} is not a dataset; refused")
    if item.external or item.is_virtual or item.chunks is not None:
        raise IntegrityError(f"{path}: {name} is not stored whole in this file; refused")
    offset = item.id.get_offset()
    if item.dtype.kind not in _KINDS or not item.shape or 0 in item.shape or offset is None:
        raise IntegrityError(f"{path}: {name} has type {item.dtype}, shape {item.shape}; refused")
    return int(offset), item.shape, item.dtype


def _value(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
