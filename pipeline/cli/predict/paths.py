"""Which images are meant: files, folders, globs, lists and manifests -> paths, one after the other."""

import codecs
import csv
import glob
import os
import stat
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pipeline.errors import ConfigurationError, InputError, is_shortage

STDIN = "-"
MANIFESTS = (".csv", ".parquet")
SEPARATORS = ",;\t|"

_BLOCK = 1 << 16
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def all_paths(named: Iterable[str], lists: Iterable[str] = ()) -> Iterator[str]:
    """The path of each image meant, as it is written, in the order it was named.

    named: files, folders, globs, manifests, or `-` for a list on stdin; lists: files with a path
    a line, or between NULs. Raises ConfigurationError at once where one that is named is not
    there, InputError where a list or manifest cannot be read, as it comes to it.
    """
    named, lists = list(named), list(lists)
    sources = [_source(name) for name in named]
    for name in lists:
        _must_be_there(name, whole=True)
    return _chained([*sources, *(_listed(name) for name in lists)])


def _chained(sources: list[Iterator[str]]) -> Iterator[str]:
    for source in sources:
        yield from source


def _source(name: str) -> Iterator[str]:
    if name == STDIN:
        return _listed(name)
    if not os.path.lexists(name) and glob.has_magic(name):
        return _fitting(name)
    _must_be_there(name)
    if os.path.isdir(name):
        return _below(name)
    if name.lower().endswith(MANIFESTS):
        _must_be_there(name, whole=True)
        return _of_manifest(Path(name))
    return iter([name])


def _fitting(pattern: str) -> Iterator[str]:
    """What fits it, each once: a folder is read to its depth, so what is in it is not read again."""
    found = sorted(glob.glob(pattern, recursive=True))
    if not found:
        raise InputError(f"nothing fits {pattern}; correct the pattern")
    folders = {Path(one) for one in found if os.path.isdir(one)}
    if folders:
        found = [one for one in found if folders.isdisjoint(Path(one).parents)]
    return _chained([_below(one) if Path(one) in folders else iter([one]) for one in found])


def _must_be_there(name: str, *, whole: bool = False) -> None:
    """Raise InputError where it is not. whole: what a link leads to as well."""
    if name != STDIN and not (os.path.exists if whole else os.path.lexists)(name):
        raise InputError(f"{name} does not exist; correct the path")


def _below(folder: str) -> Iterator[str]:
    """Every file in a folder and those below it, in order, a folder's files first.

    Names that start with a dot are skipped; a folder that a link leads to once more as well. What
    is no image shows when it is read.
    """
    seen, todo = set[tuple[int, int]](), [folder]
    while todo:
        here = todo.pop()
        try:
            status = os.stat(here)
            with os.scandir(here) as found:
                names = sorted(one.name for one in found if not one.name.startswith("."))
        except OSError as error:
            if is_shortage(error) or here == folder:
                raise
            yield here  # listed as unreadable
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        paths = [os.path.join(here, name) for name in names]
        folders = [path for path in paths if os.path.isdir(path)]
        below = set(folders)
        yield from (path for path in paths if path not in below)
        todo += reversed(folders)


def _listed(name: str) -> Iterator[str]:
    """The paths of a list, between newlines or, where it holds a NUL, between those.

    The mark that Windows begins a text with is no part of the first, nor the return that it ends
    a line with of any.
    """
    with _binary(name) as file:
        read = getattr(file, "read1", file.read)
        head = read(_BLOCK)
        if head.startswith(_UTF16) and b"\0" in head[2:4]:
            raise InputError(
                f"the list {name} is UTF-16, as PowerShell writes it; save it as UTF-8"
            )
        head = head.removeprefix(codecs.BOM_UTF8)
        separator, end = (b"\0", b"") if b"\0" in head else (b"\n", b"\r")
        rest = b""
        while head:
            *whole, rest = (rest + head).split(separator)
            yield from (os.fsdecode(path) for line in whole if (path := line.removesuffix(end)))
            head = read(_BLOCK)
        if rest := rest.removesuffix(end):
            yield os.fsdecode(rest)


@contextmanager
def _binary(name: str) -> Iterator[IO[bytes]]:
    if name == STDIN:
        yield sys.stdin.buffer
        return
    with open(name, "rb") as file:
        yield file


def _of_manifest(path: Path) -> Iterator[str]:
    """The paths of a table's column `path`, relative to its folder as those of data.path are."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise ConfigurationError(f"{path} is no plain file; save what it gives to one")
    rows = _parquet(path) if path.suffix.lower() == ".parquet" else _csv(path)
    return (str(path.parent / row) for row in rows if row)


def _csv(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            separator = max(SEPARATORS, key=header.count)
            names = next(csv.reader([header], delimiter=separator), [])
            folded = [name.strip().lower() for name in names]
            if "path" not in folded:
                raise InputError(
                    f"{path}: no column 'path' in its first line (it has {', '.join(names[:10])}); "
                    "name the column of paths so"
                )
            at = folded.index("path")
            for row in csv.reader(file, delimiter=separator):
                yield row[at] if len(row) > at else ""
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV ({error}); save it as UTF-8") from None


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigurationError(
            f"{path}: a Parquet file is read with pyarrow, which is not here; type "
            "'pip install pyarrow' or save it as .csv"
        ) from None
    try:
        with pq.ParquetFile(path) as file:
            if "path" not in file.schema_arrow.names:
                raise InputError(f"{path}: no column 'path'; name the column of paths so")
            for some in file.iter_batches(columns=["path"]):
                yield from (str(value) for value in some["path"].to_pylist() if value is not None)
    except (OSError, ValueError) as error:  # of Arrow's own kinds both are the base
        why = " ".join(str(error).split())[:160]
        raise InputError(f"{path} cannot be read as Parquet ({why}); write it anew") from None
