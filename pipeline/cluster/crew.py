"""Which worker does what: who is admitted, who is left out, and what is done again.

Each task goes to one worker by name, so that it is known which tasks a worker had when it ended.
"""

import sys
import time
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from tqdm import tqdm

from pipeline.cluster.hands import Hand, Hands, Outcome
from pipeline.cluster.jobs import Job, Jobs
from pipeline.cluster.work import GO_ON, Ready, Result, Task, Work, together
from pipeline.errors import ClusterError, DeviceMemoryError, ResourceError

LOOK_SECONDS = 1.0
"""How often it is looked which workers there are."""

WAIT_SECONDS = 0.2
"""The same while there is none that can work."""

LATE_SECONDS = 3.0
"""After so long without a worker it is said that one is waited for."""

DRAIN_SECONDS = 60.0
"""How long the tasks at hand may take to end, where a GPU's memory ran out under one of them."""

LOADING_SECONDS = 30.0
"""After so long it is said that a worker still gets ready."""

LOADING_DEATHS = 3
"""Workers that may end while they get ready, where none ever was and no more are there."""


@dataclass
class Crew:
    """A `pipeline.cluster.Cluster` of workers. patience: seconds without any before it is lost."""

    hands: Hands
    patience: float
    ready: Ready = field(default_factory=lambda: Ready(0))
    workers: int = 0

    @property
    def place(self) -> str:
        """Where, in words."""
        place = self.hands.place
        return (
            f"1 {place.replace('workers', 'worker', 1)}"
            if self.workers == 1
            else f"{self.workers} {place}"
        )

    def ask(self, function: Callable[[], Any], seconds: float) -> dict[str, Outcome | None]:
        """Have every worker call a function; by its name what came of it, None where nothing did."""
        hands = self.hands.here().values()
        asked = {self.hands.call(hand.address, function): str(hand) for hand in hands}
        answers = dict[str, Outcome | None].fromkeys(asked.values())
        end = time.monotonic() + seconds
        while asked and (left := end - time.monotonic()) > 0:
            if outcome := self.hands.outcome(left):
                answers[asked.pop(outcome.ticket)] = outcome
        for ticket in asked:
            self.hands.forget(ticket)
        return answers

    def run(self, work: Work[Task, Result], tasks: Iterable[Task]) -> Generator[Result, None, None]:
        """See `pipeline.cluster.Cluster`."""
        shift = _Shift(self, work, Jobs(work, iter(tasks)))
        try:
            yield from shift.results()
        except DeviceMemoryError:
            shift.drain(DRAIN_SECONDS)  # or two runs' models would be on a GPU that holds one
            raise
        finally:
            shift.end()


@dataclass
class _Member:
    """A worker at work. ready: None until it is; at: what it was given."""

    hand: Hand
    ticket: Hashable
    ready: Ready | None = None
    at: dict[Hashable, Job] = field(default_factory=dict)
    alone: bool = False
    since: float = field(default_factory=time.monotonic)
    told: bool = False

    @property
    def room(self) -> int:
        """What it can be given, some ahead, so that it need not wait for the next."""
        if self.ready is None or self.alone:
            return 0
        slots = self.ready.slots
        return slots + 1 + slots // 4 - len(self.at)


