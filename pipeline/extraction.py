"""What is missing -> shards -> cluster -> store -> the tracked embeddings file."""

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from pipeline import admission, dataset, embeddings, files, frozen, uses
from pipeline.admission import Terms
from pipeline.cluster import is_here
from pipeline.computing import compute
from pipeline.dataset import Images, Problem
from pipeline.errors import ConfigurationError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.hdf5 import Array
from pipeline.pace import Pace
from pipeline.store import Store
from pipeline.worker import PHASES, Context, Shard

if TYPE_CHECKING:
    from pipeline.params import ExecutionParams

SAMPLED = 100
"""Missing images among which some are looked for that a worker must have as well."""

MEASURED = {"cpu": 2000, "cuda": 50_000}
"""By device, images from which on it pays to look for the fastest way to run the backbone."""


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


def extract(places: Places, execution: "ExecutionParams", *, max_failed: float) -> Summary:
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
        problems = _compute(images, missing, store, backbone, places, execution, summary)
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
    places: Places,
    backbone: FrozenBackbone,
    execution: "ExecutionParams",
    images: Images,
    missing: Array,
) -> Context:
    return Context(
        root=str(places.root),
        backbone=str(places.backbone),
        store=str(places.store),
        device=execution.device,
        threads=_number(execution.threads) if is_here(execution) else None,
        sessions=_number(execution.sessions),
        batch_size=_number(execution.batch_size),
        measure=tuple(name for name, least in MEASURED.items() if missing.sum() >= least),
        terms=_terms(places, backbone, execution, images, missing),
    )


def _terms(
    places: Places,
    backbone: FrozenBackbone,
    execution: "ExecutionParams",
    images: Images,
    missing: Array,
) -> Terms:
    """What other processes than this one must have to take part."""
    fields = json.dumps(backbone.fields, sort_keys=True)
    if is_here(execution):
        return Terms(fields)
    some = [(images.path[row], images.bytes[row]) for row in np.flatnonzero(missing)[:SAMPLED]]
    return Terms(
        fields,
        versions=admission.versions(str(backbone.fields["runtime"])),
        sample=admission.sample(places.root, some),
    )


def _number(wish: int | str) -> int | None:
    return wish if isinstance(wish, int) else None


def _compute(
    images: Images,
    missing: Array,
    store: Store,
    backbone: FrozenBackbone,
    places: Places,
    execution: "ExecutionParams",
    summary: Summary,
) -> list[Problem]:
    """Run the shards of what is missing; fills in `summary` and returns what failed."""
    total = int(missing.sum())
    context = _context(places, backbone, execution, images, missing)

    def shards(context: Context, pace: Pace) -> Iterator[Shard]:
        store.refresh()  # what a run that was begun again has left
        return _shards(images, missing & store.missing(images.sha256), context, pace)

    report = places.runs / f"dask-{backbone.name}.html"
    tally = compute(shards, context, execution, total=total, report=report)
    problems = sorted(tally.problems.values())
    summary.computed, summary.failed = total - len(problems), len(problems)
    summary.phases, summary.verdict = tally.phases, tally.verdict
    summary.start_seconds = tally.began - _process_start()
    return problems


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
