"""What became of the data's files since they were prepared, told by size and time alone."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline import dataset, files, snapshot
from pipeline.errors import ImageError, IntegrityError, is_shortage
from pipeline.formats import Listing
from pipeline.images.headers import SNIFF_BYTES, sniff
from pipeline.snapshot import ABSENT, ANY, UNKNOWN, UNREADABLE, Snapshot

KINDS = {
    "changed": "changed in size",
    "touched": "may have changed: the same size, another time",
    "vanished": "vanished",
    "unreadable": "became unreadable",
    "returned": "could not be read at prepare and now can",
    "new": "new",
    "dropped": "no longer named",
}
"""How a file can differ from what prepare saw, in the order and the words it is told."""

_HASHED = {"conflicting_labels", "duplicate_across_splits", "repeated_path"}
"""Why prepare leaves out a file that it could read and whose digest it names."""

_REFUSED = {"unreadable": UNREADABLE, "unsupported_format": ANY, "empty": 0}
"""Why it leaves out one that it could not use, and what that says of its size."""


@dataclass(frozen=True)
class Prepared:
    """What is known of the files that prepare saw.

    seen: their sizes and times; timed: whether the times are known; digests: path -> sha256.
    """

    seen: Snapshot
    timed: bool
    digests: Mapping[str, str]


@dataclass(frozen=True)
class Changes:
    """By kind (see KINDS), the paths that differ; absent: cannot be read, nor could then; sorted."""

    kinds: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in KINDS})
    absent: list[str] = field(default_factory=list)

    @property
    def count(self) -> int:
        """How many files differ."""
        return sum(map(len, self.kinds.values()))

    @property
    def unseen(self) -> list[str]:
        """Files whose bytes prepare has not seen, as far as can be told."""
        kinds = ("changed", "touched", "returned", "new")
        return [path for kind in kinds for path in self.kinds[kind]]


def prepared(artifacts: Path) -> Prepared | None:
    """What prepare left, None before its first run. Raises IntegrityError for damaged tables."""
    folder = artifacts / "dataset"
    if not (folder / "images.parquet").exists():
        return None
    images = dataset.read_images(folder / "images.parquet")
    labels = dataset.read_labels(folder / "labels.parquet")
    problems = _problems(folder / "problems.csv")
    names = images.sha256.astype("U64").tolist()
    digests = dict(zip(images.path, names, strict=True))
    digests |= zip(labels.path.tolist(), labels.sha256.astype("U64").tolist(), strict=True)
    size = dict(zip(names, images.bytes, strict=True))
    digests |= {one.path: one.sha256 for one in problems if one.reason in _HASHED}
    seen = snapshot.read(artifacts / "runs" / snapshot.RECORD, of=folder)
    if seen is not None:
        return Prepared(seen, timed=True, digests=digests)
    sizes = {path: size.get(sha256, ANY) for path, sha256 in digests.items()}
    sizes |= {one.path: _REFUSED[one.reason] for one in problems if one.reason in _REFUSED}
    times = np.full(len(sizes), UNKNOWN, np.int64)
    table = np.array(list(sizes.values()), np.int64)
    return Prepared(Snapshot(tuple(sizes), table, times), timed=False, digests=digests)


def _problems(path: Path) -> list[dataset.Problem]:
    try:
        return dataset.read_problems(path)
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run 'dvc repro prepare'") from None


NOTHING = Snapshot((), np.empty(0, np.int64), np.empty(0, np.int64))
"""Before the first run of prepare."""


def compare(before: Snapshot, listing: Listing) -> Changes:
    """Look at every file that is listed now or was then, once."""
    listed = {entry.path for entry in listing.entries}
    now = snapshot.take(listing.root, sorted(listed.union(before.path)))
    then = dict(zip(before.path, _states(before), strict=True))
    changes = Changes()
    for path, state in zip(now.path, _states(now), strict=True):
        kind = _kind(then.get(path), state, listed=path in listed)
        if kind == "absent":
            changes.absent.append(path)
        elif kind:
            changes.kinds[kind].append(path)
    return changes


def _states(seen: Snapshot) -> Iterator[tuple[int, int]]:
    return zip(seen.bytes.tolist(), seen.mtime_ns.tolist(), strict=True)


def _kind(then: tuple[int, int] | None, now: tuple[int, int], *, listed: bool) -> str | None:
    """A key of KINDS, "absent", or None where nothing changed."""
    size, time = now
    if then is None:
        return "new" if size >= 0 else "absent"
    if then[0] in (ABSENT, UNREADABLE):
        return ("returned" if size >= 0 else "absent") if listed else None
    if size < 0:
        return "vanished" if size == ABSENT else "unreadable"
    if not listed:
        return "dropped"
    if then[0] not in (size, ANY):
        return "changed"
    return None if then[1] in (time, UNKNOWN) else "touched"


def unsupported(root: Path, paths: Sequence[str]) -> list[str]:
    """Those whose first bytes are no image's; a file that cannot be opened is none of them."""
    found = snapshot.at_each(begins_as_image, [f"{root}/{path}" for path in paths])
    return [path for path, image in zip(paths, found, strict=True) if image is False]


def begins_as_image(path: str) -> bool | None:
    """By its first bytes; None where it cannot be read."""
    try:
        with files.open_plain(path) as file:
            sniff(file.read(SNIFF_BYTES))
    except ImageError as error:
        return None if error.reason == "unreadable" else False
    except OSError as error:
        if is_shortage(error):
            raise
        return None
    return True
