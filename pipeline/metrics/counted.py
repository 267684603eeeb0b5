"""Figures from how often each class was right, is the label and is the prediction."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pipeline.metrics.scored import Counts, Scored
from pipeline.metrics.shares import Estimate, Interval, independent_images

Figures = npt.NDArray[np.float64]


def recall(counts: Counts) -> Figures:
    """(…, 3, K) -> (…, K); 0 for a class without a label."""
    return np.asarray(counts[..., 0, :] / np.maximum(counts[..., 1, :], 1))


def precision(counts: Counts) -> Figures:
    """(…, 3, K) -> (…, K); 0 for a class never predicted."""
    return np.asarray(counts[..., 0, :] / np.maximum(counts[..., 2, :], 1))


def f1(counts: Counts) -> Figures:
    """(…, 3, K) -> (…, K); 0 for a class that is neither."""
    either = counts[..., 1, :] + counts[..., 2, :]
    return np.asarray(2 * counts[..., 0, :] / np.maximum(either, 1))


def balanced(counts: Counts) -> Figures:
    """Mean recall over the classes that occur. (…, 3, K) -> (…)"""
    occur = (counts[..., 1, :] > 0).sum(axis=-1)
    return np.asarray(recall(counts).sum(axis=-1) / occur)


def macro_f1(counts: Counts) -> Figures:
    """Mean F1 over the classes that occur as label or prediction. (…, 3, K) -> (…)"""
    occur = (counts[..., 1:, :].sum(axis=-2) > 0).sum(axis=-1)
    return np.asarray(f1(counts).sum(axis=-1) / occur)


def percentiles(of: Callable[[Counts], Figures]) -> Callable[[Scored], Interval]:
    """95 % interval of a mean over classes: the bootstrap's percentiles.

    Where every resample says the same, as where all predictions are right: `Estimate.interval`.
    """

    def interval(scored: Scored) -> Interval:
        low, high = np.percentile(of(scored.resampled), [2.5, 97.5])
        if low < high:
            return float(low), float(high)
        sizes = scored.counts[1][scored.counts[1] > 0]
        images = independent_images(1 / (sizes * len(sizes)), sizes)
        return Estimate(float(of(scored.counts)), 0.0, images).interval

    return interval
