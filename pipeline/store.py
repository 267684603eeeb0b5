"""The content-addressed store of embedding shards, shared by runs, branches and projects.

<store>/<fingerprint>/<digest>.h5 holds up to some thousand rows; the digest is over all its
bytes, so a shard is immutable, writing it twice is harmless, and a flipped bit is found before
HDF5 reads it.
<store>/<fingerprint>/probe.npy is what the first machine made of the probe, its sha256 behind.
"""

import mmap
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import files, probe, shards
from pipeline.dataset import Digests
from pipeline.errors import IntegrityError
from pipeline.frozen import Vectors
from pipeline.hdf5 import Array
from pipeline.index import Index
from pipeline.segments import ABSENT
from pipeline.shards import Layout

WINDOW_BYTES = 4 << 20
"""Vectors gathered at a time: a shard is opened once for each window that has rows of it."""

SCATTERED, FEW = 8, 32
"""How many times larger a window is where an opened shard has fewer rows for it, on average."""

_ROWS_OF_LOST = 1024
_ATTEMPTS = 10


class LostRowsError(IntegrityError):
    """Rows that were there have gone or were damaged; what is there now is to be looked at anew."""


@dataclass
class Store:
    """The shards of one fingerprint below `root`. Opening reads nothing; `refresh` does.

    _shards: names of those that are there, sorted; _checked: those whose bytes were checked.
    """

    root: Path
    fingerprint: str
    _shards: list[str] = field(default_factory=list, repr=False)
    _checked: dict[str, Layout] = field(default_factory=dict, repr=False)
    _index: Index = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = Index(self.folder, self.fingerprint)

    @property
    def folder(self) -> Path:
        """Where this fingerprint's shards lie."""
        return self.root / self.fingerprint

    @property
    def _probe(self) -> Path:
        return self.folder / "probe.npy"

    def put(self, sha256: Digests, vectors: Array) -> Path:
        """Store rows: sha256 (N,) S64, vectors (N, D) float16 or float32. Safe for many writers.

        Raises OSError where the disk is full, IntegrityError where what was written reads
        back as something else, or another run's `gc` took the folder away.
        """
        content = shards.pack(sha256, vectors)
        path = self._path(shards.digest(self.fingerprint, content))
        with self._keeping_folder(), files.replacing(path) as beside:
            beside.write_bytes(content)
            files.sync(beside)
            shards.read(beside, self.fingerprint, path.stem)
        return path

    def refresh(self) -> None:
        """Look at what is there now: shards by the index, those it does not list by reading them.

        A damaged one that is read is named and deleted. What killed writers left half-written goes
        as well. Raises LostRowsError where others leave the store no moment of peace.
        """
        files.sweep(self.folder)
        for _ in range(_ATTEMPTS):
            with suppress(FileNotFoundError):  # another run has just replaced a part of the index
                self._list()
                self._refresh_probe()
                return
        raise self._lost()

    def _list(self) -> None:
        there, ending = self._names(), shards.ENDING
        listed = self._index.refresh(there)
        names = sorted(name.removesuffix(ending) for name in there if name.endswith(ending))
        self._shards = [name for name in names if name in listed or self._take_in(name)]
        self._index.settle(self._shards)

    def _take_in(self, name: str) -> bool:
        """Check a shard and list it; whether it is whole."""
        content = self._read(name)
        if content is None:
            return False
        self._index.add(name, self._checked[name].digests(content))
        return True

    def _read(self, name: str) -> bytes | None:
        """A shard's checked bytes; None where it is not there, or damaged: then it is deleted."""
        path = self._path(name)
        try:
            content, self._checked[name] = shards.read(path, self.fingerprint, name)
        except FileNotFoundError:
            return None  # another run found it damaged
        except IntegrityError as error:
            print(f"headstart: {error}; deleted, its rows are computed anew", file=sys.stderr)
            path.unlink(missing_ok=True)
            return None
        return content

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}{shards.ENDING}"

    def _refresh_probe(self) -> None:
        try:
            self.reference_probe()
        except IntegrityError as error:
            print(f"headstart: {error}; deleted, it is made anew", file=sys.stderr)
            self._probe.unlink(missing_ok=True)

    def _names(self) -> list[str]:
        try:
            return [name for name in os.listdir(self.folder) if name[0] != "."]
        except FileNotFoundError:
            return []

    @property
    def rows_at_once(self) -> int:
        """How many images are looked for at a time."""
        return self._index.rows_at_once

    def missing(self, wanted: Digests) -> Array:
        """(N,) bool: which of `wanted` no seen shard has. Raises LostRowsError."""
        missing = np.ones(len(wanted), bool)
        with self._keeping_folder():
            for start in range(0, len(wanted), self.rows_at_once):
                some = slice(start, start + self.rows_at_once)
                missing[some] = self._index.find(wanted[some])[0] == ABSENT
        return missing

    def blocks(self, wanted: Iterable[Digests]) -> Iterator[Array]:
        """The vectors of `wanted`, in its order, some megabytes at a time. See `rows_at_once`.

        Where several shards hold an image, the one whose name sorts first is taken. Every shard
        that is read is checked, once. Raises LostRowsError where an image is in none or in a
        damaged one: all of those are named and deleted by then.
        """
        whole = True
        for digests in wanted:
            for block in self._gathered(digests):
                whole = whole and block is not None
                if block is not None and whole:
                    yield block
        if not whole:
            raise self._lost()

    def _gathered(self, wanted: Digests) -> Iterator[Array | None]:
        """The vectors, window by window; None for one of which some are lost."""
        with self._keeping_folder():
            rank, row = self._index.find(wanted)
        if (rank == ABSENT).any():
            raise self._lost()
        step = self._window_rows(rank)
        for start in range(0, len(wanted), step):
            some = slice(start, start + step)
            yield self._gather(rank[some], row[some], wanted[some])

    def _window_rows(self, rank: Array) -> int:
        """How many of the rows that these shards have, in this order, are a window's."""
        name = self._shards[rank[0]]
        if name not in self._checked and self._read(name) is None:
            return _ROWS_OF_LOST  # the others are but to be checked
        step = max(1, WINDOW_BYTES // self._checked[name].row_bytes)
        windows = [rank[start : start + step] for start in range(0, len(rank), step)]
        opened = sum(len(np.unique(window)) for window in windows)
        return SCATTERED * step if FEW * opened > len(rank) else step

    def _gather(self, rank: Array, row: Array, wanted: Digests) -> Array | None:
        order = np.argsort(rank, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(rank[order])) + 1)
        out, whole = None, True
        for mine in parts:
            taken = self._take(self._shards[rank[mine[0]]], row[mine], wanted[mine])
            if taken is None:
                whole = False
            elif whole:
                out = np.empty((len(rank), *taken.shape[1:]), taken.dtype) if out is None else out
                out[mine] = taken
        return out if whole else None

    def _take(self, name: str, row: Array, wanted: Digests) -> Array | None:
        """Some rows of a shard, which is checked the first time; None where it has them not.

        A map is closed after use: each holds a file open.
        """
        content = self._read(name) if name not in self._checked else self._mapped(name)
        if content is None:
            return None
        taken = self._checked[name].take(content, row, wanted)
        if taken is None:
            self._index.forget()
        return taken

    def _mapped(self, name: str) -> mmap.mmap | None:
        try:
            with self._path(name).open("rb", buffering=0) as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (FileNotFoundError, ValueError):  # ValueError: it is empty now
            return None

    @contextmanager
    def _keeping_folder(self) -> Iterator[None]:
        """Raise IntegrityError where `headstart store gc` took the folder away between steps."""
        try:
            yield
        except FileNotFoundError:
            raise self._lost() from None

    def _lost(self) -> LostRowsError:
        return LostRowsError(f"{self.folder} lost rows during the run; run the command again")

    def reference_probe(self) -> Vectors | None:
        """What the first machine made of the probe, (K, D) float32; None before any did.

        Raises IntegrityError where it is damaged; the next `refresh` deletes it.
        """
        try:
            content = self._probe.read_bytes()
        except FileNotFoundError:
            return None
        return probe.unpack(self._probe, content)

    def put_probe(self, vectors: Vectors) -> None:
        """Keep the probe embeddings of the first machine that comes; later ones change nothing."""
        if self._probe.exists():
            return
        with self._keeping_folder(), files.replacing(self._probe, first=True) as beside:
            beside.write_bytes(probe.pack(vectors))
