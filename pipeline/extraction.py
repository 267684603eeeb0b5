"""What is missing -> shards -> cluster -> store -> the tracked embeddings file."""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from pipeline import dataset, embeddings, files, frozen, uses, worker
from pipeline.cluster import Cluster, cores, is_here, open_cluster
from pipeline.dataset import Images, Problem
from pipeline.errors import ConfigurationError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array
from pipeline.pace import Pace, verdict
from pipeline.params import ExecutionParams
from pipeline.store import Store
from pipeline.worker import PHASES, Context, Shard, ShardResult, embed_shard

MEASURED = 2000
"""Images from which on it pays to look for the fastest way to run the backbone."""


@dataclass
class Summary:
    """What artifacts/runs/extract-<b>.json holds; see `extract`."""

    images: int
    computed: int = 0
    reused: int = 0
    failed: int = 0
    seconds: float = 0.0
    start_seconds: float = 0.0
    images_per_second: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: dict.fromkeys((*PHASES, "wait"), 0.0))
    verdict: str = ""


@dataclass(frozen=True)
class Places:
    """Where an extraction reads and writes; all absolute.

    root: the data root; backbone: folder of the frozen backbone; images: images.parquet;
    embeddings: the tracked .h5, whose neighbour .problems.csv is written too; runs: untracked
    notes; store: the embedding store.
    """

    root: Path
    backbone: Path
    images: Path
    embeddings: Path
    runs: Path
    store: Path

    @classmethod
    def of(cls, name: str, *, artifacts: Path, root: Path, store: Path) -> "Places":
        """Those of the backbone of that name, as the stages lay them out below `artifacts`."""
        return cls(
            root=root,
            backbone=artifacts / "backbones" / name,
            images=artifacts / "dataset" / "images.parquet",
            embeddings=artifacts / "embeddings" / f"{name}.h5",
            runs=artifacts / "runs",
            store=store,
        )

    @property
    def problems(self) -> Path:
        """The list of what could not be embedded."""
        return self.embeddings.with_name(f"{self.embeddings.stem}.problems.csv")


def extract(places: Places, execution: ExecutionParams, *, max_failed: float) -> Summary:
    """Embed what the store does not have yet, then write the tracked file.

    max_failed: share of the images that may fail. Raises InputError where more do (the list
    is then in `runs`), IntegrityError where the backbone or this machine is not what the
    record says. What is in the store stays, so a rerun goes on from there.
    """
    backbone = frozen.load(places.backbone)
    images = dataset.read_images(places.images)
    store = Store(places.store, backbone.fingerprint)
    changed = uses.note(places.store, backbone)
    store.refresh()
    missing = store.missing(images.sha256)
    if changed and missing.any():
        print(f"headstart: {changed}", file=sys.stderr)
    summary = Summary(images=len(missing), reused=int((~missing).sum()))
    problems: list[Problem] = []
    if missing.any():
        _check_root(places.root)
        context = _context(places, backbone, execution, int(missing.sum()))
        try:
            problems = _compute(images, missing, context, execution, summary)
        finally:
            worker.stop()
        store = Store(places.store, backbone.fingerprint)  # shards seen long ago are checked again
        store.refresh()
    _refuse_failures(problems, backbone.name, places, max_failed, summary)
    kept = images.sha256
    del images  # the paths, which a large run need not hold any longer
    if problems:
        failed = dataset.digests(problem.sha256 for problem in problems)
        kept = kept[~np.isin(kept, failed)]
    embeddings.write(places.embeddings, backbone, kept, store.blocks(kept))
    dataset.write_problems(places.problems, problems)
    _finish(summary)
    files.write_json(places.runs / f"extract-{backbone.name}.json", asdict(summary))
    return summary


def _check_root(root: Path) -> None:
    """One line for a disk that is not mounted, rather than one for each of its images."""
    if not root.is_dir():
        raise ConfigurationError(
            f"params.yaml: data.path: {root} is not there any more, and images in it are still to "
            "be embedded; bring it back or correct data.path"
        )


