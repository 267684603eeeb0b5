"""What lies in a store, by names, sizes and times; opens no file."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import files
from pipeline.errors import ConfigurationError

DAY = 24 * 3600.0
"""Seconds."""

_NOTES = {"probe.npy", "fields.json"}
_SPEED, _INDEX = "speed-", ".index"
"""As pipeline.tuning and pipeline.index name their files; the doctor imports this module, and must run where those cannot be."""


@dataclass
class Holding:
    """The folder of one fingerprint.

    bytes: of all its files; sizes: how many shards have how many bytes; samples: one for each of
    these; partial: files that are not whole yet, or never will be, with their bytes; stale: those
    of them untouched for files.LEFT_SECONDS;
    newest: a time.time(), when its last shard, probe or partial file was written, 0 without any;
    foreign: the first name in it that no run gives.
    """

    path: Path
    fingerprint: str
    bytes: int = 0
    sizes: Counter[int] = field(default_factory=Counter)
    samples: dict[int, Path] = field(default_factory=dict)
    partial: dict[Path, int] = field(default_factory=dict)
    stale: list[Path] = field(default_factory=list)
    newest: float = 0.0
    foreign: str = ""

    @property
    def shards(self) -> int:
        """How many."""
        return self.sizes.total()


@dataclass
class Inventory:
    """A store. whole: whether there was time to look at all of it; by fingerprint, sorted.

    removed: folders that a `gc` was killed while deleting; foreign: a name that no run gives.
    """

    root: Path
    holdings: list[Holding] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    foreign: str = ""
    whole: bool = True

    @property
    def bytes(self) -> int:
        """Of everything that was looked at."""
        return sum(one.bytes for one in self.holdings)


def opened(root: Path) -> Inventory:
    """All of a store; one that is not there is empty.

    Raises ConfigurationError where the folder is something else than a store.
    """
    inventory = take(root)
    if inventory.foreign and not inventory.holdings:
        raise ConfigurationError(
            f"{root} does not look like a store: it has '{inventory.foreign}' and no folder named "
            "by a fingerprint; correct HEADSTART_STORE, or execution.store in params.yaml"
        )
    return inventory


def take(root: Path, *, seconds: float = float("inf")) -> Inventory:
    """Look at a folder for so long at most."""
    inventory, end = Inventory(root), time.monotonic() + seconds
    for entry in _entries(root):
        if files.is_digest(entry.name) and entry.is_dir():
            inventory.holdings.append(Holding(Path(entry.path), entry.name))
        elif is_removed(entry.name) and entry.is_dir(follow_symlinks=False):
            inventory.removed.append(Path(entry.path))
        elif not entry.name.startswith(".") and entry.name != "lost+found":
            inventory.foreign = entry.name
    inventory.holdings.sort(key=lambda one: one.fingerprint)
    for holding in inventory.holdings:
        inventory.whole = inventory.whole and look(holding, until=end)
    return inventory


def look(holding: Holding, *, until: float = float("inf")) -> bool:
    """Count a folder until a time.monotonic(); whether there was time for all of it."""
    for entry in _entries(holding.path):
        if time.monotonic() > until:
            return False
        try:
            _add(holding, entry)
        except FileNotFoundError:
            continue  # a run renamed it just now
    return True


def _add(holding: Holding, entry: "os.DirEntry[str]") -> None:
    if entry.name == "uses" and entry.is_dir(follow_symlinks=False):
        for note in _entries(Path(entry.path)):
            _add_note(holding, note)
        return
    about = entry.stat(follow_symlinks=False)
    holding.bytes += about.st_size
    stem, ending = os.path.splitext(entry.name)
    if not entry.is_file(follow_symlinks=False):
        holding.foreign = holding.foreign or entry.name
    elif ending == files.PARTIAL:
        _add_partial(holding, entry, about)
    elif ending == ".h5":
        holding.sizes[about.st_size] += 1
        holding.samples.setdefault(about.st_size, Path(entry.path))
        holding.foreign = holding.foreign or ("" if files.is_digest(stem) else entry.name)
    elif ending == _INDEX:
        holding.foreign = holding.foreign or ("" if files.is_digest(stem) else entry.name)
    elif entry.name not in _NOTES and not entry.name.startswith(_SPEED):
        holding.foreign = holding.foreign or entry.name
    if entry.name != "fields.json" and ending != _INDEX:
        holding.newest = max(holding.newest, about.st_mtime)


def _add_note(holding: Holding, entry: "os.DirEntry[str]") -> None:
    about = entry.stat(follow_symlinks=False)
    holding.bytes += about.st_size
    if entry.name.endswith(files.PARTIAL):
        _add_partial(holding, entry, about)
    elif not (
        files.is_digest(entry.name.removesuffix(".json")) and entry.is_file(follow_symlinks=False)
    ):
        holding.foreign = holding.foreign or f"uses/{entry.name}"


def _add_partial(holding: Holding, entry: "os.DirEntry[str]", about: os.stat_result) -> None:
    path = Path(entry.path)
    holding.partial[path] = about.st_size
    if time.time() - about.st_mtime > files.LEFT_SECONDS:
        holding.stale.append(path)


def is_removed(name: str) -> bool:
    """Whether a folder is one that `gc` renamed to delete it: `.<fingerprint>-….partial`."""
    return name[:1] == "." and files.is_digest(name[1:65]) and name.endswith(files.PARTIAL)


def _entries(folder: Path) -> "Iterator[os.DirEntry[str]]":
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except FileNotFoundError:
        return


def names(backbones: Path) -> dict[str, list[str]]:
    """The names of a project's frozen backbones, by fingerprint; damaged records are left out."""
    found = dict[str, list[str]]()
    for record in sorted(backbones.glob("*/backbone.json")):
        for fingerprint in fingerprints_in(record):
            found.setdefault(fingerprint, []).append(record.parent.name)
    return found


def fingerprints_in(record: Path) -> list[str]:
    """Those of all outputs that a backbone.json speaks of; none where it is not there, or damaged."""
    try:
        said = json.loads(record.read_bytes())
        others = [str(each) for each in dict(said.get("outputs") or {}).values()]
        return sorted({str(said["fingerprint"]), *others})
    except (OSError, ValueError, KeyError, TypeError):
        return []


def files_in(folder: Path, ending: str) -> list[Path]:
    """The visible files of a folder whose names end so, sorted; none where it was deleted.

    pathlib's glob is not sure of that while a run or another `gc` is at work.
    """
    names = [one.name for one in _entries(folder)]
    return sorted(folder / name for name in names if name.endswith(ending) and name[0] != ".")
