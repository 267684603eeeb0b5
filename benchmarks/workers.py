"""Many workers: two processes beside one on the same cores, and up to 64 that sleep."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.desk import Desk, extract
from benchmarks.measuring import interleaved
from benchmarks.sleepers import RATE
from benchmarks.table import Row, row
from tests.conftest import ROOT

UNIT = "images/s"
PAPER = 100_000_000
"""Images to which what a shard costs is carried over."""


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    simulations = {count: simulate(desk, count) for count in desk.scale.workers}
    return [beside(desk), *(one for count in simulations for one in rows(count, simulations))]


def beside(desk: Desk) -> Row:
    """Two local workers beside threads of one process, the same photos, an empty store each."""
    subjects = {name: lambda name=name: end_to_end(desk, name) for name in ("auto", 2)}
    measured = interleaved({str(name): run for name, run in subjects.items()}, desk.scale.runs)
    return row(
        f"{desk.scale.images} photos, 2 local workers of one thread each",
        measured["2"],
        unit=UNIT,
        expected="ratio >= 0.95",
        beside="in process",
        beside_runs=measured["auto"],
    )


def end_to_end(desk: Desk, workers: str | int) -> float:
    """images_per_second of an extraction of all photos."""
    desk.project.edit(lambda params: params["execution"].update(workers=workers))
    try:
        with desk.empty_store() as store:
            return float(extract(desk.project, store)["images_per_second"])
    finally:
        desk.project.edit(lambda params: params["execution"].update(workers="auto"))


def rows(count: int, simulations: dict[int, dict[str, Any]]) -> list[Row]:
    """What a simulation came to."""
    found = simulations[count]
    shards, images = found["shards"], found["images"]
    each = found["driver_cpu"] / shards
    scheduling = found["scheduler_cpu"] / shards
    paper = PAPER * shards / images
    note = f"{shards} shards of {images / shards:.0f} images"
    name = f"{count} sleeping workers"
    return [
        row(
            f"{name}: a run",
            [found["seconds"]],
            expected="ratio <= 1.01" if count == max(simulations) else "",
            beside="their work shared out evenly",
            beside_runs=[found["ideal"]],
            note=note,
        ),
        row(
            f"{name}: driver, processor time a shard",
            [each * 1000],
            unit="ms",
            note=f"{PAPER / 1e6:.0f} million images, on paper: {paper * each / 60:.0f} min in all",
        ),
        row(
            f"{name}: Dask's scheduler, processor time a shard",
            [scheduling * 1000],
            unit="ms",
            note=f"on paper: {paper * scheduling / 60:.0f} min in all",
        ),
        row(f"{name}: driver, peak memory", [found["driver_peak"] / 1e6], unit="MB"),
    ]


def simulate(desk: Desk, count: int) -> dict[str, Any]:
    """A run on so many workers that sleep, scheduler, workers and driver a process each."""
    images = int(count * RATE * desk.scale.simulated)
    with tempfile.TemporaryDirectory(dir=desk.folder) as name:
        file = Path(name, "scheduler.json")
        words = "--host 127.0.0.1 --port 0 --no-dashboard --scheduler-file"
        scheduler = [sys.executable, "-m", "dask", "scheduler", *words.split(), str(file)]
        with _running(scheduler) as scheduling:
            while not file.exists():
                time.sleep(0.05)
            sleepers = [sys.executable, "-m", "benchmarks.sleepers", str(file), str(count)]
            with _running(sleepers):
                before = _cpu(scheduling)
                driver = [sys.executable, "-m", "benchmarks.simulated", str(file), str(count)]
                done = subprocess.run(
                    [*driver, str(images)], cwd=ROOT, capture_output=True, text=True, check=False
                )
                used = _cpu(scheduling) - before
    if done.returncode:
        raise RuntimeError(f"the simulation of {count} workers failed: {done.stderr}")
    return {**json.loads(done.stdout), "scheduler_cpu": used, "images": images}


@contextmanager
def _running(command: list[str]) -> Iterator["subprocess.Popen[bytes]"]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=ROOT, stdout=quiet, stderr=quiet)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _cpu(process: "subprocess.Popen[bytes]") -> float:
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)
