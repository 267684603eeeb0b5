"""Dask workers that sleep instead of embedding, many of them in one process.

`python -m benchmarks.sleepers SCHEDULER_FILE COUNT` runs them until it is ended. They take
calls, answer and send heartbeats as every worker does.
"""

import asyncio
import sys
import time

import numpy as np
from dask.distributed import Worker

from pipeline.cluster import Ready, Seat, Work
from pipeline.worker import PHASES, Context, Shard, ShardResult

RATE = 180.0
"""Images a second of a worker: a core's, of EfficientNet-Lite0."""

SPREAD = 0.1
"""By how much shards of one size differ in seconds, up and down."""


def sleeping(_: Context) -> Work[Shard, ShardResult]:
    """What a worker does here."""
    return Work(ready, sleep, lambda _: (), lost)


def ready(_: Seat) -> Ready:
    return Ready(1, 4)


def sleep(shard: Shard, _: Seat) -> ShardResult:
    """Take as long as embedding would."""
    begun = time.time()
    random = np.random.default_rng(int(shard.images[0][0], 16) % 2**32)
    took = len(shard.images) / RATE * random.uniform(1 - SPREAD, 1 + SPREAD)
    time.sleep(took)
    seconds = {**dict.fromkeys(PHASES, 0.0), "forward": took}
    return ShardResult(len(shard.images), (), seconds, took, begun)


def lost(*_: object) -> ShardResult:
    raise RuntimeError("nothing here ends a worker")


async def serve(scheduler_file: str, count: int) -> None:
    """Workers of one thread each, until the scheduler is gone."""
    workers = [
        Worker(
            scheduler_file=scheduler_file, nthreads=1, name=f"sleeper-{number}",
            host="127.0.0.1", dashboard=False, memory_limit=None,
        )
        for number in range(count)
    ]  # fmt: skip
    await asyncio.gather(*workers)
    await asyncio.gather(*(worker.finished() for worker in workers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2])))
