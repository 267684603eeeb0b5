"""Dask: a cluster of one's own, or an existing one. The only module that imports it."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from pathlib import Path

from pipeline.cluster.addresses import LOOPBACK, address_of, asked_for, setting
from pipeline.cluster.crew import Crew
from pipeline.cluster.futures import DaskHands, hands_of, reason_of
from pipeline.errors import ClusterError, ConfigurationError
from pipeline.params import ExecutionParams

_UNWATCHED = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "5s",
}
"""A worker's stacks looked at a hundred times a second would be for a report that nobody asked for."""

TIMEOUT = "10s"
"""How long a scheduler may take to answer."""


@contextmanager
def connect(execution: ExecutionParams, *, cores: int, report: Path | None) -> Iterator[Crew]:
    """The workers that execution asks for.

    cores: to be shared out among workers of one's own; report: where a performance report is
    written, if any. Raises ConfigurationError and ClusterError.
    """
    asked = asked_for(execution)
    opened = (
        _existing(asked, address_of(asked, execution), execution)
        if asked
        else _local(int(execution.workers), execution, cores)
    )
    with opened as hands, _reported(report):
        yield Crew(hands, execution.patience)


@contextmanager
def _local(workers: int, execution: ExecutionParams, cores: int) -> Iterator[DaskHands]:
    import dask
    from dask.distributed import Client, LocalCluster

    spread = max(1, cores // workers)
    threads = spread if execution.threads == "auto" else execution.threads
    settings = {} if execution.performance_report else _UNWATCHED
    with dask.config.set(settings), _interrupts_wait():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=0,  # an even share of it may be less than a model takes
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=f"{LOOPBACK}:0",
            silence_logs=logging.CRITICAL,  # workers told to end complain at length
        )
    with cluster as local, Client(local) as client, hands_of(client, "local workers") as hands:
        hands.own = True
        yield hands


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back for as long, and from what is started for good: it is ours to end.

    Dask cannot be stopped while it starts. Python's tracker of resources, started by the first
    process that is, would let Ctrl-C through again.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _existing(asked: str, address: str, execution: ExecutionParams) -> Iterator[DaskHands]:
    from dask.distributed import Client

    _quiet()
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, AssertionError) as error:
        # an AssertionError is Dask's own, now and then, of a loop that has ended before it looks
        where = address if asked == address else f"{address} ({asked})"
        raise ClusterError(
            f"no Dask scheduler answers at {where} ({reason_of(error)}); {_advice(address, execution)}"
        ) from None
    try:
        with hands_of(client, f"workers of {address}", f"dask worker {address}") as hands:
            yield hands
    finally:
        with suppress(OSError, RuntimeError):
            client.close(timeout=TIMEOUT)


def _quiet() -> None:
    """A lost scheduler is told once, by us."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _advice(address: str, execution: ExecutionParams) -> str:
    if address.startswith("tls://"):
        names = (f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT"))
        return (
            f"start it with 'dask scheduler --protocol tls …', and set {', '.join(names)} and "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY here (docs/workers.md)"
        )
    return f"start it with 'dask scheduler' or correct {setting(execution)}"


@contextmanager
def _reported(path: Path | None) -> Iterator[None]:
    """Have the scheduler write what it saw as an HTML page; of a run that fails there is none."""
    if path is None:
        yield
        return
    from dask.distributed import performance_report

    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "execution.performance_report needs bokeh, here and at the scheduler; "
            "run 'python -m pip install bokeh'"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    seen = performance_report(filename=str(beside))
    try:
        seen.__enter__()
        yield
        seen.__exit__(None, None, None)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
