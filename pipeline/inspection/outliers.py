"""Images far from all others, and vectors that tell nothing."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.dataset import Labels

FAR = 3.0
"""Robust standard deviations above the median from which on an image is listed."""

ENOUGH = 20
"""Of fewer images none is far."""

LEAST_SPREAD = 1e-3
"""Of a cosine distance; below, all images are alike but for rounding."""

Vectors = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Outlier:
    """A row of outliers.csv. kind: nan, constant or far.

    score: robust standard deviations that its distance, the cosine distance to its tenth nearest
    other, lies above the median; both None where there is no vector to measure.
    """

    path: str
    label: str
    score: float | None
    split: str
    kind: str
    distance: float | None


def broken(X: Vectors) -> tuple[Mask, Mask]:
    """Which rows of (N, D) have NaN or infinity, and which one value throughout; (N,) each."""
    nan = np.asarray(~np.isfinite(X).all(axis=1))
    constant = np.asarray((X[:, :1] == X).all(axis=1)) & (X.shape[1] > 1)
    return nan, ~nan & constant


def scores(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Robust z of (N,) distances to the k-th nearest (Ramaswamy 2000); NaN where that is NaN."""
    known = distance[np.isfinite(distance)]
    if len(known) < ENOUGH:
        return np.full(len(distance), np.nan)
    middle = np.median(known)
    spread = max(1.4826 * float(np.median(np.abs(known - middle))), LEAST_SPREAD)
    return np.asarray((distance - middle) / spread)


def outliers(
    images: Labels, distance: npt.NDArray[np.float64], nan: Mask, constant: Mask
) -> list[Outlier]:
    """Broken vectors first, then what is FAR, the farthest first. One row an image, (N,) each."""
    score = scores(distance)
    kinds = np.select([nan, constant, np.nan_to_num(score) > FAR], ["nan", "constant", "far"], "")
    found = [
        Outlier(
            path=images.path[row],
            label=images.label[row],
            score=round(float(score[row]), 4) if kinds[row] == "far" else None,
            split=str(images.split[row]),
            kind=str(kinds[row]),
            distance=round(float(distance[row]), 6) if kinds[row] == "far" else None,
        )
        for row in np.flatnonzero(kinds != "")
    ]
    order = {"nan": 0, "constant": 1, "far": 2}
    return sorted(found, key=lambda one: (order[one.kind], -(one.score or 0), one.path))
