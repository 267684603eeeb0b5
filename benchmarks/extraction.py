"""Extraction end to end beside its ceiling: an empty store and every photo, each time."""

from benchmarks import ceiling, images
from benchmarks.ceiling import DECODE, FORWARD
from benchmarks.desk import Desk, extract
from benchmarks.measuring import interleaved
from benchmarks.table import Row, row

UNIT = "images/s"
END_TO_END = "extraction end to end"


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    scale = desk.scale
    paths = images.paths(desk.photos)
    frozen = desk.frozen
    with ceiling.subjects(frozen, paths, forward=scale.forward, seconds=scale.seconds) as subjects:
        measured = interleaved({END_TO_END: lambda: end_to_end(desk), **subjects}, scale.runs)
    forward, decode = (ceiling.best(measured, kind) for kind in (FORWARD, DECODE))
    ceilings = [
        ceiling.ceiling(*pair) for pair in zip(measured[forward], measured[decode], strict=True)
    ]
    first = row(
        f"{END_TO_END}, {scale.images} photos, empty store",
        measured.pop(END_TO_END),
        unit=UNIT,
        expected="ratio >= 0.97",
        beside="ceiling, 1 / (1 / forward + 1 / decode)",
        beside_runs=ceilings,
        note=f"of {forward} and {decode}",
    )
    return [first, *(row(name, runs, unit=UNIT) for name, runs in measured.items())]


def end_to_end(desk: Desk) -> float:
    """images_per_second of an extraction of all photos."""
    with desk.empty_store() as store:
        run = extract(desk.project, store)
    if run["computed"] != desk.scale.images:
        raise RuntimeError(f"{run['computed']} of {desk.scale.images} photos were embedded: {run}")
    return float(run["images_per_second"])
