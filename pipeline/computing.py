"""The shards of a run through a cluster: watched, tallied, begun again where a GPU is too small."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from pipeline.cluster import Cluster, Work, cores, is_here, open_cluster
from pipeline.dataset import Problem
from pipeline.errors import DeviceMemoryError
from pipeline.pace import Pace, verdict
from pipeline.worker import PHASES, Context, Shard, ShardResult, work

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

Shards = Callable[[Context, Pace], Iterator[Shard]]
"""Lists what is missing now, in shards of the size that the pace tells."""

Doing = Callable[[Context], Work[Shard, ShardResult]]

_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


@dataclass
class Tally:
    """What came of the shards. began: when the first image was read, a time.time().

    phases: seconds summed over the slots; busy: that GPUs had work, summed over them; problems: by
    digest, since a shard may be done twice.
    """

    began: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PHASES, "wait"), 0.0))
    problems: dict[str, Problem] = field(default_factory=dict)
    busy: float = 0.0
    verdict: str = ""

    def add(self, result: ShardResult, *, here: bool) -> None:
        """Count a result that has just come."""
        began = result.started if here else time.time() - result.took  # another machine's clock
        self.began = min(self.began or began, began)
        for phase, seconds in result.seconds.items():
            self.phases[phase] += seconds
        self.busy += result.busy
        for problem in result.problems:
            self.problems[problem.sha256] = problem


def compute(
    shards: Shards,
    context: Context,
    execution: "ExecutionParams",
    *,
    total: int,
    report: Path | None = None,
    doing: Doing = work,
) -> Tally:
    """Embed what is missing, `total` images; see `open_cluster` for report.

    doing: what is done with a shard.

    Where a GPU's memory does not suffice, what remains is done with half the batch. Raises what
    a worker raises, and ClusterError.
    """
    tally, pace, here = Tally(), Pace(total), is_here(execution)
    with open_cluster(execution, report=report) as cluster:
        while True:
            try:
                for result in _watched(cluster, shards(context, pace), doing(context), pace):
                    tally.add(result, here=here)
                break
            except DeviceMemoryError as error:
                context = _halved(context, error)
        ready = cluster.ready
    worked = sum(tally.phases.values())
    tally.phases["wait"] = max(0.0, pace.slot_seconds - worked)
    tally.verdict = verdict(
        tally.phases,
        cores=cores(),
        slots=ready.slots,
        here=here,
        gpus=0 if ready.device == "cpu" else ready.devices,
        busy=tally.busy,
        seconds=pace.slot_seconds / max(1, ready.slots),
    )
    return tally


def _halved(context: Context, error: DeviceMemoryError) -> Context:
    """The same with half the batch that was too large. Raises the error where it was one image."""
    half = error.batch_size // 2
    if not half:
        raise error
    print(f"headstart: {error}; the rest is embedded {half} images at a time", file=sys.stderr)
    return replace(context, batch_size=half)


def _watched(
    cluster: Cluster, shards: Iterator[Shard], work: Work[Shard, ShardResult], pace: Pace
) -> Iterator[ShardResult]:
    """The results as they come, with a progress bar on a terminal."""

    def paced() -> Iterator[Shard]:
        pace.have(cluster.ready.slots, cluster.ready.batch)  # before the first is cut
        yield from shards

    with (
        tqdm(total=pace.total, disable=None, initial=pace.done, bar_format=_BAR) as bar,
        closing(cluster.run(work, paced())) as results,
    ):
        for result in results:
            images = result.computed + len(result.problems)
            pace.have(cluster.ready.slots, cluster.ready.batch)
            pace.add(images, result.took)
            bar.set_description_str(cluster.place, refresh=False)
            bar.set_postfix_str(pace.text(), refresh=False)
            bar.update(images)
            yield result