@dataclass
class _Shift:
    """One run of a crew."""

    crew: Crew
    work: Work[Any, Any]
    jobs: Jobs
    members: dict[str, _Member] = field(default_factory=dict)
    refused: dict[str, BaseException] = field(default_factory=dict)
    ever_ready: bool = False
    loading_deaths: int = 0
    looked: float = float("-inf")
    last_seen: float = field(default_factory=time.monotonic)
    waiting: bool = False

    def results(self) -> Iterator[Any]:
        while True:
            self._look()
            self._give()
            while self.jobs.given_up:
                yield self.jobs.given_up.popleft()
            if self._finished():
                return
            able = any(member.ready for member in self.members.values())
            outcome = self.crew.hands.outcome(LOOK_SECONDS if able else WAIT_SECONDS)
            if outcome is not None:
                yield from self._settled(outcome)

    def end(self) -> None:
        """Forget what is in flight, and stop what runs in this process."""
        for member in self.members.values():
            for ticket in (*member.at, *([] if member.ready else [member.ticket])):
                self.crew.hands.forget(ticket)
        self.work.stop()

    def drain(self, seconds: float) -> None:
        """Let what workers have come to its end, without its results."""
        end = time.monotonic() + seconds
        while any(member.at for member in self.members.values()) and time.monotonic() < end:
            outcome = self.crew.hands.outcome(WAIT_SECONDS)
            for member in self.members.values():
                if outcome is not None:
                    member.at.pop(outcome.ticket, None)
            there = self.crew.hands.here() if outcome is None else self.members
            for address in self.members.keys() - there.keys():
                del self.members[address]

    def _finished(self) -> bool:
        return self.jobs.done and not any(member.at for member in self.members.values())

    def _look(self) -> None:
        able = any(member.ready for member in self.members.values())
        if time.monotonic() - self.looked < (LOOK_SECONDS if able else WAIT_SECONDS):
            return
        there = self.crew.hands.here()
        for address in self.members.keys() - there.keys():
            self._lose(self.members[address])
        for address in self.refused.keys() - there.keys():
            del self.refused[address]
        for address in there.keys() - self.members.keys() - self.refused.keys():
            hand = there[address]
            ticket = self.crew.hands.call(address, partial(self.work.ready, hand.seat))
            self.members[address] = _Member(hand, ticket)
        self.looked = time.monotonic()
        for member in self.members.values():
            if not (member.ready or member.told) and self.looked - member.since > LOADING_SECONDS:
                member.told = True
                _say(f"worker {member.hand} gets ready, for {LOADING_SECONDS:g} s by now")
        self._count()
        self._give_up_where_none_is_left(there)

    def _count(self) -> None:
        able = [member.ready for member in self.members.values() if member.ready]
        self.crew.ready, self.crew.workers = together(able), len(able)

    def _give_up_where_none_is_left(self, there: dict[str, Hand]) -> None:
        if self.refused and self.refused.keys() == there.keys() and not self.ever_ready:
            raise next(iter(self.refused.values()))
        if there.keys() - self.refused.keys():
            self.last_seen, self.waiting = time.monotonic(), False
            return
        place, patience = self.crew.hands.place, self.crew.patience
        if time.monotonic() - self.last_seen > patience:
            came = "every worker is gone" if self.ever_ready else "no worker came"
            raise ClusterError(
                f"{came}, of {place}, for {patience:g} s (execution.patience); "
                f"start one with '{self.crew.hands.start}', {GO_ON}"
            )
        late = time.monotonic() - self.last_seen >= min(LATE_SECONDS, patience / 2)
        if late and not self.waiting:
            self.waiting = True
            _say(
                f"none of the {place} is there; waiting {patience:g} s for one, start it with "
                f"'{self.crew.hands.start}'"
            )

    def _give(self) -> None:
        """Hand out what there is to do, one round after the other."""
        given = True
        while given:
            given = False
            for member in self.members.values():
                if member.room > 0 and (job := self._next(member)):
                    call = partial(self.work.do, job.task, member.hand.seat)
                    member.at[self.crew.hands.call(member.hand.address, call)] = job
                    given = True

    def _next(self, member: _Member) -> Job | None:
        if job := self.jobs.next():
            return job
        suspect = None if member.at else self.jobs.suspect()
        member.alone = suspect is not None
        return suspect

    def _settled(self, outcome: Outcome) -> Iterator[Any]:
        for member in self.members.values():
            if not member.ready and outcome.ticket == member.ticket:
                self._admit(member, outcome)
                return
            if outcome.ticket in member.at:
                if outcome.died:
                    self._lose(member)
                    return
                if self._is_the_machines(outcome.error):
                    self._dismiss(member, outcome)
                    return
                del member.at[outcome.ticket]
                member.alone = False
                if outcome.error is not None:
                    raise outcome.error
                yield outcome.value
                return

    def _is_the_machines(self, error: BaseException | None) -> bool:
        """Whether it is short of something that another worker may have."""
        others = sum(1 for member in self.members.values() if member.ready) - 1
        short = isinstance(error, OSError | MemoryError | ResourceError)
        return others > 0 and short and not isinstance(error, DeviceMemoryError)

    def _dismiss(self, member: _Member, outcome: Outcome) -> None:
        """Leave out a worker whose machine is short of something; others do what it had."""
        for ticket in member.at:
            self.crew.hands.forget(ticket)
        self.jobs.again(member.at.values())
        member.at.clear()
        self._refuse(member, outcome)

    def _refuse(self, member: _Member, outcome: Outcome) -> None:
        error = outcome.error or ClusterError("it does not answer")
        del self.members[member.hand.address]
        self.refused[member.hand.address] = error
        _say(f"worker {member.hand} is left out: {_words(error)}")
        self.looked = float("-inf")

    def _admit(self, member: _Member, outcome: Outcome) -> None:
        if outcome.died:
            self._lose(member)
        elif outcome.error is not None:
            self._refuse(member, outcome)
        else:
            slots = max(1, min(outcome.value.slots, member.hand.threads))
            member.ready = replace(outcome.value, slots=slots)
            self.ever_ready = True
            self._count()

    def _lose(self, member: _Member) -> None:
        """A worker ended: what it had is done again, alone where that happened before."""
        del self.members[member.hand.address]
        for ticket in (*member.at, member.ticket):
            self.crew.hands.forget(ticket)
        if not member.ready:
            self._lose_while_loading(member)
            return
        _say(f"worker {member.hand} was lost; its shards are done again ({len(member.at)})")
        self.jobs.lost(member.at.values(), alone=member.alone)

    def _lose_while_loading(self, member: _Member) -> None:
        self.loading_deaths += 1
        _say(f"worker {member.hand} ended while it loaded the backbone")
        if self.loading_deaths >= max(LOADING_DEATHS, len(self.members)) and not self.ever_ready:
            raise ClusterError(
                f"{self.loading_deaths} workers ended while they loaded the backbone, the last was "
                f"{member.hand}; look into their logs, memory is the likeliest cause; {GO_ON}"
            )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _say(text: str) -> None:
    tqdm.write(f"headstart: {text}", file=sys.stderr)
