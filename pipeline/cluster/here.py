"""Threads of this process."""

from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from pipeline.cluster.work import Ready, Result, Seat, Task, Work


@dataclass
class Threads:
    """A `pipeline.cluster.Cluster` of threads; how many, the work itself tells."""

    ready: Ready = field(default_factory=lambda: Ready(0))

    @property
    def place(self) -> str:
        """Where, in words."""
        return f"{self.ready.slots} threads of this process"

    def run(self, work: Work[Task, Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """See `pipeline.cluster.Cluster`."""
        seat = Seat()
        self.ready = work.ready(seat)
        slots = self.ready.slots
        queue, pool = iter(tasks), ThreadPoolExecutor(slots)
        pending: set[Future[Result]] = set()
        try:
            while True:
                room = 2 * slots - len(pending)
                pending |= {pool.submit(work.do, task, seat) for task in islice(queue, room)}
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            work.stop()  # before threads are waited for: Ctrl-C is heard at once
            pool.shutdown(cancel_futures=True)
