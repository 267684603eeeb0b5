"""How fast a run goes: the size of its next shard, the time left, and what it waits for."""

import math
import time
from dataclasses import dataclass

LEAST, MOST = 16, 4096
"""Fewest and most images a shard; the last ones may be fewer."""

SHARD_SECONDS = 3.0
"""What a shard should take: a kill loses no more, and a file of the store is not too small."""

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
        wanted = SHARD_SECONDS * self.done / self.worked if self.worked else self.least
        share = math.ceil(unassigned / (TAIL * max(1, self.slots)))
        return max(self.least, min(MOST, int(wanted), share))

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


def verdict(phases: dict[str, float], *, cores: int, slots: int, here: bool) -> str:
    """What a run's speed hangs on, in plain words. phases: seconds summed over the slots.

    here: whether all of it ran in one process, on the `cores` of this machine.
    """
    whole = sum(phases.values())
    if not whole:
        return ""
    share = {phase: seconds / whole for phase, seconds in phases.items()}
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
        return "more workers bring more"
    if slots < cores:
        return f"{slots} of {cores} cores are used; more execution.threads may bring more"
    bring = "a second worker brings nothing"
    if slowest == "decode":
        return f"{bring} on {cores} cores, smaller copies of the images would"
    return f"{bring} on {cores} cores"
