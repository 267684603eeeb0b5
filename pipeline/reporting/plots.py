"""Accuracies with their 95 % intervals as a chart: where each dot, whisker and tick lies."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.reporting.wording import figure, interval

ROW = 44
"""Height of the plot's rows, in CSS pixels; report.html has the same."""
TICK_STEPS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MOST_TICKS = 6


@dataclass(frozen=True)
class Point:
    """What a line of the plot says. name, under: its two lines of text; hint: what it is of.

    best: drawn in the accent's colour; control: grey, and the axis does not reach out for it.
    """

    name: str
    under: str
    hint: str
    accuracy: float
    bounds: Sequence[float]
    best: bool
    control: bool


@dataclass(frozen=True)
class Dot:
    """A line of the plot. x, low, high: where they lie, in percent of the width.

    beyond: "left" or "right" where a control lies outside the axis, else empty.
    """

    name: str
    under: str
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
    """Accuracies with 95 % intervals. ticks: (x in percent, text); height: CSS pixels."""

    dots: list[Dot]
    ticks: list[tuple[str, str]]
    height: int


def plot(points: Sequence[Point]) -> Plot | None:
    """The chart, one row a point in their order; None without any."""
    if not points:
        return None
    bounds = [point.bounds for point in points if not point.control]
    places = ticks(bounds or [point.bounds for point in points])
    digits = 3 if places[1] - places[0] < 0.01 else 2
    return Plot(
        dots=[_dot(point, row, places) for row, point in enumerate(points)],
        ticks=[(_percent(tick, places), f"{tick:.{digits}f}") for tick in places],
        height=ROW * len(points),
    )


def ticks(bounds: Iterable[Sequence[float]]) -> list[float]:
    """Round values from below the lowest interval to above the highest."""
    values = [bound for pair in bounds for bound in pair]
    low, high = min(values), max(values)
    for step in TICK_STEPS:
        first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
        last = max(last, first + 1)
        if last - first < MOST_TICKS:
            break
    return [tick * step for tick in range(first, last + 1)]


def _dot(point: Point, row: int, places: list[float]) -> Dot:
    value, (low, high) = point.accuracy, point.bounds
    beyond = "left" if value < places[0] else "right" if value > places[-1] else ""
    return Dot(
        name=point.name,
        under=point.under,
        best=point.best,
        control=point.control,
        y=ROW * row + ROW // 2,
        x=_percent(value, places),
        low=_percent(low, places),
        high=_percent(high, places),
        beyond=beyond,
        value=figure(value),
        hint=f"{point.hint}: {figure(value)}, {interval([low, high])}",
    )


def _percent(value: float, places: list[float]) -> str:
    share = (value - places[0]) / (places[-1] - places[0])
    return f"{100 * min(1.0, max(0.0, share)):.2f}%"
