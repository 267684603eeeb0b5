"""What was left out, and why: the lists of prepare and of each backbone, with pictures where they exist."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import dataset
from pipeline.dataset import Problem
from pipeline.reporting import digests, pictures
from pipeline.reporting.pictures import Picture
from pipeline.reporting.provenance import TALL_ROWS
from pipeline.reporting.reading import missing
from pipeline.reporting.records import Backbone, Run
from pipeline.reporting.wording import count, counted

ROWS = 100
"""How many problems of a list are shown."""

PICTURES = 24
"""How many of them with a picture."""


@dataclass(frozen=True)
class ProblemList:
    """One problems.csv. reasons: (reason, count); rows: each with its picture, if it has one;
    pictured: any has; many: rows need a box of their own; more: how many are not shown, or "".
    """

    file: str
    total: str
    reasons: list[tuple[str, str]]
    rows: list[tuple[Problem, Picture | None]]
    pictured: bool
    many: bool
    more: str


def describe(artifacts: Path, root: Path, run: Run) -> dict[str, Any]:
    """The template's `problems`: the lists that have rows."""
    prepared = artifacts / "dataset" / "problems.csv"
    lists = {prepared: _read(prepared, "prepare"), **_of_backbones(artifacts, run.backbones)}
    places = _decodable(artifacts, [path for path in lists if path != prepared], lists, root)
    return {
        "problems": [
            _problem_list(digests.shown(artifacts, path), rows, places)
            for path, rows in lists.items()
            if rows
        ]
    }


def _of_backbones(artifacts: Path, backbones: list[Backbone]) -> dict[Path, list[Problem]]:
    return {
        path: _read(path, f"extract@{backbone.name}")
        for backbone in backbones
        for path in [artifacts / "embeddings" / f"{backbone.name}.problems.csv"]
    }


def _read(path: Path, stage: str) -> list[Problem]:
    try:
        return sorted(dataset.read_problems(path))
    except FileNotFoundError:
        raise missing(path, stage) from None


def _decodable(
    artifacts: Path, failures: list[Path], lists: dict[Path, list[Problem]], root: Path
) -> dict[str, Path]:
    """Digest -> file of the images that were embedded: no other is decoded again for a picture."""
    images = dataset.read_images(artifacts / "dataset" / "images.parquet")
    failed = {row.sha256 for path in failures for row in lists[path]}
    names = images.sha256.astype(str).tolist()
    return {
        sha256: root / path
        for sha256, path in zip(names, images.path, strict=True)
        if sha256 not in failed
    }


def _problem_list(file: str, rows: list[Problem], places: dict[str, Path]) -> ProblemList:
    reasons = sorted(Counter(row.reason for row in rows).items(), key=lambda r: (-r[1], r[0]))
    shown = rows[:ROWS]
    known = [row for row in shown if row.sha256 in places][:PICTURES]
    made = {row: pictures.thumbnail(places[row.sha256], row.sha256) for row in known}
    return ProblemList(
        file=file,
        total=counted(len(rows), "problem"),
        reasons=[(reason, count(number)) for reason, number in reasons],
        rows=[(row, made.get(row)) for row in shown],
        pictured=any(made.values()),
        many=len(rows) > TALL_ROWS,
        more=count(len(rows) - ROWS) if len(rows) > ROWS else "",
    )
