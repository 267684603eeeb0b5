"""How good each head is: the headline, the table of heads, and their test accuracy as a plot."""

import math
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.records import Head, Run
from pipeline.reporting.wording import count, counted, figure, interval, percent

ROW = 44
"""Height of the plot's rows, in CSS pixels; report.html has the same."""
TICK_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MOST_TICKS = 6


@dataclass(frozen=True)
class Headline:
    """The first sentence, what follows it, and (name, value) pairs worth a second look."""

    title: str
    text: str
    tiles: list[tuple[str, str]]


@dataclass(frozen=True)
class Row:
    """A line of the table of heads; figures: (text, hint) in the order of its columns."""

    head: str
    backbone: str
    best: bool
    control: bool
    figures: list[tuple[str, str]]


@dataclass(frozen=True)
class Dot:
    """A line of the plot. x, low, high: where they lie, in percent of the width.

    beyond: "left" or "right" where a control lies outside the axis, else empty.
    """

    head: str
    backbone: str
    best: bool
    control: bool
    y: int
    x: str
    low: str
    high: str
    beyond: str
    value: str
    hint: str


@dataclass(frozen=True)
class Plot:
    """Test accuracy with 95 % intervals. ticks: (x in percent, text); height: CSS pixels."""

    dots: list[Dot]
    ticks: list[tuple[str, str]]
    height: int


def describe(run: Run) -> dict[str, Any]:
    """The template's `headline`, `heads` and `plot` (None without test images)."""
    return {
        "headline": _headline(run),
        "heads": [_row(h, run) for h in run.heads],
        "plot": _plot(run),
    }


def _headline(run: Run) -> Headline:
    head, best = run.best, f"{run.best.name} on {run.best.backbone}" if run.best else ""
    if head is None:
        return Headline(
            "There is no best head: all heads of this run are controls",
            "Heads of kind dummy and backbones of source pixels or random are there to be beaten. "
            "Add another head to run.heads, or another backbone to run.backbones, in params.yaml.",
            _tiles(run),
        )
    if head.test is None:
        title = f"{best} is the best head; no image is in test, so its test accuracy is unknown"
        return Headline(title, _chosen(run), _tiles(run))
    low, high = head.test["accuracy_ci95"]
    title = (
        f"{best} labels {percent(head.test['accuracy'])} of "
        f"{counted(head.test['n'], 'test image')} correctly"
    )
    text = f"95 % interval: {percent(low)} to {percent(high)}. {_chosen(run)}"
    return Headline(title, text, _tiles(run))


def _chosen(run: Run) -> str:
    rivals = sum(not head.control for head in run.heads)
    val = (run.best.val if run.best else None) or {}
    among = f"as the best of {rivals} heads" if rivals > 1 else "as the only head"
    return (
        f"It was chosen {among}, controls aside, by validation accuracy: "
        f"{percent(val.get('accuracy', 0.0))} of {counted(val.get('n', 0), 'image')}. "
        "The test images took no part in the choice."
    )


def _tiles(run: Run) -> list[tuple[str, str]]:
    test = (run.best.test if run.best else None) or {}
    scored = [
        ("test accuracy", figure(test.get("accuracy"))),
        ("95 % interval", interval(test.get("accuracy_ci95"))),
        ("test images", count(test.get("n", 0))),
    ]
    return [
        *(scored if test else []),
        ("classes", count(len(run.classes))),
        ("labelled images", count(sum(map(_total, run.summary["splits"].values())))),
    ]


def _total(counts: dict[str, int]) -> int:
    return sum(counts.values())


def _row(head: Head, run: Run) -> Row:
    val, test = head.val or {}, head.test or {}
    return Row(
        head=head.name,
        backbone=head.backbone,
        best=head is run.best,
        control=head.control,
        figures=[
            _figure(val, "accuracy"),
            _figure(test, "accuracy"),
            (interval(test.get("accuracy_ci95")), ""),
            *(_figure(test, name) for name in ("balanced_accuracy", "macro_f1", "log_loss", "ece")),
        ],
    )


def _figure(figures: dict[str, Any], name: str) -> tuple[str, str]:
    bounds = figures.get(f"{name}_ci95")
    return figure(figures.get(name)), f"95 % interval {interval(bounds)}" if bounds else ""


def _plot(run: Run) -> Plot | None:
    heads = [head for head in run.heads if head.test]
    if not heads:
        return None
    ticks = _ticks([head for head in heads if not head.control] or heads)
    dots = [_dot(head, row, ticks, head is run.best) for row, head in enumerate(heads)]
    digits = 3 if ticks[1] - ticks[0] < 0.01 else 2
    places = [(_percent(tick, ticks), f"{tick:.{digits}f}") for tick in ticks]
    return Plot(dots, places, ROW * len(heads))


def _ticks(heads: list[Head]) -> list[float]:
    """Round values from below the lowest interval to above the highest."""
    bounds = [bound for head in heads for bound in (head.test or {})["accuracy_ci95"]]
    low, high = min(bounds), max(bounds)
    for step in TICK_STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first < MOST_TICKS:
            break
    return [tick * step for tick in range(first, last + 1)]


def _dot(head: Head, row: int, ticks: list[float], best: bool) -> Dot:
    test = head.test or {}
    value, (low, high) = test["accuracy"], test["accuracy_ci95"]
    beyond = "left" if value < ticks[0] else "right" if value > ticks[-1] else ""
    return Dot(
        head=head.name,
        backbone=head.backbone,
        best=best,
        control=head.control,
        y=ROW * row + ROW // 2,
        x=_percent(value, ticks),
        low=_percent(low, ticks),
        high=_percent(high, ticks),
        beyond=beyond,
        value=figure(value),
        hint=f"{head.name} on {head.backbone}: {figure(value)}, {interval([low, high])}",
    )


def _percent(value: float, ticks: list[float]) -> str:
    share = (value - ticks[0]) / (ticks[-1] - ticks[0])
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
