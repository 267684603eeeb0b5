"""Memory against the number of images: an extraction and its children, small images, no weights."""

import re
import subprocess
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil

from benchmarks import desk as desks
from benchmarks import images
from benchmarks.desk import Desk
from benchmarks.measuring import interleaved
from benchmarks.table import Row, row
from tests.conftest import Project, make_project, use_pixels

BACKBONE = "raw"
SIZE = (48, 36)
POLL = 0.02
SETTLED = 0.25
"""Seconds. Children that live shorter are not looked at."""

RUNS = 3
"""Enough: unlike seconds, these differ by a few MiB."""

MIB = 1 << 20


@dataclass(frozen=True)
class Peak:
    """MiB of a process and its children. resident: peaks (VmHWM) added up; own: anonymous ones."""

    resident: float
    own: float


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    projects = {count: _project(desk, count) for count in desk.scale.memory}
    subjects = {str(count): partial(_extract, desk, project) for count, project in projects.items()}
    peaks = interleaved(subjects, min(RUNS, desk.scale.runs))
    *few, before, most = desk.scale.memory
    return [
        *(_row(f"peak memory, {count} images", peaks[str(count)], None) for count in few),
        _row(f"peak memory, {before} images", peaks[str(before)], None),
        _row(f"peak memory, {most} images", peaks[str(most)], (before, peaks[str(before)])),
    ]


def _row(what: str, peaks: list[Peak], beside: tuple[int, list[Peak]] | None) -> Row:
    own = sorted(peak.own for peak in peaks)[len(peaks) // 2]
    runs = [peak.resident for peak in peaks]
    note = f"{own:.0f} MiB of it anonymous, the rest mapped files"
    if beside is None:
        return row(what, runs, unit="MiB", note=note)
    count, others = beside
    return row(
        what,
        runs,
        unit="MiB",
        expected="ratio <= 1.1",
        beside=f"{count} images",
        beside_runs=[peak.resident for peak in others],
        note=note,
    )


def _project(desk: Desk, count: int) -> Project:
    photos = desk.folder / f"small-{count}"
    images.write([images.generated(seed, SIZE) for seed in range(24)], photos, range(count))
    project = make_project(desk.folder / f"memory-{count}")

    def change(params: dict) -> None:
        use_pixels(params)
        params["data"]["path"] = str(photos)

    project.edit(change)
    desks.stage(project, "prepare")
    desks.stage(project, "freeze", BACKBONE)
    return project


def _extract(desk: Desk, project: Project) -> Peak:
    with desk.empty_store() as store:
        process = subprocess.Popen(
            desks.command(BACKBONE),
            cwd=project.folder,
            env=desks.environment(store),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        peak = watch(process)
        if process.returncode:
            raise RuntimeError(process.stderr.read().decode())
    return peak


def watch(process: subprocess.Popen) -> Peak:
    """Poll until the process ends; what ends between two looks was seen at the one before."""
    root = psutil.Process(process.pid)
    seen: dict[int, float] = {}
    resident: dict[int, float] = {}
    own = 0.0
    while process.poll() is None:
        together = 0.0
        for pid in (root.pid, *_settled(root, seen)):
            high, anonymous = _status(pid)
            resident[pid] = high or resident.get(pid, 0.0)
            together += anonymous
        own = max(own, together)
        time.sleep(POLL)
    return Peak(sum(resident.values()) / MIB, own / MIB)


def _settled(root: psutil.Process, seen: dict[int, float]) -> list[int]:
    """The children that have been seen for a while.

    One that has just begun shares its parent's memory until it runs a program of its own.
    """
    now = time.monotonic()
    try:
        children = [child.pid for child in root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
    return [pid for pid in children if now - seen.setdefault(pid, now) >= SETTLED]


def _status(pid: int) -> tuple[float, float]:
    """Bytes: the highest resident set so far, and the anonymous part of the present one."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0, 0.0
    found = dict(re.findall(r"^(VmHWM|RssAnon):\s+(\d+) kB", text, re.MULTILINE))
    return float(found.get("VmHWM", 0)) * 1024, float(found.get("RssAnon", 0)) * 1024
