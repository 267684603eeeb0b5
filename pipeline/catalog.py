"""images.parquet, read some rows at a time: what a run over many millions of images can hold."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pipeline import dataset
from pipeline.dataset import Digests
from pipeline.errors import IntegrityError

ROWS = 1 << 14
"""Digests at a time."""

_READ_ROWS = 1 << 12
"""Rows read at a time: Arrow takes several times their size."""

_DIGITS = 64


@dataclass(frozen=True)
class Catalog:
    """The distinct images, sorted by digest, where they are listed. rows: how many."""

    path: Path
    rows: int

    def digests(self, rows: int = ROWS, *, but: Digests | None = None) -> Iterator[Digests]:
        """The digests in order, S64, about so many at a time, at least one; without those in `but`.

        Raises IntegrityError where the table is damaged.
        """
        left_out = np.sort(dataset.digests([]) if but is None else but)
        read = dataset.batches(self.path, ["sha256"], _READ_ROWS)
        while batches := list(islice(read, -(-rows // _READ_ROWS))):
            some = np.concatenate([_digests(self.path, batch.column(0)) for batch in batches])
            if len(left_out):
                some = some[dataset.positions(left_out, some) < 0]
            if len(some):
                yield some

    def named(self, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[str, str]]:
        """(sha256, path) of the images that `chosen`, (rows,) bool, marks; in order."""
        return self._chosen(["sha256", "path"], chosen)

    def sized(self, chosen: npt.NDArray[np.bool_]) -> Iterator[tuple[str, int]]:
        """(path, bytes) likewise."""
        return self._chosen(["path", "bytes"], chosen)

    def _chosen(self, columns: list[str], chosen: npt.NDArray[np.bool_]) -> Iterator[Any]:
        start = 0
        for batch in dataset.batches(self.path, columns, _READ_ROWS):
            mine = np.flatnonzero(chosen[start : start + len(batch)])
            start += len(batch)
            if len(mine):
                some = batch.take(pa.array(mine))
                yield from zip(*(column.to_pylist() for column in some.columns), strict=True)


def opened(path: Path) -> Catalog:
    """The images that `prepare` listed. Raises IntegrityError where it is not such a table."""
    return Catalog(path, dataset.count_images(path))


def _digests(path: Path, column: Any) -> Digests:
    """A column of texts as an array over the same memory."""
    offsets = np.frombuffer(column.buffers()[1], np.int32)[column.offset :][: len(column) + 1]
    if column.null_count or (np.diff(offsets) != _DIGITS).any():
        raise IntegrityError(f"{path}: a sha256 is not 64 digits long; run 'dvc repro -f prepare'")
    return np.frombuffer(column.buffers()[2], f"S{_DIGITS}", len(column), int(offsets[0]))
