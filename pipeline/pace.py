"""How fast a run goes: the size of its next shard, the time left, and what it waits for."""

import math
import threading
import time
from dataclasses import dataclass
from types import TracebackType

LEAST, MOST = 16, 4096
"""Fewest and most images a shard; the last ones may be fewer."""

SHARD_SECONDS = 3.0
"""What a shard should take: a kill loses no more, and a file of the store is not too small."""

SLOT_SECONDS = 0.005
"""What giving out a shard takes of the driver, at most: one takes that long a slot, or slots wait."""

FULL = 0.85
"""A GPU that has work for this share of the time is what a run hangs on, not what it waits for."""

HARDLY = 0.25
"""What takes a smaller share of the slots' time than this is not what a GPU waits for."""

TAIL = 3
"""At the end a shard is this many times less than each slot's share, so that all end together."""


@dataclass
class Pace:
    """The results of a run so far.

    total: images to embed; slots: shards at once, now; least: images a shard; begun: when the
    first shard was cut, a time.monotonic(); slot_seconds: what the slots had of time until now.
    """

    total: int
    slots: int = 0
    least: int = LEAST
    begun: float | None = None
    done: int = 0
    worked: float = 0.0
    slot_seconds: float = 0.0
    _counted: float = 0.0

    def have(self, slots: int, batch: int) -> None:
        """So many slots there are from now on, and so many images are best done at a time."""
        now = time.monotonic()
        if self.begun is None:
            self.begun = self._counted = now
        self.slot_seconds += (now - self._counted) * self.slots
        self.slots, self.least, self._counted = slots, min(MOST, max(LEAST, batch)), now

    def add(self, images: int, seconds: float) -> None:
        """Take in a shard: how many images, and what they took in their slot."""
        self.done += images
        self.worked += seconds

    def shard_size(self, unassigned: int) -> int:
        """How many images the next shard should have, of those that no shard has yet."""
        rate = self.done / self.worked if self.worked else 0.0
        wanted = int(SHARD_SECONDS * rate) or self.least
        share = math.ceil(unassigned / (TAIL * max(1, self.slots)))
        least = max(self.least, min(MOST, int(SLOT_SECONDS * self.slots * rate)))
        return max(least, min(MOST, wanted, share))

    def left(self) -> float | None:
        """Seconds until the last image, from the seconds an image; None before any is known."""
        if not self.done or not self.slots or self.begun is None:
            return None
        whole = self.total * self.worked / self.done / self.slots
        return max(0.0, self.begun + whole - time.monotonic())

    def text(self) -> str:
        """For a terminal: `182 images/s, 1:05 left`."""
        left = self.left()
        if left is None or not self.worked:
            return ""
        seconds = round(left)
        hours, minutes = seconds // 3600, seconds % 3600 // 60
        clock = f"{hours}:{minutes:02}" if hours else f"{minutes}"
        return (
            f"{self.done / self.worked * self.slots:.0f} images/s, {clock}:{seconds % 60:02} left"
        )


class Busy:
    """How long devices had work, by the callers that are inside `with busy:`; from any threads.

    devices: how many there are; while n callers are inside, min(n, devices) of them have work. A
    caller that waits for its device counts too, and changes nothing: the device has work then.
    """

    def __init__(self, devices: int = 1) -> None:
        self._devices, self._inside = devices, 0
        self._since, self._seconds = time.perf_counter(), 0.0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._count()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._lock:
            self._count()
            self._inside -= 1

    def take(self) -> float:
        """Seconds since the last call, those of all devices added up; whoever asks gets them all.

        So the sum of what every caller got, asking now and then, is that of the whole time.
        """
        with self._lock:
            self._count()
            seconds, self._seconds = self._seconds, 0.0
            return seconds

    def _count(self) -> None:
        now = time.perf_counter()
        self._seconds += min(self._inside, self._devices) * (now - self._since)
        self._since = now


