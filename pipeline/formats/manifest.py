"""Manifests: a table with a row an image, columns path and label."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pipeline.dataset import Problem, Split
from pipeline.errors import InputError
from pipeline.formats import wording
from pipeline.formats.listing import Entry, Listing, counted
from pipeline.formats.table import Table, Wanted, read_table


def manifest(path: Path, group: str | None) -> Listing:
    """A .csv or .parquet table: columns path, label; split, sha256 and a group column if wanted.

    Paths are relative to the manifest's folder, or absolute inside it. Labels and groups are
    text, without the white space round them. Equal rows count once.
    """
    required = ("path", "label", *([group] if group else []))
    table = read_table(path, Wanted(required, ("split", "sha256")))
    rows, notes = _rows(path.name, table, group)
    roots = (os.path.abspath(path.parent), os.path.realpath(path.parent))
    found = dict.fromkeys(_entry(path.name, roots, row) for row in rows)
    entries = sorted((one for one in found if isinstance(one, Entry)), key=_order)
    _check_entries(path.name, entries)
    problems = tuple(one for one in found if isinstance(one, Problem))
    if repeated := len(rows) - len(found):
        notes.append(f"{path.name}: {counted(repeated, 'row')} equal to another, counted once")
    notes += wording.of_names(path.name, entries)
    return Listing(path.parent, tuple(entries), problems, (*table.notes, *notes))


class _Row(NamedTuple):
    path: str
    label: str
    split: str
    sha256: str
    group: str | None


def _rows(where: str, table: Table, group: str | None) -> tuple[list[_Row], list[str]]:
    """The table's rows, labels and groups stripped, and notes on how many were."""
    paths, notes = table.column("path"), list[str]()
    labels = _stripped(where, "label", table.column("label"), notes)
    groups: Sequence[str | None] = [None] * len(paths)
    if group is not None:
        values = _stripped(where, group, table.column(group), notes)
        groups = [value or None for value in values]
        notes += wording.of_twins(where, "groups", filter(None, values))
    splits, digests = table.column("split"), table.column("sha256")
    return list(map(_Row, paths, labels, splits, digests, groups)), notes


def _stripped(where: str, name: str, values: list[str], notes: list[str]) -> list[str]:
    stripped = [value.strip() for value in values]
    if padded := sum(map(str.__ne__, values, stripped)):
        notes.append(
            f"{where}: white space round {counted(padded, 'value')} of column {name!r} taken off"
        )
    return stripped


def _entry(where: str, roots: Iterable[str], row: _Row) -> Entry | Problem:
    if not row.path:
        detail = f"a row labelled {row.label!r} has no path"
        return Problem("", row.sha256, "no_path", detail)
    inside = _inside(roots, row.path)
    if inside is None:
        detail = f"not below the folder of {where}"
        return Problem(row.path, row.sha256, "outside_root", detail)
    if "\0" in row.label:
        return Problem(inside, row.sha256, "bad_name", "the label holds a NUL; take it out")
    if not row.label:
        return Problem(inside, row.sha256, "no_label", "the label is empty")
    if row.split and row.split not in _SPLITS:
        raise InputError(f"{where}: {row.path}: split is {row.split!r}; write train, val or test")
    sha256 = row.sha256.lower()
    if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise InputError(f"{where}: {row.path}: sha256 is {sha256[:70]!r}; write 64 hex digits")
    split = Split(row.split) if row.split else None
    return Entry(inside, row.label, split, row.group, sha256 or None)


_SPLITS = frozenset(map(str, Split))


def _inside(roots: Iterable[str], path: str) -> str | None:
    """`path` relative to the first of the roots that it lies below; None below none."""
    if ".." not in path and not os.path.isabs(path):
        return os.path.normpath(path)  # the usual case, in a fraction of the time
    for root in roots:
        inside = os.path.relpath(os.path.normpath(os.path.join(root, path)), root)
        if inside != ".." and not inside.startswith("../"):
            return inside
    return None


def _order(entry: Entry) -> tuple[str, ...]:
    return entry.path, entry.label, entry.split or "", entry.group or "", entry.sha256 or ""


def _check_entries(where: str, entries: list[Entry]) -> None:
    missing = sum(entry.split is None for entry in entries)
    if 0 < missing < len(entries):
        raise InputError(
            f"{where}: {missing} of {len(entries)} rows have no split; fill in the column or drop it"
        )
    digests: dict[str, str] = {}
    for entry in entries:
        if entry.sha256 and digests.setdefault(entry.path, entry.sha256) != entry.sha256:
            raise InputError(f"{where}: {entry.path}: two rows give two sha256; keep the right one")
