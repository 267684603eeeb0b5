"""`headstart store gc`: deletes what nothing uses any more, while other runs may write."""

import errno
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from pipeline import files, uses
from pipeline.cli.store import inventory
from pipeline.cli.store.info import described, used_by
from pipeline.cli.store.inventory import DAY, Holding, Inventory
from pipeline.cli.store.owners import Owner, Standing, State, standing
from pipeline.cli.wording import counted, size
from pipeline.errors import IntegrityError
from pipeline.project import open_project
from pipeline.uses import SHORT

AT_WORK = 600.0
"""Seconds after its last sign in which a run may still be at work, whatever --days says."""

IN_USE, LATELY = "in use", "used lately"
_TAKEN, _GONE = f".taken{files.PARTIAL}", f".gone{files.PARTIAL}"
"""Endings of a folder that is out of sight to be looked at once more, and of one that can go."""

Names = dict[str, list[str]]


@dataclass(frozen=True)
class Rule:
    """What can go. before: a time.time() since which it was not used; others: whether uses
    noted on other hosts end with that, though only these hosts could tell.
    """

    before: float
    others: bool = False

    def keeps(self, one: Standing) -> str:
        """Why a fingerprint stays; empty where nothing uses it any more."""
        folder = one.holding.path
        if one.names or any(self._holds(owner) for owner in one.owners):
            return IN_USE
        if one.last_use >= self.before:
            return LATELY
        if folder.is_symlink():
            return "it is a link to somewhere else"
        if one.holding.foreign:
            return f"it has '{one.holding.foreign}', which no run writes"
        if one.damaged:
            return "a note on who uses it is damaged; 'headstart store verify' names it"
        if not one.noted:
            return f"who uses it was never noted; if nothing does, type 'rm -r {folder}'"
        if not all(os.access(path, os.W_OK | os.X_OK) for path in (folder.parent, folder)):
            return "you may not delete it, its owner can"
        return ""

    def ended(self, owner: Owner) -> bool:
        """Whether the note of a use can go."""
        return owner.use.time < self.before and not self._holds(owner)

    def _holds(self, owner: Owner) -> bool:
        if owner.state is State.ELSEWHERE:
            return not self.others
        return owner.state is State.HERE


@dataclass
class Waste:
    """What can go. kept: unused as it seems, with why it stays; notes: of uses that ended."""

    unused: list[Standing] = field(default_factory=list)
    partial: dict[Path, int] = field(default_factory=dict)
    notes: list[Path] = field(default_factory=list)
    removed: list[Path] = field(default_factory=list)
    kept: list[tuple[Standing, str]] = field(default_factory=list)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.unused or self.partial or self.notes or self.removed)

    @property
    def bytes(self) -> int:
        """Of fingerprints and partial files."""
        return sum(one.holding.bytes for one in self.unused) + sum(self.partial.values())


def run(*, days: float, yes: bool = False, other_hosts: bool = False) -> int:
    """Print what can go, ask, delete. Without a terminal or `yes`, delete nothing.

    days: since the last use of a fingerprint, at least; other_hosts: see `Rule`.
    """
    project = open_project()
    names = inventory.names(project.artifacts / "backbones")
    rule = Rule(time.time() - max(days * DAY, AT_WORK), others=other_hosts)
    waste = find(inventory.opened(project.store), names, rule)
    for line in _lines(waste, Path(os.path.realpath(project.root))):
        print(line)
    if not waste:
        print(f"nothing to delete in {project.store}")
    elif _agreed(f"delete {size(waste.bytes)}?", yes=yes):
        freed = delete(waste, names, rule)
        print(f"deleted {size(freed)} in {project.store}")
    return 0


