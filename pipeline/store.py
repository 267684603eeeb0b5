"""The content-addressed store of embedding shards, shared by runs, branches and projects.

<store>/<fingerprint>/<digest>.h5 holds up to some thousand rows; the digest is over all its
bytes, so a shard is immutable, writing it twice is harmless, and a flipped bit is found before
HDF5 reads it.
<store>/<fingerprint>/probe.npy is what the first machine made of the probe, its sha256 behind.
"""

import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import files, hdf5
from pipeline.dataset import Digests, positions
from pipeline.errors import IntegrityError, ResourceError
from pipeline.frozen import Vectors
from pipeline.hdf5 import Array

BLOCK_ROWS = 2048
_MARK_BYTES = hashlib.sha256().digest_size

_parsing = threading.Lock()
"""numpy parses a header as Python, which threads cannot do at once (python/cpython#106905)."""


@dataclass(frozen=True)
class _Shard:
    """A checked shard: its rows' digests, and where their vectors lie in the file."""

    sha256: Digests
    offset: int
    shape: tuple[int, ...]
    dtype: npt.DTypeLike


@dataclass
class Store:
    """The shards of one fingerprint below `root`. Opening reads nothing; `refresh` does."""

    root: Path
    fingerprint: str
    _shards: dict[Path, _Shard] = field(default_factory=dict, repr=False)

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
        content = hdf5.image({"sha256": sha256, "embeddings": vectors}, {})
        path = self.folder / f"{shard_digest(self.fingerprint, content)}.h5"
        with self._keeping_folder(), files.replacing(path) as beside:
            beside.write_bytes(content)
            files.sync(beside)
            _read_shard(beside, self.fingerprint, path.stem)
        return path

    def refresh(self) -> None:
        """Look for shards not seen yet and check each; a damaged one is named and deleted.

        What killed writers left half-written goes as well.
        """
        files.sweep(self.folder)
        for path in self._paths():
            if path in self._shards:
                continue
            try:
                self._shards[path] = _read_shard(path, self.fingerprint, path.stem)
            except FileNotFoundError:
                pass  # another run found it damaged
            except IntegrityError as error:
                print(f"headstart: {error}; deleted, its rows are computed anew", file=sys.stderr)
                path.unlink(missing_ok=True)

        self._refresh_probe()

    def _refresh_probe(self) -> None:
        try:
            self.reference_probe()
        except IntegrityError as error:
            print(f"headstart: {error}; deleted, it is made anew", file=sys.stderr)
            self._probe.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        try:
            return sorted(self.folder.glob("*.h5"))
        except FileNotFoundError:
            return []  # the folder was deleted while it was opened

    def missing(self, wanted: Digests) -> Array:
        """(N,) bool: which of `wanted` no seen shard has."""
        held = [shard.sha256 for shard in self._shards.values()]
        return ~np.isin(wanted, np.concatenate(held)) if held else np.ones(len(wanted), bool)

    def blocks(self, wanted: Digests) -> Iterator[Array]:
        """The vectors of `wanted`, in its order, in blocks of at most BLOCK_ROWS rows.

        Where several shards hold an image, the one whose name sorts first is taken. Raises
        IntegrityError where an image is in none.
        """
        paths = sorted(self._shards)
        held = [self._shards[path].sha256 for path in paths] or [np.empty(0, "S64")]
        lengths = [len(digests) for digests in held]
        owner = np.repeat(np.arange(len(held), dtype=np.int32), lengths)
        row = np.concatenate([np.arange(length, dtype=np.int32) for length in lengths])
        first = _first_of_each(np.concatenate(held), wanted)
        if (first < 0).any():
            raise self._lost()
        for start in range(0, len(wanted), BLOCK_ROWS):
            block = first[start : start + BLOCK_ROWS]
            yield self._gather(paths, owner[block], row[block])

    def _gather(self, paths: list[Path], owner: Array, row: Array) -> Array:
        """The rows of one block. A map is closed after use: each holds a file open."""
        first = self._shards[paths[owner[0]]]
        out = np.empty((len(row), *first.shape[1:]), dtype=first.dtype)
        for number in np.unique(owner):
            mine = owner == number
            path = paths[number]
            shard = self._shards[path]
            try:
                out[mine] = np.memmap(path, shard.dtype, "r", shard.offset, shard.shape)[row[mine]]
            except (FileNotFoundError, ValueError):
                raise self._lost() from None
        return out

    @contextmanager
    def _keeping_folder(self) -> Iterator[None]:
        """Raise IntegrityError where `headstart store gc` took the folder away between steps."""
        try:
            yield
        except FileNotFoundError:
            raise self._lost() from None

    def _lost(self) -> IntegrityError:
        return IntegrityError(f"{self.folder} lost rows during the run; run the command again")

    def reference_probe(self) -> Vectors | None:
        """What the first machine made of the probe, (K, D) float32; None before any did.

        Raises IntegrityError where it is damaged; the next `refresh` deletes it.
        """
        try:
            content = self._probe.read_bytes()
        except FileNotFoundError:
            return None
        body, mark = content[:-_MARK_BYTES], content[-_MARK_BYTES:]
        if hashlib.sha256(body).digest() != mark:
            raise IntegrityError(f"{self._probe} is damaged")
        with _parsing:
            probe: Vectors = np.load(io.BytesIO(body), allow_pickle=False)
        return probe

    def put_probe(self, vectors: Vectors) -> None:
        """Keep the probe embeddings of the first machine that comes; later ones change nothing."""
        if self._probe.exists():
            return
        buffer = io.BytesIO()
        np.save(buffer, vectors, allow_pickle=False)
        body = buffer.getvalue()
        with self._keeping_folder(), files.replacing(self._probe, first=True) as beside:
            beside.write_bytes(body + hashlib.sha256(body).digest())


def _first_of_each(sha256: Digests, wanted: Digests) -> Array:
    """Where each of `wanted` stands first in `sha256`; -1 where it does not. (M,) int64."""
    if not len(sha256):
        return np.full(len(wanted), -1)
    order = np.argsort(sha256, kind="stable")
    found = positions(sha256[order], wanted)
    return np.where(found < 0, -1, order[np.maximum(found, 0)])


def check(path: Path, fingerprint: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape (N, D) and dtype of a shard's embeddings, once every byte of the file was checked.

    Raises IntegrityError where it is damaged, ResourceError where it cannot be read, and
    FileNotFoundError.
    """
    shard = _read_shard(path, fingerprint, path.stem)
    return shard.shape, np.dtype(shard.dtype)


def shard_digest(fingerprint: str, content: bytes) -> str:
    """Hex sha256 over whose a shard is and all its bytes; its name."""
    return hashlib.sha256(f"{fingerprint}\n".encode() + content).hexdigest()


def _read_shard(path: Path, fingerprint: str, name: str) -> _Shard:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
    if shard_digest(fingerprint, content) != name:
        raise IntegrityError(f"{path} is damaged: its content is not what its name says")
    shard = hdf5.open_plain(path)
    try:
        sha256, vectors = np.array(shard.arrays["sha256"]), shard.arrays["embeddings"]
    except KeyError:
        raise IntegrityError(f"{path} is not a shard") from None
    return _Shard(sha256, vectors.offset, vectors.shape, vectors.dtype)
