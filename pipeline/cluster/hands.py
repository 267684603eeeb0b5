"""What a crew asks of a scheduler, whichever it is."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.cluster.work import Seat


@dataclass(frozen=True)
class Outcome:
    """What became of a call: its value, its error, or that its worker ended."""

    ticket: Hashable
    value: Any = None
    error: BaseException | None = None
    died: bool = False


@dataclass(frozen=True)
class Hand:
    """A worker as its scheduler knows it. threads: of its process."""

    address: str
    name: str
    seat: Seat
    threads: int

    def __str__(self) -> str:
        return self.address if self.name == self.address else f"{self.name} ({self.address})"


class Hands(Protocol):
    """The workers of a scheduler. Its methods raise ClusterError where it is lost.

    place: whose workers, in words; start: a command that starts one.
    """

    place: str
    start: str

    def here(self) -> dict[str, Hand]:
        """The workers there are, by address."""

    def call(self, address: str, function: Callable[[], Any]) -> Hashable:
        """Have a worker call a function; a ticket for its outcome."""

    def outcome(self, seconds: float) -> Outcome | None:
        """What became of some call; None where none ended within so many seconds."""

    def forget(self, ticket: Hashable) -> None:
        """Have no outcome of a call."""
