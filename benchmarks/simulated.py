"""A run whose workers sleep, driven by the code that drives every run.

`python -m benchmarks.simulated SCHEDULER_FILE WORKERS IMAGES` prints, as JSON, what it took.
"""

import json
import resource
import sys
import time
from collections.abc import Iterator

from benchmarks.sleepers import sleeping
from pipeline.admission import Terms
from pipeline.cluster import open_cluster
from pipeline.computing import compute
from pipeline.pace import Pace
from pipeline.params import ExecutionParams
from pipeline.worker import Context, Shard

CONTEXT = Context(
    "/data/photos", "/data/artifacts/backbones/b", "/data/artifacts/.store", "cpu",
    None, None, None, (), Terms("{}"),
)  # fmt: skip


def main() -> None:
    file, workers, images = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    execution = ExecutionParams(scheduler=file)
    _wait_for(execution, workers)
    cut: list[float] = []
    sizes: list[int] = []

    def shards(context: Context, pace: Pace) -> Iterator[Shard]:
        first = 0
        while first < images:
            cut.append(time.monotonic())
            size = min(images - first, pace.shard_size(images - first))
            sizes.append(size)
            names = range(first, first + size)
            yield Shard(context, tuple((f"{n:064x}", f"{n // 1000:06}/{n:09}.jpg") for n in names))
            first += size

    cpu = time.process_time()
    tally = compute(shards, CONTEXT, execution, total=images, doing=sleeping)
    used = time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps(
            {
                "seconds": time.monotonic() - cut[0],
                "ideal": tally.phases["forward"] / workers,
                "shards": len(sizes),
                "driver_cpu": used,
                "driver_peak": peak,
            }
        )
    )


def _wait_for(execution: ExecutionParams, workers: int) -> None:
    """All of them are there before the clock starts: machines that join are not its business."""
    with open_cluster(execution) as cluster:
        while len(cluster.hands.here()) < workers:  # type: ignore[attr-defined]
            time.sleep(0.1)


if __name__ == "__main__":
    main()
