"""How good a head is on each group of images: of one patient, camera, site."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.evaluation.results import Result
from pipeline.metrics import wilson

LISTED = 5000
"""Groups of a split that groups.csv has; of more, those with the most images."""
ENOUGH = 10
"""Images that a group needs for the worst to be sought among them."""

COLUMNS = ("backbone", "head", "split", "group", "n", "accuracy", "low", "high")


def by_group(result: Result, *, least: int = 1) -> list[dict[str, Any]]:
    """Accuracy of each group of so many images, with Wilson's interval; ordered by name."""
    named = np.array([group is not None for group in result.labels.group], dtype=np.bool_)
    if not named.any():
        return []
    names, codes = np.unique(result.labels.group[named].astype(str), return_inverse=True)
    sizes = np.bincount(codes, minlength=len(names))
    right = np.bincount(codes[result.scored.right[named]], minlength=len(names))
    kept = np.sort(np.argsort(-sizes, kind="stable")[:LISTED])
    return [
        _row(str(names[at]), int(right[at]), int(sizes[at])) for at in kept if sizes[at] >= least
    ]


def _row(group: str, right: int, n: int) -> dict[str, Any]:
    low, high = wilson(right, n)
    return {"group": group, "n": n, "accuracy": right / n, "low": low, "high": high}


def rows(results: list[Result]) -> Iterator[dict[str, Any]]:
    """The rows of groups.csv."""
    for result in results:
        of = {"backbone": result.backbone, "head": result.head, "split": str(result.split)}
        yield from ({**of, **row} for row in by_group(result))


def worst(result: Result) -> dict[str, Any] | None:
    """The group that is most surely bad: that with the lowest upper end of its interval.

    By the accuracy itself it would be one of few images, by chance. None where there are not two
    groups of ENOUGH images. Its interval is of that group, not of the lowest of many.
    """
    found = by_group(result, least=ENOUGH)
    if len(found) < 2:
        return None
    row = min(found, key=lambda row: (row["high"], row["accuracy"], row["group"]))
    figures = {name: row[name] for name in ("group", "n", "accuracy")}
    return {**figures, "accuracy_ci95": [row["low"], row["high"]]}
