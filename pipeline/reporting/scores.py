"""How good each head is: the headline, the table of heads, and their test accuracy as a plot."""

from dataclasses import dataclass
from typing import Any

from pipeline.reporting.plots import Plot, Point, plot
from pipeline.reporting.records import Figures, Head, Run
from pipeline.reporting.wording import (
    bounds,
    count,
    counted,
    figure,
    interval,
    percent,
    points,
    probability,
)

FIGURES = ("balanced_accuracy", "macro_f1", "auroc", "log_loss", "ece")
"""Metrics of test that the table shows beside accuracy."""


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
    noun = "heads and fine-tuned models" if any(head.trained for head in run.heads) else "heads"
    among = f"as the best of {rivals} {noun}" if rivals > 1 else "as the only head"
    return (
        f"It was chosen {among}, controls aside, by validation accuracy: "
        f"{percent(val.get('accuracy', 0.0))} of {counted(val.get('n', 0), 'image')}. "
        f"The test images took no part in the choice.{_beaten(run, val.get('accuracy'))}"
    )


def _beaten(run: Run, accuracy: float | None) -> str:
    """A sentence where a control is as good on validation as the head of this accuracy."""
    controls = [head for head in run.heads if head.control and head.val]
    if accuracy is None or not controls:
        return ""
    first = controls[0]  # of the controls the best by validation
    reached: float = (first.val or {})["accuracy"]
    if reached < accuracy:
        return ""
    return (
        f" The control {first.name} on {first.backbone} is no worse there, {percent(reached)}: "
        "what pretraining brings does not show on these images."
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
            _against_best(test.get("versus_best")),
            *(_figure(test, name) for name in FIGURES),
        ],
    )


def _against_best(stated: Figures | None) -> tuple[str, str]:
    """The difference, and the counts behind it."""
    if not stated:
        return "", ""
    p = probability(stated["p_holm"])
    same = stated["verdict"] == "same"
    hint = (
        f"95 % interval {bounds(stated['difference_ci95'])}; right alone: this head "
        f"{count(stated['only_this'])}, the best {count(stated['only_best'])}; p {p}"
    )
    return f"{points(stated['difference'])}, {'none shown' if same else 'p ' + p}", hint


def _figure(figures: dict[str, Any], name: str) -> tuple[str, str]:
    found = figures.get(f"{name}_ci95")
    return figure(figures.get(name)), f"95 % interval {interval(found)}" if found else ""


def _plot(run: Run) -> Plot | None:
    return plot([_point(head, head.test, head is run.best) for head in run.heads if head.test])


def _point(head: Head, test: Figures, best: bool) -> Point:
    return Point(
        name=head.name,
        under=head.backbone,
        hint=f"{head.name} on {head.backbone}",
        accuracy=test["accuracy"],
        bounds=test["accuracy_ci95"],
        best=best,
        control=head.control,
    )
