"""What is left to do: new tasks, those that a worker lost, and those that are suspected of its end.

A task that lost two workers is done alone on a worker, once there is nothing else to do, and
parted until the part that ends its worker is as small as can be. So a poisonous task takes no
other with it, and of a large one only the poisonous part is lost.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.cluster.work import Work

DEATHS = 2
"""Workers that may end under a task before it is done alone, and alone before it is lost."""


@dataclass
class Job:
    """A task. deaths: of workers that had it; alone: of those that had nothing else."""

    task: Any
    deaths: int = 0
    alone: int = 0


@dataclass
class Jobs:
    """The jobs of a run. given_up: results of tasks that are lost; exhausted: no task is new."""

    work: Work[Any, Any]
    tasks: Iterator[Any]
    exhausted: bool = False
    given_up: deque[Any] = field(default_factory=deque)
    _again: deque[Job] = field(default_factory=deque)
    _suspects: deque[Job] = field(default_factory=deque)

    @property
    def done(self) -> bool:
        """Whether nothing is left but what workers have."""
        return self.exhausted and not self._again and not self._suspects

    def next(self) -> Job | None:
        """One that may be done beside others."""
        if self._again:
            return self._again.popleft()
        if not self.exhausted:
            for task in self.tasks:
                return Job(task)
            self.exhausted = True
        return None

    def suspect(self) -> Job | None:
        """One that is to be done alone; only once no other is left."""
        return self._suspects.popleft() if self._suspects else None

    def again(self, jobs: Iterable[Job]) -> None:
        """Take back what a worker could not do, for no fault of theirs."""
        self._again.extend(jobs)

    def lost(self, jobs: Iterable[Job], *, alone: bool) -> None:
        """Take back what a worker had as it ended. alone: whether it had nothing else."""
        for job in jobs:
            job.deaths += 1
            if alone:
                self._accuse(job)
            elif job.deaths >= DEATHS:
                self._suspects.append(job)
            else:
                self._again.append(job)

    def _accuse(self, job: Job) -> None:
        job.alone += 1
        parts = self.work.part(job.task)
        if parts:
            self._suspects.extendleft(Job(part) for part in reversed(parts))
        elif job.alone < DEATHS:
            self._suspects.appendleft(job)
        else:
            words = f"its worker ended {job.alone} times while nothing else was worked on"
            self.given_up.append(self.work.lost(job.task, words))
