"""`headstart store info`: the fingerprints of the store, their sizes, and what uses them."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pipeline import files, shards
from pipeline.cli.store import inventory
from pipeline.cli.store.inventory import Holding, Inventory
from pipeline.cli.store.owners import Owner, Standing, State, standing
from pipeline.cli.wording import counted, size, table
from pipeline.errors import IntegrityError, ResourceError
from pipeline.project import open_project
from pipeline.taps import PENULTIMATE
from pipeline.uses import SHORT, Made

_SHA256_BYTES = 64
COLUMNS = ["fingerprint", "backbone", "shards", "rows", "size", "last use", "used by"]


def run(*, as_json: bool = False) -> int:
    """Print the table, or JSON for programs."""
    project = open_project()
    found = inventory.opened(project.store)
    names = inventory.names(project.artifacts / "backbones")
    standings = [standing(holding, names) for holding in found.holdings]
    if as_json:
        print(files.json_text(_as_json(found, standings)), end="")
        return 0
    root = Path(os.path.realpath(project.root))
    rows = [_row(one, root) for one in standings]
    print(*(table([COLUMNS, *rows]) if rows else []), *_totals(found), sep="\n")
    return 0


def rows_in(holding: Holding) -> int:
    """Rows in all shards, told by their sizes; one shard of each layout is read.

    Damaged ones may count none. An image that two runs embedded at once counts twice.
    """
    total, layouts = 0, set[tuple[int, int]]()
    for length, count in sorted(holding.sizes.items()):
        fitting = [one for one in layouts if length > one[0] and (length - one[0]) % one[1] == 0]
        if not fitting:
            try:
                shape, dtype = shards.check(holding.samples[length], holding.fingerprint)
            except (IntegrityError, ResourceError, FileNotFoundError):
                continue  # `verify` names it
            row = _SHA256_BYTES + shape[1] * dtype.itemsize
            fitting = [(length - shape[0] * row, row)]
            layouts.update(fitting)
        frame, row = fitting[0]
        total += count * ((length - frame) // row)
    return total


def _row(one: Standing, root: Path) -> list[str]:
    holding = one.holding
    return [
        holding.fingerprint[:SHORT],
        described(one),
        str(holding.shards),
        str(rows_in(holding)),
        size(holding.bytes),
        _day(one.last_use),
        used_by(one, root),
    ]


def described(one: Standing) -> str:
    """What made the embeddings, in a few words."""
    if one.made is None:
        return "note damaged" if one.spoilt else "not noted"
    return model(one.made)


def model(made: Made) -> str:
    """Source, architecture and arithmetic of a backbone; layer and view where they are not the plain ones."""
    said = [str(made.fields.get(key)) for key in ("source", "architecture", "precision")]
    layer, pooling = (str(made.fields.get(key)) for key in ("layer", "pooling"))
    if "layer" in made.fields and layer != PENULTIMATE:
        said.append(f"{layer}@{pooling}")
    if "tta" in made.fields:
        said.append(str(made.fields["tta"]))
    if "view" in made.fields:
        said.append(f"view {made.fields['view']['number']}")
    return " ".join(said)


def used_by(one: Standing, root: Path) -> str:
    """Who uses it, or did last; root: of this project."""
    said = [_owner(owner, root) for owner in one.owners]
    mine = {owner.use.backbone for owner in one.owners if owner.use.project == str(root)}
    said += [f"this project: {name}" for name in one.names if name not in mine]
    said += ["a damaged note"] * one.damaged
    return "; ".join(said) or ("nothing" if one.noted else "unknown: embedded by an older version")


def _owner(owner: Owner, root: Path) -> str:
    use = owner.use
    where = "this project" if use.project == str(root) else use.project
    text = f"{where}: {use.backbone}"
    if owner.state is State.ELSEWHERE:
        return f"{use.project} on host {use.host}: {use.backbone}"
    return text if owner.state is State.HERE else f"{text} until {_day(use.time)}"


def _day(time: float) -> str:
    return datetime.fromtimestamp(time, UTC).date().isoformat() if time else "never"


def _totals(found: Inventory) -> Iterator[str]:
    partial = {path: length for one in found.holdings for path, length in one.partial.items()}
    stale = [path for one in found.holdings for path in one.stale]
    if partial:
        text = f"{counted(len(partial), 'partial file')}, {size(sum(partial.values()))}"
        yield f"{text}: {len(stale)} left by killed runs, the others younger than a day"
    if found.removed:
        yield f"{counted(len(found.removed), 'folder')} that a killed 'headstart store gc' left"
    total = sum(one.shards for one in found.holdings)
    yield (
        f"total: {counted(len(found.holdings), 'fingerprint')}, {counted(total, 'shard')}, "
        f"{size(found.bytes)} in {found.root}"
    )


def _as_json(found: Inventory, standings: list[Standing]) -> dict[str, Any]:
    return {
        "store": str(found.root),
        "bytes": found.bytes,
        "fingerprints": [_entry(one) for one in standings],
    }


def _entry(one: Standing) -> dict[str, Any]:
    holding = one.holding
    last = datetime.fromtimestamp(one.last_use, UTC).isoformat() if one.last_use else None
    return {
        "fingerprint": holding.fingerprint,
        "noted": one.noted,
        "fields": one.made.fields if one.made else None,
        "dim": one.made.dim if one.made else None,
        "shards": holding.shards,
        "rows": rows_in(holding),
        "bytes": holding.bytes,
        "partial": {"files": len(holding.partial), "bytes": sum(holding.partial.values())},
        "stale": len(holding.stale),
        "last_use": last,
        "this_project": list(one.names),
        "uses": [{**asdict(owner.use), "state": str(owner.state)} for owner in one.owners],
        "damaged": one.damaged + one.spoilt,
    }
