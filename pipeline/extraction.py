"""What is missing -> shards -> cluster -> store -> the tracked embeddings file."""

import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import psutil
from tqdm import tqdm

from pipeline import dataset, embeddings, files, frozen, runtimes
from pipeline.cluster import Cluster, open_cluster
from pipeline.dataset import Images, Problem
from pipeline.errors import (
    ConfigurationError,
    ImageError,
    InputError,
    IntegrityError,
    ResourceError,
)
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.hdf5 import Array
from pipeline.images import Pixels, preprocess
from pipeline.params import ExecutionParams
from pipeline.runtimes import Runtime
from pipeline.store import Store

SHARD_IMAGES = (32, 512)
"""Fewest and most images a shard: a few seconds of work at most, so a kill costs little."""

SHARDS_PER_SLOT = 8

PHASES = ("read", "decode", "forward", "write")

_OURS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of this machine, not of the image that happens to meet them."""


@dataclass(frozen=True)
class Context:
    """What every shard of a run shares; paths are absolute, so that it means the same anywhere."""

    root: str
    backbone: str
    fingerprint: str
    store: str
    device: str
    batch_size: int | None


@dataclass(frozen=True)
class Shard:
    """Images to embed together: (sha256, path relative to the root) of each."""

    context: Context
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShardResult:
    """Counts only; the vectors are in the store. seconds: by phase; started: a time.time()."""

    computed: int
    problems: tuple[Problem, ...]
    seconds: dict[str, float]
    started: float


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


def extract(places: Places, execution: ExecutionParams, *, max_failed: float) -> Summary:
    """Embed what the store does not have yet, then write the tracked file.

    max_failed: share of the images that may fail. Raises InputError where more do (the list
    is then in `runs`), IntegrityError where the backbone or this machine is not what the
    record says. What is in the store stays, so a rerun goes on from there.
    """
    backbone = frozen.load(places.backbone)
    images = dataset.read_images(places.images)
    store = Store(places.store, backbone.fingerprint)
    store.refresh()
    missing = store.missing(images.sha256)
    summary = Summary(images=len(missing), reused=int((~missing).sum()))
    problems: list[Problem] = []
    if missing.any():
        context = _context(places, backbone, execution)
        problems = _compute(images, missing, context, execution, summary)
    _refuse_failures(problems, backbone.name, places, max_failed, summary)
    store.refresh()
    failed = dataset.digests(problem.sha256 for problem in problems)
    kept = images.sha256[~np.isin(images.sha256, failed)]
    embeddings.write(places.embeddings, backbone, kept, store.blocks(kept))
    listed = places.embeddings.with_name(f"{backbone.name}.problems.csv")
    dataset.write_problems(listed, problems)
    _finish(summary)
    files.write_json(places.runs / f"extract-{backbone.name}.json", asdict(summary))
    return summary


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
        results = list(_watched(cluster, _shards(images, missing, context, cluster.slots), missing))
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
    reasons = ", ".join(sorted({problem.reason for problem in problems}))
    raise InputError(
        f"{failed} of {total} images cannot be embedded ({reasons}), more than data.max_failed "
        f"{max_failed:g} allows; see artifacts/runs/{path.name}, mend them or raise data.max_failed"
    )


def _finish(summary: Summary) -> None:
    summary.seconds = time.time() - _process_start()
    working = summary.seconds - summary.start_seconds
    summary.images_per_second = summary.computed / working if summary.computed else 0.0


def _process_start() -> float:
    """When this process began, as a time.time()."""
    return float(psutil.Process().create_time())


def embed_shard(shard: Shard) -> ShardResult:
    """Embed a shard's images and put them in the store; the whole of a worker's task.

    Raises IntegrityError where this machine's backbone or probe is not what the record says.
    """
    context = shard.context
    backbone, runtime, probe = _loaded(context)
    store = Store(Path(context.store), backbone.fingerprint)
    _compare_probe(store, backbone, probe)
    clock = Clock()
    started = time.time()
    problems = list[Problem]()
    names, vectors = list[str](), list[Array]()
    for start in range(0, len(shard.images), runtime.batch_size):
        batch = shard.images[start : start + runtime.batch_size]
        pixels = list(_pixels(batch, Path(context.root), backbone, problems, clock))
        if pixels:
            embedded = runtime.embed(np.stack([image for _, image in pixels]))
            names += [sha256 for sha256, _ in pixels]
            vectors.append(_stored(embedded, backbone, names))
            clock.lap("forward")
    if names:
        store.put(dataset.digests(names), np.concatenate(vectors))
        clock.lap("write")
    return ShardResult(len(names), tuple(problems), clock.seconds, started)


class Clock:
    """Seconds by phase, each counted from the lap before."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._last = time.perf_counter()

    def lap(self, phase: str) -> None:
        """Count the time since the last lap as `phase`."""
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now


