"""A manifest's file -> the columns that are wanted, as text."""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import ConfigurationError, InputError
from pipeline.formats import text

Columns = dict[str, list[str]]


@dataclass(frozen=True)
class Wanted:
    """Names of columns: without the required ones a file is no manifest."""

    required: tuple[str, ...]
    optional: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """columns: text by wanted name, "" where nothing stands; a column not there is left out.

    notes: how the file was read, where that was not plain.
    """

    columns: Columns
    notes: tuple[str, ...]

    def column(self, name: str) -> list[str]:
        """The column, empty in every row where the file has none."""
        rows = len(next(iter(self.columns.values())))
        return self.columns.get(name) or [""] * rows


def read_table(path: Path, wanted: Wanted) -> Table:
    """Read a .csv or .parquet file.

    Raises ConfigurationError for any other, InputError where it cannot be read, lacks a
    required column or holds what is no text, number or date.
    """
    readers: dict[str, Callable[[Path, Wanted], Table]] = {".csv": _csv, ".parquet": _parquet}
    read = readers.get(path.suffix.lower())
    if read is None or path.is_dir():
        raise ConfigurationError(
            f"params.yaml: data.path: {path.name} is no .csv or .parquet file; "
            "correct data.path, or save the manifest as one of them"
        )
    if not path.is_file():  # a pipe would be waited for, a device has no end
        raise ConfigurationError(
            f"params.yaml: data.path: {path.name} is neither a folder nor a plain file; "
            "correct data.path, or save what it gives to a .csv file"
        )
    try:
        return read(path, wanted)
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        why = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise InputError(
            f"{path.name}: cannot be read as {path.suffix[1:]}: {why}; write the file anew or "
            "correct its permissions"
        ) from None


def _csv(path: Path, wanted: Wanted) -> Table:
    encoding, notes = text.encoding_of(path), list[str]()
    if not encoding.startswith("utf-8"):
        notes.append(f"{path.name}: read as {encoding.upper()}, as its byte order mark says")
    separator = _separator(path, encoding, wanted)
    if separator != ",":
        notes.append(f"{path.name}: read with {text.SEPARATORS[separator]} between the fields")
    rows = text.read_rows(path, encoding, separator)
    _, header = next(rows, (1, []))
    places, renamed = _places(path.name, header, wanted)
    columns: Columns = {name: [] for name in places}
    targets = [(columns[name], place) for name, place in places.items()]
    for _, row in rows:
        for column, place in targets:
            column.append(row[place])
    return Table(columns, (*notes, *renamed))


def _parquet(path: Path, wanted: Wanted) -> Table:
    with pq.ParquetFile(path) as file:  # of one file: a folder named a=b adds no column
        names = file.schema_arrow.names
        places, notes = _places(path.name, names, wanted)
        table = file.read(columns=[names[place] for place in places.values()])
    columns, read = Columns(), dict[str, list[str]]()
    for name, place in places.items():
        found = names[place]
        if found not in read:
            read[found], whole = _texts(path.name, found, table[found])
            if whole:
                notes.append(f"{path.name}: the numbers of column {found!r} are written without .0")
        columns[name] = read[found]
    return Table(columns, tuple(notes))


def _separator(path: Path, encoding: str, wanted: Wanted) -> str:
    """The first that cuts every required name out of the header; the comma where none does."""
    needed = {_folded(name) for name in wanted.required}
    for separator in text.SEPARATORS:
        if needed <= set(map(_folded, text.header_of(path, encoding, separator))):
            return separator
    return ","


def _folded(name: str) -> str:
    return name.strip().lower()


def _places(where: str, names: Sequence[str], wanted: Wanted) -> tuple[dict[str, int], list[str]]:
    """Where each wanted column stands, and a note for each whose name is not quite the wanted."""
    places, notes = dict[str, int](), list[str]()
    for name in dict.fromkeys(wanted.required + wanted.optional):
        found = [place for place, one in enumerate(names) if one == name]
        found = found or [place for place, one in enumerate(names) if _folded(one) == _folded(name)]
        if len(found) > 1:
            raise InputError(f"{where}: the column {name!r} stands twice; delete one")
        if found:
            places[name] = found[0]
            if names[found[0]] != name:
                notes.append(f"{where}: the column {names[found[0]]!r} is taken as {name!r}")
        elif name in wanted.required:
            raise InputError(
                f"{where}: no column {name!r} (it has {_few(names)}); {_near(name, names)}"
            )
    unused = [one for place, one in enumerate(names) if place not in places.values()]
    for name in (name for name in wanted.optional if name not in places):
        for near in difflib.get_close_matches(name, map(_folded, unused), n=1, cutoff=0.75):
            notes.append(
                f"{where}: no column {name!r}, and {near!r} is not used; rename it if it is meant"
            )
    return places, notes


def _few(names: Sequence[str]) -> str:
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:10]]
    return ", ".join(shown) + (f" and {len(names) - 10:,} more" if len(names) > 10 else "")


def _near(name: str, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"is {near[0]!r} it? rename that to {name!r}" if near else "add it to the first row"


def _texts(where: str, name: str, column: Any) -> tuple[list[str], bool]:
    """A Parquet column as text, and whether whole numbers lost their `.0`.

    A null or a NaN is "". Numbers that are all whole are written so: tables kept in memory
    turn integers with gaps into floating point.
    """
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_temporal(kind):
        values = column.cast(pa.string()).to_pylist()
        return ["" if value is None else _NO_FRACTION.sub("", value) for value in values], False
    if pa.types.is_decimal(kind):
        column = column.cast(pa.string())
    elif pa.types.is_floating(kind):
        return _numbers([None if v is None or math.isnan(v) else v for v in column.to_pylist()])
    elif not any(is_kind(kind) for is_kind in _PLAIN):
        raise InputError(f"{where}: the column {name!r} holds {kind}, not text; write it as text")
    values = column.to_pylist()
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        values = [None if value is None else value.decode() for value in values]
    return ["" if value is None else str(value) for value in values], False


_NO_FRACTION = re.compile(r"\.0+(?!\d)")
"""The fraction of a time of whole seconds."""

_PLAIN = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_integer,
    pa.types.is_boolean, pa.types.is_null, pa.types.is_binary, pa.types.is_large_binary,
)  # fmt: skip


def _numbers(values: list[float | None]) -> tuple[list[str], bool]:
    there = [value for value in values if value is not None]
    whole = bool(there) and all(value.is_integer() for value in there)
    written = int if whole else float
    return ["" if value is None else str(written(value)) for value in values], whole
