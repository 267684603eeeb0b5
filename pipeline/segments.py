"""A segment: the rows of some shards in one file, sorted by digest; what an index is made of.

Layout, little-endian: a line with the version; how many shards and rows; of each shard the digest
that is its name, and its rows; of each row the image's digest, the number of its shard, and where
it stands in that. The file is named by the sha256 over the fingerprint and all its bytes.
"""

import hashlib
import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.dataset import Digests
from pipeline.errors import IntegrityError

ABSENT = np.iinfo(np.int32).max
"""Rank of a shard that is not there, and of that of an image in no shard."""

_HEAD = b"headstart index 1\n"
_COUNTS = struct.Struct("<IQ")
_NAME = np.dtype([("digest", "u1", 32), ("rows", "<u4")])
_ROW = np.dtype([("digest", "u1", 32), ("shard", "<u4"), ("row", "<u4")])
_FENCE = 4096
"""Rows from one noted key to the next: a look into a segment reads between two of these."""

Records = npt.NDArray[np.void]
Raw = npt.NDArray[np.uint8]
Keys = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int32]
Rows = npt.NDArray[np.int64]
Buffer = bytes | memoryview


def raw(sha256: Digests) -> Raw:
    """Hex digests as bytes, (N, 32). Raises IntegrityError where one is no lower-case sha256."""
    text = np.ascontiguousarray(sha256).tobytes()
    try:
        packed = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        packed = b""
    if packed.hex().encode() != text:
        raise IntegrityError("an image's sha256 is not 64 hex digits; run 'dvc repro -f prepare'")
    return np.frombuffer(packed, np.uint8).reshape(-1, 32)


def keys_of(digests: Raw) -> Keys:
    """The first 8 bytes of each, as numbers in the order of the digests. (N,) uint64."""
    return np.ascontiguousarray(digests[:, :8]).view(">u8")[:, 0].astype(np.uint64)


@dataclass(frozen=True, eq=False)
class Segment:
    """A checked segment, of which some rows at a time are read. content: None where it is a file.

    shards, counts: names and rows of what it lists; fences: keys of every _FENCE-th row.
    """

    path: Path
    content: bytes | None
    shards: tuple[str, ...]
    counts: Numbers
    fences: Keys

    def records(self, first: int = 0, last: int | None = None) -> Records:
        """The rows from one fence to another. Raises OSError where the file has gone."""
        total = int(self.counts.sum())
        count = (total if last is None else min(total, _FENCE * last)) - _FENCE * first
        start = len(_HEAD) + _COUNTS.size + len(self.shards) * _NAME.itemsize
        start += _FENCE * first * _ROW.itemsize
        if self.content is not None:
            return np.frombuffer(self.content, _ROW, count, start)
        return np.fromfile(self.path, _ROW, count, offset=start)

    def between(self, low: np.uint64, high: np.uint64) -> Records:
        """At least the rows whose keys are from `low` to `high`, sorted by key."""
        first = max(0, int(np.searchsorted(self.fences, low, "left")) - 1)
        last = int(np.searchsorted(self.fences, high, "right"))
        return self.records(first, max(first, last))


def digest(fingerprint: str, *parts: Buffer) -> str:
    """Hex sha256 over whose a segment is and all its bytes; its name."""
    total = hashlib.sha256(f"{fingerprint}\n".encode())
    for part in parts:
        total.update(part)
    return total.hexdigest()


def opened(path: Path, fingerprint: str, content: bytes | None = None) -> Segment | None:
    """Read and check all of a segment; None where it is another version's.

    content: where it is not in the file. Raises IntegrityError where it is not what its name
    says, and OSError.
    """
    with path.open("rb") if content is None else io.BytesIO(content) as source:
        head = source.read(len(_HEAD) + _COUNTS.size)
        count = _COUNTS.unpack(head[len(_HEAD) :])[0] if _is_head(head) else 0
        listed = source.read(count * _NAME.itemsize)
        total = hashlib.sha256(f"{fingerprint}\n".encode() + head + listed)
        fences = bytearray()
        while block := source.read(_FENCE * _ROW.itemsize):
            total.update(block)
            fences += block[:8]
    if total.hexdigest() != path.stem:
        raise IntegrityError(f"{path} is damaged: its content is not what its name says")
    if not _is_head(head):
        return None
    names = np.frombuffer(listed, _NAME)
    return Segment(
        path=path,
        content=content,
        shards=tuple(name.tobytes().hex() for name in names["digest"]),
        counts=names["rows"].astype(np.int32),
        fences=np.frombuffer(fences, ">u8").astype(np.uint64),
    )


def _is_head(head: bytes) -> bool:
    return head.startswith(_HEAD) and len(head) == len(_HEAD) + _COUNTS.size


def match(
    records: Records, ranks: Numbers, keys: Keys, digests: Raw, found: tuple[Numbers, Numbers]
) -> None:
    """Take in where the images stand in a segment. keys, and those of the records: sorted.

    The records are looked for among the images and not the other way round: so all of an index
    costs what its rows do, however many segments it has.
    """
    theirs = keys_of(records["digest"])
    at = np.searchsorted(keys, theirs)
    open_ = np.arange(len(theirs))
    while len(open_ := _alike(open_, at, theirs, keys)):  # two images may have one key
        some, where = records[open_], at[open_]
        same = (some["digest"].view("<u8") == digests[where].view("<u8")).all(axis=1)
        rank = ranks.take(some["shard"], mode="clip")
        better = np.flatnonzero(same & (rank < found[0][where]))
        better = better[np.argsort(rank[better], kind="stable")[::-1]]  # the least comes last
        found[0][where[better]] = rank[better]
        found[1][where[better]] = some["row"][better]
        at[open_] += 1


def _alike(open_: Rows, at: Rows, theirs: Keys, keys: Keys) -> Rows:
    """Those of the records whose key is that of the image at their place."""
    open_ = open_[at[open_] < len(keys)]
    alike: Rows = open_[keys[at[open_]] == theirs[open_]]
    return alike


def by_shard(segment: Segment, ranks: Numbers) -> dict[str, Raw]:
    """The digests of each shard that is there, in the order of its rows."""
    records = segment.records()
    records = records[np.lexsort((records["row"], records["shard"]))]
    parts = np.split(records["digest"], np.cumsum(segment.counts)[:-1])
    named = zip(segment.shards, ranks, parts, strict=True)
    return {name: part for name, rank, part in named if rank != ABSENT}


def packed(added: Mapping[str, Raw]) -> tuple[bytes, Records]:
    """A segment's bytes in two parts; the same for the same shards."""
    names = np.empty(len(added), _NAME)
    records = np.empty(sum(map(len, added.values())), _ROW)
    start = 0
    for number, (name, digests) in enumerate(sorted(added.items())):
        names[number] = (np.frombuffer(bytes.fromhex(name), np.uint8), len(digests))
        part = records[start : start + len(digests)]
        part["digest"], part["shard"] = digests, number
        part["row"] = np.arange(len(digests))
        start += len(digests)
    order = np.argsort(keys_of(records["digest"]), kind="stable")
    return _HEAD + _COUNTS.pack(len(names), len(records)) + names.tobytes(), records[order]
