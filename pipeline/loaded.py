"""What a process keeps from shard to shard: a backbone on its device, its decoders, how it is run."""

import gc
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from pipeline import admission, frozen, gpus, runtimes
from pipeline.admission import Terms
from pipeline.cluster import Seat, cores
from pipeline.decoding import Decoders, Stopped
from pipeline.errors import IntegrityError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images.views import CLEAN, Views
from pipeline.outputs import FIRST, Output, layers_of, separated, views_of
from pipeline.pace import Busy
from pipeline.store import Store
from pipeline.tuning import Tuned, Wish, tune

MOST = 4
"""Backbones that a process keeps at most: a cluster's worker may serve several runs at once."""

IDLE_SECONDS = 60.0
"""After so long without a shard a backbone makes room for another; on a GPU at once."""


@dataclass(frozen=True)
class Context:
    """What every shard of a run shares; paths are absolute, so that it means the same anywhere.

    threads: of a process, None where that is its own choice; sessions, batch_size: None likewise;
    outputs: the backbone's, by their datasets, that are to be made; measure: devices on which looking for the fastest way to run the backbone pays, and `compiled`
    where compiling for a GPU may; terms: on which another process than the run's own is admitted.
    """

    root: str
    backbone: str
    store: str
    device: str
    threads: int | None
    sessions: int | None
    batch_size: int | None
    measure: tuple[str, ...]
    terms: Terms
    outputs: tuple[str, ...] = (FIRST,)


@dataclass
class Loaded:
    """A backbone that is ready. shards: how many are at work with it; used: when one last was.

    outputs: what it makes; views: what it makes them of; probes: what each makes of the probe.
    """

    backbone: FrozenBackbone
    outputs: tuple[Output, ...]
    views: Views
    probes: dict[Output, Vectors]
    decoders: Decoders
    tuned: Tuned
    busy: Busy
    shards: int = 0
    used: float = field(default_factory=time.monotonic)

    @property
    def spare(self) -> bool:
        """Whether no run seems to need it any longer."""
        idle = time.monotonic() - self.used
        return not self.shards and (idle > IDLE_SECONDS or self.tuned.runtime.device != "cpu")


_loading = threading.Lock()
_opening = threading.Lock()
_open: "weakref.WeakSet[Decoders]" = weakref.WeakSet()
_kept: dict[tuple[Context, Seat], Loaded] = {}


def get(context: Context, seat: Seat) -> Loaded:
    """The backbone of a run in this process; loaded once.

    Raises Stopped where `stop` came while it was being loaded, IntegrityError and ClusterError
    where what is here is not what the run has, and what the runtime raises.
    """
    key = context, seat
    with _loading:
        loaded = _kept.get(key)
        if loaded is None:
            _make_room(context)
            loaded = _kept[key] = _load(context, seat)
        if loaded.decoders.closed:
            _kept.clear()
            raise Stopped
        return loaded


@contextmanager
def at_work(context: Context, seat: Seat) -> Iterator[Loaded]:
    """The same for a shard, which holds it for as long."""
    loaded = get(context, seat)
    with _opening:
        loaded.shards += 1
    try:
        yield loaded
    finally:
        with _opening:
            loaded.shards -= 1
            loaded.used = time.monotonic()


def _make_room(context: Context) -> None:
    """Let go of what is used no longer: the same with another batch, what is spare, the oldest.

    An error that ended a shard can hold on to its model in a circle, and on a GPU there may be no
    room for another beside it.
    """
    for key, old in list(_kept.items()):
        again = replace(key[0], batch_size=context.batch_size) == context
        if again or old.spare or len(_kept) >= MOST:
            del _kept[key]
            if not old.shards:
                old.decoders.close()
    gc.collect()


def _load(context: Context, seat: Seat) -> Loaded:
    admission.check(context.terms, context.root)
    backbone = frozen.load(Path(context.backbone))
    admission.check_backbone(context.terms, backbone)
    wish = Wish(
        cores(),
        context.threads or seat.threads,
        context.sessions,
        context.batch_size,
        compiled="compiled" in context.measure,
    )
    outputs = tuple(one for one in backbone.outputs if one.dataset in context.outputs)
    views = views_of(outputs)
    decoders = Decoders(Path(context.root), backbone.preprocessing, views)
    with _opening:
        _open.add(decoders)
    decoders.start(wish.threads or wish.cores)  # they get ready while the backbone is loaded
    own = None if seat.gpu is None else (seat.gpu % max(1, gpus.count()),)
    layers = layers_of(outputs)
    runtime = runtimes.load(backbone, device=context.device, gpus=own, layers=layers)
    decoders.wait_until_ready()  # or their start would be in what is measured
    pixels = frozen.probe_pixels(backbone.preprocessing)
    memory = Store(Path(context.store), outputs[0].fingerprint).folder
    alike = seat.threads is None or runtime.device == "cpu"
    if not alike and wish.batch_size is None:  # or each worker's GPU would choose its own
        wish = replace(wish, batch_size=runtime.batch_size)
    tuned = tune(
        runtime,
        pixels,
        wish=wish,
        memory=memory,
        measure=alike and runtime.device in context.measure,
        precision=str(backbone.fields["precision"]),
    )
    probes = _probes(backbone, outputs, views, tuned)
    if not all(np.isfinite(probe).all() for probe in probes.values()):
        raise IntegrityError(f"{backbone.name} makes NaN or infinity of the probe on this machine")
    return Loaded(
        backbone, outputs, views, probes, decoders, tuned, Busy(max(1, len(runtime.gpus)))
    )


def _probes(
    backbone: FrozenBackbone, outputs: tuple[Output, ...], views: Views, tuned: Tuned
) -> dict[Output, Vectors]:
    """What each output makes of the probe's images, (K, D) float32."""
    made = tuned.probe
    dim = sum(backbone.dims[number] for number in layers_of(outputs))
    if made.shape[1] != dim:
        raise IntegrityError(
            f"{backbone.folder}: dim is {dim}, but its vectors have {made.shape[1]} values; "
            f"run 'dvc repro -f freeze@{backbone.name}'"
        )
    if views != CLEAN:
        made = tuned.runtime.embed(frozen.probe_pixels(backbone.preprocessing, views))
    return separated(made, outputs, views, backbone.dims)


def stop() -> None:
    """End this process's decoders: shards at work end at their current image, without result."""
    with _opening:
        running = list(_open)
    for decoders in running:
        decoders.close()
    _kept.clear()
