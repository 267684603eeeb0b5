"""The workers of a Dask scheduler, asked by futures that are bound to one worker each."""

import queue
import secrets
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any

from pipeline.cluster.hands import Hand, Outcome
from pipeline.cluster.work import GO_ON, Seat
from pipeline.errors import ClusterError, HeadstartError

FETCHERS = 8
"""Results that come over at once."""

_DEATHS = {"KilledWorker", "NoValidWorkerError", "NoWorkerError"}
"""What Dask says of a call whose worker is gone, by its settings."""

_CUT = "CommClosedError"
"""What it raises where a connection breaks."""

FETCH_SECONDS = 5.0
"""How long a result may take to come over, before it is looked whether its worker is there."""

PAUSED_SECONDS = 5.0
"""How often it is looked whether workers are paused: what is told of each then is a kilobyte."""


@contextmanager
def hands_of(client: Any, place: str, start: str = "") -> Iterator["DaskHands"]:
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
            # or the scheduler went while it sent what the task had returned
            cut = type(error).__name__ == _CUT and future.status != "error"
            lost = cut or future.cancelled()
            return Outcome(ticket, error=_SchedulerLost() if lost else error)
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
    return ClusterError(f"the Dask scheduler went away ({reason_of(error)}); {GO_ON}")


def reason_of(error: BaseException | str) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