def _context(
    places: Places, backbone: FrozenBackbone, execution: ExecutionParams, images: int
) -> Context:
    return Context(
        root=str(places.root),
        backbone=str(places.backbone),
        fingerprint=backbone.fingerprint,
        store=str(places.store),
        device=execution.device,
        threads=_number(execution.threads),
        sessions=_number(execution.sessions),
        batch_size=_number(execution.batch_size),
        measure=images >= MEASURED,
    )


def _number(wish: int | str) -> int | None:
    return wish if isinstance(wish, int) else None


def _compute(
    images: Images, missing: Array, context: Context, execution: ExecutionParams, summary: Summary
) -> list[Problem]:
    """Run the shards of what is missing; fills in `summary` and returns what failed."""
    here = worker.load(context).threads if is_here(execution) else None
    with open_cluster(execution, here=here) as cluster:
        if not here:
            context = replace(context, threads=cluster.threads)
        pace = Pace(int(missing.sum()), cluster.slots)
        try:
            results = list(_watched(cluster, _shards(images, missing, context, pace), pace))
        finally:
            worker.stop()  # before the cluster waits for its threads: Ctrl-C is heard at once
    busy = time.monotonic() - pace.begun
    for result in results:
        summary.computed += result.computed
        for phase, seconds in result.seconds.items():
            summary.phases[phase] += seconds
    worked = sum(summary.phases.values())
    summary.phases["wait"] = max(0.0, busy * cluster.slots - worked)
    summary.start_seconds = min(result.started for result in results) - _process_start()
    summary.verdict = verdict(
        summary.phases, cores=cores(), slots=cluster.slots, here=here is not None
    )
    problems = [problem for result in results for problem in result.problems]
    summary.failed = len(problems)
    return problems


def _watched(cluster: Cluster, shards: Iterator[Shard], pace: Pace) -> Iterator[ShardResult]:
    """The results as they come, with a progress bar on a terminal."""
    with tqdm(total=pace.total, disable=None, desc=cluster.place, bar_format=_BAR) as bar:
        for result in cluster.run(embed_shard, shards):
            images = result.computed + len(result.problems)
            pace.add(images, result.took)
            bar.set_postfix_str(pace.text(), refresh=False)
            bar.update(images)
            yield result


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"


def _shards(images: Images, missing: Array, context: Context, pace: Pace) -> Iterator[Shard]:
    """Cut as they are asked for, so that the pace so far tells their size."""
    rows = np.flatnonzero(missing)
    while len(rows):
        size = pace.shard_size(len(rows))
        named = tuple((images.sha256[row].decode(), images.path[row]) for row in rows[:size])
        yield Shard(context, named)
        rows = rows[size:]


def _refuse_failures(
    problems: list[Problem], name: str, places: Places, max_failed: float, summary: Summary
) -> None:
    path = places.runs / f"extract-{name}.problems.csv"
    failed, total = len(problems), summary.images
    if failed < total and failed / total <= max_failed:
        path.unlink(missing_ok=True)
        return
    dataset.write_problems(path, problems)
    raise InputError(
        f"{failed} of {total} images cannot be embedded{dataset.left_out(problems)}, more than "
        f"data.max_failed {max_failed:g} allows; see artifacts/runs/{path.name}, "
        "mend them or raise data.max_failed"
    )


def _finish(summary: Summary) -> None:
    summary.seconds = time.time() - _process_start()
    working = summary.seconds - summary.start_seconds
    summary.images_per_second = summary.computed / working if summary.computed else 0.0


def _process_start() -> float:
    """When this process began, as a time.time()."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # no Linux; there, psutil is off by up to a second
        return float(psutil.Process().create_time())
    return time.time() - age


def describe(name: str, summary: Summary, places: Places) -> str:
    """What was embedded and what could not be, in a few lines for the terminal."""
    counts = (
        f"{name}: {summary.images} images, {summary.computed} computed, {summary.reused} reused, "
        f"{summary.failed} failed, {summary.seconds:.1f} s"
        + (f", {summary.images_per_second:.0f} images/s" if summary.computed else "")
    )
    said = [f"  {summary.verdict}"] if summary.verdict else []
    problems = dataset.read_problems(places.problems)
    file = f"artifacts/embeddings/{places.problems.name}"
    return "\n".join([counts, *said, *dataset.problem_table(problems, file)])
