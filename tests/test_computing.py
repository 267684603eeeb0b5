"""A run of shards: what is tallied, and what becomes of it where a GPU is too small."""

import threading

import pytest

from pipeline import computing, pace
from pipeline.admission import Terms
from pipeline.cluster import Ready, Work
from pipeline.computing import compute
from pipeline.dataset import Problem
from pipeline.errors import DeviceMemoryError
from pipeline.params import ExecutionParams
from pipeline.worker import PHASES, Context, Shard, ShardResult


def context_of(batch_size: int | None) -> Context:
    return Context("/photos", "/raw", "/store", "cuda", None, None, batch_size, (), Terms("{}"))


class Gpu:
    """A double of workers with a GPU that holds a batch of so many images, and of their store."""

    def __init__(self, holds: int, *, slots: int = 2, fails_after: int = 0) -> None:
        self.holds, self.slots, self.fails_after = holds, slots, fails_after
        self.stored: list[str] = []
        self.batches: list[int] = []
        self.lock = threading.Lock()

    def work(self, context: Context) -> Work:
        batch = context.batch_size or 128
        self.batches.append(batch)

        def do(shard: Shard, _) -> ShardResult:
            with self.lock:
                if batch > self.holds and len(self.stored) >= self.fails_after:
                    raise DeviceMemoryError(f"GPU 0 has no memory for {batch} images", batch)
                self.stored += [sha256 for sha256, _ in shard.images]
            bad = tuple(Problem(path, sha, "truncated", "") for sha, path in shard.images[:1])
            seconds = {**dict.fromkeys(PHASES, 0.0), "forward": 0.5}
            return ShardResult(len(shard.images) - 1, bad, seconds, 0.5, 0.0, busy=0.4)

        ready = Ready(self.slots, batch, "cuda", 1)
        return Work(lambda _: ready, do, lambda _: (), lambda *_: None)

    def shards(self, total: int):
        """What is not stored yet, as `extract` lists it anew each time."""

        def listed(context: Context, going: pace.Pace):
            left = [f"{n:064x}" for n in range(total) if f"{n:064x}" not in set(self.stored)]
            while left:
                size = going.shard_size(len(left))
                yield Shard(context, tuple((sha256, sha256[-8:]) for sha256 in left[:size]))
                left = left[size:]

        return listed


def run(gpu: Gpu, total: int, batch_size: int | None = None):
    return compute(
        gpu.shards(total), context_of(batch_size), ExecutionParams(), total=total, doing=gpu.work
    )


def test_compute__gpu_that_holds_the_batch__is_asked_once():
    gpu = Gpu(128)
    tally = run(gpu, 1000)
    assert gpu.batches == [128]
    assert sorted(gpu.stored) == [f"{n:064x}" for n in range(1000)]
    assert tally.busy > 0
    assert tally.phases["forward"] >= 0.5


def test_compute__memory_runs_out_midway__rest_is_done_with_half_and_said(capsys):
    gpu = Gpu(40, fails_after=256)
    run(gpu, 2000)
    assert gpu.batches == [128, 64, 32]
    assert sorted(gpu.stored) == [f"{n:064x}" for n in range(2000)]  # none twice, none missing
    assert capsys.readouterr().err.splitlines() == [
        "headstart: GPU 0 has no memory for 128 images; the rest is embedded 64 images at a time",
        "headstart: GPU 0 has no memory for 64 images; the rest is embedded 32 images at a time",
    ]


def test_compute__batch_that_was_asked_for__is_halved_as_well():
    gpu = Gpu(8)
    run(gpu, 300, batch_size=32)
    assert gpu.batches == [32, 16, 8]


def test_compute__no_memory_for_one_image__is_the_users_to_mend():
    gpu = Gpu(0)
    with pytest.raises(DeviceMemoryError, match="no memory for 1 images"):
        run(gpu, 300)
    assert gpu.batches == [128, 64, 32, 16, 8, 4, 2, 1]


def test_compute__shards_of_a_gpu__are_no_smaller_than_its_batch(monkeypatch):
    gpu, sizes = Gpu(128), []
    real = gpu.work

    def work(context):
        made = real(context)

        def do(shard, seat):
            sizes.append(len(shard.images))
            return made.do(shard, seat)

        return Work(made.ready, do, made.part, made.lost)

    compute(gpu.shards(3000), context_of(None), ExecutionParams(), total=3000, doing=work)
    assert min(sorted(sizes)[1:]) >= 128


def test_compute__problem_that_is_met_twice__is_told_once():
    tally = computing.Tally()
    problem = Problem("a.png", "0" * 64, "truncated", "")
    for _ in range(2):
        tally.add(ShardResult(0, (problem,), dict.fromkeys(PHASES, 0.0), 0.0, 1.0), here=True)
    assert list(tally.problems.values()) == [problem]


def test_tally__start__is_the_first_shards_by_this_machines_clock():
    tally = computing.Tally()
    phases = dict.fromkeys(PHASES, 0.0)
    tally.add(ShardResult(1, (), phases, 2.0, started=5.0), here=True)
    tally.add(ShardResult(1, (), phases, 2.0, started=3.0), here=True)
    assert tally.began == 3.0
    far = computing.Tally()
    far.add(ShardResult(1, (), phases, 2.0, started=5.0), here=False)
    assert far.began > 1e9  # not by the worker's clock, which says 5
