"""What a worker does: the images of a shard -> their vectors, in the store."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from pipeline import admission, dataset, frozen
from pipeline.cluster import Ready, Seat, Work
from pipeline.dataset import Problem
from pipeline.decoding import Batch
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.hdf5 import Array
from pipeline.loaded import Context, Loaded, at_work, get, stop
from pipeline.outputs import FIRST, Output, separated
from pipeline.store import Store

__all__ = ["Context", "embed_shard", "stop", "work"]

PHASES = ("read", "decode", "forward", "write")

QUESTION = 16
"""Images that a decoder is asked for at a time, at least: fewer, and the asking shows."""

PARTS = 8
"""Into how many a shard is parted whose worker ended: few workers end until its image is found."""


@dataclass(frozen=True)
class Shard:
    """Images to embed together: (sha256, path relative to the root) of each."""

    context: Context
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShardResult:
    """Counts only; the vectors are in the store.

    seconds: by phase; took: of all; started: when its first image was asked for, a time.time();
    busy: seconds that GPUs had work since the last result of the same process.
    """

    computed: int
    problems: tuple[Problem, ...]
    seconds: dict[str, float]
    took: float
    started: float
    busy: float = 0.0


def work(context: Context) -> Work[Shard, ShardResult]:
    """Embedding shards of that context, as a cluster does it."""
    return Work(partial(ready, context), embed_shard, parts, lost, stop)


def ready(context: Context, seat: Seat) -> Ready:
    """Get this process ready for shards.

    Raises IntegrityError where this machine's backbone or probe is not what the record says,
    ClusterError where the run's terms are not met here.
    """
    admission.check(context.terms, context.root)  # also where the backbone is here from before
    loaded = get(context, seat)
    for output, probe in loaded.probes.items():
        store = Store(Path(context.store), output.fingerprint)
        _compare_probe(store, loaded.backbone, output, probe)
    setting, runtime = loaded.tuned.setting, loaded.tuned.runtime
    return Ready(setting.threads, setting.batch_size, runtime.device, max(1, len(runtime.gpus)))


def parts(shard: Shard) -> list[Shard]:
    """A shard in PARTS smaller ones; none where it is a single image."""
    size = -(-len(shard.images) // PARTS)
    if len(shard.images) == 1:
        return []
    starts = range(0, len(shard.images), size)
    return [replace(shard, images=shard.images[start : start + size]) for start in starts]


def lost(shard: Shard, words: str) -> "ShardResult":
    """The result of a shard that ends every worker; its images are listed."""
    problems = tuple(Problem(path, sha256, "crashed", words) for sha256, path in shard.images)
    return ShardResult(0, problems, dict.fromkeys(PHASES, 0.0), 0.0, time.time())


def embed_shard(shard: Shard, seat: Seat) -> ShardResult:
    """Embed a shard's images and put them in the store; the whole of a worker's task.

    Raises IntegrityError where an image's vector is not finite, OSError or ResourceError where
    this machine is short of files, processes or memory, and what `ready` does.
    """
    with at_work(shard.context, seat) as loaded:
        return _embedded(shard, loaded)


def _embedded(shard: Shard, loaded: Loaded) -> ShardResult:
    seconds, started, entered = dict.fromkeys(PHASES, 0.0), 0.0, time.perf_counter()
    problems, names = list[Problem](), list[str]()
    vectors: dict[Output, list[Array]] = {output: [] for output in loaded.outputs}
    for batch in _decoded(shard, loaded):
        started = started or batch.began
        problems += [Problem(*failed) for failed in batch.failed]
        seconds["read"] += batch.read
        seconds["decode"] += batch.decode
        if batch.sha256:
            begun = time.perf_counter()
            with loaded.busy:
                embedded = loaded.tuned.runtime.embed(batch.pixels)
            dims = loaded.backbone.dims
            for output, made in separated(embedded, loaded.outputs, loaded.views, dims).items():
                vectors[output].append(_stored(made, loaded.backbone, batch.sha256))
            names += batch.sha256
            seconds["forward"] += time.perf_counter() - begun
    if names:
        begun = time.perf_counter()
        for output, parts in vectors.items():
            store = Store(Path(shard.context.store), output.fingerprint)
            store.put(dataset.digests(names), np.concatenate(parts))
        seconds["write"] += time.perf_counter() - begun
    took = time.perf_counter() - entered
    busy = loaded.busy.take()
    return ShardResult(len(names), tuple(problems), seconds, took, started, busy)


def _decoded(shard: Shard, loaded: Loaded) -> Iterator[Batch]:
    """The images of a shard, some batches of the backbone's at a time."""
    step = loaded.tuned.setting.batch_size
    size = max(1, step * -(-QUESTION // step) // len(loaded.views))
    elsewhere = loaded.tuned.runtime.device != "cpu"
    with loaded.decoders.borrow() as decoder:
        yield from decoder.stream(shard.images, size, ahead=elsewhere)


def _stored(vectors: Array, backbone: FrozenBackbone, names: list[str]) -> Array:
    """The vectors, one a name, in the storage dtype; refused where they do not fit it."""
    with np.errstate(over="ignore"):
        stored = vectors.astype(backbone.storage)
    bad = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if len(bad) == 0:
        return stored
    image = names[int(bad[0])]
    if not np.isfinite(vectors[bad[0]]).all():
        raise IntegrityError(f"{backbone.name} makes NaN or infinity of image {image}")
    raise ConfigurationError(
        f"{backbone.name} makes {float(np.abs(vectors[bad[0]]).max()):.0f} of image {image}, more "
        f"than float16 holds; set backbones.{backbone.name}.storage: float32"
    )


def _compare_probe(store: Store, backbone: FrozenBackbone, output: Output, probe: Vectors) -> None:
    """Refuse a machine whose probe is not that of the first one which wrote to the store."""
    store.put_probe(probe)
    reference = store.reference_probe()
    if reference is not None:
        frozen.check_drift(
            probe,
            reference,
            precision=str(backbone.fields["precision"]),
            what=f"{backbone.name}{_which(output)} on this machine against {store.folder}",
        )


def _which(output: Output) -> str:
    return "" if output.dataset == FIRST else f" ({output.dataset})"
