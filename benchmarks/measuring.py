"""Measuring side by side: rounds, medians, rates."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Measured = TypeVar("Measured")
Item = TypeVar("Item")


def rotated(items: Sequence[Item], round: int) -> list[Item]:
    """The items, begun at another one each round."""
    first = round % len(items) if items else 0
    return [*items[first:], *items[:first]]


def interleaved(
    subjects: Mapping[str, Callable[[], Measured]], runs: int
) -> dict[str, list[Measured]]:
    """What each subject returned, a value a run: in every round each is run once.

    The order rotates, so that none is always the one after the same other.
    """
    measured: dict[str, list[Measured]] = {name: [] for name in subjects}
    for round in range(runs):
        for name in rotated(list(subjects), round):
            measured[name].append(subjects[name]())
    return measured


def rate(work: Callable[[int], int], *, threads: int, seconds: float) -> float:
    """Things done a second by threads that call `work` for `seconds`.

    work: is given the number of the call, returns how many things it did.
    """
    calls = itertools.count()
    begun = time.perf_counter()

    def repeat(_: int) -> int:
        done = 0
        while time.perf_counter() - begun < seconds:
            done += work(next(calls))
        return done

    with ThreadPoolExecutor(threads) as pool:
        done = sum(pool.map(repeat, range(threads)))
    return done / (time.perf_counter() - begun)


def seconds_of(work: Callable[[], object]) -> float:
    """Wall seconds of a call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
