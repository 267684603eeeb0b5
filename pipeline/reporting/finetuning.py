"""Whether fine-tuning was worth it: each model beside the head it started from, and its way by epoch."""

from dataclasses import dataclass
from typing import Any

from pipeline.reporting.plots import Plot, Point, plot, ticks
from pipeline.reporting.records import Head, Run
from pipeline.reporting.wording import bounds, count, figure, interval, percent, points, probability

WIDTH, HEIGHT = 960, 240
"""The view box of a history; report.html has the same."""
LEFT, RIGHT, TOP, BOTTOM = 60, 800, 14, 200
MOST_TICKS = 10
SERIES = (("val_accuracy", "validation", "c0"), ("train_accuracy", "training", "control"))
SCRATCH = "random"


@dataclass(frozen=True)
class Row:
    """A line of the table of what stands side by side. against: the difference from the head, (text, hint)."""

    name: str
    what: str
    mark: str
    val: str
    test: str
    bounds: str
    against: tuple[str, str]


@dataclass(frozen=True)
class Line:
    """Accuracy by epoch. points: of an SVG polyline; label: (x, y) of its name; marks: (x, y, hint)."""

    name: str
    style: str
    points: str
    label: tuple[str, str]
    marks: list[tuple[str, str, str]]


@dataclass(frozen=True)
class History:
    """The way of one model. kept: where the epoch that was kept lies, and words."""

    name: str
    text: str
    lines: list[Line]
    x_ticks: list[tuple[str, str]]
    y_ticks: list[tuple[str, str]]
    kept: tuple[str, str]


@dataclass(frozen=True)
class Judged:
    """The models of one backbone. verdicts: (name, badge, sentence)."""

    backbone: str
    verdicts: list[tuple[str, str, str]]
    rows: list[Row]
    plot: Plot | None
    histories: list[History]


def describe(run: Run) -> dict[str, Any]:
    """The template's `finetunes`, a backbone each, none where params.yaml has no such entry."""
    trained = [head for head in run.heads if head.trained]
    names = [one.name for one in run.backbones if any(m.backbone == one.name for m in trained)]
    return {"finetunes": [_judged(name, run) for name in names]}


def _judged(backbone: str, run: Run) -> Judged:
    models = [head for head in run.heads if head.trained and head.backbone == backbone]
    started = {model.trained.started_from for model in models if model.trained}
    heads = [head for head in run.heads if head.backbone == backbone and head.name in started]
    shown = [*heads, *sorted(models, key=_is_scratch)]
    return Judged(
        backbone,
        [_verdict(model) for model in shown if model.trained],
        [_row(head) for head in shown],
        plot([_point(head, run) for head in shown if head.test]),
        [_history(model) for model in shown if model.trained],
    )


def _is_scratch(head: Head) -> bool:
    return head.trained is not None and head.trained.init == SCRATCH


def _what(head: Head) -> str:
    if head.trained is None:
        return "frozen backbone and head"
    return "trained from scratch" if _is_scratch(head) else "fine-tuned"


def _verdict(model: Head) -> tuple[str, str, str]:
    verdict = model.trained.verdict if model.trained else {}
    keep = "keep the model" if verdict.get("recommend") == "finetuned" else "keep the head"
    return model.name, keep, str(verdict.get("sentence", ""))


def _row(head: Head) -> Row:
    val, test = head.val or {}, head.test or {}
    return Row(
        name=head.name,
        what=_what(head),
        mark="best"
        if head.trained and head.trained.verdict.get("recommend") == "finetuned"
        else "",
        val=figure(val.get("accuracy")),
        test=figure(test.get("accuracy")),
        bounds=interval(test.get("accuracy_ci95")),
        against=_against(head),
    )


def _against(head: Head) -> tuple[str, str]:
    verdict = head.trained.verdict if head.trained else {}
    if "difference" not in verdict:
        return "", ""
    hint = (
        f"right alone: this model {count(verdict['only_this'])}, the head "
        f"{count(verdict['only_head'])}; p {probability(verdict['p'])}"
    )
    return f"{points(verdict['difference'])} ({bounds(verdict['difference_ci95'])})", hint


def _point(head: Head, run: Run) -> Point:
    test = head.test or {}
    return Point(
        name=head.name,
        under=_what(head),
        hint=f"{head.name} on {head.backbone}",
        accuracy=test["accuracy"],
        bounds=test["accuracy_ci95"],
        best=head is run.best,
        control=_is_scratch(head),
    )


def _history(model: Head) -> History:
    trained = model.trained
    rows = trained.history if trained else []
    kept = trained.epoch if trained else 0
    last = max(int(row["epoch"]) for row in rows) or 1
    values = [float(row[column]) for row in rows for column, _, _ in SERIES if row.get(column)]
    heights = ticks([(min(values), max(values))])

    def x(epoch: int) -> str:
        return f"{LEFT + (RIGHT - LEFT) * epoch / last:.1f}"

    def y(value: float) -> str:
        share = (value - heights[0]) / (heights[-1] - heights[0])
        return f"{BOTTOM - (BOTTOM - TOP) * share:.1f}"

    def line(column: str, name: str, style: str) -> Line:
        told = [(int(r["epoch"]), float(r[column])) for r in rows if r.get(column)]
        marks = [(x(e), y(v), f"epoch {e}: {name} accuracy {figure(v)}") for e, v in told]
        places = " ".join(f"{at},{height}" for at, height, _ in marks)
        return Line(name, style, places, marks[-1][:2] if marks else ("0", "0"), marks)

    step = -(-last // MOST_TICKS)
    return History(
        name=model.name,
        text=_way(model),
        lines=[line(*one) for one in SERIES],
        x_ticks=[(x(epoch), str(epoch)) for epoch in range(0, last + 1, step)],
        y_ticks=[(y(height), f"{height:.2f}") for height in heights],
        kept=(x(kept), f"kept: epoch {kept}"),
    )


def _way(model: Head) -> str:
    trained = model.trained
    if trained is None:
        return ""
    at = trained.started_from
    said = {
        "head": f"started where {'a logistic regression beside ' if model.notes else ''}{at} stands",
        "fresh": "started from the pretrained backbone and a last layer of random numbers",
        SCRATCH: "started from random numbers everywhere",
    }[trained.init]
    agrees = (
        f", agreeing with it on {percent(trained.agreement)} of the validation images"
        if trained.agreement is not None
        else ""
    )
    kept = "the start" if trained.epoch == 0 else f"epoch {trained.epoch}"
    alpha = model.choice.get("alpha")
    wise = f", {alpha:g} of the way from the start to it" if alpha is not None else ""
    return f"It {said}{agrees}, and went on for {_epochs(trained.epochs)}. Kept: {kept}{wise}."


def _epochs(number: int) -> str:
    return f"{number} epoch" if number == 1 else f"{number} epochs"
