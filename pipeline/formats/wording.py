"""Names that may not mean what they say: labels, groups and paths of a listing, noted not changed."""

import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from datetime import datetime

from pipeline.formats.listing import Entry, counted, quoted

_MANY = 20
"""From so many labels on, labels of one image each look like measurements."""

_SHOWN = 3
"""How many examples a note gives."""


def of_labels(entries: Sequence[Entry]) -> list[str]:
    """Notes on any listing: labels and names that are nearly equal, labels of one image each."""
    counts = Counter(entry.label for entry in entries)
    notes = of_twins("", "labels", counts)
    notes += _of_twin_paths({entry.path for entry in entries})
    single = [label for label, count in counts.items() if count == 1]
    if len(counts) >= _MANY and len(single) > len(counts) / 2:
        notes.append(
            f"{len(single):,} of {len(counts):,} labels have one image each, such as "
            f"{quoted(sorted(single)[:_SHOWN])}: if they are measurements or names of images "
            "rather than classes, give a label that several images share"
        )
    return notes


def of_names(where: str, entries: Sequence[Entry]) -> list[str]:
    """Notes on a manifest: labels that are all numbers or dates, and odd paths."""
    labels = sorted({entry.label for entry in entries})
    notes = list[str]()
    for kind, fits in (("numbers", _is_number), ("dates", _is_date)):
        if labels and all(map(fits, labels)):
            shown = quoted(labels[:_SHOWN])
            notes.append(
                f"{where}: the labels are {kind}, taken as {len(labels):,} names of classes, "
                f"such as {shown}"
            )
            break
    odd = {
        "begins or ends with white space, which is taken as part of the name": _is_padded,
        "a backslash is part of a name here; write / between folders": _has_backslash,
    }
    for what, is_odd in odd.items():
        if found := sorted({entry.path for entry in entries if is_odd(entry.path)}):
            notes.append(f"{where}: {counted(len(found), 'path')}, such as {found[0]!r}: {what}")
    return notes


def of_twins(where: str, what: str, names: Iterable[str]) -> list[str]:
    """A note for each set of names that a reader may take for one."""
    alike: dict[str, set[str]] = defaultdict(set)
    for name in set(names):
        alike[_key(name)].add(name)
    sets = sorted(sorted(found) for found in alike.values() if len(found) > 1)
    notes = [
        f"{where}{': ' if where else ''}the {what} {_ascii(found)} differ only in {_difference(found)} "
        "and are kept apart; write them alike if they are meant as one"
        for found in sets[:_SHOWN]
    ]
    if len(sets) > _SHOWN:
        notes.append(f"{len(sets) - _SHOWN:,} more sets of {what} differ in such ways")
    return notes


def _of_twin_paths(paths: set[str]) -> list[str]:
    normal: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if not path.isascii():
            normal[unicodedata.normalize("NFC", path)].append(path)
    twins = sorted(sorted(found) for found in normal.values() if len(found) > 1)
    notes = list[str]()
    if twins:
        notes.append(
            f"{counted(len(twins), 'pair')} of paths, such as {_ascii(twins[0])}, look the same and "
            "are two files: their letters are composed in different ways; delete one if it is a copy"
        )
    return notes


def _key(name: str) -> str:
    """Equal for names that look the same, or are the same number."""
    if _is_number(name):
        number = float(name)
        return repr(number) if abs(number) < 2**53 else name
    name = unicodedata.normalize("NFKC", name).casefold()
    visible = (letter for letter in name if unicodedata.category(letter) != "Cf")
    return " ".join("".join(visible).split())


def _difference(names: Sequence[str]) -> str:
    if all(map(_is_number, names)):
        return "how the number is written"
    if len({name.casefold() for name in names}) == 1:
        return "case"
    if len({unicodedata.normalize("NFC", name) for name in names}) == 1:
        return "how Unicode composes their letters"
    return "case, spaces or characters that look the same or cannot be seen"


def _ascii(names: Iterable[str]) -> str:
    """With what cannot be told apart by eye written as escapes."""
    return " and ".join(map(ascii, names))


def _is_number(name: str) -> bool:
    with suppress(ValueError):
        return math.isfinite(float(name)) and "_" not in name
    return False


def _is_date(name: str) -> bool:
    with suppress(ValueError):
        return bool(datetime.fromisoformat(name))
    return False


def _is_padded(path: str) -> bool:
    return path != path.strip()


def _has_backslash(path: str) -> bool:
    return "\\" in path
