"""What is done with tasks, wherever that is."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")

GO_ON = "what is stored stays, run the same command to go on"


@dataclass(frozen=True)
class Seat:
    """The share of a machine that a process has.

    threads: how many tasks it may be given at once, None where that is its own choice; gpu: which
    GPU is its own, counted round where there are fewer; None: all of them.
    """

    threads: int | None = None
    gpu: int | None = None


@dataclass(frozen=True)
class Ready:
    """What a process, or all of a cluster's, can do once ready.

    slots: tasks at once; batch: items that are best done at a time; device: `cpu`, or what else
    does the work; devices: how many of those.
    """

    slots: int
    batch: int = 1
    device: str = "cpu"
    devices: int = 1


def together(all_ready: Iterable[Ready]) -> Ready:
    """What several processes can do. Of none: nothing."""
    known = list(all_ready)
    if not known:
        return Ready(0)
    batch = max(each.batch for each in known)
    devices = {each.device for each in known}
    device = devices.pop() if len(devices) == 1 else "cpu"
    used = sum(each.devices for each in known)
    return Ready(sum(each.slots for each in known), batch, device, used)


def _nothing() -> None:
    """End nothing."""


@dataclass(frozen=True)
class Work(Generic[Task, Result]):
    """A kind of task. `ready` and `do` run where the work does and are pickled by their names.

    ready: gets a process ready, once. do: the task. part: smaller tasks for one whose worker ended; none where it is as small as can be. lost: the
    result of such a one, told what became of its workers. stop: ends what runs in this process,
    whose tasks then end without result.
    """

    ready: Callable[[Seat], Ready]
    do: Callable[[Task, Seat], Result]
    part: Callable[[Task], Sequence[Task]]
    lost: Callable[[Task, str], Result]
    stop: Callable[[], None] = _nothing
