"""A listing -> hashed, checked and split: what stage `prepare` does. Decodes no image."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import dataset, files
from pipeline.dataset import Images, Labels, Problem, Split
from pipeline.errors import InputError
from pipeline.formats import Listing, quoted
from pipeline.params import SplitParams
from pipeline.preparation import duplicates, summary
from pipeline.preparation.reading import Row, read_all
from pipeline.preparation.splits import with_splits


@dataclass(frozen=True)
class Prepared:
    """The data as every later stage sees it. summary: counts and what was decided, for people."""

    images: Images
    labels: Labels
    problems: tuple[Problem, ...]
    summary: dict[str, Any]


def prepare(listing: Listing, split: SplitParams) -> Prepared:
    """Hash, sniff and split the listed images.

    Equal bytes under different labels lose their labels; equal bytes in several given splits
    keep only the copy in test, else val; a path has one row. What is left out is a problem.
    Raises InputError where nothing usable is left or a class has no training image.
    """
    readable, unreadable = read_all(listing)
    rows, conflicts = duplicates.without_conflicts(readable)
    rows, decided = with_splits(rows, split)
    rows, crossing = duplicates.without_crossing(rows)
    rows, repeats = duplicates.without_repeats(rows)
    problems = sorted([*listing.problems, *unreadable, *conflicts, *crossing, *repeats])
    labels = _labels(rows)
    _check(labels, {entry.label for entry in listing.entries}, problems)
    notes = [*listing.notes, *decided]
    said = summary.summarize(readable, labels, problems, notes)
    return Prepared(_images(readable), labels, tuple(problems), said)


def write(prepared: Prepared, folder: Path) -> None:
    """Write images.parquet, labels.parquet, problems.csv and summary.json to `folder`."""
    dataset.write_images(folder / "images.parquet", prepared.images)
    dataset.write_labels(folder / "labels.parquet", prepared.labels)
    dataset.write_problems(folder / "problems.csv", prepared.problems)
    files.write_json(folder / "summary.json", prepared.summary)


def describe(prepared: Prepared) -> str:
    """What was prepared, in a few lines for the terminal."""
    return summary.describe(prepared.summary, prepared.problems)


def _images(rows: list[Row]) -> Images:
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: (row.sha256, row.entry.path)):
        first.setdefault(row.sha256, row)
    return Images(
        sha256=dataset.digests(first),
        path=tuple(row.entry.path for row in first.values()),
        bytes=tuple(row.bytes for row in first.values()),
    )


def _labels(rows: list[Row]) -> Labels:
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
            f"only the class {quoted(classes)} is left{because}; at least two are needed"
        )
    untrained = listed - set(labels.label[labels.split == Split.TRAIN])
    if untrained:
        grouped = any(group is not None for group in labels.group)
        other = ", set another data.split.seed" if grouped else ""
        raise InputError(
            f"no training image of class {quoted(untrained)}{because}; "
            f"add some to train{other} or remove the class"
        )
