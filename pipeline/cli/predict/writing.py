"""Rows of predictions as a table to read, JSON lines, CSV or Parquet, written as they come."""

import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pipeline import files
from pipeline.cli.predict.rows import flat
from pipeline.errors import ConfigurationError

Row = dict[str, Any]
Write = Callable[[Row], None]

WIDEST = 32
"""Letters that a table has room for in its column of labels; longer ones push the rest aside."""

GROUP = 4096
"""Rows that a Parquet file is written by."""


@contextmanager
def opened(
    format: str, output: Path | None, columns: list[str], classes: Sequence[str]
) -> Iterator[Write]:
    """What writes a row of `pipeline.cli.predict.rows`; columns: those of a flat table.

    output: a file, which is then whole or absent; None: stdout, a row at a time. Raises
    ConfigurationError where that cannot be.
    """
    if format == "parquet":
        if output is None:
            raise ConfigurationError("--format parquet: name the file to write by --output")
        _plain(output)
        with files.replacing(output) as beside, _parquet(beside, columns) as write:
            yield write
    elif output is None:
        yield _text(_lines(format, columns, classes), sys.stdout.buffer)
    else:
        _plain(output)
        with files.replacing(output) as beside, beside.open("wb") as file:
            yield _text(_lines(format, columns, classes), file)


def _plain(output: Path) -> None:
    """A device or a folder is not to be replaced by a file."""
    if os.path.lexists(output) and not output.is_file():
        raise ConfigurationError(f"--output {output} is no plain file; name another")


def _lines(format: str, columns: list[str], classes: Sequence[str]) -> Callable[[Row], str]:
    """What makes a line of a row."""
    if format == "csv":
        return _csv(columns)
    return _jsonl if format == "jsonl" else _table(min(WIDEST, max(map(len, classes))))


def _text(line: Callable[[Row], str], file: IO[bytes]) -> Write:
    live = file is sys.stdout.buffer

    def write(row: Row) -> None:
        file.write(line(row).encode("utf-8", "backslashreplace"))
        if live:
            file.flush()

    return write


def _jsonl(row: Row) -> str:
    told = {key: value for key, value in row.items() if key != "detail"}
    return json.dumps(told, ensure_ascii=False, allow_nan=False) + "\n"


def _csv(columns: list[str]) -> Callable[[Row], str]:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    quoting = csv.DictWriter(text, columns, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()

    def line(row: Row) -> str:
        told = flat(row)
        returns = any("\r" in str(value) for value in told.values())
        (quoting if returns else writer).writerow(told)  # before Python 3.13 \r is not quoted
        line = text.getvalue()
        text.seek(0)
        text.truncate()
        return line

    return line


def _table(width: int) -> Callable[[Row], str]:
    def line(row: Row) -> str:
        path = _shown(row["path"])
        if "error" in row:
            return f"{'!':<{width}}  {'':6}  {path}  {row['error']}: {_shown(row['detail'])}\n"
        label = "?" if row["label"] is None else _shown(row["label"])
        known = f"{row['probability']:.4f}" if "probability" in row else ""
        pairs = [(one["label"], one["probability"]) for one in row.get("top", ())]
        pairs = pairs or list(row.get("probabilities", {}).items())
        others = "".join(f"  {_shown(name)} {value:.4f}" for name, value in pairs)
        return f"{label:<{width}}  {known:6}  {path}{others}\n"

    return line


def _shown(text: str) -> str:
    """For a terminal: what is no letter, such as its own commands, as an escape."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


@contextmanager
def _parquet(path: Path, columns: list[str]) -> Iterator[Write]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigurationError(
            "--format parquet is written with pyarrow, which is not here; type "
            "'pip install pyarrow' or write --format csv"
        ) from None
    schema, rows = _schema(pa, columns), list[Row]()
    with pq.ParquetWriter(path, schema) as file:

        def write(row: Row) -> None:
            told = {name: _utf8(value) for name, value in flat(row).items()}
            rows.append({**told, "embedding": row.get("embedding")})
            if len(rows) == GROUP:
                flush()

        def flush() -> None:
            file.write_table(pa.Table.from_pylist(rows, schema))
            rows.clear()

        yield write
        if rows:
            flush()


def _utf8(value: Any) -> Any:
    """A text as CSV has it: what is not UTF-8 as an escape."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _schema(pa: Any, columns: list[str]) -> Any:
    """The columns' types, by their names in `rows.columns`; the embedding is a list."""
    fields, dims = list[Any](), 0
    for name in columns:
        if name.startswith("e") and name[1:].isdecimal():
            dims += 1
        elif name == "abstained":
            fields.append((name, pa.bool_()))
        else:
            known = name == "probability" or name.startswith(("p:", "probability_"))
            fields.append((name, pa.float32() if known else pa.string()))
    return pa.schema([*fields, *([("embedding", pa.list_(pa.float32()))] if dims else [])])
