"""The singular values of embeddings, and how much of each class's indicator lies along each."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 1024
"""Rows, or dimensions where these are more, that are float64 at a time."""

Vectors = npt.NDArray[np.floating[Any]]
Codes = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Spectrum:
    """Embeddings F = U diag(values) ** 1/2 V' as seen by the classes' indicators y.

    values: (R,) the eigenvalues of F'F above rounding; loads: (R, K) squares of U'y;
    counts: (K,) images of each class; squares: (N,) squared length of each row; dim: D.
    """

    values: Floats
    loads: Floats
    counts: Floats
    squares: Floats
    dim: int


def spectrum(X: Vectors, y: Codes, *, centred: bool) -> Spectrum:
    """By the eigenvectors of the smaller of F'F and FF', in float64; F: X, centred or as it is."""
    counts = np.bincount(y).astype(np.float64)
    middle = X.mean(axis=0, dtype=np.float64) if centred else np.zeros(X.shape[1])
    of = _by_dimensions if len(X) > X.shape[1] else _by_rows
    values, projected, squares = of(X, np.eye(len(counts))[y], middle)
    return Spectrum(values, projected**2, counts, squares, X.shape[1])


def _by_dimensions(X: Vectors, Y: Floats, middle: Floats) -> tuple[Floats, Floats, Floats]:
    """Eigenvalues of F'F, U'Y and the rows' squared lengths, where rows are more."""
    dim = X.shape[1]
    gram, seen, squares = np.zeros((dim, dim)), np.zeros((dim, Y.shape[1])), np.zeros(len(X))
    for start in range(0, len(X), BLOCK):
        some = slice(start, start + BLOCK)
        F = X[some].astype(np.float64) - middle
        gram += F.T @ F
        seen += F.T @ Y[some]
        squares[some] = np.einsum("ij,ij->i", F, F)
    values, V = _eigen(gram, len(X))
    return values, V.T @ seen / np.sqrt(values)[:, None], squares


def _by_rows(X: Vectors, Y: Floats, middle: Floats) -> tuple[Floats, Floats, Floats]:
    """The same, where dimensions are more."""
    gram = np.zeros((len(X), len(X)))
    for start in range(0, X.shape[1], BLOCK):
        some = slice(start, start + BLOCK)
        F = X[:, some].astype(np.float64) - middle[some]
        gram += F @ F.T
    values, U = _eigen(gram, X.shape[1])
    return values, U.T @ Y, gram.diagonal()


def _eigen(gram: Floats, other: int) -> tuple[Floats, Floats]:
    """Eigenvalues above rounding and their vectors; other: the dimension that was summed over."""
    values, vectors = np.linalg.eigh(gram)
    kept = values > max(0.0, values[-1]) * max(len(gram), other) * np.finfo(np.float64).eps
    return values[kept], vectors[:, kept]
