"""How far a head's probabilities can be trusted: calibration, and when it should abstain."""

from dataclasses import dataclass
from typing import Any

from pipeline.reporting.records import Head, Run
from pipeline.reporting.wording import ABSENT, count, figure, interval, percent


@dataclass(frozen=True)
class Calibration:
    """A line of the table: expected calibration error on test before and after temperature."""

    head: str
    backbone: str
    temperature: str
    before: str
    after: str
    bounds: str


@dataclass(frozen=True)
class Abstention:
    """A line of the table: what a head gives on test if it abstains below a threshold.

    wanted: precision, on val; threshold: of the top probability; share: of images that it labels.
    """

    head: str
    backbone: str
    wanted: str
    threshold: str
    precision: str
    bounds: str
    share: str


def describe(run: Run) -> dict[str, Any]:
    """The template's `calibration` and `abstention`, in the order of the table of heads."""
    return {
        "calibration": [_calibration(h) for h in run.heads if h.temperature is not None and h.test],
        "abstention": [_abstention(h) for h in run.heads if h.abstention],
    }


def _calibration(head: Head) -> Calibration:
    test = head.test or {}
    return Calibration(
        head=head.name,
        backbone=head.backbone,
        temperature=ABSENT if head.temperature is None else f"{head.temperature:.3g}",
        before=figure(test.get("ece_uncalibrated")),
        after=figure(test.get("ece")),
        bounds=interval(test.get("ece_ci95")),
    )


def _abstention(head: Head) -> Abstention:
    test = (head.test or {}).get("abstention") or {}
    threshold, precision = head.abstention.get("threshold"), test.get("precision")
    reached = "not reached on val" if threshold is None else f"{threshold:.4f}"
    kept = f"{percent(test['coverage'])} of {count(head.test['n'])}" if head.test and test else ""
    return Abstention(
        head=head.name,
        backbone=head.backbone,
        wanted=percent(head.abstention["wanted"]),
        threshold=reached,
        precision=figure(precision),
        bounds=interval(test.get("precision_ci95")),
        share=kept if threshold is not None and kept else ABSENT,
    )
