"""What is paid again: 1 % more photos, a run that was killed, nothing to do; and the time left."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks import desk as desks
from benchmarks import images, progress
from benchmarks.desk import Desk, extract, noted
from benchmarks.measuring import interleaved, seconds_of
from benchmarks.table import Row, row
from tests.conftest import Project

SIGKILLED = -signal.SIGKILL


@dataclass
class Whole:
    """Undisturbed runs. working: seconds beyond the start."""

    wall: list[float] = field(default_factory=list)
    start: list[float] = field(default_factory=list)
    working: list[float] = field(default_factory=list)
    worst: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    store = desk.folder / "kept-store"
    extract(desk.project, store)
    grown = _Grown.of(desk)
    extract(grown.project, store)
    whole = Whole()
    subjects = {  # the first round is in this order: so the first kill knows what half is
        "whole": lambda: _whole(desk, whole),
        "killed": lambda: _killed(desk, whole),
        "idle": lambda: {"seconds": _idle(desk, store)},
        "more": lambda: grown.add(desk, store),
    }
    measured = interleaved(subjects, desk.scale.runs)
    return [
        *_more_rows(desk, measured["more"], whole),
        *_kill_rows(measured["killed"], whole),
        row(
            "a run with nothing to do, the whole process",
            [run["seconds"] for run in measured["idle"]],
            expected="median <= 1.5",
        ),
        row("start to the first batch", whole.start, expected="median <= 2"),
        _left_row(whole),
    ]


def _more_rows(desk: Desk, runs: list[dict[str, float]], whole: Whole) -> list[Row]:
    return [
        row(
            f"{desk.scale.more} photos more, beyond the fixed start",
            [run["working"] for run in runs],
            expected="ratio <= 0.03",
            beside=f"all {desk.scale.images}, beyond the fixed start",
            beside_runs=whole.working,
        ),
        row("the fixed start of that run", [run["start"] for run in runs]),
        row("`prepare` after the photos were added", [run["prepare"] for run in runs]),
    ]


def _kill_rows(runs: list[dict[str, float]], whole: Whole) -> list[Row]:
    return [
        row(
            "killed at half and run again, both together",
            [run["seconds"] for run in runs],
            beside="undisturbed",
            beside_runs=whole.wall,
        ),
        row(
            "images computed again after the kill",
            [run["again"] for run in runs],
            unit="images",
            note="those an undisturbed run had behind it at that time, less those kept",
        ),
    ]


def _left_row(whole: Whole) -> Row:
    what = "time left, how wrong at most from the first tenth on"
    expected = "median <= 0.2"
    if not whole.worst:
        return row(what, [], unit="share", expected=expected, note="no time left is shown")
    note = "share of what was really left; at all tenths: "
    mean = sum(whole.errors) / len(whole.errors)
    return row(
        what, whole.worst, unit="share", expected=expected, note=f"{note}{mean:.2f} on average"
    )


def _whole(desk: Desk, whole: Whole) -> dict[str, float]:
    """Every photo, an empty store, on a terminal."""
    with desk.empty_store() as store:
        watched = progress.watch(desks.command(), desk.project.folder, desks.environment(store))
    if watched.code:
        raise RuntimeError("\n".join(text for _, text in watched.lines))
    run = noted(desk.project)
    errors = progress.errors(watched.lines, watched.seconds)
    whole.wall.append(watched.seconds)
    whole.start.append(run["start_seconds"])
    whole.working.append(run["seconds"] - run["start_seconds"])
    whole.errors += errors
    whole.worst += [max(errors)] if errors else []
    return {}


def _killed(desk: Desk, whole: Whole) -> dict[str, float]:
    """SIGKILL when half of the images should be done, then the same command again."""
    start, working = whole.start[-1], whole.working[-1]
    half = start + working / 2
    with desk.empty_store() as store:
        begun = time.perf_counter()
        process = subprocess.Popen(
            desks.command(),
            cwd=desk.project.folder,
            env=desks.environment(store),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(half)
        _kill(process)
        first = time.perf_counter() - begun
        second = seconds_of(lambda: extract(desk.project, store))
        run = noted(desk.project)
    done = desk.scale.images * (first - start) / working
    return {"seconds": first + second, "again": max(0.0, done - run["reused"])}


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill the process alone; return when its children have noticed."""
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    if process.wait() != SIGKILLED:
        raise RuntimeError("the run ended before it was killed; measure more images")
    psutil.wait_procs(children, timeout=10)


def _idle(desk: Desk, store: Path) -> float:
    seconds = seconds_of(lambda: extract(desk.project, store))
    if noted(desk.project)["computed"]:
        raise RuntimeError("a run with nothing to do computed something")
    return seconds


@dataclass
class _Grown:
    """A second project, whose photos grow; the files of the first are linked, not copied."""

    project: Project
    photos: Path
    count: int

    @classmethod
    def of(cls, desk: Desk) -> "_Grown":
        photos = desk.folder / "grown-photos"
        shutil.copytree(desk.photos, photos, copy_function=os.link)
        project = Project(desk.folder / "grown")
        shutil.copytree(desk.project.folder, project.folder, symlinks=True)
        project.edit(lambda params: params["data"].update(path=str(photos)))
        desks.stage(project, "prepare")
        return cls(project, photos, desk.scale.images)

    def add(self, desk: Desk, store: Path) -> dict[str, float]:
        numbers = range(self.count, self.count + desk.scale.more)
        images.write(desk.originals, self.photos, numbers)
        self.count = numbers.stop
        prepare = seconds_of(lambda: desks.stage(self.project, "prepare"))
        run = extract(self.project, store)
        if run["computed"] != desk.scale.more:
            raise RuntimeError(f"{run['computed']} photos were embedded, not {desk.scale.more}")
        start = run["start_seconds"]
        return {"working": run["seconds"] - start, "start": start, "prepare": prepare}
