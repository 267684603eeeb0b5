"""Which images, which labels, which split: the nouns, and the tables they are kept in."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import files
from pipeline.errors import IntegrityError, is_failing, is_shortage

Digests = npt.NDArray[np.bytes_]
"""(N,) S64: hex sha256 of each image's bytes."""

TOP_REASONS = 8
"""How many reasons a table on the terminal has."""

EXAMPLE_WIDTH = 120
"""How long the example of each may be, in characters."""

_READ_ROWS = 8192
_BUFFER = 1 << 20
"""Bytes of a column that are read at a time; without, a million rows of it."""

PROBLEM_COLUMNS = ("path", "sha256", "reason", "detail")

_IMAGES = pa.schema([("sha256", pa.string()), ("path", pa.string()), ("bytes", pa.int64())])
_LABELS = pa.schema([(name, pa.string()) for name in ("path", "sha256", "label", "split", "group")])


pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what was freed from the others


class Split(StrEnum):
    """What an image is used for."""

    TRAIN = "train"
    VAL = "val"
    TEST = "test"


@dataclass(frozen=True, order=True)
class Problem:
    """An image, or a row of a manifest, that is left out, and why; a row of problems.csv."""

    path: str
    sha256: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Images:
    """The distinct images, sorted by digest. sha256: (N,) S64; path, bytes: one of each image.

    path is relative to the data root, with `/`.
    """

    sha256: Digests
    path: tuple[str, ...]
    bytes: tuple[int, ...]


@dataclass(frozen=True)
class Labels:
    """One row a path, sorted by path: (N,) object arrays of text, sha256 as (N,) S64.

    group holds None where there is none.
    """

    path: npt.NDArray[np.object_]
    sha256: Digests
    label: npt.NDArray[np.object_]
    split: npt.NDArray[np.object_]
    group: npt.NDArray[np.object_]

    def where(self, mask: npt.NDArray[Any]) -> "Labels":
        """The rows that a boolean mask or an index array names."""
        return Labels(
            self.path[mask], self.sha256[mask], self.label[mask], self.split[mask], self.group[mask]
        )


def digests(values: Iterable[str]) -> Digests:
    """Hex digests as an (N,) S64 array."""
    return np.array(list(values), dtype="S64")


def positions(digests: Digests, wanted: Digests) -> npt.NDArray[np.int64]:
    """Where each of `wanted` stands in the sorted `digests`; -1 where it does not. (M,) int64."""
    if len(digests) == 0:
        return np.full(len(wanted), -1, dtype=np.int64)
    found = np.minimum(np.searchsorted(digests, wanted), len(digests) - 1)
    return np.where(digests[found] == wanted, found, -1).astype(np.int64)


def left_out(problems: Iterable[Problem]) -> str:
    """The commonest reasons, in brackets, for the end of a message; empty without a problem."""
    reasons = Counter(problem.reason for problem in sorted(problems)).most_common(3)
    listed = ", ".join(f"{reason} {count}" for reason, count in reasons)
    return f" (left out: {listed})" if listed else ""


def problem_table(problems: Sequence[Problem], file: str) -> list[str]:
    """What was left out, for the terminal: a line a reason, the commonest first, with an example
    and how many more there are.

    file: where the whole list stands. No line where there is no problem.
    """
    if not problems:
        return []
    reasons = Counter(problem.reason for problem in problems)
    examples = {problem.reason: problem for problem in sorted(problems, reverse=True)}
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    widths = max(map(len, reasons)), len(str(max(reasons.values())))
    rows = [
        f"  {reason:<{widths[0]}}  {reasons[reason]:>{widths[1]}}  {_example(examples[reason])}"
        + (f", and {reasons[reason] - 1} more" if reasons[reason] > 1 else "")
        for reason in order[:TOP_REASONS]
    ]
    more = [f"  and {len(order) - TOP_REASONS} more reasons"] if len(order) > TOP_REASONS else []
    return [f"left out: {len(problems)}; the whole list is in {file}", *rows, *more]


