"""Cached embeddings for torch and Dask, read where they lie. No stage imports it.

What travels to a loader's or cluster's worker is where the vectors lie, not the vectors: a worker
maps the file itself, and refuses it where it is not the one that was opened and verified.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import embeddings, tables
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.names import unknown

CHUNK_BYTES = 64 << 20
"""Of a chunk of a Dask array, about."""

_SEAL_BYTES = 73
"""The file's last bytes, which hold the sha256 of all others."""


@dataclass(frozen=True)
class Place:
    """Where (N, D) vectors lie: a file, and in it; seal: the file's last bytes.

    It can be indexed as an array, and travels without what is in it.
    """

    path: str
    offset: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    seal: bytes

    @property
    def ndim(self) -> int:
        """2."""
        return len(self.shape)

    def map(self) -> npt.NDArray[Any]:
        """The vectors, memory-mapped, read-only. Raises IntegrityError where the file is another."""
        if _seal(Path(self.path)) != self.seal:
            raise IntegrityError(f"{self.path} is another file than was opened; open it again")
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)

    def __getitem__(self, index: Any) -> npt.NDArray[Any]:
        return np.array(self.map()[index])


def _seal(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(-_SEAL_BYTES, 2)
            return file.read()
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing here; put it where every worker sees it") from None


def _place(cached: Embeddings, layer: str | None, view: int) -> Place:
    vectors: Any = cached.of(layer, view)
    path = str(vectors.filename)
    return Place(path, int(vectors.offset), vectors.shape, vectors.dtype, _seal(Path(path)))


def torch_dataset(
    path: str | Path,
    labels: Any,
    *,
    split: str | None = None,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    view: int = 0,
) -> Any:
    """A map-style torch `Dataset` of (vector, class): float32 tensors (D,) and int.

    labels, split: as `tables.join` takes them, a row a path; classes: names in the order of their
    numbers, None for the sorted labels. It has `classes`, `paths` and `sha256`, pickles without its
    vectors and maps the file anew in each worker of a DataLoader.
    Raises IntegrityError, ConfigurationError and InputError as what it calls does.
    """
    cached = embeddings.open(path)
    found = tables.join(cached, labels, split=split)
    names = tuple(sorted(set(found.label)) if classes is None else classes)
    if strange := sorted(set(found.label) - set(names)):
        raise InputError(f"labels: {unknown('class', strange[0], names)}")
    number = {name: code for code, name in enumerate(names)}
    codes = np.array([number[label] for label in found.label], np.int64)
    sha256, paths = found.sha256.astype("U64").tolist(), tuple(found.path)
    rows = Rows(_place(cached, layer, view), found.rows, codes, names, paths, tuple(sha256))
    return _dataset(rows)


@dataclass(frozen=True)
class Rows:
    """What a torch dataset is made of. rows, codes: (M,) int64; paths, sha256: M each."""

    place: Place
    rows: npt.NDArray[np.int64]
    codes: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    paths: tuple[str, ...]
    sha256: tuple[str, ...]


def _dataset(rows: Rows) -> Any:
    return _dataset_class()(rows)


@lru_cache
def _dataset_class() -> type:
    """Made when it is asked for, so that torch is not needed before."""
    try:
        import torch
    except ImportError:
        raise ConfigurationError(
            "torch is not installed; run 'python -m pip install torch'"
        ) from None

    class EmbeddingsDataset(torch.utils.data.Dataset[tuple[torch.Tensor, int]]):
        """Labelled vectors of an embeddings file. dim: their length."""

        def __init__(self, rows: Rows) -> None:
            self._rows = rows
            self._mapped: npt.NDArray[Any] | None = None
            self.classes, self.paths, self.sha256 = rows.classes, rows.paths, rows.sha256
            self.dim = rows.place.shape[1]

        def __len__(self) -> int:
            return len(self._rows.rows)

        def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
            return self.__getitems__([number])[0]

        def __getitems__(self, numbers: list[int]) -> list[tuple[torch.Tensor, int]]:
            if self._mapped is None:
                self._mapped = self._rows.place.map()
            vectors = self._mapped[self._rows.rows[numbers]].astype(np.float32)
            codes = self._rows.codes[numbers].tolist()
            return list(zip(torch.from_numpy(vectors), codes, strict=True))

        def __reduce__(self) -> tuple[Any, tuple[Rows]]:
            return _dataset, (self._rows,)

    return EmbeddingsDataset


def dask_array(
    path: str | Path,
    *,
    layer: str | None = None,
    view: int = 0,
    rows: int | None = None,
) -> Any:
    """A Dask array (N, D) of the file's dtype, its rows sorted by sha256; chunks are read lazily.

    rows: of a chunk, None for about CHUNK_BYTES. A distributed worker reads its chunks from the
    same path, so it must see it. Raises as `embeddings.open` does.
    """
    try:
        import dask.array as da
    except ImportError:
        raise ConfigurationError(
            "dask is not installed; run 'python -m pip install dask[array]'"
        ) from None
    cached = embeddings.open(path)
    place = _place(cached, layer, view)
    height = rows or max(1, CHUNK_BYTES // (place.shape[1] * place.dtype.itemsize))
    return da.from_array(
        place,
        chunks=(min(height, place.shape[0]), place.shape[1]),
        name=f"embeddings-{cached.fingerprint_of(layer, view)[:16]}-{place.seal[-65:-1].decode()}-{height}",
        meta=np.empty((0, 0), place.dtype),
        inline_array=True,
    )
