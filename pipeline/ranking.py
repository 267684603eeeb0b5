"""SCORES: how well labels can be told from embeddings, without training a head.

One function of embeddings and labels and one line in SCORES add a score. None sees a test image:
what is ranked by them is chosen by them.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from pipeline.cluster import cores
from pipeline.spectra import Codes, Floats, Spectrum, Vectors, spectrum

LEADING = "logme"
"""The score that candidates are sorted by; docs/decisions/0024-ranking-scores.md tells why."""

NEIGHBOURS = 5
TEMPERATURE = 0.07
"""Neighbours vote with exp(cosine / 0.07), as in the head `knn`."""

CELLS = 1 << 23
"""Similarities that a thread holds at a time: 32 MB."""

LEAST, MOST = 1e-10, 1e10
"""Between these times the largest eigenvalue the evidence is maximised. It has no maximum where
the embeddings reproduce the labels exactly: the noise goes to 0 and it to infinity."""
ROUNDING = 1e-12
"""Less of a class's indicator than this share is none."""
GRID = 81
SECTIONS = 40
GOLDEN = (5**0.5 - 1) / 2


def logme(X: Vectors, y: Codes) -> float:
    """LogME (You 2021): log evidence of a Bayesian linear model, an image, mean over the classes.

    X: (N, D) float; y: (N,) int. In nats; higher is better. Each class against the rest is
    regressed on X, without an intercept, as published; the precisions of weights and noise are
    those of the highest evidence. At a given ratio of the two the best noise is known, so that
    evidence is searched over the ratio alone: a grid, then golden sections. It is the point at
    which the published fixed-point iteration arrives. Raises ValueError.
    """
    X, y = _checked(X, y)
    seen = spectrum(X, y, centred=False)
    largest = seen.values.max(initial=0) or 1.0
    grid = np.log(largest) + np.linspace(np.log(LEAST), np.log(MOST), GRID)
    spread = seen.values[:, None] / np.exp(grid)
    noise = seen.loads.T @ (1 / (1 + spread)) + _unexplained(seen)[:, None]
    best = _evidence(len(y), noise, np.log1p(spread).sum(axis=0)).argmax(axis=1)
    low, high = grid[np.maximum(best - 1, 0)], grid[np.minimum(best + 1, GRID - 1)]

    def evidence(ratio: Floats) -> Floats:
        spread = seen.values[:, None] / np.exp(ratio)
        noise = (seen.loads / (1 + spread)).sum(axis=0) + _unexplained(seen)
        return _evidence(len(y), noise, np.log1p(spread).sum(axis=0))

    return float(_highest(evidence, low, high).mean())


def _unexplained(seen: Spectrum) -> Floats:
    """(K,) what no linear function of the embeddings tells of each class's indicator."""
    left = seen.counts - seen.loads.sum(axis=0)
    return np.where(left > ROUNDING * seen.counts, left, 0.0)


def _evidence(n: int, noise: Floats, spread: Floats) -> Floats:
    """Log evidence an image where y ~ N(0, s (I + FF' / ratio)), at the best s = noise / n.

    noise: y' (I + FF' / ratio)^-1 y; spread: log det (I + FF' / ratio).
    """
    return np.asarray(-0.5 * (np.log(2 * np.pi * noise / n) + 1 + spread / n))


def _highest(of: Callable[[Floats], Floats], low: Floats, high: Floats) -> Floats:
    """The highest of each of K functions of one peak between (K,) low and high (Kiefer 1953)."""
    left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
    at_left, at_right = of(left), of(right)
    for _ in range(SECTIONS):
        lower = at_left > at_right  # the peak is below right
        low, high = np.where(lower, low, left), np.where(lower, right, high)
        new = np.where(lower, high - GOLDEN * (high - low), low + GOLDEN * (high - low))
        at_new = of(new)
        left, right = np.where(lower, new, right), np.where(lower, left, new)
        at_left, at_right = np.where(lower, at_new, at_right), np.where(lower, at_left, at_new)
    highest: Floats = np.maximum(at_left, at_right)
    return highest


