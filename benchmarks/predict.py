"""`headstart predict` beside extraction on the same photos, and how soon it gives its first answer."""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks import images
from benchmarks.desk import Desk
from benchmarks.extraction import END_TO_END, UNIT, end_to_end
from benchmarks.measuring import interleaved
from benchmarks.table import Row, row
from tests import bundle_files

FIRST = "first answer"
STREAM = "headstart predict"


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    model = bundle_files.of_frozen(desk.frozen, desk.folder / "bundle")
    paths = images.paths(desk.photos)
    subjects = {
        END_TO_END: lambda: end_to_end(desk),
        STREAM: lambda: _rate(model, desk.photos, len(paths)),
        FIRST: lambda: _seconds(model, paths[0]),
    }
    measured = interleaved(subjects, desk.scale.runs)
    return [
        row(
            f"{STREAM}, {desk.scale.images} photos",
            measured[STREAM],
            unit=UNIT,
            expected="ratio >= 0.9",
            beside=END_TO_END,
            beside_runs=measured[END_TO_END],
            note="from the first row to the last",
        ),
        row(f"{FIRST}, one photo", measured[FIRST], expected="median <= 1.5", note="whole command"),
    ]


def _command(model: Path, path: Path) -> list[str]:
    words = ["predict", "--device", "cpu", "--format", "jsonl", "--model", str(model), str(path)]
    return [sys.executable, "-c", "from pipeline.cli import main; main()", *words]


def _rate(model: Path, folder: Path, count: int) -> float:
    """Rows a second, from the first to the last as they come out of the command."""
    with subprocess.Popen(_command(model, folder), stdout=subprocess.PIPE) as running:
        rows = iter(running.stdout or ())
        next(rows)
        begun, more = time.perf_counter(), sum(1 for _ in rows)
        seconds = time.perf_counter() - begun
    if running.returncode or more + 1 != count:
        raise RuntimeError(f"predict ended with {running.returncode} after {more + 1} of {count}")
    return more / seconds


def _seconds(model: Path, photo: Path) -> float:
    begun = time.perf_counter()
    subprocess.run(_command(model, photo), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begun
