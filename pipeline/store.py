"""The content-addressed store of embedding shards, shared by runs, branches and projects.

<store>/<fingerprint>/<digest>.h5 holds up to some thousand rows; the digest is over its
content, so a shard is immutable, writing it twice is harmless and a flipped bit is found.
<store>/<fingerprint>/probe.npy is what the first machine made of the probe.
"""

import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import files, hdf5
from pipeline.dataset import Digests
from pipeline.errors import IntegrityError
from pipeline.frozen import Vectors
from pipeline.hdf5 import Array

BLOCK_ROWS = 8192


@dataclass
class Store:
    """The shards of one fingerprint below `root`. Opening reads nothing; `refresh` does."""

    root: Path
    fingerprint: str
    _shards: dict[Path, tuple[Digests, Array]] = field(default_factory=dict, repr=False)

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
        back as something else.
        """
        path = self.folder / f"{shard_digest(self.fingerprint, sha256, vectors)}.h5"
        content = hdf5.image({"sha256": sha256, "embeddings": vectors}, {})
        with files.replacing(path, unique=True) as beside:
            beside.write_bytes(content)
            files.sync(beside)
            _read_shard(beside, self.fingerprint, path.stem)
        return path

    def refresh(self) -> None:
        """Look for shards not seen yet and check each; a damaged one is named and deleted."""
        for path in sorted(self.folder.glob("*.h5")):
            if path in self._shards:
                continue
            try:
                self._shards[path] = _read_shard(path, self.fingerprint, path.stem)
            except IntegrityError as error:
                print(f"headstart: {error}; deleted, its rows are computed anew", file=sys.stderr)
                path.unlink(missing_ok=True)

    def missing(self, wanted: Digests) -> Array:
        """(N,) bool: which of `wanted` no seen shard has."""
        held = [sha256 for sha256, _ in self._shards.values()]
        return ~np.isin(wanted, np.concatenate(held)) if held else np.ones(len(wanted), bool)

    def blocks(self, wanted: Digests) -> Iterator[Array]:
        """The vectors of `wanted`, in its order, in blocks of at most BLOCK_ROWS rows.

        Where several shards hold an image, the one whose name sorts first is taken.
        """
        shards = [self._shards[path] for path in sorted(self._shards)]
        sha256 = np.concatenate([digests for digests, _ in shards])
        owner = np.repeat(np.arange(len(shards)), [len(digests) for digests, _ in shards])
        row = np.concatenate([np.arange(len(digests)) for digests, _ in shards])
        order = np.argsort(sha256, kind="stable")
        first = order[np.searchsorted(sha256[order], wanted)]
        if not (sha256[first] == wanted).all():
            raise IntegrityError(f"{self.folder} lost rows during the run; run the command again")
        for start in range(0, len(wanted), BLOCK_ROWS):
            yield _gather(shards, owner[first], row[first], slice(start, start + BLOCK_ROWS))

    def reference_probe(self) -> Vectors | None:
        """What the first machine made of the probe, (K, D) float32; None before any did."""
        try:
            probe: Vectors = np.load(io.BytesIO(self._probe.read_bytes()), allow_pickle=False)
        except FileNotFoundError:
            return None
        except (ValueError, EOFError):
            raise IntegrityError(f"{self._probe} is damaged; delete it and run again") from None
        return probe

    def put_probe(self, vectors: Vectors) -> None:
        """Keep the first machine's probe embeddings."""
        with files.replacing(self._probe, unique=True) as beside:
            buffer = io.BytesIO()
            np.save(buffer, vectors, allow_pickle=False)
            beside.write_bytes(buffer.getvalue())


def shard_digest(fingerprint: str, sha256: Digests, vectors: Array) -> str:
    """Hex sha256 over everything a shard says; its name."""
    total = hashlib.sha256(f"{fingerprint} {vectors.dtype} {vectors.shape}\n".encode())
    total.update(np.ascontiguousarray(sha256).tobytes())
    total.update(np.ascontiguousarray(vectors).tobytes())
    return total.hexdigest()


def _read_shard(path: Path, fingerprint: str, name: str) -> tuple[Digests, Array]:
    shard = hdf5.open_plain(path)
    try:
        sha256, vectors = shard.arrays["sha256"], shard.arrays["embeddings"]
    except KeyError:
        raise IntegrityError(f"{path} is not a shard") from None
    if shard_digest(fingerprint, sha256, vectors) != name:
        raise IntegrityError(f"{path} is damaged: its content is not what its name says")
    return np.array(sha256), vectors


def _gather(
    shards: list[tuple[Digests, Array]], owner: Array, row: Array, block: slice
) -> Array:
    owner, row = owner[block], row[block]
    vectors = shards[0][1]
    out = np.empty((len(row), vectors.shape[1]), dtype=vectors.dtype)
    for shard in np.unique(owner):
        mine = owner == shard
        out[mine] = shards[shard][1][row[mine]]
    return out


