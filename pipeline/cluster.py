"""Where work runs: threads of this process, or Dask. The only module that imports Dask."""

import logging
import math
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from itertools import islice
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pipeline import cgroups
from pipeline.errors import ClusterError, ConfigurationError, HeadstartError
from pipeline.params import ExecutionParams

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 3
LOOPBACK = "127.0.0.1"
TIMEOUT = "10s"
"""How long a scheduler may take to answer."""

PATIENCE = 60.0
"""Seconds without a result after which it is asked whether any worker is left."""

_GO_ON = "what is stored stays, run the same command to go on"
_ENCRYPTED = {"tls", "wss"}


@dataclass(frozen=True)
class Cluster:
    """Something that runs tasks.

    slots: how many at once; threads: how many of them in one process; place: where, in words.
    """

    slots: int
    threads: int
    place: str
    _executor: Executor
    _left: Callable[[], int]

    def run(self, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
        """Call `function` on each task; yields results as they come, some tasks in flight.

        Raises what a task raises, and ClusterError where the cluster itself is lost. Tasks that
        wait are cancelled, and running threads awaited, as the cluster closes.
        """
        queue = iter(tasks)
        guarded = partial(_guarded, function)
        pending: set[Future[Result | HeadstartError]] = set()
        while True:
            for task in islice(queue, 2 * self.slots - len(pending)):
                pending.add(self._executor.submit(guarded, task))
            if not pending:
                return
            done, pending = wait(pending, PATIENCE, return_when=FIRST_COMPLETED)
            if not done and not self._left():
                raise ClusterError(f"no worker is left ({self.place}); {_GO_ON}")
            for future in done:
                yield _result(future)


def cores() -> int:
    """How many CPU cores this process may use, by its affinity and its container's quota."""
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    allowed = cgroups.cores_allowed()
    return there if allowed is None else max(1, min(there, math.ceil(allowed)))


def is_here(execution: ExecutionParams) -> bool:
    """Whether the work runs in this process."""
    return not _address(execution) and execution.workers in ("auto", 0)


def _address(execution: ExecutionParams) -> str | None:
    return execution.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS")


@contextmanager
def open_cluster(execution: ExecutionParams, *, here: int | None = None) -> Iterator[Cluster]:
    """The cluster that the `execution:` block or DASK_SCHEDULER_ADDRESS asks for.

    here: threads, where it is this process; otherwise as many as execution says, or cores.
    Raises ClusterError where a scheduler cannot be reached.
    """
    if address := _address(execution):
        with _existing(address) as cluster:
            yield cluster
    elif execution.workers in ("auto", 0):
        threads = here or (cores() if execution.threads == "auto" else execution.threads)
        pool = ThreadPoolExecutor(threads)
        try:
            yield Cluster(
                threads, threads, f"{threads} threads of this process", pool, lambda: threads
            )
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        with _local(int(execution.workers), execution) as cluster:
            yield cluster


@contextmanager
def _local(workers: int, execution: ExecutionParams) -> Iterator[Cluster]:
    from dask.distributed import Client, LocalCluster

    spread = max(1, cores() // workers)
    threads = spread if execution.threads == "auto" else execution.threads
    with _interrupts_wait():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=f"{LOOPBACK}:0",
            silence_logs=logging.CRITICAL,  # workers told to end complain at length
        )
    with (
        cluster as local,
        Client(local) as client,
        _executor(client) as executor,
    ):
        place = f"{workers} local workers"
        yield Cluster(workers * threads, threads, place, executor, lambda: _threads(client))


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back for as long: Dask cannot be stopped while it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _existing(address: str) -> Iterator[Cluster]:
    from dask.distributed import Client

    _refuse_open_network(address)
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ClusterError(
            f"no Dask scheduler answers at {address} ({reason}); start it with "
            "'dask scheduler' or correct execution.scheduler"
        ) from None
    with client, _executor(client) as executor:
        threads = _threads(client)
        if not threads:
            raise ClusterError(f"{address} has no worker; start some with 'dask worker {address}'")
        workers = len(client.nthreads())
        place = f"{workers} workers of {address}"
        yield Cluster(
            threads, max(1, threads // workers), place, executor, lambda: _threads(client)
        )


@contextmanager
def _executor(client: Any) -> Iterator[Executor]:
    executor = client.get_executor(pure=False, retries=RETRIES)
    try:
        yield executor
    finally:
        executor.shutdown(wait=False)  # cancels what is left


def _threads(client: Any) -> int:
    return sum(client.nthreads().values())


def _refuse_open_network(address: str) -> None:
    """Dask carries code to run: unencrypted and unauthenticated, only loopback may."""
    scheme, _, rest = address.rpartition("://")
    scheme = scheme or "tcp"  # as Dask reads a bare host:port
    if scheme not in _ENCRYPTED and not _is_loopback(urlsplit(f"//{rest}").hostname or ""):
        raise ConfigurationError(
            f"execution.scheduler: {address} is plain {scheme} over a network; use tls://"
        )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _guarded(function: Callable[[Task], Result], task: Task) -> Result | HeadstartError:
    """A user's error as a value: to Dask it would be a crash to log at length and retry."""
    try:
        return function(task)
    except HeadstartError as error:
        return error


def _result(future: Future[Result | HeadstartError]) -> Result:
    try:
        result = future.result()
    except (OSError, MemoryError):
        raise
    except Exception as error:
        lost = isinstance(error, CancelledError)
        if lost or type(error).__module__.startswith("distributed"):
            reason = " ".join(str(error).split())[:200] or "its scheduler went away"
            raise ClusterError(f"the Dask cluster lost a task ({reason}); {_GO_ON}") from None
        raise
    if isinstance(result, HeadstartError):
        raise result
    return result
