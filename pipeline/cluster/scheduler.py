"""Dask: a cluster of one's own, or an existing one. The only module that imports it."""

import logging
import os
import queue
import signal
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from pipeline.cluster.addresses import LOOPBACK, VARIABLE, address_of, asked_for
from pipeline.cluster.crew import Crew, Hand, Outcome
from pipeline.cluster.work import GO_ON, Seat
from pipeline.errors import ClusterError, ConfigurationError, HeadstartError
from pipeline.params import ExecutionParams

TIMEOUT = "10s"
"""How long a scheduler may take to answer."""

FETCH_SECONDS = 5.0
"""How long a result may take to come over, before it is looked whether its worker is there."""


@contextmanager
def connect(execution: ExecutionParams, *, cores: int, report: Path | None) -> Iterator[Crew]:
    """The workers that execution asks for.

    cores: to be shared out among workers of one's own; report: where a performance report is
    written, if any. Raises ConfigurationError and ClusterError.
    """
    asked = asked_for(execution)
    opened = (
        _existing(asked, address_of(asked, execution))
        if asked
        else _local(int(execution.workers), execution, cores)
    )
    with opened as hands, _reported(report):
        yield Crew(hands, execution.patience)


@contextmanager
def _local(workers: int, execution: ExecutionParams, cores: int) -> Iterator["DaskHands"]:
    from dask.distributed import Client, LocalCluster

    spread = max(1, cores // workers)
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
    with cluster as local, Client(local) as client:
        yield DaskHands(client, "local workers", own=True)


@contextmanager
def _interrupts_wait() -> Iterator[None]:
    """Hold Ctrl-C back for as long: Dask cannot be stopped while it starts."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _existing(asked: str, address: str) -> Iterator["DaskHands"]:
    from dask.distributed import Client

    _quiet()
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        where = address if asked == address else f"{address} ({asked})"
        raise ClusterError(
            f"no Dask scheduler answers at {where} ({_reason(error)}); {_advice(address)}"
        ) from None
    try:
        yield DaskHands(client, f"workers of {address}", own=False)
    finally:
        with suppress(OSError, RuntimeError):
            client.close(timeout=TIMEOUT)


def _quiet() -> None:
    """A lost scheduler is told once, by us."""
    for name in ("distributed", *logging.root.manager.loggerDict):
        if name.partition(".")[0] == "distributed":
            logging.getLogger(name).setLevel(logging.CRITICAL)


def _advice(address: str) -> str:
    if address.startswith("tls://"):
        names = (f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT"))
        return (
            f"start it with 'dask scheduler --protocol tls …', and set {', '.join(names)} and "
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY here (docs/workers.md)"
        )
    return f"start it with 'dask scheduler' or correct execution.scheduler ({VARIABLE})"


@contextmanager
def _reported(path: Path | None) -> Iterator[None]:
    """Have the scheduler write what it saw as an HTML page."""
    if path is None:
        yield
        return
    from dask.distributed import performance_report

    try:
        import bokeh  # noqa: F401
    except ImportError:
        raise ConfigurationError(
            "execution.performance_report needs bokeh, here and at the scheduler; "
            "run 'pip install bokeh'"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with performance_report(filename=str(beside)):
            yield
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


@dataclass
class DaskHands:
    """The workers of a Dask scheduler; see `pipeline.cluster.crew.Hands`.

    own: whether it was started for this run.
    """

    client: Any
    place: str
    own: bool
    _known: dict[str, Hand] = field(default_factory=dict)
    _at: dict[Hashable, tuple[Any, str]] = field(default_factory=dict)
    _ended: "queue.SimpleQueue[Hashable]" = field(default_factory=queue.SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=count)

    def here(self) -> dict[str, Hand]:
        try:
            threads = self.client.nthreads()
            if threads.keys() - self._known.keys():
                about = self.client.scheduler_info()["workers"]
                self._known = {address: self._hand(address, about[address]) for address in about}
        except (OSError, RuntimeError) as error:
            raise _lost(error) from None
        return {address: self._known[address] for address in threads if address in self._known}

    def _hand(self, address: str, about: dict[str, Any]) -> Hand:
        threads, name = int(about["nthreads"]), about["name"]
        seat = Seat(threads, name if self.own and isinstance(name, int) else 0)
        return Hand(address, str(name), seat, threads)

    def call(self, address: str, function: Callable[[], Any]) -> Hashable:
        ticket = f"headstart-{id(self)}-{next(self._numbers)}"
        try:
            future = self.client.submit(
                _guarded, function, key=ticket, workers=[address], pure=False
            )
        except (OSError, RuntimeError) as error:
            raise _lost(error) from None
        self._at[ticket] = future, address
        future.add_done_callback(lambda _: self._ended.put(ticket))
        return ticket

    def outcome(self, seconds: float) -> Outcome | None:
        try:
            ticket = self._ended.get(timeout=seconds)
        except queue.Empty:
            return None
        if ticket not in self._at:
            return None
        future, address = self._at[ticket]
        outcome = self._outcome(ticket, future, address)
        self.forget(ticket)
        return outcome

    def _outcome(self, ticket: Hashable, future: Any, address: str) -> Outcome:
        while True:
            try:
                value = future.result(timeout=FETCH_SECONDS)
                break
            except TimeoutError:  # it ended, and so did its worker, before the result came over
                if address not in self.here():
                    return Outcome(ticket, died=True)
            except Exception as error:  # noqa: BLE001 - whatever a task raised
                if type(error).__name__ == "KilledWorker":
                    return Outcome(ticket, died=True)
                if future.cancelled():
                    raise _lost("its connection was lost") from None
                return Outcome(ticket, error=error)
        if isinstance(value, HeadstartError):
            return Outcome(ticket, error=value)
        return Outcome(ticket, value=value)

    def forget(self, ticket: Hashable) -> None:
        future, _ = self._at.pop(ticket, (None, ""))
        if future is not None:
            future.release()


def _guarded(function: Callable[[], Any]) -> Any:
    """A user's error as a value: to Dask it would be a crash to log at length."""
    try:
        return function()
    except HeadstartError as error:
        return error


def _lost(error: BaseException | str) -> ClusterError:
    return ClusterError(f"the Dask scheduler went away ({_reason(error)}); {GO_ON}")


def _reason(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
