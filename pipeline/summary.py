"""What an extraction did: counts, seconds by phase, and how it is told."""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from pipeline import dataset
from pipeline.worker import PHASES


@dataclass
class Summary:
    """What artifacts/runs/extract-<b>.json holds; see `extraction.extract`."""

    images: int
    computed: int = 0
    reused: int = 0
    failed: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    images_per_second: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PHASES, "wait"), 0.0))
    verdict: str = ""

    def add(self, more: "Summary") -> None:
        """Take in what was computed; `images` and `reused` stay."""
        self.computed += more.computed
        self.failed += more.failed
        self.start_seconds = self.start_seconds or more.start_seconds
        self.verdict = self.verdict or more.verdict
        for phase, seconds in more.phases.items():
            self.phases[phase] += seconds

    def finish(self) -> None:
        """Note that the run is over."""
        self.seconds = time.time() - process_start()
        working = self.seconds - self.start_seconds
        self.images_per_second = self.computed / working if self.computed else 0.0


def process_start() -> float:
    """When this process began, as a time.time()."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # no Linux; there, psutil is off by up to a second
        return float(psutil.Process().create_time())
    return time.time() - age


def describe(name: str, summary: Summary, listed: Path) -> str:
    """What was embedded and what could not be, in a few lines for the terminal.

    listed: the problems.csv beside the embeddings.
    """
    counts = (
        f"{name}: {summary.images} images, {summary.computed} computed, {summary.reused} reused, "
        f"{summary.failed} failed, {summary.seconds:.1f} s"
        + (f", {summary.images_per_second:.0f} images/s" if summary.computed else "")
    )
    said = [f"  {summary.verdict}"] if summary.verdict else []
    problems = dataset.read_problems(listed)
    file = f"artifacts/embeddings/{listed.name}"
    return "\n".join([counts, *said, *dataset.problem_table(problems, file)])
