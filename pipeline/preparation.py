"""A listing -> hashed, checked and split: what stage `prepare` does. Decodes no image."""

import hashlib
import os
import stat
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import dataset, files, splitting
from pipeline.dataset import Images, Labels, Problem, Split
from pipeline.errors import ImageError, InputError
from pipeline.formats import Entry, Listing
from pipeline.headers import SNIFF_BYTES, sniff
from pipeline.params import SplitParams

_PROTECTED = (Split.TEST, Split.VAL, Split.TRAIN)
"""Whose copy stays when equal bytes stand in several given splits."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Prepared:
    """The data as every later stage sees it. summary: counts and what was decided, for people."""

    images: Images
    labels: Labels
    problems: tuple[Problem, ...]
    summary: dict[str, Any]


@dataclass(frozen=True)
class _Row:
    """A readable image file: its entry, digest, size and (from `_split`) its split."""

    entry: Entry
    sha256: str
    bytes: int

    def problem(self, reason: str, detail: str) -> Problem:
        return Problem(self.entry.path, self.sha256, reason, detail)


def prepare(listing: Listing, split: SplitParams) -> Prepared:
    """Hash, sniff and split the listed images.

    Equal bytes under different labels lose their labels; equal bytes in several given splits
    keep only the copy in test, else val; a path has one row. What is left out is a problem.
    Raises InputError where nothing usable is left or a class has no training image.
    """
    rows, problems = _read_all(listing)
    readable = rows
    rows, conflicts = _without_conflicts(rows)
    rows, notes = _split(rows, split)
    rows, crossing = _without_crossing(rows)
    rows, repeats = _without_repeats(rows)
    problems = [*listing.problems, *problems, *conflicts, *crossing, *repeats]
    labels = _labels(rows)
    _check(labels, {entry.label for entry in listing.entries}, problems)
    summary = _summary(readable, labels, problems, notes)
    return Prepared(_images(readable), labels, tuple(sorted(problems)), summary)


def write(prepared: Prepared, folder: Path) -> None:
    """Write images.parquet, labels.parquet, problems.csv and summary.json to `folder`."""
    dataset.write_images(folder / "images.parquet", prepared.images)
    dataset.write_labels(folder / "labels.parquet", prepared.labels)
    dataset.write_problems(folder / "problems.csv", prepared.problems)
    files.write_json(folder / "summary.json", prepared.summary)


def _read_all(listing: Listing) -> tuple[list[_Row], list[Problem]]:
    known_last = sorted(listing.entries, key=lambda entry: entry.sha256 is not None)
    by_path = {entry.path: entry for entry in known_last}
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        results = pool.map(lambda entry: _read(listing.root, entry), by_path.values())
        read = dict(zip(by_path, results, strict=True))
    rows, problems = list[_Row](), list[Problem]()
    for entry in listing.entries:
        result = read[entry.path]
        if isinstance(result, Problem):
            problems.append(result)
        else:
            rows.append(_Row(entry, *result))
    return rows, problems


def _read(root: Path, entry: Entry) -> tuple[str, int] | Problem:
    """Digest and size of one file; a digest that the manifest gives is believed."""
    path = root / entry.path
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            return Problem(entry.path, entry.sha256 or "", "unreadable", "not a plain file")
        with open(path, "rb", buffering=0) as file:
            if entry.sha256 is not None:
                return entry.sha256, os.fstat(file.fileno()).st_size
            content = file.read(_READ_BYTES)
            sniff(content[:SNIFF_BYTES])
            digest, size = hashlib.sha256(content), len(content)
            while content := file.read(_READ_BYTES):
                digest.update(content)
                size += len(content)
            return digest.hexdigest(), size
    except ImageError as error:
        return Problem(entry.path, entry.sha256 or "", error.reason, error.detail)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        detail = getattr(error, "strerror", None) or str(error)
        return Problem(entry.path, entry.sha256 or "", "unreadable", detail)


def _without_conflicts(rows: list[_Row]) -> tuple[list[_Row], list[Problem]]:
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.sha256].add(row.entry.label)
    good = [row for row in rows if len(labels[row.sha256]) == 1]
    return good, [
        row.problem("conflicting_labels", f"the same bytes are {_and(labels[row.sha256])}")
        for row in rows
        if len(labels[row.sha256]) > 1
    ]


def _and(names: Iterable[str]) -> str:
    return " and ".join(repr(name) for name in sorted(names))


def _split(rows: list[_Row], params: SplitParams) -> tuple[list[_Row], list[str]]:
    """Give every row a split: the given ones kept, the missing ones made."""
    given = {row.entry.split for row in rows}
    notes = list[str]()
    if given == {Split.TRAIN, Split.VAL}:
        notes.append(
            "the data has train and val only: val is the test, a new val is cut from train"
        )
        rows = [_moved(row, Split.TEST) if row.entry.split == Split.VAL else row for row in rows]
        given = {Split.TRAIN, Split.TEST}
    if not given & {None, Split.TRAIN} and rows:
        raise InputError(f"no image is in train, only in {_and(map(str, given))}; add some")
    if leaking := _groups_in_several_splits(rows):
        notes.append(f"{leaking} groups lie in more than one of the given splits, which are kept")
    wanted = {Split.VAL: params.val, Split.TEST: params.test}
    fractions = {name: share for name, share in wanted.items() if name not in given}
    if fractions:
        free = [row for row in rows if row.entry.split in (None, Split.TRAIN)]
        assigned = splitting.assign(
            [row.entry.label for row in free],
            _units(free),
            fractions=fractions,
            seed=params.seed,
        )
        moved = dict(zip(map(id, free), assigned, strict=True))
        rows = [_moved(row, moved[id(row)]) if id(row) in moved else row for row in rows]
        made = " and ".join(sorted(fractions))
        notes.append(f"{made} cut from {len(free)} images, stratified, seed {params.seed}")
    return rows, notes


def _groups_in_several_splits(rows: list[_Row]) -> int:
    splits: dict[str, set[Split | None]] = defaultdict(set)
    for row in rows:
        if row.entry.group is not None:
            splits[row.entry.group].add(row.entry.split)
    return sum(len(found) > 1 for found in splits.values())


def _moved(row: _Row, split: Split) -> _Row:
    return replace(row, entry=replace(row.entry, split=split))


def _units(rows: list[_Row]) -> list[str]:
    """A key a row; rows that share bytes or a group, also through others, share the key.

    It is the least name of a group, where there is one, so that a new member does not change it.
    """
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for row in rows:
        own = find(row.sha256)
        if row.entry.group is not None:
            first, second = sorted((own, find(f"#{row.entry.group}")))
            parent[second] = first
    return [find(row.sha256) for row in rows]


def _without_crossing(rows: list[_Row]) -> tuple[list[_Row], list[Problem]]:
    best: dict[str, Split] = {}
    for row in rows:
        split = _split_of(row)
        best[row.sha256] = min(best.get(row.sha256, split), split, key=_PROTECTED.index)
    crossing = [row for row in rows if best[row.sha256] != row.entry.split]
    kept = [row for row in rows if best[row.sha256] == row.entry.split]
    return kept, [
        row.problem(
            "duplicate_across_splits",
            f"left out of {row.entry.split}: the same bytes are in {best[row.sha256]}",
        )
        for row in crossing
    ]


def _without_repeats(rows: list[_Row]) -> tuple[list[_Row], list[Problem]]:
    first: dict[str, _Row] = {}
    for row in rows:
        first.setdefault(row.entry.path, row)
    return list(first.values()), [
        row.problem("repeated_path", "the manifest has the path in another row as well")
        for row in rows
        if row is not first[row.entry.path]
    ]


def _split_of(row: _Row) -> Split:
    if row.entry.split is None:
        raise AssertionError(f"{row.entry.path} was given no split")
    return row.entry.split


def _images(rows: list[_Row]) -> Images:
    first: dict[str, _Row] = {}
    for row in sorted(rows, key=lambda row: (row.sha256, row.entry.path)):
        first.setdefault(row.sha256, row)
    return Images(
        sha256=dataset.digests(first),
        path=tuple(row.entry.path for row in first.values()),
        bytes=tuple(row.bytes for row in first.values()),
    )


def _labels(rows: list[_Row]) -> Labels:
    rows = sorted(rows, key=lambda row: row.entry.path)

    def column(values: Iterable[str | None]) -> npt.NDArray[np.object_]:
        return np.array(list(values), dtype=object)

    return Labels(
        path=column(row.entry.path for row in rows),
        sha256=dataset.digests(row.sha256 for row in rows),
        label=column(row.entry.label for row in rows),
        split=column(str(row.entry.split) for row in rows),
        group=column(row.entry.group for row in rows),
    )


def _check(labels: Labels, listed: set[str], problems: list[Problem]) -> None:
    because = dataset.left_out(problems)
    if len(labels.label) == 0:
        raise InputError(f"no usable image with a label is left{because}; correct data.path")
    classes = set(labels.label)
    if len(classes) < 2:
        raise InputError(
            f"only the class {_and(classes)} is left{because}; at least two are needed"
        )
    untrained = listed - set(labels.label[labels.split == Split.TRAIN])
    if untrained:
        raise InputError(
            f"no training image of class {_and(untrained)}{because}; "
            "add some to train or remove the class"
        )


def _summary(
    readable: list[_Row], labels: Labels, problems: list[Problem], notes: list[str]
) -> dict[str, Any]:
    classes = sorted(set(labels.label))
    table = {
        str(split): Counter(labels.label[labels.split == split].tolist())
        for split in (Split.TRAIN, Split.VAL, Split.TEST)
    }
    for split, counts in table.items():
        if absent := [label for label in classes if not counts[label]]:
            notes.append(f"{split} has no image of class {_and(absent)}")
    return {
        "files": len({row.entry.path for row in readable}),
        "images": len({row.sha256 for row in readable}),
        "labelled": len(labels.label),
        "classes": classes,
        "splits": {split: dict(sorted(counts.items())) for split, counts in table.items()},
        "problems": dict(sorted(Counter(problem.reason for problem in problems).items())),
        "notes": notes,
    }


def describe(prepared: Prepared) -> str:
    """What was prepared, in a few lines for the terminal."""
    summary = prepared.summary
    splits = ", ".join(f"{name} {sum(c.values())}" for name, c in summary["splits"].items())
    counts = f"{summary['images']} distinct images in {summary['files']} files"
    lines = [f"{counts}, {len(summary['classes'])} classes: {splits}", *summary["notes"]]
    if prepared.problems:
        reasons = ", ".join(f"{reason} {count}" for reason, count in summary["problems"].items())
        lines.append(f"left out: {reasons}; see artifacts/dataset/problems.csv")
    return "\n".join(lines)
