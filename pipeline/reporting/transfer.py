"""Should one transfer? Each backbone's best head beside those on raw pixels and random weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.reporting.reading import damaged, json_list
from pipeline.reporting.wording import ABSENT, bounds, figure, percent, points, probability

STAGE = "evaluate"
MARKS = {"helps": "best", "hurts": "bad", "no signal": "bad"}
"""Classes of the verdict's badge; others are grey."""


@dataclass(frozen=True)
class Rival:
    """A control that a backbone was compared with: cells of a line of the table."""

    source: str
    head: str
    accuracy: str
    difference: str
    bounds: str
    p: str


@dataclass(frozen=True)
class Verdict:
    """What transferring from one backbone brings. mark: class of the badge."""

    backbone: str
    head: str
    verdict: str
    mark: str
    sentence: str
    accuracy: str
    rivals: list[Rival]


def describe(artifacts: Path) -> dict[str, Any]:
    """The template's `transfer`: a verdict a backbone; empty where all are controls."""
    path = artifacts / "evaluation" / "transfer.json"
    try:
        return {"transfer": [_verdict(one) for one in json_list(path, STAGE)]}
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, STAGE, error) from None


def _verdict(stated: dict[str, Any]) -> Verdict:
    accuracy = stated["accuracy"]
    return Verdict(
        backbone=stated["backbone"],
        head=stated["head"],
        verdict=stated["verdict"],
        mark=MARKS.get(stated["verdict"], "control"),
        sentence=stated["sentence"],
        accuracy=ABSENT if accuracy is None else percent(accuracy),
        rivals=list(_rivals(stated["against"])),
    )


def _rivals(against: list[dict[str, Any]]) -> Iterator[Rival]:
    for one in against:
        yield Rival(
            source=one["source"],
            head=f"{one['head']} on {one['backbone']}",
            accuracy=figure(one["accuracy"]),
            difference=points(one["difference"]),
            bounds=bounds(one["difference_ci95"]),
            p=probability(one["p_holm"]),
        )
