"""From what the figures come: data, backbones, the fitting of heads."""

import statistics
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.dataset import Split
from pipeline.reporting import digests
from pipeline.reporting.records import Backbone, Head, Run
from pipeline.reporting.wording import ABSENT, count, counted, figure, flat, options

CLASS_ROWS = 1000
TALL_ROWS = 30
"""Longer tables scroll in a box of their own."""
SPARK_WIDTH, SPARK_HEIGHT = 100, 24
"""The view box of the small plot of a search."""


@dataclass(frozen=True)
class Search:
    """How good the candidates were on val: points of an SVG polyline, the best on top; x, y: of
    the chosen one.
    """

    points: str
    x: str
    y: str
    hint: str


@dataclass(frozen=True)
class Fit:
    """How one head came to be. sees: layers and views; warnings, notes: one sentence each."""

    head: str
    backbone: str
    kind: str
    sees: str
    choice: str
    search: Search | None
    rows: str
    converged: str
    warnings: list[str]
    notes: list[str]


def describe(artifacts: Path, run: Run) -> dict[str, Any]:
    """The template's `data`, `backbones`, `fits` and `digests`."""
    return {
        "data": _data(run.summary),
        "backbones": [_backbone(backbone) for backbone in run.backbones],
        "fits": [_fit(head) for head in run.heads],
        "digests": digests.describe(artifacts, run),
    }


def _data(summary: dict[str, Any]) -> dict[str, Any]:
    splits = {str(split): summary["splits"].get(str(split), {}) for split in Split}
    classes = summary["classes"]
    return {
        "text": f"{counted(summary['images'], 'distinct image')} in "
        f"{counted(summary['files'], 'file')}; {count(summary['labelled'])} of the files are "
        f"labelled with one of {counted(len(classes), 'class', 'classes')}.",
        "notes": summary["notes"],
        "splits": list(splits),
        "rows": [
            (name, [count(counts.get(name, 0)) for counts in splits.values()])
            for name in classes[:CLASS_ROWS]
        ],
        "total": [count(sum(counts.values())) for counts in splits.values()],
        "many": len(classes) > TALL_ROWS,
        "more": count(len(classes) - CLASS_ROWS) if len(classes) > CLASS_ROWS else "",
    }


def _backbone(backbone: Backbone) -> dict[str, Any]:
    kind, colon, place = str(backbone.weights).partition(":")
    weights = f"file:{PurePosixPath(place).name}" if kind == "file" and colon else backbone.weights
    return {
        "name": backbone.name,
        "facts": {
            "weights": weights,  # a path is where they lay, not what they are
            "licence": backbone.licence,
            "embedding": f"{count(backbone.dim)} numbers",
            "model file": backbone.file,
        },
        "fingerprint": backbone.fingerprint,
        "fields": flat(backbone.fields),
    }


def _fit(head: Head) -> Fit:
    warnings = []
    if head.at_edge:
        warnings.append(
            "The choice lies at an end of the grid: a value beyond it may be better. "
            f"Set it under heads.{head.name} in params.yaml."
        )
    if not head.converged:
        warnings.append("The solver stopped before it converged.")
    return Fit(
        head=head.name,
        backbone=head.backbone,
        kind=head.kind,
        sees=_sees(head),
        choice=_chosen(head),
        search=_search(head),
        rows=" + ".join(
            f"{count(number)} {split}" for split, number in (head.images or head.rows).items()
        ),
        converged="yes" if head.converged else "no",
        warnings=warnings,
        notes=[*head.notes, *_draws(head)],
    )


def _chosen(head: Head) -> str:
    """The options, and on which images they were chosen where that is not val."""
    chosen = options(head.choice)
    return chosen if head.chosen_on == "val" or not head.trace else f"{chosen}, {head.chosen_on}"


def _draws(head: Head) -> list[str]:
    """How much its validation accuracy owes to the draw of train and val."""
    if len(head.seeds) < 2:
        return []
    reached = [float(draw["accuracy"]) for draw in head.seeds]
    mean, spread = statistics.mean(reached), statistics.stdev(reached)
    said = f"over {len(reached)} draws of train and val, validation accuracy {figure(mean)}, "
    said += f"standard deviation {figure(spread)}, {figure(min(reached))} to {figure(max(reached))}"
    return [said]


def _sees(head: Head) -> str:
    views = f", {counted(head.views + 1, 'view')}" if head.views else ""
    return (" + ".join(head.layers) or ABSENT) + views


def _search(head: Head) -> Search | None:
    """Candidates evenly spaced, by value; None where fewer than two, or of several heads."""
    trace = sorted(head.trace, key=lambda candidate: float(candidate["value"]))
    if len(trace) < 2 or not head.choice or "member" in trace[0]:
        return None
    name, sign = head.chosen_by, -1.0 if head.chosen_by == "log_loss" else 1.0
    heights = [sign * float(candidate[name]) for candidate in trace]
    low, span = min(heights), max(heights) - min(heights) or 1.0
    xs = [SPARK_WIDTH * place / (len(trace) - 1) for place in range(len(trace))]
    ys = [SPARK_HEIGHT * (1 - (height - low) / span) for height in heights]
    chosen = float(next(iter(head.choice.values())))
    place = min(range(len(trace)), key=lambda place: abs(float(trace[place]["value"]) - chosen))
    worst, best = figure(sign * low), figure(sign * max(heights))
    return Search(
        points=" ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)),
        x=f"{xs[place]:.1f}",
        y=f"{ys[place]:.1f}",
        hint=f"validation {name.replace('_', ' ')}: worst {worst}, best {best}, "
        f"{len(trace)} values tried",
    )