def _example(problem: Problem) -> str:
    text = f"{problem.path}: {problem.detail}" if problem.detail else problem.path
    return on_one_line(text)


def on_one_line(text: str) -> str:
    """Text for a terminal, cut to EXAMPLE_WIDTH, control characters as escapes."""
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return shown if len(shown) <= EXAMPLE_WIDTH else shown[: EXAMPLE_WIDTH - 1] + "…"


def write_images(path: Path, images: Images) -> None:
    """Write images.parquet."""
    columns = [images.sha256.astype("U64").tolist(), list(images.path), list(images.bytes)]
    _write(path, columns, _IMAGES)


def read_images(path: Path) -> Images:
    """Read images.parquet. Raises IntegrityError where it is not one."""
    table = _read(path, _IMAGES)
    return Images(
        sha256=np.concatenate([digests(part.to_pylist()) for part in _chunks(table["sha256"])]),
        path=tuple(table["path"].to_pylist()),
        bytes=tuple(table["bytes"].to_pylist()),
    )


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    """At least one, for a column without a row."""
    return column.chunks or [pa.array([], column.type)]


def write_labels(path: Path, labels: Labels) -> None:
    """Write labels.parquet."""
    columns: list[list[Any]] = [
        labels.path.tolist(),
        labels.sha256.astype("U64").tolist(),
        labels.label.tolist(),
        [str(split) for split in labels.split],
        labels.group.tolist(),
    ]
    _write(path, columns, _LABELS)


def read_labels(path: Path) -> Labels:
    """Read labels.parquet. Raises IntegrityError where it is not one."""
    table = _read(path, _LABELS)
    columns = {name: np.array(table[name].to_pylist(), dtype=object) for name in _LABELS.names}
    return Labels(**{**columns, "sha256": digests(columns["sha256"])})


def write_problems(path: Path, problems: Iterable[Problem]) -> None:
    """Write a problems.csv, sorted; the header stands there even where there is no problem."""
    files.write_csv(path, PROBLEM_COLUMNS, (asdict(problem) for problem in sorted(problems)))


def read_problems(path: Path) -> list[Problem]:
    """Read a problems.csv. Raises IntegrityError where it is not one, FileNotFoundError."""
    try:
        return [Problem(**row) for row in files.read_csv(path)]
    except (TypeError, ValueError) as error:
        why = " ".join(str(error).split())
        raise IntegrityError(f"{path} is damaged ({why}); delete it and run 'dvc repro'") from None


def _write(path: Path, columns: Sequence[Sequence[Any]], schema: pa.Schema) -> None:
    arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
    with files.replacing(path) as beside:
        pq.write_table(pa.Table.from_arrays(arrays, schema=schema), beside)


def count_images(path: Path) -> int:
    """How many rows images.parquet has. Raises IntegrityError where it is not one."""
    with _opened(path, _IMAGES) as file:
        return int(file.metadata.num_rows)


def batches(path: Path, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Some columns of images.parquet, so many rows at a time. Raises IntegrityError likewise."""
    with _opened(path, _IMAGES) as file:
        yield from file.iter_batches(rows, columns=columns, use_threads=False)


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    with _opened(path, schema) as file:  # pq.read_table takes 20 MB more, and more by the row
        return pa.Table.from_batches(file.iter_batches(_READ_ROWS, use_threads=False), schema)


@contextmanager
def _opened(path: Path, schema: pa.Schema) -> Iterator[pq.ParquetFile]:
    """The file; what goes wrong while it is read is told as its fault."""
    try:
        with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
            if not file.schema_arrow.equals(schema):  # a column that is missing would read as null
                raise _not_the_table(path, f"its columns are {', '.join(file.schema_arrow.names)}")
            yield file
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run 'dvc repro prepare'") from None
    except (pa.ArrowException, OSError) as error:
        if is_failing(error) or is_shortage(error):
            error.filename = str(path)
            raise
        raise _not_the_table(path, str(error)) from None


def _not_the_table(path: Path, why: str) -> IntegrityError:
    return IntegrityError(
        f"{path} is not the table it should be ({why}); run 'dvc repro -f prepare'"
    )
