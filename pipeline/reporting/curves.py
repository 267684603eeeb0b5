"""Learning curves as drawings: accuracy by images a class, where each starts, rises to and ends."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.reporting.plots import ticks
from pipeline.reporting.records import Curve, Figures, Run
from pipeline.reporting.wording import bounds, counted, figure, interval, percent, points

WIDTH, HEIGHT = 960, 400
"""The view box; report.html has the same."""
LEFT, RIGHT, TOP, BOTTOM = 150, 730, 14, 352
"""Where the axes lie in it: starts are named on their left, slopes on their right."""
LABEL = 36
"""Least distance of the names at the lines' ends; START_LABEL: of those at their starts."""
START_LABEL = 15
COLOURS = 4
"""Lines that have colours of their own; controls are grey."""
STEPS = 24
"""Pieces that a fitted curve is drawn in."""


@dataclass(frozen=True)
class Mark:
    """A measured point. x, y: its place; low, high: of its interval; hint: its figures."""

    x: str
    y: str
    low: str
    high: str
    hint: str


@dataclass(frozen=True)
class Line:
    """One backbone. style: `control`, or `c0`, `c1`, …; points: of the line through its marks.

    law: of the curve fitted to it, on to twice the images, empty where none is; start, name,
    slope: words, with the places of the first two; asymptote: its height and words, None where
    the images do not tell it; sentence: what more images would bring.
    """

    name: str
    style: str
    marks: list[Mark]
    points: str
    law: str
    start: tuple[str, str]
    y: str
    slope: str
    asymptote: tuple[str, str] | None
    sentence: str


@dataclass(frozen=True)
class Drawing:
    """A learning curve. ticks: (place, text) of either axis; rows: the table, a number of shots
    each, of (accuracy, hint) in the order of the lines.
    """

    name: str
    head: str
    text: str
    lines: list[Line]
    x_ticks: list[tuple[str, str]]
    y_ticks: list[tuple[str, str]]
    rows: list[tuple[str, list[tuple[str, str]]]]
    notes: list[str]


def describe(run: Run) -> dict[str, Any]:
    """The template's `curves`, none where params.yaml has none."""
    return {"curves": [_drawing(curve) for curve in run.curves]}


@dataclass(frozen=True)
class _Axes:
    """images: a class, fewest and twice the most; heights: ticks of accuracy."""

    images: tuple[float, float]
    heights: Sequence[float]

    def x(self, images: float) -> float:
        """Images are on a logarithmic scale."""
        low, high = map(math.log, self.images)
        return LEFT + (RIGHT - LEFT) * (math.log(images) - low) / (high - low)

    def y(self, accuracy: float) -> float:
        """What lies beyond the axis is drawn at its end."""
        low, high = self.heights[0], self.heights[-1]
        share = min(1.0, max(0.0, (accuracy - low) / (high - low)))
        return BOTTOM - (BOTTOM - TOP) * share


def _drawing(curve: Curve) -> Drawing:
    backbones = curve.backbones
    measured = [point for of in backbones.values() for point in of["points"]]
    images = sorted({point["images_per_class"] for point in measured})
    ends = [of["asymptote"]["accuracy"] for of in backbones.values() if _is_told(of)]
    heights = ticks([*(point["accuracy_ci95"] for point in measured), ends])
    axes = _Axes((images[0], 2 * images[-1]), heights)
    named = {str(point["images_per_class"]): _shots(point) for point in measured}
    return Drawing(
        name=curve.name,
        head=curve.head["kind"],
        text=_text(curve),
        lines=_lines(backbones, axes),
        x_ticks=[(_place(axes.x(number)), named[str(number)]) for number in images],
        y_ticks=[(_place(axes.y(height)), f"{height:.2f}") for height in heights],
        rows=_rows(backbones),
        notes=curve.notes,
    )


def _text(curve: Curve) -> str:
    draws = f"the mean over {counted(curve.seeds, 'draw')}" if curve.seeds > 1 else "one draw"
    return (
        f"Accuracy on {counted(curve.test_images, 'test image')} of a {curve.head['kind']} head, by "
        f"the number of training images a class: {draws}, each with the head\u2019s option, "
        "where it has one, chosen inside it. Intervals are of 95 %, for other draws and other test images."
    )


def _shots(point: Figures) -> str:
    """5, or all of train as so many a class."""
    if point["shots"] != "all":
        return str(point["shots"])
    return f"all ({point['images_per_class']:.4g})"


