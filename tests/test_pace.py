"""The pace of a run: shards that end together, a time left that comes true, a verdict in words."""

import heapq

import numpy as np
import pytest

from pipeline import pace
from pipeline.pace import Pace, verdict


def simulate(total: int, slots: int, seconds: float, *, spread: float = 0.0) -> dict:
    """A run whose images take about `seconds` each: when each slot ended, and what was foretold."""
    random = np.random.default_rng(0)
    clock = [0.0]
    going = Pace(total, slots, begun=0.0)
    busy, sizes, foretold = [], [], []
    left, ends = total, []
    while left or busy:
        while left and len(busy) < slots:
            size = min(left, going.shard_size(left))
            took = float(np.sum(seconds * random.uniform(1 - spread, 1 + spread, size)))
            heapq.heappush(busy, (clock[0] + took, size, took))
            sizes.append(size)
            left -= size
        clock[0], size, took = heapq.heappop(busy)
        going.add(size, took)
        ends.append(clock[0])
        foretold.append((going.done / total, clock[0], going))
        foretold[-1] = (going.done / total, clock[0] + whole_left(going, clock[0]))
    return {"sizes": sizes, "end": clock[0], "foretold": foretold}


def whole_left(going: Pace, now: float) -> float:
    pace.time.monotonic, before = (lambda: now), pace.time.monotonic
    try:
        return going.left()
    finally:
        pace.time.monotonic = before


@pytest.mark.parametrize(("total", "slots"), [(4000, 2), (4000, 16), (100_000, 64), (300, 2)])
@pytest.mark.parametrize("seconds", [0.0005, 0.01, 0.2])
def test_shard_size__any_speed__all_slots_end_together(total, slots, seconds):
    run = simulate(total, slots, seconds, spread=0.3)
    ideal = total * seconds / slots
    last = max(2 * pace.LEAST * seconds, 1.3 * pace.SLOT_SECONDS * slots)  # the smallest shards
    assert run["end"] <= 1.03 * ideal + last
    longest = max(pace.SHARD_SECONDS * 1.3, pace.LEAST * seconds * 1.3)
    assert max(run["sizes"][2 * slots :], default=0) * seconds <= longest


@pytest.mark.parametrize("seconds", [0.0005, 0.01, 0.2])
def test_left__after_the_first_tenth__is_right_within_a_fifth(seconds):
    run = simulate(4000, 2, seconds, spread=0.5)
    for done, end in run["foretold"]:
        if 0.1 <= done < 0.9:
            assert end == pytest.approx(run["end"], rel=0.2)


def test_left__before_the_first_shard__is_not_known():
    assert Pace(100, 2).left() is None
    assert Pace(100, 2).text() == ""


@pytest.mark.parametrize(
    ("worked", "text"), [(10, "20 images/s, 0:45 left"), (800, "0 images/s, 1:00:00 left")]
)
def test_text__some_done__tells_speed_and_time_left(monkeypatch, worked, text):
    monkeypatch.setattr(pace.time, "monotonic", lambda: 5.0 if worked == 10 else 400.0)
    assert Pace(1000, 2, begun=0.0, done=100, worked=worked).text() == text


def phases(**seconds: float) -> dict[str, float]:
    return dict.fromkeys(("read", "decode", "forward", "write", "wait"), 0.0) | seconds


def test_verdict__forward_takes_most__says_so_and_what_decoding_takes():
    said = verdict(phases(forward=60, decode=31, read=4, wait=5), cores=2, slots=2, here=True)
    assert said == (
        "forward-bound: decoding takes 31% of the cores; a second worker brings nothing on 2 cores"
    )


@pytest.mark.parametrize(
    ("seconds", "slots", "here", "bound", "advice"),
    [
        ({"decode": 7, "forward": 3}, 2, True, "decode-bound", "smaller copies"),
        ({"read": 7, "decode": 3}, 2, True, "read-bound", "faster disk for the images"),
        ({"write": 7, "decode": 3}, 2, True, "write-bound", "faster disk for the store"),
        ({"wait": 7, "decode": 3}, 2, True, "waiting for work", "others use this machine"),
        ({"forward": 7, "decode": 3}, 1, True, "forward-bound", "1 of 2 cores are used"),
        ({"forward": 7, "decode": 3}, 8, False, "forward-bound", "more workers bring more"),
    ],
)
def test_verdict__whatever_takes_most__names_it_and_what_helps(seconds, slots, here, bound, advice):
    said = verdict(phases(**seconds), cores=2, slots=slots, here=here)
    assert said.startswith(f"{bound}: ")
    assert advice in said
    assert "\n" not in said


def test_verdict__nothing_measured__is_silent():
    assert verdict(phases(), cores=2, slots=2, here=True) == ""
