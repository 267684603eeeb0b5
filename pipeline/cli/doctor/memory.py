"""Memory, processor cores and open files against what a run takes."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline import cgroups
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning
from pipeline.cli.wording import size
from pipeline.errors import ResourceError

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

PROCESS = 5 * 10**8
"""Bytes that a process with a model takes, about."""

PIXEL = 18
"""Most bytes a pixel while an image is decoded: those of a WebP; see docs/images.md."""

FILES = 1024, 4096
"""Open files that a run may come to need, and what to ask for."""


def memory(place: Place) -> Iterator[Finding]:
    """What is free, and what the processes and the largest images may take."""
    import psutil

    limit = cgroups.memory_left()
    free = psutil.virtual_memory().available
    within = " within this container's limit" if limit is not None and limit < free else ""
    free = min(free, limit) if limit is not None else free
    text = f"{size(free)} free{within}"
    if place.project is None or _is_elsewhere(place.project.params.execution):
        yield ok(text)
        return
    from pipeline.images import MAX_PIXELS

    processes, threads = _spread(place.project.params.execution)
    base, most = processes * PROCESS, processes * PROCESS + threads * MAX_PIXELS * PIXEL
    if free < base:
        text += f"; {processes} worker processes take about {size(base)}"
        least = max(1, free // PROCESS)
        fix = f"in params.yaml, under execution, write workers: {'auto' if least == 1 else least}"
        yield error(text, fix, ResourceError.exit_code)
    elif free < most:
        text += f"; {threads} threads that meet the largest images at once take {size(most)}"
        least = max(1, (free - PROCESS) // (MAX_PIXELS * PIXEL))
        yield warning(text, f"in params.yaml, under execution, write threads: {least}")
    else:
        yield ok(f"{text}; a run takes {size(base)}, at most {size(most)}")


def _is_elsewhere(execution: "ExecutionParams") -> bool:
    from pipeline.cluster import is_elsewhere

    return is_elsewhere(execution)


def _spread(execution: "ExecutionParams") -> tuple[int, int]:
    """Processes, and threads in all, that an extraction runs."""
    from pipeline.cluster import cores

    processes = execution.workers if isinstance(execution.workers, int) else 0
    each = max(1, cores() // max(1, processes))
    threads = execution.threads if isinstance(execution.threads, int) else each
    return max(1, processes), max(1, processes) * threads


def cores(place: Place) -> Iterator[Finding]:
    """Workers and threads against the cores that this process may use."""
    from pipeline.cluster import cores as counted

    usable, allowed = counted(), cgroups.cores_allowed()
    text = f"{usable} for this process"
    execution = place.project.params.execution if place.project else None
    if allowed is not None:
        text += f"; its container may use {allowed:g}"
    if execution is None or _is_elsewhere(execution):
        yield ok(text)
        return
    processes, threads = _spread(execution)
    if threads > usable:
        text += f"; params.yaml runs {threads} threads in {processes} processes, which wait in turn"
        fix = "workers: auto, threads: auto"
        yield warning(text, f"in params.yaml, under execution, write {fix}")
    else:
        yield ok(f"{text}; a run uses {threads} threads")


def open_files(_: Place) -> Iterator[Finding]:
    """How many files this process may hold open."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= FILES[0]:
        yield ok("as many as wanted" if soft == unlimited else f"{soft} may be open at once")
    elif hard != unlimited and hard < FILES[0]:
        fix = f"sudo prlimit --pid $$ --nofile={FILES[1]}"
        yield warning(f"only {soft} may be open at once, and the hard limit is {hard}", fix)
    else:
        most = FILES[1] if hard == unlimited else min(FILES[1], hard)
        yield warning(f"only {soft} may be open at once", f"ulimit -n {most}")
