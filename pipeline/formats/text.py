"""A CSV file -> its rows of text: encodings, separators, quotes."""

import codecs
import csv
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import ImageError, InputError
from pipeline.formats.listing import counted
from pipeline.images.headers import SNIFF_BYTES, sniff

SEPARATORS = {",": "','", ";": "';'", "\t": "a tab", "|": "'|'"}

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks; those of UTF-32 begin as those of UTF-16 do."""


def encoding_of(path: Path) -> str:
    """The encoding that a byte order mark tells, else utf-8.

    Raises InputError for an empty file, and for UTF-16 without its mark.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    for mark, encoding in _MARKS:
        if head.startswith(mark) and head[len(mark) :].strip():
            return encoding
    if not head.strip() or head in dict(_MARKS):
        raise InputError(f"{path.name}: the file is empty; begin it with the line 'path,label'")
    if _is_image(head):
        raise InputError(
            f"{path.name}: this is an image, not a table; give data.path a folder or a manifest"
        )
    if b"\0" in head.splitlines()[0]:
        order = "UTF-16BE" if head.startswith(b"\0") else "UTF-16LE"
        raise InputError(
            f"{path.name}: line 1 holds NUL bytes, as UTF-16 does when its byte order mark is "
            f"missing; save it as UTF-8: {_iconv(path, order)}"
        )
    return "utf-8"


def _is_image(head: bytes) -> bool:
    try:
        return bool(sniff(head[:SNIFF_BYTES]))
    except ImageError:
        return False


def read_rows(path: Path, encoding: str, separator: str) -> Iterator[tuple[int, list[str]]]:
    """The line that each row begins in, from 1, and its fields; the first is the header.

    Blank lines are skipped. Raises InputError for bytes that are not of the encoding, quotes
    that do not close, and rows that are longer or shorter than the header.
    """
    with _decoding(path, encoding) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        width, line = 0, 1
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                raise InputError(
                    f"{path.name}: the row that begins in line {line} cannot be read ({error}); "
                    'close the quote that opens there, or write "" for one inside quotes'
                ) from None
            if row is None:
                return
            width = width or len(row)
            if row and len(row) != width:
                raise InputError(
                    f"{path.name}: the row in line {line} has {counted(len(row), 'field')} and the header "
                    f"{width}; complete it, or put quotes round a field with {SEPARATORS[separator]} in it"
                )
            if row:
                yield line, row
            line = reader.line_num + 1


def header_of(path: Path, encoding: str, separator: str) -> list[str]:
    """The names in the first row, as that separator cuts them; none where it cannot."""
    with _decoding(path, encoding) as file:
        try:
            return next(filter(None, csv.reader(file, delimiter=separator)), [])
        except csv.Error:
            return []


@contextmanager
def _decoding(path: Path, encoding: str) -> Iterator[Iterator[str]]:
    """The file's lines; a UnicodeError becomes a line that says where."""
    try:
        with path.open(encoding=encoding, newline="") as file:
            yield file
    except UnicodeError:
        raise InputError(_undecodable(path, encoding)) from None


def _undecodable(path: Path, encoding: str) -> str:
    name = encoding.removesuffix("-sig").upper()
    content = path.read_bytes()
    try:
        content.decode(name)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        where = f" in line {line:,}" if name == "UTF-8" else ""
        return (
            f"{path.name}: byte {error.start:,}{where}, 0x{content[error.start]:02x}, is not {name}; "
            f"save it as UTF-8: {_iconv(path, 'ENCODING')}, where ENCODING is what it was "
            "written in, such as WINDOWS-1252"
        )
    return f"{path.name}: it changed while it was read; run the same command again"


def _iconv(path: Path, encoding: str) -> str:
    new = path.with_name("utf8.csv")
    return f"iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(str(new))}"
