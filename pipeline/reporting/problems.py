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
from pipeline.reporting.records import Backbone, Run, damaged, missing
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
    undecoded = {row.sha256 for path, rows in lists.items() if path != prepared for row in rows}
    return {
        "problems": [
            _problem_list(digests.shown(artifacts, path), rows, root, undecoded)
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
    except (TypeError, ValueError) as error:
        raise damaged(path, stage, error) from None


def _problem_list(file: str, rows: list[Problem], root: Path, undecoded: set[str]) -> ProblemList:
    reasons = sorted(Counter(row.reason for row in rows).items(), key=lambda r: (-r[1], r[0]))
    shown = rows[:ROWS]
    known = [row for row in shown if row.sha256 and row.sha256 not in undecoded][:PICTURES]
    made = {row: pictures.thumbnail(root / row.path, row.sha256) for row in known}
    return ProblemList(
        file=file,
        total=counted(len(rows), "problem"),
        reasons=[(reason, count(number)) for reason, number in reasons],
        rows=[(row, made.get(row)) for row in shown],
        pictured=any(made.values()),
        many=len(rows) > TALL_ROWS,
        more=count(len(rows) - ROWS) if len(rows) > ROWS else "",
    )
