"""Predictions on labelled images, and what of them is counted once for several metrics."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics.ranked import Ranked, rank

RESAMPLES = 1000
SEED = 0

Counts = npt.NDArray[Any]
"""(…, 3, K): how often each class was right, is the label, is the prediction."""


@dataclass(frozen=True)
class Scored:
    """Predictions on labelled images.

    y, predicted: (N,) int of classes 0..K-1; probabilities: (N, K) float, or None for a head
    that has none; classes: K.
    """

    y: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    classes: int

    @property
    def known(self) -> npt.NDArray[np.float64]:
        """The probabilities; a metric that asks for them is only called where there are some."""
        if self.probabilities is None:
            raise ValueError("this head has no probabilities")
        return self.probabilities

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """(N,) whether each prediction is the label."""
        return np.asarray(self.y == self.predicted)

    @cached_property
    def counts(self) -> Counts:
        """How often each class was right, is the label, is the prediction."""
        return _counts(self.y, self.predicted, np.ones(len(self.y)), self.classes)

    @cached_property
    def resampled(self) -> Counts:
        """The counts of RESAMPLES bootstrap samples (Efron 1979): (B, 3, K).

        Drawing N images with replacement is drawing the cells of the confusion matrix that are
        not empty, N at most, from a multinomial.
        """
        n, random = len(self.y), np.random.default_rng(SEED)
        cells, sizes = np.unique(self.y * self.classes + self.predicted, return_counts=True)
        y, predicted = np.divmod(cells, self.classes)
        draws = (random.multinomial(n, sizes / n) for _ in range(RESAMPLES))
        return np.stack([_counts(y, predicted, draw, self.classes) for draw in draws])

    @cached_property
    def ranked(self) -> Ranked:
        """How well the probabilities rank each class's images before all others."""
        return rank(self.y, self.known, self.classes)


def _counts(
    y: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], weights: Counts, classes: int
) -> Counts:
    right = np.where(y == predicted, weights, 0)
    pairs = ((y, right), (y, weights), (predicted, weights))
    return np.stack([np.bincount(of, weighed, classes) for of, weighed in pairs])
