"""How good each layer is, and all of them joined, for heads that see several."""

from collections.abc import Iterator
from typing import Any

from pipeline.reporting.plots import Point, plot
from pipeline.reporting.records import Head, Run


def describe(run: Run) -> dict[str, Any]:
    """The template's `layers`: a plot, None where no head sees several."""
    return {"layers": plot([point for head in run.heads for point in _points(head)])}


def _points(head: Head) -> Iterator[Point]:
    for one in head.by_layer:
        layers, of = " + ".join(one["layers"]), f"{head.name} on {head.backbone}"
        yield Point(
            name=layers,
            under=of,
            hint=f"{layers}, {of}",
            accuracy=one["accuracy"],
            bounds=one["accuracy_ci95"],
            best=one["layers"] == head.layers,
            control=head.control,
        )
