"""Where images and labels stand: class folders or a manifest -> a Listing. Reads no image."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.dataset import Problem, Split, left_out
from pipeline.errors import ConfigurationError, InputError
from pipeline.params import unknown


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
    """What a format found under its root, and what it had to leave out."""

    root: Path
    entries: tuple[Entry, ...]
    problems: tuple[Problem, ...]


def list_data(path: Path, *, format: str | None = None, group: str | None = None) -> Listing:
    """List data.path by the named format, or by the one its kind of file tells.

    group: the manifest's column that names groups. Raises ConfigurationError (unknown format,
    path missing) and InputError (nothing there, fewer than two labels).
    """
    if format is not None and format not in FORMATS:
        raise ConfigurationError(f"params.yaml: data.format: {unknown('format', format, FORMATS)}")
    if not os.path.exists(path):
        raise ConfigurationError(
            f"params.yaml: data.path: {path} does not exist; correct data.path or put the data there"
        )
    listing = FORMATS[format or ("folders" if path.is_dir() else "manifest")](path, group)
    found = {entry.label for entry in listing.entries}
    if not listing.entries:
        raise InputError(
            f"{path}: no image with a label found{left_out(listing.problems)}; {_EXPECTED}"
        )
    if len(found) < 2:
        raise InputError(
            f"{path}: only one class, {found.pop()!r}{left_out(listing.problems)}; "
            f"a classifier needs at least two; {_EXPECTED}"
        )
    return listing


_EXPECTED = "expected CLASS/image.jpg, train/CLASS/image.jpg, or a manifest with path and label"


def folders(path: Path, group: str | None) -> Listing:
    """Class folders, with train/val/test above them or without; files may lie deeper.

    Names that start with a dot are skipped. A file outside any class folder is a problem.
    """
    if group is not None:
        raise ConfigurationError(
            f"params.yaml: data.split.group is {group!r}, but class folders have no groups; "
            "use a manifest with that column, or set it to null"
        )
    if not path.is_dir():
        raise ConfigurationError(f"params.yaml: data.path: {path} is a file, not a folder")
    splits = _split_folders(path)
    entries, problems = list[Entry](), list[Problem]()
    for name in _walk(path, problems):
        parts = name.split("/")
        split = Split(parts.pop(0)) if splits and len(parts) > 1 else None
        if _shown(name) != name:
            problems.append(
                Problem(_shown(name), "", "bad_name", "the name is not UTF-8; rename it")
            )
        elif len(parts) < 2:
            problems.append(Problem(name, "", "no_label", "lies in no class folder"))
        else:
            entries.append(Entry(path=name, label=parts[0], split=split))
    return Listing(path, tuple(entries), tuple(problems))


def _split_folders(path: Path) -> bool:
    names = {child.name for child in path.iterdir() if child.is_dir() and child.name[0] != "."}
    known = {str(split) for split in Split}
    if not names & known:
        return False
    if Split.TRAIN not in names:
        raise InputError(f"{path}: found {sorted(names & known)} but no folder train; add it")
    if names - known:
        raise InputError(
            f"{path}: beside train lies {min(names - known)!r}, which is neither val nor test;"
            " rename it or move it away"
        )
    return True


def _walk(root: Path, problems: list[Problem]) -> Iterator[str]:
    """Files below `root`, sorted, links followed once; relative, with `/`.

    A folder that cannot be opened, or that a link leads to once more, is added to `problems`.
    """

    def unreadable(error: OSError) -> None:
        inside = _shown(os.path.relpath(error.filename, root))
        problems.append(Problem(inside, "", "unreadable", error.strerror or str(error)))

    seen: dict[tuple[int, int], str] = {}
    for folder, subfolders, names in os.walk(root, followlinks=True, onerror=unreadable):
        status = os.stat(folder)
        inside = str(PurePosixPath(Path(folder).relative_to(root)))
        first = seen.setdefault((status.st_dev, status.st_ino), inside)
        if first != inside:
            subfolders.clear()
            detail = f"a link to {_shown(first)!r}, which is listed"
            problems.append(Problem(_shown(inside), "", "repeated_folder", detail))
            continue
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield from (
            str(PurePosixPath(inside, name)) for name in sorted(names) if not name.startswith(".")
        )


def _shown(name: str) -> str:
    r"""A file's name as text; bytes that are not UTF-8 become `\udcXX`."""
    return name.encode("utf-8", "backslashreplace").decode()


def manifest(path: Path, group: str | None) -> Listing:
    """A .csv or .parquet table: columns path, label; split, sha256 and a group column if wanted.

    Paths are relative to the manifest's folder, or absolute inside it. Equal rows count once.
    """
    table = _read_table(path)
    for column in ("path", "label", *([group] if group else [])):
        if column not in table.column_names:
            raise InputError(
                f"{path.name}: no column {column!r} (it has {', '.join(table.column_names)}); add it"
            )
    roots = (os.path.abspath(path.parent), os.path.realpath(path.parent))
    found = dict.fromkeys(_entry(path.name, roots, row) for row in _rows(path.name, table, group))
    entries = sorted((one for one in found if isinstance(one, Entry)), key=_order)
    _check_entries(path.name, entries)
    problems = tuple(one for one in found if isinstance(one, Problem))
    return Listing(path.parent, tuple(entries), problems)


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet" and path.is_file():
            return pq.read_table(path)
        if path.suffix.lower() == ".csv" and path.is_file():
            names = pa.csv.open_csv(path).schema.names
            text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
            return pa.csv.read_csv(path, convert_options=text)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise InputError(
            f"{path.name}: cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}"
        ) from None
    raise ConfigurationError(f"params.yaml: data.path: {path.name} is no .csv or .parquet file")


class _Row(NamedTuple):
    path: str
    label: str
    split: str
    sha256: str
    group: str | None


def _rows(where: str, table: pa.Table, group: str | None) -> Iterable[_Row]:
    def column(name: str | None) -> list[str]:
        if name is None or name not in table.column_names:
            return [""] * table.num_rows
        if table.column_names.count(name) > 1:
            raise InputError(f"{where}: the column {name!r} stands twice; delete one")
        return ["" if value is None else str(value) for value in table[name].to_pylist()]

    groups = [value or None for value in column(group)]
    columns = [column(name) for name in ("path", "label", "split", "sha256")]
    return map(_Row, *columns, groups)


def _entry(where: str, roots: Iterable[str], row: _Row) -> Entry | Problem:
    if not row.path:
        detail = f"a row labelled {row.label!r} has no path"
        return Problem("", row.sha256, "no_path", detail)
    inside = _inside(roots, row.path)
    if inside is None:
        detail = f"not below the folder of {where}"
        return Problem(row.path, row.sha256, "outside_root", detail)
    if not row.label:
        return Problem(inside, row.sha256, "no_label", "the label is empty")
    if row.split and row.split not in list(Split):
        raise InputError(f"{where}: {row.path}: split is {row.split!r}; write train, val or test")
    sha256 = row.sha256.lower()
    if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise InputError(f"{where}: {row.path}: sha256 is {sha256[:70]!r}; write 64 hex digits")
    split = Split(row.split) if row.split else None
    return Entry(inside, row.label, split, row.group, sha256 or None)


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


FORMATS: dict[str, Callable[[Path, str | None], Listing]] = {
    "folders": folders,
    "manifest": manifest,
}