def find(found: Inventory, names: Names, rule: Rule) -> Waste:
    """What can go of a store; names: see `inventory.names`."""
    waste = Waste(removed=found.removed)
    for holding in found.holdings:
        one = standing(holding, names)
        why = rule.keeps(one)
        if not why:
            waste.unused.append(one)
            continue
        if why not in (IN_USE, LATELY):
            waste.kept.append((one, why))
        if not (holding.foreign or holding.path.is_symlink()):
            waste.partial |= {path: holding.partial[path] for path in holding.stale}
            waste.notes += [owner.note for owner in one.owners if rule.ended(owner)]
    return waste


def _lines(waste: Waste, root: Path) -> Iterator[str]:
    for one in waste.unused:
        what = f"{described(one)}, {counted(one.holding.shards, 'shard')}"
        last = used_by(one, root)
        yield f"unused: {_short(one)}: {what}, {size(one.holding.bytes)}; used by {last}"
    if waste.partial:
        files_left = counted(len(waste.partial), "partial file")
        yield f"left by killed runs: {files_left}, {size(sum(waste.partial.values()))}"
    if waste.removed:
        yield f"left by a killed 'headstart store gc': {counted(len(waste.removed), 'folder')}"
    if waste.notes:
        yield f"ended: {counted(len(waste.notes), 'use')} of fingerprints that others use"
    for one, why in waste.kept:
        yield f"kept: {_short(one)}: {described(one)}, {size(one.holding.bytes)}: {why}"


def _short(one: Standing) -> str:
    return one.holding.fingerprint[:SHORT]


def _agreed(question: str, *, yes: bool) -> bool:
    if yes:
        return True
    if not sys.stdin.isatty():
        print("nothing was deleted; add --yes to delete it")
        return False
    try:
        answer = input(f"{question} [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() in ("y", "yes"):
        return True
    print("nothing was deleted")
    return False


def delete(waste: Waste, names: Names, rule: Rule) -> int:
    """Delete it, but for what was used meanwhile; returns the bytes that are free now."""
    freed = 0
    for one in waste.unused:
        folder = one.holding.path
        taken = folder.with_name(f".{folder.name}-{os.urandom(4).hex()}{_TAKEN}")
        with suppress(FileNotFoundError):  # another gc was first
            os.rename(folder, taken)
            freed += _finish(taken, names, rule)
    for folder in waste.removed:
        with suppress(FileNotFoundError):
            freed += _finish(folder, names, rule)
    for path, length in waste.partial.items():
        with suppress(FileNotFoundError):
            path.unlink()
            freed += length
    for path in waste.notes:
        with suppress(FileNotFoundError, IntegrityError):
            if uses.read_use(path).time < rule.before:
                path.unlink()
    return freed


def _finish(hidden: Path, names: Names, rule: Rule) -> int:
    """Delete a folder that is out of sight, or put it back where a run noted its use meanwhile.

    A run that comes now makes a folder of its own; returns the bytes deleted.
    """
    fingerprint = hidden.name[1:65]
    holding = Holding(hidden, fingerprint)
    inventory.look(holding)
    if not hidden.name.endswith(_GONE):
        if rule.keeps(standing(holding, names)):
            print(f"kept: {fingerprint[:SHORT]}: used since this command looked at it")
            _put_back(hidden, hidden.with_name(fingerprint))
            return 0
        gone = hidden.with_name(f"{hidden.name.removesuffix(_TAKEN)}{_GONE}")
        os.rename(hidden, gone)
        hidden = gone
    while hidden.exists():
        with suppress(FileNotFoundError):  # another gc deletes it as well
            shutil.rmtree(hidden)
    return holding.bytes


def _put_back(hidden: Path, folder: Path) -> None:
    """Make a hidden folder visible again; what a run wrote there meanwhile goes before."""
    try:
        os.rename(hidden, folder)
        return
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    for path in sorted(path for path in hidden.rglob("*") if path.is_file()):
        target = folder / path.relative_to(hidden)
        target.parent.mkdir(exist_ok=True)
        if not target.exists():
            os.rename(path, target)
    shutil.rmtree(hidden)
