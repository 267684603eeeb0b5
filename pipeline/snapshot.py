"""A snapshot of the data's files: size and time of each, so that a later look tells what changed.

`prepare` leaves one at artifacts/runs/prepare.parquet, untracked. It holds data.path, and the
digest of the tables it belongs to, for DVC may put others in their place.
"""

import os
import stat
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files

Look = TypeVar("Look")

RECORD = "prepare.parquet"
"""Its name under artifacts/runs/."""

ABSENT, UNREADABLE, ANY = -1, -2, -3
"""Sizes that stand for: no such file; no plain file that may be read; there, its size unknown."""

UNKNOWN = -1
"""A time that is not known."""

_TABLES = ("images.parquet", "labels.parquet", "problems.csv")
_SCHEMA = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("mtime_ns", pa.int64())])
_CHUNK = 500
_THREADS = 8
"""Enough for a network disk to answer at once; a local one only loses by more."""


@dataclass(frozen=True)
class Snapshot:
    """path: relative to the data root; bytes, mtime_ns: (N,) int64, see the constants above.

    data: data.path as params.yaml had it, empty where that is not known.
    """

    path: tuple[str, ...]
    bytes: npt.NDArray[np.int64]
    mtime_ns: npt.NDArray[np.int64]
    data: str = ""


def take(root: Path, paths: Sequence[str], *, data: str = "") -> Snapshot:
    """Look at every file once; opens none."""
    looks = at_each(_look, [f"{root}/{path}" for path in paths])
    columns = np.array(looks, dtype=np.int64).reshape(-1, 2)
    return Snapshot(tuple(paths), columns[:, 0], columns[:, 1], data)


def at_each(look: Callable[[str], Look], paths: Sequence[str]) -> list[Look]:
    """What a quick look at each file says, in order; in threads, some hundred files at a time."""
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:  # a call of the system releases our lock
        return list(chain.from_iterable(pool.map(lambda chunk: list(map(look, chunk)), chunks)))


def _look(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT, UNKNOWN
    except (OSError, ValueError):  # ValueError: a NUL in the path
        return UNREADABLE, UNKNOWN
    everyone = status.st_mode & 0o444 == 0o444  # spares the usual file a second call
    if not stat.S_ISREG(status.st_mode) or not (everyone or os.access(path, os.R_OK)):
        return UNREADABLE, UNKNOWN
    return status.st_size, status.st_mtime_ns


def write(path: Path, snapshot: Snapshot, *, of: Path) -> None:
    """Write the record; of: the folder of the tables that were made of these files."""
    schema = _SCHEMA.with_metadata({"tables": _digest(of), "data": snapshot.data})
    columns = [list(snapshot.path), snapshot.bytes, snapshot.mtime_ns]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    with files.replacing(path) as beside:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), beside)


def read(path: Path, *, of: Path) -> Snapshot | None:
    """The record, None where there is none or it is not of the tables that lie in `of`."""
    try:
        table = pq.read_table(path)
        said = table.schema.metadata or {}
        fitting = said.get(b"tables") == _digest(of).encode()
    except (pa.ArrowException, OSError):
        return None
    if not fitting or not table.schema.equals(_SCHEMA):
        return None
    sizes, times = (table[name].to_numpy() for name in ("bytes", "mtime_ns"))
    return Snapshot(tuple(table["path"].to_pylist()), sizes, times, said.get(b"data", b"").decode())


def _digest(folder: Path) -> str:
    return files.sha256_of_json([files.sha256_of(folder / name) for name in _TABLES])
