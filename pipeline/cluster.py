"""Where work runs: threads of this process, or Dask. The only module that imports Dask."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline.errors import ClusterError, ConfigurationError, HeadstartError
from pipeline.params import ExecutionParams

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Cluster:
    """Something that runs tasks. slots: how many at once; place: where, in words."""

    slots: int
    place: str
    _executor: Executor

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Call `function` on each task; yields results as they come, some tasks in flight.

        Raises what a task raises, after the running ones have ended, and ClusterError where
        the cluster itself is lost.
        """
        queue = iter(tasks)
        pending: set[Future[Result]] = set()
        try:
            while True:
                for task in islice(queue, 2 * self.slots - len(pending)):
                    pending.add(self._executor.submit(function, task))
                if not pending:
                    return
                done, pending = wait(pending, return_when=FIRST_COMPLETED)
                for future in done:
                    yield _result(future)
        finally:
            for future in pending:
                future.cancel()


def cores() -> int:
    """How many CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_cluster(execution: ExecutionParams) -> Iterator[Cluster]:
    """The cluster that the `execution:` block or DASK_SCHEDULER_ADDRESS asks for.

    Raises ClusterError where a scheduler cannot be reached.
    """
    address = execution.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        with _existing(address) as cluster:
            yield cluster
    elif execution.workers in ("auto", 0):
        threads = cores() if execution.threads == "auto" else execution.threads
        with ThreadPoolExecutor(threads) as pool:
            yield Cluster(threads, f"{threads} threads of this process", pool)
    else:
        with _local(int(execution.workers), execution) as cluster:
            yield cluster


@contextmanager
def _local(workers: int, execution: ExecutionParams) -> Iterator[Cluster]:
    from dask.distributed import Client, LocalCluster

    spread = max(1, cores() // workers)
    threads = spread if execution.threads == "auto" else execution.threads
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            host=LOOPBACK,
            dashboard_address=None,
            worker_dashboard_address=f"{LOOPBACK}:0",
        ) as local,
        Client(local) as client,
        client.get_executor(pure=False, retries=RETRIES) as executor,
    ):
        yield Cluster(workers * threads, f"{workers} local workers", executor)


@contextmanager
def _existing(address: str) -> Iterator[Cluster]:
    from dask.distributed import Client

    _refuse_open_network(address)
    try:
        client = Client(address, timeout="10s")
    except (OSError, ValueError, TimeoutError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}); start it with "
            "'dask scheduler' or correct execution.scheduler"
        ) from None
    with client, client.get_executor(pure=False, retries=RETRIES) as executor:
        threads = sum(client.nthreads().values())
        if not threads:
            raise ClusterError(f"{address} has no worker; start some with 'dask worker {address}'")
        yield Cluster(threads, f"{len(client.nthreads())} workers of {address}", executor)


def _refuse_open_network(address: str) -> None:
    """Plain tcp carries code to run, unauthenticated: only loopback may use it."""
    url = urlsplit(address)
    if url.scheme == "tcp" and url.hostname not in ("localhost", LOOPBACK, "::1"):
        raise ConfigurationError(
            f"execution.scheduler: {address} is plain tcp over a network; use tls://"
        )


def _result(future: "Future[Any]") -> Any:
    try:
        return future.result()
    except (HeadstartError, OSError, MemoryError):
        raise
    except Exception as error:
        if type(error).__module__.startswith("distributed"):
            raise ClusterError(
                f"the Dask cluster lost a task ({' '.join(str(error).split())[:200]}); what is "
                "stored stays, run the same command to go on"
            ) from None
        raise
