"""What a format hands on: the images it found, what it left out and what it decided."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pipeline.dataset import Problem, Split


@dataclass(frozen=True)
class Entry:
    """One image file as the data names it. path: relative to the root, with `/`."""

    path: str
    label: str
    split: Split | None = None
    group: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Listing:
    """What a format found under its root, and what it had to leave out.

    notes: what was decided where the data could be read in more than one way, a line each; no
    absolute path, for they are kept in summary.json. stops_dvc: names, relative to the root,
    that DVC cannot hash where it tracks the whole folder: links to nothing, pipes, names that
    are not UTF-8.
    """

    root: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()
    stops_dvc: tuple[str, ...] = ()


def quoted(names: Iterable[str], *, most: int = 8) -> str:
    """The names, sorted and quoted, for the middle of a sentence; the last are only counted."""
    shown = [repr(name) for name in sorted(names)]
    if len(shown) > most:
        shown[most - 1 :] = [f"{len(shown) - most + 1:,} more"]
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def counted(count: int, noun: str) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
