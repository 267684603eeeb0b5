"""What is missing -> shards -> cluster -> store -> the tracked embeddings file."""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from pipeline import dataset, embeddings, files, frozen, uses, worker
from pipeline.cluster import Cluster, open_cluster
from pipeline.dataset import Images, Problem
from pipeline.errors import ConfigurationError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array
from pipeline.params import ExecutionParams
from pipeline.store import Store
from pipeline.worker import PHASES, Context, Shard, ShardResult, embed_shard

SHARD_IMAGES = (32, 512)
"""Fewest and most images a shard: a few seconds of work at most, so a kill costs little."""

SHARDS_PER_SLOT = 8


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
        context = _context(places, backbone, execution)
        problems = _compute(images, missing, context, execution, summary)
    _refuse_failures(problems, backbone.name, places, max_failed, summary)
    store.refresh()
    failed = dataset.digests(problem.sha256 for problem in problems)
    kept = images.sha256[~np.isin(images.sha256, failed)]
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


def _context(places: Places, backbone: FrozenBackbone, execution: ExecutionParams) -> Context:
    return Context(
        root=str(places.root),
        backbone=str(places.backbone),
        fingerprint=backbone.fingerprint,
        store=str(places.store),
        device=execution.device,
        batch_size=None if execution.batch_size == "auto" else execution.batch_size,
    )


def _compute(
    images: Images, missing: Array, context: Context, execution: ExecutionParams, summary: Summary
) -> list[Problem]:
    """Run the shards of what is missing; fills in `summary` and returns what failed."""
    with open_cluster(execution) as cluster:
        begun = time.time()
        shards = _shards(images, missing, context, cluster.slots)
        try:
            results = list(_watched(cluster, shards, missing))
        finally:
            worker.stop()  # before the cluster waits for its threads: Ctrl-C is heard at once
        busy = time.time() - begun
    for result in results:
        summary.computed += result.computed
        for phase, seconds in result.seconds.items():
            summary.phases[phase] += seconds
    worked = sum(summary.phases.values())
    summary.phases["wait"] = max(0.0, busy * cluster.slots - worked)
    summary.start_seconds = min(result.started for result in results) - _process_start()
    problems = [problem for result in results for problem in result.problems]
    summary.failed = len(problems)
    return problems


def _watched(cluster: Cluster, shards: list[Shard], missing: Array) -> Iterator[ShardResult]:
    """The results as they come, with a progress bar on a terminal."""
    with tqdm(total=int(missing.sum()), unit="img", disable=None, desc=cluster.place) as bar:
        for result in cluster.run(embed_shard, shards):
            bar.update(result.computed + len(result.problems))
            yield result


def _shards(images: Images, missing: Array, context: Context, slots: int) -> list[Shard]:
    rows = np.flatnonzero(missing)
    size = int(np.clip(len(rows) // (slots * SHARDS_PER_SLOT), *SHARD_IMAGES))
    named = [(images.sha256[row].decode(), images.path[row]) for row in rows]
    return [
        Shard(context, tuple(named[start : start + size])) for start in range(0, len(named), size)
    ]


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
    return float(psutil.Process().create_time())


def describe(name: str, summary: Summary, places: Places) -> str:
    """What was embedded and what could not be, in a few lines for the terminal."""
    counts = (
        f"{name}: {summary.images} images, {summary.computed} computed, {summary.reused} reused, "
        f"{summary.failed} failed, {summary.seconds:.1f} s"
        + (f", {summary.images_per_second:.0f} images/s" if summary.computed else "")
    )
    problems = dataset.read_problems(places.problems)
    file = f"artifacts/embeddings/{places.problems.name}"
    return "\n".join([counts, *dataset.problem_table(problems, file)])
