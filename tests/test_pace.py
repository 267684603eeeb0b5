"""The pace of a run: shards that end together, a time left that comes true, a verdict in words."""

import heapq

import numpy as np
import pytest

from pipeline import pace
from pipeline.pace import Busy, Pace, verdict


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
        (
            {"forward": 7, "decode": 3},
            8,
            False,
            "forward-bound",
            "workers on more cores bring more",
        ),
    ],
)
def test_verdict__whatever_takes_most__names_it_and_what_helps(seconds, slots, here, bound, advice):
    said = verdict(phases(**seconds), cores=2, slots=slots, here=here)
    assert said.startswith(f"{bound}: ")
    assert advice in said
    assert "\n" not in said


def test_verdict__nothing_measured__is_silent():
    assert verdict(phases(), cores=2, slots=2, here=True) == ""


def on_gpus(gpus: int = 1, *, busy: float, slots: int = 4, cores: int = 4, **seconds) -> str:
    """Of a run of 100 seconds."""
    return verdict(
        phases(**seconds), cores=cores, slots=slots, here=True, gpus=gpus, busy=busy, seconds=100
    )


def test_verdict__gpu_that_waits_for_decoding__says_how_long_and_what_helps():
    said = on_gpus(busy=40, decode=390, forward=45, read=10)
    assert said == (
        "decode-bound: the GPU waited 60% of the time; more execution.threads or CPU cores, or "
        "smaller copies of the images, bring more"
    )
    said = on_gpus(busy=40, decode=190, forward=45, slots=2)
    assert said.endswith("; more execution.threads, or smaller copies of the images, bring more")


def test_verdict__gpu_that_is_always_at_work__says_that_another_brings_more():
    assert on_gpus(busy=96, decode=160, forward=380) == (
        "forward-bound: the GPU had work 96% of the time, the decoders 40%; a second GPU brings more"
    )
    said = on_gpus(2, busy=190, decode=380, forward=390)
    assert said == (
        "forward-bound: the 2 GPUs had work 95% of the time, the decoders 95%; another GPU brings "
        "more only with more execution.threads"
    )


@pytest.mark.parametrize(
    ("seconds", "bound", "advice"),
    [
        ({"read": 300, "decode": 90}, "read-bound", "faster disk for the images"),
        ({"write": 300, "decode": 90}, "write-bound", "faster disk for the store"),
        ({"decode": 50, "read": 20, "wait": 300}, "waiting for work", "too few images"),
    ],
)
def test_verdict__gpu_that_waits_for_something_else__names_it(seconds, bound, advice):
    said = on_gpus(busy=30, forward=40, **seconds)
    assert said.startswith(f"{bound}: the GPU waited 70% of the time; ")
    assert advice in said
    assert "\n" not in said


def test_verdict__phases_that_overlap__are_shares_of_the_runs_time_not_of_their_sum():
    """On a GPU a slot decodes its next batch while this one is embedded."""
    overlapping = {"decode": 400, "forward": 400}
    assert "the GPU had work 95%" in on_gpus(busy=95, **overlapping)
    assert on_gpus(busy=95, **overlapping).startswith("forward-bound")


def test_verdict__busy_time_not_known__takes_what_callers_spent_in_the_backbone():
    said = verdict(phases(forward=95, decode=20), cores=2, slots=1, here=True, gpus=1, seconds=100)
    assert said.startswith("forward-bound: the GPU had work 95%")


@pytest.fixture
def clock(monkeypatch):
    """The time, in a list."""
    now = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: now[0])
    return now


@pytest.mark.parametrize(("devices", "expected"), [(1, 5.0), (2, 7.0), (3, 8.0)])
def test_busy__callers_that_overlap__count_as_many_devices_as_have_work(clock, devices, expected):
    busy = Busy(devices)
    with busy:  # one caller from 0 to 4
        clock[0] = 1.0
        with busy:  # another from 1 to 3
            clock[0] = 2.0
            with busy:  # a third from 2 to 3
                clock[0] = 3.0
        clock[0] = 4.0
    clock[0] = 10.0
    with busy:
        clock[0] = 11.0
    assert busy.take() == expected


def test_busy__taken_now_and_then__adds_up_and_counts_nothing_twice(clock):
    busy = Busy()
    with busy:
        clock[0] = 2.0
        assert busy.take() == 2.0
        clock[0] = 5.0
    clock[0] = 7.0
    assert busy.take() == 3.0
    assert busy.take() == 0.0


def test_busy__caller_that_raises__has_left(clock):
    busy = Busy()
    with pytest.raises(ValueError), busy:
        clock[0] = 1.0
        raise ValueError
    clock[0] = 9.0
    assert busy.take() == 1.0
