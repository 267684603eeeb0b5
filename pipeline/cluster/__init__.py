"""Where work runs: threads of this process, or the workers of a Dask cluster.

work.py        what is done with a task, and what becomes of one whose worker ends
here.py        threads of this process
addresses.py   which scheduler is asked for, and which are refused
scheduler.py   Dask: a cluster of one's own or an existing one
futures.py     its workers, asked by futures that are bound to one worker each
hands.py       what a crew asks of any scheduler
crew.py        which worker does what: who is admitted, who is left out
jobs.py        what is left to do, what is done again, and what ended a worker
"""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.cgroups import cores
from pipeline.cluster.addresses import asked_for
from pipeline.cluster.here import Threads
from pipeline.cluster.work import Ready, Result, Seat, Task, Work

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

__all__ = ["Cluster", "Ready", "Seat", "Work", "cores", "is_elsewhere", "is_here", "open_cluster"]


class Cluster(Protocol):
    """Something that runs tasks. ready: what it can do now, nothing before `run`; place: in words."""

    @property
    def ready(self) -> Ready: ...
    @property
    def place(self) -> str: ...

    def run(self, work: Work[Task, Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """Do each task; yields results as they come, some tasks in flight.

        Raises what a task raises, and ClusterError where the cluster itself is lost. Tasks that
        wait are cancelled, and running threads awaited, as the iterator is closed.
        """


def is_here(execution: "ExecutionParams") -> bool:
    """Whether the work runs in this process."""
    return not asked_for(execution) and execution.workers in ("auto", 0)


def is_elsewhere(execution: "ExecutionParams") -> bool:
    """Whether the work runs on an existing cluster."""
    return bool(asked_for(execution))


@contextmanager
def open_cluster(execution: "ExecutionParams", *, report: Path | None = None) -> Iterator[Cluster]:
    """The cluster that the `execution:` block, DASK_SCHEDULER_ADDRESS or a scheduler file asks for.

    report: where Dask's performance report is written, if execution asks for one. Raises ConfigurationError where an address is refused,
    ClusterError where no scheduler answers.
    """
    if is_here(execution):
        yield Threads()
        return
    from pipeline.cluster import scheduler

    wanted = report if execution.performance_report else None
    with scheduler.connect(execution, cores=cores(), report=wanted) as crew:
        yield crew
