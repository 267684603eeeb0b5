"""How much room is left where a run writes."""

import json
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cli.doctor import commands
from pipeline.cli.doctor.finding import Finding, Place, error, ok, warning
from pipeline.cli.wording import size
from pipeline.errors import ResourceError

if TYPE_CHECKING:
    from pipeline.project import Project

LITTLE, SCARCE = 0.015, 0.05
"""Shares of a disk, or of its inodes, that are an error (1 %, rounded) and a warning."""

ROOMY = 50 * 10**9
"""Free bytes with which no share is too small: 1 % of a large disk is plenty."""

ARTIFACTS, STORE, CACHE, TEMPORARY = "artifacts", "the store", "DVC's cache", "temporary files"
VALUES = {"float16": 2, "float32": 4}


@dataclass
class Volume:
    """A file system that a run writes to. uses: the folders on it, by what they are for."""

    uses: dict[str, Path] = field(default_factory=dict)
    free: int = 0
    size: int = 0
    inodes: float = 1.0
    needed: int = 0

    @property
    def share(self) -> float:
        """Which share of the bytes, or of the inodes, is free; the smaller."""
        return min(self.free / self.size if self.size else 1.0, self.inodes)


def disk(place: Place) -> Iterator[Finding]:
    """Each file system with what a run writes there."""
    for volume in volumes(place):
        yield _judged(volume, place)


def volumes(place: Place) -> list[Volume]:
    """The file systems that a run writes to, with what the next one needs of each."""
    needs = needed(place.project) if place.project else {}
    found: dict[int, Volume] = {}
    for use, folder in _folders(place).items():
        there = existing(folder)
        volume = found.setdefault(os.stat(there).st_dev, Volume())
        about = os.statvfs(there)
        volume.uses[use] = folder
        volume.free, volume.size = about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
        if about.f_files:  # some file systems make inodes as they are needed, and say 0
            volume.inodes = about.f_favail / about.f_files
        volume.needed += needs.get(use, 0)
    return list(found.values())


def _folders(place: Place) -> dict[str, Path]:
    temporary = os.environ.get("TMPDIR") or tempfile.gettempdir()  # which passes over a full one
    folders = {TEMPORARY: Path(temporary)}
    if place.project:
        from pipeline.cli.doctor.repository import cache_folder

        folders = {ARTIFACTS: place.project.artifacts, STORE: place.project.store, **folders}
        cache = cache_folder(place.folder)
        if cache:
            folders[CACHE] = cache
    return folders


def needed(project: "Project") -> dict[str, int]:
    """Bytes that the embeddings of the run take beside what is there, as far as is known.

    The rows lie in the store, in the tracked file and in DVC's cache.
    """
    import pyarrow.parquet as pq

    total = dict.fromkeys((STORE, ARTIFACTS, CACHE), 0)
    for name in project.params.run.backbones:
        try:
            rows = pq.read_metadata(project.artifacts / "dataset" / "images.parquet").num_rows
            record = json.loads(
                (project.artifacts / "backbones" / name / "backbone.json").read_bytes()
            )
            whole = rows * _values(record) * VALUES[record["fields"]["storage"]]
            outputs = record.get("outputs") or {"": record["fingerprint"]}
            folders = [project.store / fingerprint for fingerprint in outputs.values()]
            shards = (path for folder in folders for path in folder.glob("*.h5"))
            stored = sum(path.stat().st_size for path in shards)
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not prepared, not frozen, or damaged, which `weights` tells
        total[STORE] += max(0, whole - stored)
        if not (project.artifacts / "embeddings" / f"{name}.h5").exists() or stored < whole:
            total[ARTIFACTS] += whole
            total[CACHE] += whole
    return total


def _values(record: dict[str, Any]) -> int:
    """How many numbers a frozen backbone makes of an image, over all layers and views."""
    dims = [record["dim"], *(layer["dim"] for layer in (record.get("layers") or [])[1:])]
    return (1 + len(record.get("views") or ())) * sum(map(int, dims))


def _judged(volume: Volume, place: Place) -> Finding:
    folder = existing(next(iter(volume.uses.values())))
    for_what = f"for {', '.join(volume.uses)}"
    text = f"{size(volume.free)} of {size(volume.size)} free at {folder}, {for_what}"
    if volume.free < volume.needed:
        text += f"; the embeddings to come take {size(volume.needed)}"
        return error(text, _room(volume, place), ResourceError.exit_code)
    if volume.inodes < SCARCE:
        text += f"; {volume.inodes:.1%} of the inodes are free"
    roomy = volume.free >= ROOMY and volume.inodes >= SCARCE
    if roomy or volume.share >= SCARCE:
        return ok(text)
    text += f" ({volume.share:.1%})"
    if volume.share >= LITTLE:
        return warning(text, _room(volume, place))
    return error(text, _room(volume, place), ResourceError.exit_code)


def _room(volume: Volume, place: Place) -> str:
    """What makes room, or moves what can be moved to where there is some."""
    if CACHE in volume.uses and any(volume.uses[CACHE].glob("*/*")):
        return "dvc gc --workspace"  # says what goes, and asks
    for use, variable in ((STORE, "HEADSTART_STORE"), (TEMPORARY, "TMPDIR")):
        roomy = _roomy(volume, place)
        if use in volume.uses and ARTIFACTS not in volume.uses and roomy:
            folder = roomy / "headstart-store" if use == STORE else roomy
            return f"export {variable}={shlex.quote(str(folder))}"
    top = commands.quoted(existing(next(iter(volume.uses.values()))))
    return f"du -xhd 2 {top} | sort -h | tail"


def _roomy(full: Volume, place: Place) -> Path | None:
    """A folder of another file system than a full one, with more room than it needs."""
    taken = {os.stat(existing(folder)).st_dev for folder in full.uses.values()}
    for folder in (place.folder, Path.home(), Path("/var/tmp"), Path("/tmp")):  # noqa: S108
        if not folder.is_dir() or os.stat(folder).st_dev in taken:
            continue
        about = os.statvfs(folder)
        free = about.f_bavail * about.f_frsize
        if os.access(folder, os.W_OK) and free > 2 * full.needed and free > 0.1 * full.size:
            return folder
    return None


def existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there."""
    return next(each for each in (path, *path.parents) if os.path.exists(each))