def _pixels(
    batch: tuple[tuple[str, str], ...],
    root: Path,
    backbone: FrozenBackbone,
    problems: list[Problem],
    clock: Clock,
) -> Iterator[tuple[str, Pixels]]:
    """(sha256, pixels) of each image of a batch that can be decoded; the rest to `problems`."""
    for sha256, path in batch:
        try:
            content = _read(root / path, sha256)
            clock.lap("read")
            yield sha256, preprocess(content, backbone.preprocessing)
        except ImageError as error:
            problems.append(Problem(path, sha256, error.reason, error.detail))
        clock.lap("decode")


def _read(path: Path, sha256: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        if error.errno in _OURS:
            raise ResourceError(f"{path} cannot be opened: {error.strerror}") from None
        raise ImageError("unreadable", error.strerror or str(error)) from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ImageError("changed", "its bytes are not those that prepare saw; run 'dvc repro'")
    return content


def _stored(vectors: Array, backbone: FrozenBackbone, names: list[str]) -> Array:
    """The vectors in the storage dtype, refused where they do not fit it."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(backbone.storage)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad) == 0:
        return stored
    image = names[len(names) - len(vectors) + int(bad[0])]
    if not np.isfinite(vectors[bad[0]]).all():
        raise IntegrityError(f"{backbone.name} makes NaN or infinity of image {image}")
    raise ConfigurationError(
        f"{backbone.name} makes {float(np.abs(vectors[bad[0]]).max()):.0f} of image {image}, more "
        f"than float16 holds; set backbones.{backbone.name}.storage: float32"
    )


def _loaded(context: Context) -> tuple[FrozenBackbone, Runtime, Vectors]:
    """The backbone on this process's device, and what it makes of the probe; once a process."""
    with _loading:
        return _load(context)


_loading = threading.Lock()


@lru_cache(maxsize=4)
def _load(context: Context) -> tuple[FrozenBackbone, Runtime, Vectors]:
    backbone = frozen.load(Path(context.backbone))
    if backbone.fingerprint != context.fingerprint:
        raise IntegrityError(
            f"{context.backbone}: fingerprint is {backbone.fingerprint} on this worker, "
            f"{context.fingerprint} where the run began; give both the same folder"
        )
    runtime = runtimes.load(backbone, device=context.device, batch_size=context.batch_size)
    probe = runtime.embed(frozen.probe_pixels(backbone.preprocessing))
    if not np.isfinite(probe).all():
        raise IntegrityError(f"{backbone.name} makes NaN or infinity of the probe on this machine")
    return backbone, runtime, probe


def _compare_probe(store: Store, backbone: FrozenBackbone, probe: Vectors) -> None:
    """Refuse a machine whose probe is not that of the first one which wrote to the store."""
    store.put_probe(probe)
    reference = store.reference_probe()
    if reference is not None:
        frozen.check_drift(
            probe,
            reference,
            precision=str(backbone.fields["precision"]),
            what=f"{backbone.name} on this machine against {store.folder}",
        )
