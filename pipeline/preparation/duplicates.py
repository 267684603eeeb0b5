"""Equal bytes, and equal paths, that cannot all keep their rows; see docs/decisions/0007."""

from collections import defaultdict

from pipeline.dataset import Problem, Split
from pipeline.formats import quoted
from pipeline.preparation.reading import Row

_PROTECTED = (Split.TEST, Split.VAL, Split.TRAIN)
"""Whose copy stays when equal bytes stand in several given splits."""


def without_conflicts(rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """Rows whose bytes have one label; the others, every copy, as problems."""
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.sha256].add(row.entry.label)
    good = [row for row in rows if len(labels[row.sha256]) == 1]
    return good, [
        row.problem("conflicting_labels", f"the same bytes are {quoted(labels[row.sha256])}")
        for row in rows
        if len(labels[row.sha256]) > 1
    ]


def without_crossing(rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """Rows in the most protected split that has their bytes; copies elsewhere as problems."""
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


def without_repeats(rows: list[Row]) -> tuple[list[Row], list[Problem]]:
    """The first row of each path; the others as problems."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.entry.path, row)
    return list(first.values()), [
        row.problem("repeated_path", "the manifest has the path in another row as well")
        for row in rows
        if row is not first[row.entry.path]
    ]


def _split_of(row: Row) -> Split:
    if row.entry.split is None:
        raise AssertionError(f"{row.entry.path} was given no split")
    return row.entry.split
