"""What a learning curve says: its figures that have names, the files it is kept in, the table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import files
from pipeline.curves.draws import Shots
from pipeline.curves.fits import Fit
from pipeline.curves.law import Outlook, outlook
from pipeline.curves.spread import Point, borrow, interval, resampled
from pipeline.params import CurveParams

COLUMNS = ("backbone", "shots", "seed", "images", "choice", "accuracy", "balanced_accuracy")
PLOTTED = ("backbone", "images_per_class", "accuracy", "low", "high")


@dataclass(frozen=True, eq=False)
class Curve:
    """One backbone's. option: of the head, that was chosen in each draw; classes: how many."""

    backbone: str
    control: bool
    option: str | None
    classes: int
    fits: Sequence[Fit]


@dataclass(frozen=True, eq=False)
class Summary:
    """curves: one a backbone; content: of summary.json."""

    curves: Sequence[Curve]
    content: dict[str, Any] = field(default_factory=dict)


def of(entry: CurveParams, curves: Sequence[Curve], notes: Sequence[str]) -> Summary:
    """Sum up what was fitted. notes: what is not as the entry says."""
    first, stopped = curves[0], sum(not fit.converged for c in curves for fit in c.fits)
    content = {
        "head": entry.head.model_dump(mode="json"),
        "option": first.option,
        "seeds": entry.seeds,
        "classes": first.classes,
        "test_images": len(first.fits[0].right),
        "backbones": {curve.backbone: _backbone(curve) for curve in curves},
        "notes": [*notes, *_notes(entry, first)],
        "fits": sum(len(curve.fits) for curve in curves),
        "not_converged": stopped,
    }
    return Summary(curves, content)


def _notes(entry: CurveParams, curve: Curve) -> Iterator[str]:
    drawn = {fit.shots for fit in curve.fits}
    if beyond := [shots for shots in entry.shots if shots not in drawn]:
        yield f"{', '.join(map(str, beyond))} a class is all of train, which is drawn once"
    if entry.seeds == 1:
        yield "one draw of each number: the intervals do not know how much draws differ"


def _by_shots(curve: Curve) -> list[tuple[Shots, list[Fit]]]:
    return [(shots, list(some)) for shots, some in groupby(curve.fits, lambda fit: fit.shots)]


def _backbone(curve: Curve) -> dict[str, Any]:
    by_shots = _by_shots(curve)
    measured = [
        Point(some[0].images, np.stack([fit.right for fit in some])) for _, some in by_shots
    ]
    points = borrow(measured)
    rows = [
        {
            "shots": shots,
            "images": point.images,
            "images_per_class": point.images / curve.classes,
            "draws": len(some),
            "accuracy": point.accuracy,
            "accuracy_ci95": list(interval(point)),
            "std": float(np.sqrt(point.between)) if len(some) > 1 else None,
            "balanced_accuracy": float(np.mean([fit.balanced_accuracy for fit in some])),
        }
        for (shots, some), point in zip(by_shots, points, strict=True)
    ]
    start = {key: rows[0][key] for key in ("shots", "accuracy", "accuracy_ci95")}
    known = _outlook(points, curve.classes)
    named = {"control": curve.control, "points": rows, "start": start, **_named(known)}
    return {**named, "sentence": sentence(known)}


def _outlook(points: Sequence[Point], classes: int) -> Outlook | None:
    images = np.array([point.images / classes for point in points])
    accuracy = np.array([point.accuracy for point in points])
    # a share of 0 or 1 is not known without error either: one more right and one more wrong
    n = points[0].right.shape[1]
    share = (accuracy * n + 1) / (n + 2)
    variance = share * (1 - share) / n + np.array([point.of_draws for point in points])
    return outlook(images, accuracy, resampled(points), 1 / variance)


def _named(known: Outlook | None) -> dict[str, Any]:
    """The slope at the end, the asymptote and the law they come from; None where there is none."""
    if known is None:
        return {"slope": None, "asymptote": None, "law": None}
    return {
        "slope": {"per_doubling": known.gain, "per_doubling_ci95": list(known.gain_interval)},
        "asymptote": {
            "accuracy": known.asymptote,
            "accuracy_ci95": list(known.asymptote_interval),
            "told": known.told,
        },
        "law": vars(known.law),
    }


def sentence(known: Outlook | None) -> str:
    """What more images would bring, for a reader in a hurry."""
    if known is None:
        return "too few points to say what more images would bring"
    low, high = known.gain_interval
    gain = f"{_points(known.gain):+} points ({_points(low)} to {_points(high)})"
    unsure = _points(low) <= 0 <= _points(high)
    low, high = known.asymptote_interval
    end = f"where the curve levels off these images cannot tell ({low:.2f} to {high:.2f})"
    if known.told:
        end = f"the curve levels off near {known.asymptote:.2f} ({low:.2f} to {high:.2f})"
    if unsure:
        told = f"; {end}" if known.told else ""
        return f"these images do not show that more would help: twice as many, {gain}{told}"
    return f"twice as many images would bring about {gain}; {end}"


def _points(share: float) -> float:
    """A difference of accuracies in hundredths, to a tenth and never -0.0."""
    return round(100 * share, 1) + 0.0


def write(folder: Path, summary: Summary) -> None:
    """Write curve.csv (a row a fit), plot.csv (a row a point) and summary.json."""
    rows = [
        {
            "backbone": curve.backbone,
            "shots": fit.shots,
            "seed": fit.seed,
            "images": fit.images,
            "choice": fit.value if curve.option else "",
            "accuracy": float(fit.right.mean()),
            "balanced_accuracy": fit.balanced_accuracy,
        }
        for curve in summary.curves
        for fit in curve.fits
    ]
    files.write_csv(folder / "curve.csv", COLUMNS, rows)
    plotted = [
        dict(
            zip(
                PLOTTED,
                [name, point["images_per_class"], point["accuracy"], low, high],
                strict=True,
            )
        )
        for name, backbone in summary.content["backbones"].items()
        for point in backbone["points"]
        for low, high in [point["accuracy_ci95"]]
    ]
    files.write_csv(folder / "plot.csv", PLOTTED, plotted)
    files.write_json(folder / "summary.json", summary.content)


def describe(summary: Summary) -> str:
    """The table and a sentence a backbone, for the terminal."""
    content = summary.content
    backbones = content["backbones"]
    by_shots = [{p["shots"]: _cell(p) for p in one["points"]} for one in backbones.values()]
    order = sorted(set().union(*by_shots), key=lambda shots: (shots == "all", str(shots).zfill(9)))
    rows = [("shots", *backbones)]
    rows += [(str(shots), *(one.get(shots, "-") for one in by_shots)) for shots in order]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    head = f"test accuracy of {content['head']['kind']} by images a class, with 95 % interval"
    said = [f"{name}: {one['sentence']}" for name, one in backbones.items()]
    notes = [f"note: {note}" for note in content["notes"]]
    if stopped := content["not_converged"]:
        notes.append(f"warning: {stopped} of {content['fits']} fits stopped before they converged")
    return "\n".join([head, *lines, *said, *notes])


def _cell(point: dict[str, Any]) -> str:
    low, high = point["accuracy_ci95"]
    return f"{point['accuracy']:.4f} ({low:.4f} to {high:.4f})"
