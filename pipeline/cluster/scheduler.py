"""Dask: a cluster of one's own, or an existing one. The only module that imports it."""

import logging
import os
import queue
import secrets
import signal
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

from pipeline.cluster.addresses import LOOPBACK, address_of, asked_for, setting
from pipeline.cluster.crew import Crew, Hand, Outcome
from pipeline.cluster.work import GO_ON, Seat
from pipeline.errors import ClusterError, ConfigurationError, HeadstartError
from pipeline.params import ExecutionParams

TIMEOUT = "10s"
"""How long a scheduler may take to answer."""

FETCHERS = 8
"""Results that come over at once."""

_DEATHS = {"KilledWorker", "NoValidWorkerError", "NoWorkerError"}
"""What Dask says of a call whose worker is gone, by its settings."""

FETCH_SECONDS = 5.0
"""How long a result may take to come over, before it is looked whether its worker is there."""

PAUSED_SECONDS = 5.0
"""How often it is looked whether workers are paused: what is told of each then is a kilobyte."""


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
def _local(workers: int, execution: ExecutionParams, cores: int) -> Iterator["DaskHands"]:
    from dask.distributed import Client, LocalCluster

    spread = max(1, cores // workers)
    threads = spread if execution.threads == "auto" else execution.threads
    with _interrupts_wait():
        cluster = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            memory_limit=0,  # an even share of it may be less than a model takes
            host=LOOPBACK,
            dashboard_address=f"{LOOPBACK}:0",
            worker_dashboard_address=f"{LOOPBACK}:0",
            silence_logs=logging.CRITICAL,  # workers told to end complain at length
        )
    with cluster as local, Client(local) as client, _hands(client, "local workers") as hands:
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
def _existing(asked: str, address: str, execution: ExecutionParams) -> Iterator["DaskHands"]:
    from dask.distributed import Client

    _quiet()
    try:
        client = Client(address, timeout=TIMEOUT)
    except (OSError, ValueError, TypeError, ImportError, RuntimeError, AssertionError) as error:
        # an AssertionError is Dask's own, now and then, of a loop that has ended before it looks
        where = address if asked == address else f"{address} ({asked})"
        raise ClusterError(
            f"no Dask scheduler answers at {where} ({_reason(error)}); {_advice(address, execution)}"
        ) from None
    try:
        with _hands(client, f"workers of {address}", f"dask worker {address}") as hands:
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


@contextmanager
def _hands(client: Any, place: str, start: str = "") -> Iterator["DaskHands"]:
    fetchers = ThreadPoolExecutor(FETCHERS, "headstart-fetch")
    try:
        yield DaskHands(client, place, start or "the same command again", fetchers)
    finally:
        fetchers.shutdown(wait=False, cancel_futures=True)


@dataclass
class DaskHands:
    """The workers of a Dask scheduler; see `pipeline.cluster.crew.Hands`.

    A paused one, whose memory Dask finds too full, is not there: it begins nothing that it is given.
    own: whether it was started for this run.
    """

    client: Any
    place: str
    start: str
    fetchers: ThreadPoolExecutor
    own: bool = False
    _known: dict[str, Hand] = field(default_factory=dict)
    _look_closer: float = float("-inf")
    _at: dict[Hashable, Any] = field(default_factory=dict)
    _ended: "queue.SimpleQueue[Outcome]" = field(default_factory=queue.SimpleQueue)
    _numbers: Iterator[int] = field(default_factory=count)
    _mark: str = field(default_factory=lambda: secrets.token_hex(8))  # of drivers on one scheduler

    def here(self) -> dict[str, Hand]:
        try:
            threads = self.client.nthreads()
            if threads.keys() != self._known.keys() or time.monotonic() > self._look_closer:
                self._known = self._running(self.client.scheduler_info()["workers"])
                self._look_closer = time.monotonic() + PAUSED_SECONDS
        except (OSError, RuntimeError) as error:
            raise _lost(error) from None
        return {address: self._known[address] for address in threads if address in self._known}

    def _running(self, about: dict[str, dict[str, Any]]) -> dict[str, Hand]:
        able = {address: each for address, each in about.items() if each["status"] == "running"}
        return {address: self._hand(address, each) for address, each in able.items()}

    def _hand(self, address: str, about: dict[str, Any]) -> Hand:
        threads, name = int(about["nthreads"]), about["name"]
        seat = Seat(threads, name if self.own and isinstance(name, int) else 0)
        return Hand(address, str(name), seat, threads)

    def call(self, address: str, function: Callable[[], Any]) -> Hashable:
        ticket = f"headstart-{self._mark}-{next(self._numbers)}"
        try:
            future = self.client.submit(
                _guarded, function, key=ticket, workers=[address], pure=False
            )
        except (OSError, RuntimeError) as error:
            raise _lost(error) from None
        self._at[ticket] = future
        future.add_done_callback(partial(self._fetch, ticket, address))
        return ticket

    def _fetch(self, ticket: Hashable, address: str, future: Any) -> None:
        """Have the outcome come over; a way of some milliseconds, several at once."""

        def come() -> None:
            outcome = self._outcome(ticket, address, future)
            if outcome is None:  # behind the others, that those of one lost host hold up none
                self._fetch(ticket, address, future)
            else:
                self._ended.put(outcome)

        with suppress(RuntimeError):  # the crew was dismissed
            self.fetchers.submit(come)

    def outcome(self, seconds: float) -> Outcome | None:
        try:
            outcome = self._ended.get(timeout=seconds)
        except queue.Empty:
            return None
        if outcome.ticket not in self._at:
            return None
        self.forget(outcome.ticket)
        if isinstance(outcome.error, _SchedulerLost):
            raise _lost("its connection was lost")
        return outcome

    def _outcome(self, ticket: Hashable, address: str, future: Any) -> Outcome | None:
        """None where it is late."""
        try:
            value = future.result(timeout=FETCH_SECONDS)
        except TimeoutError as error:
            if future.status == "error":  # the task's own, of a disk that does not answer
                return Outcome(ticket, error=error)
            if not self._is_there(address):  # it ended, then its worker, before it came over
                return Outcome(ticket, died=True)
            return None
        except BaseException as error:  # noqa: BLE001 - whatever a task raised
            if type(error).__name__ in _DEATHS:
                return Outcome(ticket, died=True)
            return Outcome(ticket, error=_SchedulerLost() if future.cancelled() else error)
        if isinstance(value, HeadstartError):
            return Outcome(ticket, error=value)
        return Outcome(ticket, value=value)

    def _is_there(self, address: str) -> bool:
        try:
            return address in self.client.nthreads()
        except (OSError, RuntimeError):
            return True  # the scheduler is gone, which the future will tell

    def forget(self, ticket: Hashable) -> None:
        future = self._at.pop(ticket, None)
        if future is not None:
            future.release()


class _SchedulerLost(Exception):  # noqa: N818 - a mark on the way from one thread to another
    """A future that nobody of us has cancelled."""


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
