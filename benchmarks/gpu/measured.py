"""What is measured of one backbone: end to end, forward alone, decode alone, and how far it drifts."""

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from benchmarks import images
from benchmarks.measuring import rate
from pipeline import dataset, frozen, runtimes
from pipeline.architectures.restored import restore
from pipeline.dataset import Images
from pipeline.decoding import Decoders
from pipeline.extraction import Places, extract
from pipeline.frozen import FrozenBackbone
from pipeline.runtimes import compiling
from pipeline.runtimes.torch import TorchRuntime
from pipeline.tuning import Tuned, Wish, tune

PHOTO_SIZE = (447, 374)

TOLERANCE = dict(frozen.TOLERANCE)
"""What the product allows."""


@dataclass(frozen=True)
class Execution:
    """The keys of params.yaml's `execution:`, whose own class needs pydantic."""

    device: str
    workers: int = 0
    threads: int | str = "auto"
    sessions: int | str = "auto"
    batch_size: int | str = "auto"
    scheduler: str | None = None
    insecure: bool = False
    patience: float = 60.0
    performance_report: bool = False
    store: str = "store"


@dataclass(frozen=True)
class Bench:
    """What all rows share.

    photos: (sha256, path below `folder`/photos) of each, in the order of their digests; cores: of
    this machine; seconds: of each measurement, about.
    """

    folder: Path
    photos: tuple[tuple[str, str], ...]
    device: str
    cores: int
    seconds: float


def write_photos(folder: Path, count: int, source: Path | None) -> tuple[tuple[str, str], ...]:
    """`count` JPEG files of different bytes below folder/photos; see `Bench`.

    source: a folder of photos to begin with; None: some are made, with a photo's spectrum.
    """
    made = [images.generated(seed, PHOTO_SIZE) for seed in range(images.GENERATED)]
    images.write(
        made if source is None else images.originals(source), folder / "photos", range(count)
    )
    paths = images.paths(folder / "photos")
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(lambda path: hashlib.sha256(path.read_bytes()).hexdigest(), paths))
    names = [path.relative_to(folder / "photos").as_posix() for path in paths]
    return tuple(sorted(zip(digests, names, strict=True)))


def tuned(bench: Bench, backbone: FrozenBackbone) -> Tuned:
    """The backbone as a worker would run it."""
    runtime = runtimes.load(backbone, device=bench.device)
    probe = frozen.probe_pixels(backbone.preprocessing)
    memory = bench.folder / "speeds" / backbone.name
    precision = str(backbone.fields["precision"])
    wish = Wish(bench.cores)
    return tune(runtime, probe, wish=wish, memory=memory, measure=True, precision=precision)


def forward_alone(bench: Bench, found: Tuned, crop: int) -> float:
    """Images a second of as many callers as the engine has, pixels in memory: copies included."""
    size, threads = found.setting.batch_size, found.setting.threads
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (2 * size, crop, crop, 3), dtype=np.uint8)

    def call(number: int) -> int:
        start = number % 2 * size
        return len(found.runtime.embed(pixels[start : start + size]))

    rate(call, threads=threads, seconds=bench.seconds / 4)  # buffers are taken, kernels loaded
    return rate(call, threads=threads, seconds=bench.seconds)


def on_the_device(found: Tuned, crop: int, *, compiled: bool = False) -> float:
    """Images a second of the module alone, its pixels on the device already. For torch."""
    runtime = cast("TorchRuntime", found.runtime)
    one = runtime.replicas[0]
    shape = (found.setting.batch_size, crop, crop, 3)
    module = (
        cast("torch.nn.Module", torch.compile(one.module, dynamic=False))
        if compiled
        else one.module
    )
    pixels = torch.zeros(shape, dtype=torch.uint8, device=one.device)
    return shape[0] / compiling.seconds(module, pixels)


def decode_alone(bench: Bench, backbone: FrozenBackbone) -> float:
    """Images a second of as many decoders as cores, each its share of the photos."""
    decoders = Decoders(bench.folder / "photos", backbone.preprocessing)
    decoders.start(bench.cores)
    decoders.wait_until_ready()
    shares = [bench.photos[first :: bench.cores] for first in range(bench.cores)]
    begun = time.perf_counter()

    def decode(share: Sequence[tuple[str, str]]) -> int:
        done = 0
        with decoders.borrow() as decoder:
            for batch in decoder.stream(share, 64, ahead=True):
                done += len(batch.sha256)
                if time.perf_counter() - begun > bench.seconds:
                    break  # what it was asked for ahead, it is not asked for again
        return done

    with ThreadPoolExecutor(bench.cores) as pool:
        done = sum(pool.map(decode, shares))
    seconds = time.perf_counter() - begun
    decoders.close()
    return done / seconds


def end_to_end(bench: Bench, backbone: FrozenBackbone, count: int) -> dict[str, Any]:
    """What `python -m stages.extract` notes of itself, for the first `count` photos, none stored."""
    chosen = bench.photos[:count]
    root = bench.folder / "photos"
    table = bench.folder / "images.parquet"
    sizes = tuple((root / path).stat().st_size for _, path in chosen)
    names = tuple(path for _, path in chosen)
    dataset.write_images(table, Images(dataset.digests(d for d, _ in chosen), names, sizes))
    places = Places(
        root=root,
        backbone=backbone.folder,
        images=table,
        embeddings=bench.folder / "embeddings" / f"{backbone.name}.h5",
        runs=bench.folder / "runs",
        store=bench.folder / "store",
    )
    summary = extract(places, cast("Any", Execution(bench.device)), max_failed=0)
    return {
        "images": summary.computed,
        "images_per_second": summary.images_per_second,
        "phases": summary.phases,
        "verdict": summary.verdict,
    }


def parity(found: Tuned, backbone: FrozenBackbone) -> dict[str, Any]:
    """How far the probe on this device is from a CPU's, and whether the product would allow it."""
    probe = frozen.probe_pixels(backbone.preprocessing)
    if backbone.fields["runtime"] == "torch":
        on_cpu = restore(backbone).probe  # made when it was frozen: halves are slow on a CPU
    else:
        on_cpu = runtimes.load(backbone, device="cpu").embed(probe)
    made = frozen.drift(found.probe, on_cpu)
    least, most = TOLERANCE[str(backbone.fields["precision"])]
    within = made.cosine >= least and made.relative <= most
    return {"cosine": made.cosine, "relative": made.relative, "within": within}


@contextmanager
def lenient() -> Iterator[None]:
    """Have no drift stop a measurement: random weights may drift further than trained ones."""
    frozen.TOLERANCE.update(dict.fromkeys(TOLERANCE, (-2.0, math.inf)))
    try:
        yield
    finally:
        frozen.TOLERANCE.update(TOLERANCE)
