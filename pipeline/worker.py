"""What a worker does: the images of a shard -> their vectors, in the store."""

import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from pipeline import dataset, frozen, runtimes
from pipeline.cluster import cores
from pipeline.dataset import Problem
from pipeline.decoding import Batch, Decoders, Stopped
from pipeline.errors import ClusterError, ConfigurationError, IntegrityError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.hdf5 import Array
from pipeline.runtimes import Setting
from pipeline.store import Store
from pipeline.tuning import Tuned, Wish, tune

PHASES = ("read", "decode", "forward", "write")

QUESTION = 16
"""Images that a decoder is asked for at a time, at least: fewer, and the asking shows."""


@dataclass(frozen=True)
class Context:
    """What every shard of a run shares; paths are absolute, so that it means the same anywhere.

    threads: of a process, None where that is its own choice; sessions, batch_size: None likewise;
    measure: whether looking for the fastest way to run the backbone pays.
    """

    root: str
    backbone: str
    fingerprint: str
    store: str
    device: str
    threads: int | None
    sessions: int | None
    batch_size: int | None
    measure: bool


@dataclass(frozen=True)
class Shard:
    """Images to embed together: (sha256, path relative to the root) of each."""

    context: Context
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class ShardResult:
    """Counts only; the vectors are in the store.

    seconds: by phase; took: of all; started: when its first image was asked for, a time.time().
    """

    computed: int
    problems: tuple[Problem, ...]
    seconds: dict[str, float]
    took: float
    started: float


@dataclass(frozen=True)
class _Loaded:
    """What a process keeps from shard to shard."""

    backbone: FrozenBackbone
    decoders: Decoders
    tuned: Tuned


def load(context: Context) -> Setting:
    """Get this process ready for shards; how it will run the backbone.

    Raises as `embed_shard` does.
    """
    return _loaded(context).tuned.setting


def embed_shard(shard: Shard) -> ShardResult:
    """Embed a shard's images and put them in the store; the whole of a worker's task.

    Raises IntegrityError where this machine's backbone or probe is not what the record says,
    OSError or ResourceError where it is short of files or processes, ClusterError where it has
    not got the images' folder.
    """
    _check_root(shard.context.root)
    loaded = _loaded(shard.context)
    store = Store(Path(shard.context.store), loaded.backbone.fingerprint)
    _compare_probe(store, loaded.backbone, loaded.tuned.probe)
    seconds, started, entered = dict.fromkeys(PHASES, 0.0), 0.0, time.perf_counter()
    problems, names, vectors = list[Problem](), list[str](), list[Array]()
    for batch in _decoded(shard, loaded):
        started = started or batch.began
        problems += [Problem(*failed) for failed in batch.failed]
        seconds["read"] += batch.read
        seconds["decode"] += batch.decode
        if batch.sha256:
            begun = time.perf_counter()
            embedded = loaded.tuned.runtime.embed(batch.pixels)
            vectors.append(_stored(embedded, loaded.backbone, batch.sha256))
            names += batch.sha256
            seconds["forward"] += time.perf_counter() - begun
    if names:
        begun = time.perf_counter()
        store.put(dataset.digests(names), np.concatenate(vectors))
        seconds["write"] += time.perf_counter() - begun
    took = time.perf_counter() - entered
    return ShardResult(len(names), tuple(problems), seconds, took, started)


def _decoded(shard: Shard, loaded: _Loaded) -> Iterator[Batch]:
    """The images of a shard, some batches of the backbone's at a time."""
    step = loaded.tuned.setting.batch_size
    size = step * -(-QUESTION // step)
    elsewhere = loaded.tuned.runtime.device != "cpu"
    with loaded.decoders.borrow() as decoder:
        yield from decoder.stream(shard.images, size, ahead=elsewhere)


def _check_root(root: str) -> None:
    """A worker without the images would list its share of them as unreadable."""
    if not os.path.isdir(root):
        raise ClusterError(
            f"the images' folder {root} is not there on {socket.gethostname()}; mount it as the "
            "others have it, then run the same command to go on"
        )


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


_loading = threading.Lock()
_opening = threading.Lock()
_open: "weakref.WeakSet[Decoders]" = weakref.WeakSet()


def _loaded(context: Context) -> _Loaded:
    """The backbone on this process's device, and its decoders; made once a process.

    Raises Stopped where `stop` came while it was being loaded.
    """
    with _loading:
        loaded = _load(context)
        if loaded.decoders.closed:
            _load.cache_clear()
            raise Stopped
        return loaded


@lru_cache(maxsize=4)
def _load(context: Context) -> _Loaded:
    backbone = frozen.load(Path(context.backbone))
    if backbone.fingerprint != context.fingerprint:
        raise IntegrityError(
            f"{context.backbone}: fingerprint is {backbone.fingerprint} on this worker, "
            f"{context.fingerprint} where the run began; give both the same folder"
        )
    wish = Wish(cores(), context.threads, context.sessions, context.batch_size)
    decoders = Decoders(Path(context.root), backbone.preprocessing)
    with _opening:
        _open.add(decoders)
    decoders.start(wish.threads or wish.cores)  # they get ready while the backbone is loaded
    runtime = runtimes.load(backbone, device=context.device)
    decoders.wait_until_ready()  # or their start would be in what is measured
    pixels = frozen.probe_pixels(backbone.preprocessing)
    memory = Store(Path(context.store), backbone.fingerprint).folder
    tuned = tune(runtime, pixels, wish=wish, memory=memory, measure=context.measure)
    if not np.isfinite(tuned.probe).all():
        raise IntegrityError(f"{backbone.name} makes NaN or infinity of the probe on this machine")
    return _Loaded(backbone, decoders, tuned)


def stop() -> None:
    """End this process's decoders: shards at work end at their current image, without result."""
    with _opening:
        running = list(_open)
    for decoders in running:
        decoders.close()
    _load.cache_clear()


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
