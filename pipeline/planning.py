"""What a run would cost: images that are new to the store, seconds, disk. Writes no artifact."""

import json
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from pipeline import dataset, embeddings, files, frozen, hdf5
from pipeline.changes import begins_as_image
from pipeline.cluster import cores, is_elsewhere
from pipeline.dataset import Images
from pipeline.errors import HeadstartError, InputError, is_shortage
from pipeline.extraction import Places, extract
from pipeline.formats import Listing
from pipeline.frozen import FrozenBackbone
from pipeline.params import ExecutionParams, SplitParams
from pipeline.preparation import prepare
from pipeline.store import Store

ENOUGH = 100
"""Images that a run must have computed for its speed to say something of the next."""

LAST_RUN, MEASURED = "last run", "measured"

_FIRST_LOOK = 4
_SHARD = 32
"""Images a thread that are measured: fewer would not keep every thread busy."""

_PATIENCE = 5.0
"""Seconds that measuring may take, about; beyond, one thread's speed is multiplied."""

_SHA256_BYTES = 64
_OF_THE_MOMENT = {"changed", "unreadable"}
"""Why an image failed that may be embedded next time; every other failure repeats."""


@dataclass(frozen=True)
class Cost:
    """Embedding the data with one backbone; what is None is not known.

    images: distinct ones; new: those the store lacks; seconds: of work, without the start of
    the process; speed: LAST_RUN or MEASURED; store, artifacts: bytes that are written there.
    """

    images: int
    new: int
    seconds: float | None = None
    speed: str | None = None
    store: int | None = None
    artifacts: int | None = None


@dataclass(frozen=True)
class Disk:
    """A file system that is written to. path: one place on it; needed, free: bytes."""

    path: Path
    needed: int
    free: int

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.free


def unhashed(listing: Listing, digests: Mapping[str, str]) -> list[str]:
    """The files whose digest is neither known nor given by the manifest; sorted."""
    return sorted(
        {entry.path for entry in listing.entries if not entry.sha256 and entry.path not in digests}
    )


def distinct_images(listing: Listing, split: SplitParams, digests: Mapping[str, str]) -> Images:
    """The images as `prepare` would find them; hashes only files that are `unhashed`.

    Raises InputError where `prepare` would.
    """
    known = {**digests, **_hashed(listing.root, unhashed(listing, digests))}
    entries = (replace(one, sha256=one.sha256 or known.get(one.path)) for one in listing.entries)
    return prepare(replace(listing, entries=tuple(entries)), split).images


def _hashed(root: Path, paths: list[str]) -> dict[str, str]:
    """Digests of the files that are images by their first bytes; a bar shows the progress."""
    pool = ThreadPoolExecutor()
    try:
        digests = pool.map(lambda path: _digest(root / path), paths)
        watched = tqdm(digests, total=len(paths), unit="img", disable=None, desc="hashing")
        return {path: digest for path, digest in zip(paths, watched, strict=True) if digest}
    finally:
        pool.shutdown(cancel_futures=True)


def _digest(path: Path) -> str | None:
    """None where prepare will say what is wrong with it."""
    try:
        return files.sha256_of(path) if begins_as_image(str(path)) else None
    except OSError as error:
        if is_shortage(error):
            raise
        return None


def unknown_cost(images: Images) -> Cost:
    """Of a backbone that is not frozen: its fingerprint and length are not known."""
    return Cost(images=len(images.sha256), new=len(images.sha256))


def no_cost(images: Images) -> Cost:
    """Of a backbone whose embeddings will not be made anew."""
    return Cost(images=len(images.sha256), new=0, seconds=0.0, store=0, artifacts=0)