def h_score(X: Vectors, y: Codes) -> float:
    """H-score (Bao 2019) with a shrunk covariance (Ibrahim 2021): tr(cov^-1 (1 - a) between).

    X: (N, D) float; y: (N,) int. between: covariance of the class means; cov: that of X, shrunk
    by `shrinkage` a towards a multiple of the identity. From 0 to K - 1; higher is better.
    Without shrinkage it is K - 1, whatever the labels, where D is N or more. Raises ValueError.
    """
    X, y = _checked(X, y)
    seen = spectrum(X, y, centred=True)
    if not len(seen.values):
        return 0.0
    shrunk = shrinkage(seen.values, seen.squares, seen.dim)
    level = shrunk * seen.values.sum() / seen.dim  # of the sums of squares, not of their mean
    kept = (1 - shrunk) * seen.values
    return float((kept / (kept + level) * (seen.loads / seen.counts).sum(axis=1)).sum())


def shrinkage(values: Floats, squares: Floats, dim: int) -> float:
    """How far a covariance is to be drawn to a multiple of the identity (Ledoit 2004): 0 to 1.

    values: eigenvalues of the centred X'X that are not 0; squares: (N,) squared length of each
    centred row; dim: D.
    """
    n = len(squares)
    total, spread = values.sum() / n, (values**2).sum() / n**2
    away = spread - total**2 / dim
    if away <= 0:
        return 0.0
    return float(np.clip(((squares**2).mean() - spread) / n / away, 0, 1))


def loo_knn(X: Vectors, y: Codes) -> float:
    """Share of images whose NEIGHBOURS nearest others by cosine vote for their class.

    X: (N, D) float; y: (N,) int. Exact: every similarity is computed, in float32, some rows at a
    time. Of equally near images the first counts; of equal votes the first class. A row of zeros
    is equally far from all. Raises ValueError.
    """
    X, y = _checked(X, y)
    lengths = np.sqrt(np.einsum("ij,ij->i", X, X, dtype=np.float64))
    unit = (X / np.where(lengths > 0, lengths, 1)[:, None]).astype(np.float32)
    size = max(1, CELLS // len(y))

    def right(start: int) -> int:
        return _right(unit, y, start, min(start + size, len(y)))

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(right, range(0, len(y), size))) / len(y)


def _right(unit: npt.NDArray[np.float32], y: Codes, start: int, stop: int) -> int:
    """How many of the rows from `start` to `stop` their neighbours know."""
    rows = np.arange(stop - start)
    similar = unit[start:stop] @ unit.T
    similar[rows, rows + start] = -np.inf
    votes = np.zeros((len(rows), y.max() + 1))
    for _ in range(min(NEIGHBOURS, len(y) - 1)):
        nearest = similar.argmax(axis=1)
        cosine = similar[rows, nearest].astype(np.float64)
        votes[rows, y[nearest]] += np.exp((cosine - 1) / TEMPERATURE)
        similar[rows, nearest] = -np.inf
    return int((votes.argmax(axis=1) == y[start:stop]).sum())


SCORES: dict[str, Callable[[Vectors, Codes], float]] = {
    "logme": logme,
    "h_score": h_score,
    "loo_knn": loo_knn,
}


@dataclass(frozen=True)
class Measured:
    """One candidate's scores, and the seconds each took. n: images; dim: values of an embedding."""

    n: int
    dim: int
    scores: dict[str, float]
    seconds: dict[str, float]


def score(X: Vectors, y: Codes) -> Measured:
    """Every score of SCORES. X: (N, D) float; y: (N,) int of two classes at least.

    One BLAS thread: the same bits whatever the machine's cores. Raises ValueError.
    """
    scores, seconds = dict[str, float](), dict[str, float]()
    with threadpool_limits(1):
        for name, of in SCORES.items():
            start = time.perf_counter()
            scores[name] = of(X, y)
            seconds[name] = time.perf_counter() - start
    return Measured(len(X), X.shape[1], scores, seconds)


def _checked(X: Vectors, y: Codes) -> tuple[Vectors, Codes]:
    """The same, classes counted from 0 without a gap."""
    if X.ndim != 2 or y.shape != X.shape[:1]:
        raise ValueError(f"embeddings of shape {X.shape} and labels of shape {y.shape}")
    if not np.isfinite(X).all():
        raise ValueError("an embedding has NaN or infinity")
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError("fewer than two classes: nothing to tell apart")
    return X, codes.astype(np.int64)
