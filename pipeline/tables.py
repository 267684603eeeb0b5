"""Cached embeddings as tables: a pandas frame, or X, y and paths joined to labels by sha256.

No stage imports it; `Embeddings.frame` and `Embeddings.labelled` call it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.dataset import Digests, Labels, digests
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.formats.table import Table, Wanted, read_table

Texts = npt.NDArray[np.object_]

ENDINGS = (".parquet", ".csv")
"""Of files that labels are read from."""

_WANTED = Wanted(("sha256", "label"), ("path", "split"))


class Labelled(NamedTuple):
    """Labelled vectors, a row a path, by sha256, then path.

    X: (M, D) float32; y: (M,) labels, paths: (M,), both text; a path is "" where none is told.
    """

    X: npt.NDArray[np.float32]
    y: Texts
    paths: Texts


class Joined(NamedTuple):
    """Rows of a table of labels whose images are cached. rows: (M,) where their vectors lie."""

    rows: npt.NDArray[np.int64]
    sha256: Digests
    label: Texts
    path: Texts
    split: Texts


def frame(cached: Embeddings, *, layer: str | None = None, view: int = 0) -> Any:
    """A pandas DataFrame, float32: a row an image, index `sha256`, columns e0, e1, …

    Raises ConfigurationError where pandas is not installed, or there is no such layer or view.
    """
    try:
        import pandas as pd
    except ImportError:
        raise ConfigurationError(
            "pandas is not installed; run 'python -m pip install pandas'"
        ) from None
    values = cached.take(np.arange(len(cached.sha256)), layer=layer, view=view)
    index = pd.Index(cached.sha256.astype("U64").astype(object), name="sha256")
    return pd.DataFrame(values, index, columns(values.shape[1]), copy=False)


def columns(dim: int) -> list[str]:
    """Names of the columns that a vector's numbers stand in."""
    return [f"e{number}" for number in range(dim)]


def labelled(
    cached: Embeddings,
    labels: Any,
    *,
    split: str | None = None,
    layer: str | None = None,
    view: int = 0,
) -> Labelled:
    """X, y and paths of the images that `labels` lists and the file has; see `join`."""
    found = join(cached, labels, split=split)
    return Labelled(cached.take(found.rows, layer=layer, view=view), found.label, found.path)


def join(cached: Embeddings, labels: Any, *, split: str | None = None) -> Joined:
    """The rows of `labels` whose images are cached: an inner join by sha256.

    labels: a .parquet or .csv with columns sha256 and label, and path and split if it has them; or
    the same as a DataFrame, a mapping of columns or `dataset.Labels`. A row without a label is
    left out; an image that lies at several paths has a row for each. split: only this one's rows.
    Raises ConfigurationError, and InputError where it is no such table or nothing is left.
    """
    said, table = _read(labels)
    there = (table["label"] != "") & _of_split(said, table, split)
    sha256 = _digests(said, table["sha256"][there])
    rows = cached.rows(sha256)
    path, label, parts = (table[name][there] for name in ("path", "label", "split"))
    order = np.lexsort((path.astype(str), sha256))
    order = order[rows[order] >= 0]
    if not len(order):
        name = cached.attributes.get("backbone", "these")
        raise InputError(
            f"{said}: none of its {len(sha256)} labelled images is among the {len(cached.sha256)} "
            f"embeddings of {name}; give the labels of the same images"
        )
    return Joined(rows[order], sha256[order], label[order], path[order], parts[order])


def _read(labels: Any) -> tuple[str, dict[str, Texts]]:
    """How messages begin, and the columns as text, "" where nothing stands."""
    if isinstance(labels, str | os.PathLike):
        path = Path(labels)
        return str(path), _columns(str(path), _table(path).columns)
    if isinstance(labels, Labels):
        texts = {name: getattr(labels, name).tolist() for name in ("path", "label", "split")}
        return "labels", _columns("labels", {"sha256": labels.sha256.astype("U64"), **texts})
    return "labels", _columns("labels", labels)


def _table(path: Path) -> Table:
    if path.suffix.lower() not in ENDINGS or not path.is_file():
        raise ConfigurationError(
            f"{path} is no file of labels; give a .parquet or .csv with columns sha256 and label, "
            "such as artifacts/dataset/labels.parquet"
        )
    return read_table(path, _WANTED)


def _columns(said: str, given: Mapping[str, Any]) -> dict[str, Texts]:
    absent = [name for name in _WANTED.required if name not in given]
    if absent:
        raise InputError(f"{said}: no column {absent[0]!r}; it takes sha256 and label")
    found = {name: _texts(given[name]) for name in _WANTED.required}
    blank = np.full(len(found["sha256"]), "", dtype=object)
    found |= {n: _texts(given[n]) if n in given else blank for n in _WANTED.optional}
    if len({len(column) for column in found.values()}) > 1:
        raise InputError(f"{said}: its columns are of several lengths; give a row an image")
    return found


def _texts(values: Any) -> Texts:
    """(N,) text; what is missing, as None or NaN, is ""."""
    made = np.empty(len(values), dtype=object)
    made[:] = [_text(value) for value in values]
    return made


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    return "" if value is None or value != value else str(value)  # noqa: PLR0124 - so NaN is told


def _of_split(said: str, table: dict[str, Texts], split: str | None) -> npt.NDArray[np.bool_]:
    if split is None:
        return np.ones(len(table["split"]), bool)
    found = np.asarray(table["split"] == split, bool)
    if not found.any():
        there = ", ".join(sorted(set(table["split"]) - {""})) or "none"
        raise ConfigurationError(f"{said}: no row of split {split!r}; it has: {there}")
    return found


def _digests(said: str, values: Texts) -> Digests:
    lower = [value.lower() for value in values]
    odd = next((value for value in lower if not files.is_digest(value)), None)
    if odd is not None:
        raise InputError(f"{said}: sha256 is {odd[:70]!r}; write 64 hex digits")
    return digests(lower)
