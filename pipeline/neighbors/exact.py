"""Nearest rows, exactly: every row looked at in blocks, in float32, the near ones again in float64.

A product's last bits hang on a row's place in its block, so that two equal vectors could differ;
the second look takes each row by itself. Equal distances are in the order of rows, which are
sorted by sha256.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]

BLOCK_BYTES = 32 << 20
"""Of rows at hand at a time, as float32."""

SLACK = 1e-4
"""How far, by the scale of the values, a float32 score may be from the true one and then some."""


@dataclass(frozen=True)
class Distance:
    """score: (B, D) rows and a vector (D,) -> (B,) float32, higher is nearer, of a size that SLACK
    fits; exact: the same -> (B,) float64, the distance.
    """

    score: Callable[[Floats, Floats], Floats]
    exact: Callable[[Doubles, Doubles], Doubles]


def nearest(
    vectors: npt.NDArray[Any], query: Floats, k: int, *, metric: str = "cosine", but: int = -1
) -> tuple[Rows, Doubles]:
    """The k nearest rows and their distances, ascending, ties by row.

    vectors: (N, D), as a rule memory-mapped; query: (D,); metric: a key of DISTANCES; but: a row
    that does not count. A row that holds NaN or infinity is nobody's neighbour. Beside 4 bytes a
    row, some BLOCK_BYTES are in memory.
    """
    scores, score = np.empty(len(vectors), np.float32), DISTANCES[metric].score
    with np.errstate(all="ignore"):  # of infinities comes NaN, which is left out
        for start, block in blocks(vectors):
            scores[start : start + len(block)] = score(block, query)
    scores[~np.isfinite(scores)] = -np.inf
    if 0 <= but < len(scores):
        scores[but] = -np.inf
    found = np.flatnonzero(scores >= _least(scores, k))
    return ranked(vectors, query, found[scores[found] > -np.inf], k, metric=metric)


def ranked(
    vectors: npt.NDArray[Any], query: Floats, rows: Rows, k: int, *, metric: str = "cosine"
) -> tuple[Rows, Doubles]:
    """The k nearest of some rows, in float64; see `nearest`."""
    exact, wide, rows = DISTANCES[metric].exact, query.astype(np.float64), np.sort(rows)
    step = max(1, BLOCK_BYTES // (8 * vectors.shape[1]))
    with np.errstate(all="ignore"):
        parts = [
            exact(vectors[rows[at : at + step]].astype(np.float64), wide)
            for at in range(0, len(rows), step)
        ]
    distances = np.concatenate([np.empty(0), *parts])
    order = np.argsort(distances, kind="stable")[:k]
    order = order[np.isfinite(distances[order])]
    return rows[order], distances[order]


def blocks(vectors: npt.NDArray[Any]) -> Iterator[tuple[int, Floats]]:
    """All rows as float32, some at a time, and where each block begins."""
    step = max(1, BLOCK_BYTES // (4 * vectors.shape[1]))
    for start in range(0, len(vectors), step):
        yield start, vectors[start : start + step].astype(np.float32)


def _least(scores: Floats, k: int) -> float:
    """The score from which on a row may be among the k nearest."""
    if k >= len(scores):
        return -np.inf
    kth = float(np.partition(scores, len(scores) - k)[len(scores) - k])
    return kth - SLACK * max(1.0, abs(kth))


def _cosine_score(rows: Floats, query: Floats) -> Floats:
    return _over(rows @ query, np.sqrt(np.einsum("ij,ij->i", rows, rows)) * _norm(query))


def _cosine(rows: Doubles, query: Doubles) -> Doubles:
    products = (rows * query).sum(axis=1)
    similarity = _over(products, np.sqrt((rows * rows).sum(axis=1)) * _norm(query))
    return np.asarray(np.clip(1 - similarity, 0, 2))


def _over(products: npt.NDArray[Any], norms: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The similarity; 0 with a vector of zeros, which has no direction."""
    return np.asarray(np.divide(products, norms, out=np.zeros_like(products), where=norms != 0))


def _norm(vector: npt.NDArray[Any]) -> Any:
    return np.sqrt((vector * vector).sum())


def _euclidean_score(rows: Floats, query: Floats) -> Floats:
    apart = rows - query
    return -np.asarray(np.sqrt(np.einsum("ij,ij->i", apart, apart)))


def _euclidean(rows: Doubles, query: Doubles) -> Doubles:
    return np.asarray(np.sqrt(np.square(rows - query).sum(axis=1)))


DISTANCES = {
    "cosine": Distance(_cosine_score, _cosine),
    "euclidean": Distance(_euclidean_score, _euclidean),
}
"""Cosine: 1 - cosine similarity, 0 to 2."""