def _rows(backbones: dict[str, Figures]) -> list[tuple[str, list[tuple[str, str]]]]:
    order = {_shots(p): p["images_per_class"] for of in backbones.values() for p in of["points"]}
    found = [{_shots(point): point for point in of["points"]} for of in backbones.values()]
    return [
        (shots, [_cell(points.get(shots)) for points in found])
        for shots in sorted(order, key=lambda shots: (order[shots], shots))
    ]


def _cell(point: Figures | None) -> tuple[str, str]:
    if point is None:
        return figure(None), ""
    spread = "" if point["std"] is None else f", draws differ by {percent(point['std'])} (std)"
    return figure(point["accuracy"]), f"95 % interval {interval(point['accuracy_ci95'])}{spread}"


def _lines(backbones: dict[str, Figures], axes: _Axes) -> list[Line]:
    ends = _apart([axes.y(of["points"][-1]["accuracy"]) for of in backbones.values()], LABEL)
    starts = _apart([axes.y(of["start"]["accuracy"]) for of in backbones.values()], START_LABEL)
    own = [name for name, of in backbones.items() if not of["control"]]
    styles = {name: f"c{place % COLOURS}" for place, name in enumerate(own)}
    return [
        _line(name, of, axes, (start, end), styles.get(name, "control"))
        for (name, of), start, end in zip(backbones.items(), starts, ends, strict=True)
    ]


def _line(name: str, of: Figures, axes: _Axes, labels: tuple[float, float], style: str) -> Line:
    marks = [_mark(name, point, axes) for point in of["points"]]
    start, end = labels
    return Line(
        name=name,
        style=style,
        marks=marks,
        points=" ".join(f"{mark.x},{mark.y}" for mark in marks),
        law=_law(of, axes),
        start=(_place(start), f"start {of['start']['accuracy']:.3f}"),
        y=_place(end),
        slope=_slope(of["slope"]),
        asymptote=_asymptote(of, axes),
        sentence=re.sub(r"-(?=\d)", "\u2212", of["sentence"]),
    )


def _mark(name: str, point: Figures, axes: _Axes) -> Mark:
    low, high = point["accuracy_ci95"]
    figures, _ = _cell(point)
    return Mark(
        x=_place(axes.x(point["images_per_class"])),
        y=_place(axes.y(point["accuracy"])),
        low=_place(axes.y(low)),
        high=_place(axes.y(high)),
        hint=f"{name}, {_shots(point)} a class: {figures}, {interval([low, high])}",
    )


def _law(of: Figures, axes: _Axes) -> str:
    """The fitted curve from the last point on, moved so that it starts there."""
    law, last = of["law"], of["points"][-1]
    if law is None:
        return ""
    first = last["images_per_class"]

    def expected(images: float) -> float:
        return float(1 - law["floor"] - law["scale"] * images ** -law["power"])

    away = last["accuracy"] - expected(first)
    images = [first * 2 ** (step / STEPS) for step in range(STEPS + 1)]
    heights = [axes.y(expected(number) + away) for number in images]
    return " ".join(
        f"{_place(axes.x(number))},{_place(height)}"
        for number, height in zip(images, heights, strict=True)
    )


def _slope(slope: Figures | None) -> str:
    if slope is None:
        return "slope: too few points"
    found = slope["per_doubling"], slope["per_doubling_ci95"]
    return f"slope {points(found[0])} points ({bounds(found[1])})"


def _is_told(of: Figures) -> bool:
    return of["asymptote"] is not None and of["asymptote"]["told"]


def _asymptote(of: Figures, axes: _Axes) -> tuple[str, str] | None:
    if not _is_told(of):
        return None
    asymptote = of["asymptote"]
    low, high = asymptote["accuracy_ci95"]
    words = f"asymptote {asymptote['accuracy']:.2f} ({low:.2f} to {high:.2f})"
    return _place(axes.y(asymptote["accuracy"])), words


def _apart(heights: Sequence[float], least: float) -> list[float]:
    """The same, moved as little as it takes to be `least` apart and inside the axes."""
    order = sorted(range(len(heights)), key=lambda place: (heights[place], place))
    moved = dict[int, float]()
    lowest = float(TOP)
    for place in order:
        moved[place] = max(heights[place], lowest)
        lowest = moved[place] + least
    highest = float(BOTTOM)
    for place in reversed(order):
        moved[place] = min(moved[place], highest)
        highest = moved[place] - least
    return [moved[place] for place in range(len(heights))]


def _place(value: float) -> str:
    return f"{value:.1f}"
