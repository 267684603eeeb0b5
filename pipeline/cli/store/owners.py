"""What still uses a fingerprint of the store, by the notes beside its shards."""

import socket
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipeline import uses
from pipeline.cli.store import inventory
from pipeline.cli.store.inventory import Holding
from pipeline.errors import IntegrityError
from pipeline.frozen import RECORD
from pipeline.uses import Made, Use


class State(StrEnum):
    """Whether a noted use goes on.

    HERE: an output of the project's frozen backbone has the fingerprint; ELSEWHERE: noted on another host,
    where only that one can look; ENDED: the project is gone, or its backbone is another.
    """

    HERE = "here"
    ELSEWHERE = "elsewhere"
    ENDED = "ended"


@dataclass(frozen=True)
class Owner:
    """A noted use and what became of it. note: its file."""

    use: Use
    state: State
    note: Path


@dataclass(frozen=True)
class Standing:
    """A fingerprint's folder and who uses it.

    made: None where it was not noted, or the note is damaged, `spoilt`; damaged: how many notes
    of uses are; names: those of this project's frozen backbones, noted or not.
    """

    holding: Holding
    made: Made | None
    spoilt: bool
    owners: tuple[Owner, ...]
    damaged: int
    names: tuple[str, ...]

    @property
    def noted(self) -> bool:
        """Whether a run of this version or a newer one wrote there."""
        return bool(self.made or self.spoilt or self.owners or self.damaged)

    @property
    def last_use(self) -> float:
        """When something was last noted or written, as a time.time()."""
        return max([self.holding.newest, *(owner.use.time for owner in self.owners)])


def standing(holding: Holding, names: dict[str, list[str]]) -> Standing:
    """Read the notes of a folder; names: see `inventory.names`."""
    made, spoilt, owners, damaged = None, False, list[Owner](), 0
    try:
        made = uses.read_made(holding.path, holding.fingerprint)
    except IntegrityError:
        spoilt = True
    for path in inventory.files_in(holding.path / uses.USES, ".json"):
        try:
            use = uses.read_use(path)
            owners.append(Owner(use, _state(use, holding.fingerprint), path))
        except IntegrityError:
            damaged += 1
        except FileNotFoundError:
            continue  # a `gc` took it away just now
    mine = tuple(names.get(holding.fingerprint, ()))
    return Standing(holding, made, spoilt, tuple(owners), damaged, mine)


def _state(use: Use, fingerprint: str) -> State:
    if use.host != socket.gethostname():
        return State.ELSEWHERE
    record = Path(use.project, "artifacts", "backbones", use.backbone, RECORD)
    return State.HERE if fingerprint in inventory.fingerprints_in(record) else State.ENDED
