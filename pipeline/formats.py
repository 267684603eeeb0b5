"""Where images and labels stand: class folders or a manifest -> a Listing. Reads no image."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline.dataset import Problem, Split
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
    if not path.exists():
        raise ConfigurationError(
            f"params.yaml: data.path: {path} does not exist; correct data.path or put the data there"
        )
    listing = FORMATS[format or ("folders" if path.is_dir() else "manifest")](path, group)
    found = {entry.label for entry in listing.entries}
    if not listing.entries:
        raise InputError(f"{path}: no image with a label found; {_EXPECTED}")
    if len(found) < 2:
        raise InputError(
            f"{path}: only one class, {found.pop()!r}; a classifier needs at least two; {_EXPECTED}"
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
    for name in _walk(path):
        parts = name.split("/")
        split = Split(parts.pop(0)) if splits and len(parts) > 1 else None
        if not _is_text(name):
            shown = name.encode("utf-8", "backslashreplace").decode()
            problems.append(Problem(shown, "", "bad_name", "the name is not UTF-8; rename it"))
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
            f"{path}: beside train lies {sorted(names - known)[0]!r}, which is neither val nor test;"
            " rename it or move it away"
        )
    return True


def _walk(root: Path) -> Iterator[str]:
    """Files below `root`, sorted, links followed once; relative, with `/`."""
    seen = set[tuple[int, int]]()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        inside = Path(folder).relative_to(root)
        yield from (
            str(PurePosixPath(inside, name)) for name in sorted(names) if not name.startswith(".")
        )


def _is_text(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def manifest(path: Path, group: str | None) -> Listing:
    """A .csv or .parquet table: columns path, label; split, sha256 and a group column if wanted.

    Paths are relative to the manifest's folder, or absolute inside it.
    """
    table = _read_table(path)
    wanted = ["path", "label", *([group] if group else [])]
    for column in wanted:
        if column not in table.column_names:
            raise InputError(
                f"{path.name}: no column {column!r} (it has {', '.join(table.column_names)}); add it"
            )
    entries, problems = list[Entry](), list[Problem]()
    root = path.parent.resolve()
    for row in dict.fromkeys(_rows(table, group)):
        try:
            entries.append(_entry(path.name, root, *row))
        except _LeftOut as left_out:
            problems.append(left_out.problem)
    _all_or_none(path.name, [entry.split for entry in entries])
    entries.sort(key=lambda entry: entry.path)
    return Listing(path.parent, tuple(entries), tuple(problems))


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix == ".parquet":
            return pq.read_table(path)
        if path.suffix == ".csv":
            names = pa.csv.open_csv(path).schema.names
            text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
            return pa.csv.read_csv(path, convert_options=text)
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(
            f"{path.name}: cannot be read as {path.suffix[1:]}: {' '.join(str(error).split())}"
        ) from None
    raise ConfigurationError(
        f"params.yaml: data.path: {path.name} is neither a folder nor a .csv or .parquet manifest"
    )


_Row = tuple[str, str, str, str | None, str]


def _rows(table: pa.Table, group: str | None) -> Iterable[_Row]:
    def column(name: str | None) -> list[str]:
        if name is None or name not in table.column_names:
            return [""] * table.num_rows
        return ["" if value is None else str(value) for value in table[name].to_pylist()]

    groups = [value or None for value in column(group)]
    return zip(
        column("path"), column("label"), column("split"), groups, column("sha256"), strict=True
    )


class _LeftOut(Exception):
    def __init__(self, path: str, sha256: str, reason: str, detail: str) -> None:
        self.problem = Problem(path, sha256, reason, detail)


def _entry(
    where: str, root: Path, path: str, label: str, split: str, group: str | None, sha256: str
) -> Entry:
    if not path:
        raise _LeftOut("", sha256, "no_path", f"a row labelled {label!r} has no path")
    inside = os.path.relpath(os.path.normpath(root / path), root)
    if inside == ".." or inside.startswith("../"):
        raise _LeftOut(path, sha256, "outside_root", f"not below the folder of {where}")
    if not label:
        raise _LeftOut(inside, sha256, "no_label", "the label is empty")
    if split and split not in list(Split):
        raise InputError(f"{where}: {path}: split is {split!r}; write train, val or test")
    if sha256 and (len(sha256) != 64 or set(sha256) - set("0123456789abcdef")):
        raise InputError(f"{where}: {path}: sha256 is {sha256[:70]!r}; write 64 hex digits")
    return Entry(inside, label, Split(split) if split else None, group, sha256 or None)


def _all_or_none(where: str, splits: list[Split | None]) -> None:
    missing = sum(split is None for split in splits)
    if 0 < missing < len(splits):
        raise InputError(
            f"{where}: {missing} of {len(splits)} rows have no split; fill in the column or drop it"
        )


FORMATS: dict[str, Callable[[Path, str | None], Listing]] = {
    "folders": folders,
    "manifest": manifest,
}
