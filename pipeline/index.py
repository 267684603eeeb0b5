"""Which rows each shard of a store holds, so that looking for images reads no vector.

<store>/<fingerprint>/<digest>.index is a segment: it lists the rows of some shards. A shard is
named by its content, so what is listed of it stays true; what is not listed is to be read, checked
and added. Segments are immutable and only save time: a lost or damaged one costs reading its shards
again, and two runs that write at once leave two.
"""

import errno
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import files, segments
from pipeline.dataset import Digests
from pipeline.errors import IntegrityError, ResourceError
from pipeline.segments import ABSENT, Numbers, Raw, Segment, keys_of, raw

ENDING = ".index"

SEGMENT_ROWS = 1 << 17
"""Rows of a segment; more begin another. It bounds what listing holds in memory: some 15 MB."""

LOOKUP_ROWS = 1 << 14
LOOKUP_ROWS_A_SEGMENT = 1 << 8
"""Images to look for at a time, at least and by the segments: each time every segment is asked."""

_UNWRITTEN = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOENT}
"""Why an index is done without: the store may not be written, is full, or `store gc` took it."""


@dataclass
class Index:
    """The segments of one fingerprint's folder. Making one reads nothing."""

    folder: Path
    fingerprint: str
    _segments: list[Segment] = field(default_factory=list, repr=False)
    _ranks: list[Numbers] = field(default_factory=list, repr=False)
    _added: dict[str, Raw] = field(default_factory=dict, repr=False)

    def refresh(self, names: Iterable[str]) -> set[str]:
        """Take in the segments among the folder's files; the names of the shards they list."""
        there = {self.folder / name for name in names if name.endswith(ENDING)}
        self._segments = [
            one for one in self._segments if one.content is not None or one.path in there
        ]
        for path in sorted(there - {segment.path for segment in self._segments}):
            try:
                segment = segments.opened(path, self.fingerprint)
            except (FileNotFoundError, PermissionError):
                continue  # another run has written a larger one, or made this one its own
            except OSError as error:
                raise ResourceError(f"{path} cannot be read: {error.strerror}") from None
            except IntegrityError as error:
                print(f"headstart: {error}; deleted, its shards are read again", file=sys.stderr)
                with suppress(OSError):
                    path.unlink()
                continue
            self._segments += [segment] if segment else []
        listed = set[str]().union(*(segment.shards for segment in self._segments))
        return listed | self._added.keys()

    def add(self, shard: str, sha256: Digests) -> None:
        """List a shard that was checked. sha256: of its rows, in their order."""
        self._added[shard] = raw(sha256)
        if self._added_rows() >= SEGMENT_ROWS:
            self._write()

    def settle(self, shards: Sequence[str]) -> None:
        """Keep what was added. shards: those that are there, sorted; others are passed over.

        Raises FileNotFoundError as `find` does.
        """
        self._rank(shards)
        if self._added:
            small = self._fold()
            if self._write():
                self._drop(small)
            self._rank(shards)
        dead = [
            segment
            for segment, ranks in zip(self._segments, self._ranks, strict=True)
            if (ranks == ABSENT).all()
        ]
        if dead:
            self._drop(dead)
            self._rank(shards)

    def forget(self) -> None:
        """Delete all of it: it does not say what the shards do."""
        self._drop(list(self._segments))
        self._ranks, self._added = [], {}

    @property
    def rows_at_once(self) -> int:
        """How many images to look for at a time: more take memory, fewer time."""
        return max(LOOKUP_ROWS, LOOKUP_ROWS_A_SEGMENT * len(self._segments))

    def find(self, wanted: Digests) -> tuple[Numbers, Numbers]:
        """For each image the rank of the first of the settled shards that has it, and the row.

        wanted: (N,), best `rows_at_once`; ABSENT where no shard has it.
        Raises FileNotFoundError where another run has deleted what it had replaced.
        """
        digests = raw(wanted)
        rank, row = np.full(len(wanted), ABSENT, np.int32), np.zeros(len(wanted), np.int32)
        keys = keys_of(digests)
        order = np.argsort(keys, kind="stable")
        keys, digests = keys[order], digests[order]
        for segment, ranks in zip(self._segments, self._ranks, strict=True):
            if len(keys):
                segments.match(
                    segment.between(keys[0], keys[-1]), ranks, keys, digests, (rank, row)
                )
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return rank[back], row[back]

    def _rank(self, shards: Sequence[str]) -> None:
        """Number the shards of each segment, each in one segment alone."""
        self._segments.sort(key=lambda one: (-len(one.shards), str(one.path)))
        left = {name: number for number, name in enumerate(shards)}
        self._ranks = [
            np.array([left.pop(name, ABSENT) for name in segment.shards], np.int32)
            for segment in self._segments
        ]

    def _added_rows(self) -> int:
        return sum(map(len, self._added.values()))

    def _drop(self, unneeded: list[Segment]) -> None:
        self._segments = [one for one in self._segments if one not in unneeded]
        for path in (one.path for one in unneeded if one.content is None):
            with suppress(OSError):  # another run deleted it, or this one may not
                path.unlink()

    def _fold(self) -> list[Segment]:
        """Add small segments to what was added, so that there are never many."""
        total, folded = self._added_rows(), list[Segment]()
        live = [
            int(one.counts[ranks != ABSENT].sum())
            for one, ranks in zip(self._segments, self._ranks, strict=True)
        ]
        for at in sorted(range(len(live)), key=lambda at: live[at]):
            if live[at] > SEGMENT_ROWS // 2 or total + live[at] > SEGMENT_ROWS:
                break
            total += live[at]
            folded.append(self._segments[at])
            self._added |= segments.by_shard(self._segments[at], self._ranks[at])
        return folded

    def _write(self) -> bool:
        """Make a segment of what was added; whether it lies in the store, not in memory alone."""
        head, records = segments.packed(self._added)
        self._added, body = {}, records.view(np.uint8).data
        name = segments.digest(self.fingerprint, head, body)
        path, content = self.folder / f"{name}{ENDING}", None
        try:
            with files.replacing(path) as beside, beside.open("wb") as file:
                file.write(head)
                file.write(body)
        except OSError as error:
            if error.errno not in _UNWRITTEN:
                raise
            content = head + body
        segment = segments.opened(path, self.fingerprint, content)
        self._segments += [segment] if segment else []
        return content is None