def verdict(
    phases: dict[str, float],
    *,
    cores: int,
    slots: int,
    here: bool,
    gpus: int = 0,
    busy: float | None = None,
    seconds: float | None = None,
) -> str:
    """What a run's speed hangs on, in plain words. phases: seconds summed over the slots.

    here: whether all of it ran in one process, on the `cores` of this machine. gpus: how many ran
    the backbone, 0 where the cores did; busy: how long they had work (`Busy`), added up; where it
    is not known, what callers spent in the backbone stands for it, and that is at least as much.
    seconds: of the run; where it is not known, a slot's share of the phases, which is right
    unless they overlap, as decoding and the backbone do on a GPU.
    """
    whole = sum(phases.values())
    if not whole:
        return ""
    if gpus:
        seconds = seconds or whole / slots
        busy = phases["forward"] if busy is None else busy
        share = min(1.0, busy / (gpus * seconds))
        fed = {name: phases[name] / (seconds * slots) for name in ("read", "decode", "write")}
        return _on_gpus(share, fed, gpus=gpus, idle_cores=here and slots < cores)
    return _on_cpu(
        {phase: each / whole for phase, each in phases.items()},
        cores=cores,
        slots=slots,
        here=here,
    )


def _on_gpus(share: float, fed: dict[str, float], *, gpus: int, idle_cores: bool) -> str:
    """share: of the time that the GPUs had work; fed: shares of the slots' time."""
    the, another = ("the GPU", "a second") if gpus == 1 else (f"the {gpus} GPUs", "another")
    decoders = fed["read"] + fed["decode"]
    if share >= FULL:
        said = f"forward-bound: {the} had work {share:.0%} of the time, the decoders {decoders:.0%}"
        more = "brings more" if decoders < FULL else "brings more only with more execution.threads"
        return f"{said}; {another} GPU {more}"
    slowest = max(fed, key=lambda phase: fed[phase])
    waited = f"{the} waited {1 - share:.0%} of the time"
    threads = "more execution.threads" if idle_cores else "more execution.threads or CPU cores"
    if fed[slowest] < HARDLY:
        return f"waiting for work: {waited}; too few images, or others use this machine too"
    advice = {
        "read": f"a nearer or faster disk for the images brings most, then {threads}",
        "decode": f"{threads}, or smaller copies of the images, bring more",
        "write": f"a faster disk for the store brings most, then {threads}",
    }
    return f"{slowest}-bound: {waited}; {advice[slowest]}"


def _on_cpu(share: dict[str, float], *, cores: int, slots: int, here: bool) -> str:
    """share: of the slots' time, by phase."""
    where = "the cores" if here and slots <= cores else "the workers' time"
    told = {
        "forward": f"decoding takes {share['decode']:.0%} of {where}",
        "decode": f"the backbone takes {share['forward']:.0%} of {where}",
        "read": f"decoding and the backbone take {share['decode'] + share['forward']:.0%}",
        "write": f"storing the vectors takes {share['write']:.0%} of {where}",
        "wait": f"{where} were idle for {share['wait']:.0%}",
    }
    slowest = max(share, key=lambda phase: share[phase])
    bound = "waiting for work" if slowest == "wait" else f"{slowest}-bound"
    return f"{bound}: {told[slowest]}; {_advice(slowest, cores=cores, slots=slots, here=here)}"


def _advice(slowest: str, *, cores: int, slots: int, here: bool) -> str:
    if slowest == "read":
        return "a nearer or faster disk for the images brings most, then more execution.threads"
    if slowest == "write":
        return "a faster disk for the store brings most"
    if slowest == "wait":
        return "too few images to keep them busy, or others use this machine too"
    if not here:
        return "workers on more cores bring more"
    if slots < cores:
        return f"{slots} of {cores} cores are used; more execution.threads may bring more"
    bring = "a second worker brings nothing"
    if slowest == "decode":
        return f"{bring} on {cores} cores, smaller copies of the images would"
    return f"{bring} on {cores} cores"
