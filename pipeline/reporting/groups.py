"""In which groups of images the best head errs most."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.reporting.reading import csv_rows, damaged
from pipeline.reporting.records import Run
from pipeline.reporting.wording import count, figure, interval

STAGE = "evaluate"
COLUMNS = ("backbone", "head", "split", "group", "n", "accuracy", "low", "high")
SHOWN = 30


@dataclass(frozen=True)
class Group:
    """A line of the table. x, low, high: accuracy and its interval, in percent."""

    name: str
    n: str
    accuracy: str
    bounds: str
    x: str
    low: str
    high: str


def describe(artifacts: Path, run: Run) -> dict[str, Any]:
    """The template's `groups`, the surest losers first, and `more_groups`; empty without any."""
    path = artifacts / "evaluation" / "groups.csv"
    best = run.best
    wanted = (best.backbone, best.name, "test") if best else ()
    rows = [
        row
        for row in csv_rows(path, STAGE, COLUMNS)
        if (row["backbone"], row["head"], row["split"]) == wanted
    ]
    try:
        # by the upper end: a group of one image that is wrong says little
        rows.sort(key=lambda row: (float(row["high"]), float(row["accuracy"]), row["group"]))
        shown = [_group(row) for row in rows[:SHOWN]]
    except ValueError as error:
        raise damaged(path, STAGE, error) from None
    return {"groups": shown, "more_groups": count(len(rows) - SHOWN) if len(rows) > SHOWN else ""}


def _group(row: dict[str, str]) -> Group:
    accuracy, low, high = (float(row[name]) for name in ("accuracy", "low", "high"))
    return Group(
        name=row["group"],
        n=count(int(row["n"])),
        accuracy=figure(accuracy),
        bounds=interval([low, high]),
        x=f"{100 * accuracy:.2f}%",
        low=f"{100 * low:.2f}%",
        high=f"{100 * high:.2f}%",
    )
