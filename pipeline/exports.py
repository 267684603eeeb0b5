"""Cached embeddings in the formats of others: EXPORTS, written some rows at a time.

parquet      sha256, then path, label and split if labels are joined, and `embedding`: a list of
             float32, which all readers know; float16, they do not
csv          the same, the vector in columns e0, e1, …
npy          the vectors alone, float16 kept; the other columns beside, in a .rows.csv
safetensors  `embeddings`, float16 kept; `sha256` (N, 32) uint8; with labels `labels` (N,) int64,
             whose names are in the metadata
"""

import io
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from pipeline import files, tables
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError
from pipeline.tables import Joined

BLOCK_BYTES = 16 << 20
"""Of vectors in memory at a time, as float32."""

Block = npt.NDArray[Any]


@dataclass(frozen=True)
class Export:
    """What is written. rows: (M,) of the vectors in the file; joined: the labels' columns, if any."""

    cached: Embeddings
    rows: npt.NDArray[np.int64]
    joined: Joined | None
    layer: str | None
    view: int

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return int(self.cached.of(self.layer, self.view).shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """As stored, little-endian."""
        return self.cached.of(self.layer, self.view).dtype.newbyteorder("<")

    def spans(self) -> Iterator[slice]:
        """Rows that are at hand at a time."""
        step = max(1, BLOCK_BYTES // (4 * self.dim))
        return (slice(at, at + step) for at in range(0, len(self.rows), step))

    def blocks(self) -> Iterator[Block]:
        """The vectors, as stored, some at a time."""
        vectors = self.cached.of(self.layer, self.view)
        for span in self.spans():
            yield np.ascontiguousarray(vectors[self.rows[span]], self.dtype)

    def texts(self, span: slice = slice(None)) -> dict[str, pa.Array]:
        """The columns beside the vectors, of some rows."""
        sha256 = self.cached.sha256[self.rows[span]].astype("U64")
        found = {"sha256": pa.array(sha256.tolist(), pa.string())}
        if self.joined is not None:
            for name in ("path", "label", "split"):
                found[name] = pa.array(getattr(self.joined, name)[span].tolist(), pa.string())
        return found


def export(
    cached: Embeddings,
    path: Path,
    *,
    to: str,
    layer: str | None = None,
    view: int = 0,
    labels: Any = None,
) -> Export:
    """Write the vectors of a layer in a view to `path`, whole or not at all; rows by sha256.

    to: a key of EXPORTS; labels: what `tables.join` takes: then a row a path of an image that it
    lists. Equal input gives equal bytes. Raises ConfigurationError and InputError as it does.
    """
    vectors: Any = cached.of(layer, view)
    if path.exists() and path.samefile(vectors.filename):
        raise ConfigurationError(f"{path} is the file to be exported; give another --output")
    joined = None if labels is None else tables.join(cached, labels)
    rows = np.arange(len(cached.sha256)) if joined is None else joined.rows
    made = Export(cached, rows, joined, layer, view)
    EXPORTS[to](made, path)
    return made


def _parquet(made: Export, path: Path) -> None:
    vector = pa.list_(pa.float32(), made.dim)
    schema = pa.schema(
        [*((name, pa.string()) for name in made.texts(slice(0))), ("embedding", vector)]
    )
    schema = schema.with_metadata(_metadata(made))
    with (
        files.replacing(path) as beside,
        pq.ParquetWriter(beside, schema, compression="zstd", use_dictionary=False) as writer,
    ):
        for span, block in zip(made.spans(), made.blocks(), strict=True):
            flat = pa.array(block.astype(np.float32).reshape(-1))
            column = pa.FixedSizeListArray.from_arrays(flat, made.dim)
            arrays = [*made.texts(span).values(), column]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _csv(made: Export, path: Path) -> None:
    numbers = [(name, pa.float32()) for name in tables.columns(made.dim)]
    schema = pa.schema([*((name, pa.string()) for name in made.texts(slice(0))), *numbers])
    with files.replacing(path) as beside, pa.csv.CSVWriter(beside, schema) as writer:
        for span, block in zip(made.spans(), made.blocks(), strict=True):
            columns = map(pa.array, block.astype(np.float32).T)
            arrays = [*made.texts(span).values(), *columns]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _npy(made: Export, path: Path) -> None:
    table = pa.table(made.texts())
    with files.replacing(path.with_suffix(".rows.csv")) as beside:
        pa.csv.write_csv(table, beside)
    with files.replacing(path) as beside, beside.open("wb") as file:
        header = io.BytesIO()
        described = {
            "descr": made.dtype.str,
            "fortran_order": False,
            "shape": (len(made.rows), made.dim),
        }
        np.lib.format.write_array_header_1_0(header, described)
        file.write(header.getvalue())
        _write(file, made)


def _safetensors(made: Export, path: Path) -> None:
    """The format's own layout: the length of a JSON header, that, then the tensors' bytes."""
    metadata, small = _metadata(made), dict[str, Block]()
    if made.joined is not None:
        classes, codes = np.unique(made.joined.label.astype(str), return_inverse=True)
        small["labels"] = codes.astype("<i8")
        metadata["classes"] = json.dumps(classes.tolist())
    digests = b"".join(made.cached.sha256[made.rows].tolist()).decode()
    small["sha256"] = np.frombuffer(bytes.fromhex(digests), np.uint8).reshape(-1, 32)
    shapes = {"embeddings": ((len(made.rows), made.dim), made.dtype)}
    shapes |= {name: (values.shape, values.dtype) for name, values in small.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, (shape, dtype) in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        said = {"dtype": _NAMES[dtype.str], "shape": shape, "data_offsets": [start, end]}
        header[name] = said
    text = json.dumps(header, sort_keys=True).encode()
    text += b" " * (-len(text) % 8)  # so that the tensors are aligned
    with files.replacing(path) as beside, beside.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        _write(file, made)
        for values in small.values():
            file.write(values.tobytes())


_NAMES = {"<f2": "F16", "<f4": "F32", "<f8": "F64", "<i8": "I64", "|u1": "U8"}
"""How safetensors calls types."""


def _write(file: BinaryIO, made: Export) -> None:
    file.writelines(block.data for block in made.blocks())


def _metadata(made: Export) -> dict[str, str]:
    return {
        "backbone": str(made.cached.attributes["backbone"]),
        "fingerprint": made.cached.fingerprint_of(made.layer, made.view),
        "layer": made.layer or made.cached.layers[0],
        "view": str(made.view),
    }


EXPORTS: dict[str, Callable[[Export, Path], None]] = {
    "parquet": _parquet,
    "npy": _npy,
    "csv": _csv,
    "safetensors": _safetensors,
}