def cost(images: Images, places: Places, execution: ExecutionParams) -> Cost:
    """What `extract` would have to do. places: its own; `images` there is not read.

    Raises IntegrityError as `extract` does. A damaged shard that is met is deleted, as there.
    """
    backbone = frozen.load(places.backbone)
    stores = [Store(places.store, output.fingerprint) for output in backbone.outputs]
    for each in stores:
        each.refresh()
    failing = np.isin(images.sha256, _failing(places))
    missing = np.stack([each.missing(images.sha256) & ~failing for each in stores], axis=1)
    kept = images.sha256[~failing]
    new = int(missing.any(axis=1).sum())
    size = np.dtype(backbone.storage).itemsize
    vectors = np.array([output.dim * size for output in backbone.outputs])
    stored = int((missing.sum(axis=0) * (vectors + _SHA256_BYTES)).sum())
    row = int(vectors.sum()) + _SHA256_BYTES
    rate, speed = _rate(images, places, execution) if new else (None, None)
    return Cost(
        images=len(images.sha256),
        new=new,
        seconds=new / rate if rate else None if new else 0.0,
        speed=speed,
        store=stored,
        artifacts=0 if _holds(places.embeddings, backbone, kept) else len(kept) * row,
    )


def _failing(places: Places) -> dataset.Digests:
    """Images that the last run could not decode."""
    problems = dataset.read_problems(places.problems) if places.problems.exists() else []
    return dataset.digests(one.sha256 for one in problems if one.reason not in _OF_THE_MOMENT)


def _holds(path: Path, backbone: FrozenBackbone, sha256: dataset.Digests) -> bool:
    """Whether the tracked file says it has these rows."""
    try:
        said = embeddings.info(path)
    except (HeadstartError, OSError):
        return False
    outputs = [(one["dataset"], one["fingerprint"]) for one in said["outputs"]]
    wanted = [(one.dataset, one.fingerprint) for one in backbone.outputs]
    return outputs == wanted and said["sha256"].get("sha256") == hdf5.digest(sha256)


def _rate(
    images: Images, places: Places, execution: ExecutionParams
) -> tuple[float | None, str | None]:
    """Images a second, and where that is known from."""
    if rate := _rate_of_last_run(places):
        return rate, LAST_RUN
    if is_elsewhere(execution):
        return None, None  # other machines than this one
    rate = _measured_rate(images, places, execution)
    return rate, MEASURED if rate else None


def _rate_of_last_run(places: Places) -> float | None:
    """From the note of the last run, if it was long enough and with this backbone's file."""
    note = places.runs / f"extract-{places.backbone.name}.json"
    try:
        said = json.loads(note.read_bytes())
        computed, rate = int(said["computed"]), float(said["images_per_second"])
        older = note.stat().st_mtime_ns < (places.backbone / frozen.RECORD).stat().st_mtime_ns
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rate if computed >= ENOUGH and rate > 0 and not older else None


def _measured_rate(images: Images, places: Places, execution: ExecutionParams) -> float | None:
    """From a short extraction into a folder that is thrown away; None where every image fails."""
    workers = 1 if execution.workers == "auto" else max(1, execution.workers)
    threads = cores() if execution.threads == "auto" else execution.threads * workers
    here = execution.model_copy(update={"workers": 0, "threads": threads})
    with tempfile.TemporaryDirectory(prefix="headstart-") as name:
        folder = Path(name)
        trial = replace(
            places,
            images=folder / "images.parquet",
            embeddings=folder / places.embeddings.name,
            runs=folder,
            store=folder / "store",
        )
        try:
            first = _trial(images, _FIRST_LOOK, trial, here)
            if first * _PATIENCE < _SHARD or len(images.sha256) <= _SHARD:
                return first * min(threads, -(-len(images.sha256) // _SHARD))
            return _trial(images, _SHARD * threads, trial, here)
        except InputError:
            return None


def _trial(images: Images, count: int, places: Places, execution: ExecutionParams) -> float:
    """Images a second when `count` images from all over the data are embedded."""
    rows = np.unique(np.linspace(0, len(images.sha256) - 1, count).astype(int))
    chosen = Images(
        sha256=images.sha256[rows],
        path=tuple(images.path[row] for row in rows),
        bytes=tuple(images.bytes[row] for row in rows),
    )
    dataset.write_images(places.images, chosen)
    return extract(places, execution, max_failed=1.0).images_per_second


def disks(needs: Iterable[tuple[Path, int]]) -> list[Disk]:
    """What is needed, by file system; a path need not exist yet."""
    found: dict[int, Disk] = {}
    for path, needed in needs:
        there = next(folder for folder in (path, *path.parents) if folder.exists())
        device = there.stat().st_dev
        first = found.get(device) or Disk(path, 0, shutil.disk_usage(there).free)
        found[device] = replace(first, needed=first.needed + needed)
    return list(found.values())
