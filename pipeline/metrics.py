"""METRICS: what a head is scored by, and how sure the figure is.

One function of a Scored and one line in METRICS add a metric.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
RESAMPLES = 1000
SEED = 0
ECE_BINS = 15

Interval = tuple[float, float]
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


def _counts(
    y: npt.NDArray[np.int64], predicted: npt.NDArray[np.int64], weights: Counts, classes: int
) -> Counts:
    right = np.where(y == predicted, weights, 0)
    pairs = ((y, right), (y, weights), (predicted, weights))
    return np.stack([np.bincount(of, weighed, classes) for of, weighed in pairs])


def _recall(counts: Counts) -> npt.NDArray[np.float64]:
    """(…, 3, K) -> (…, K); 0 for a class without a label."""
    return np.asarray(counts[..., 0, :] / np.maximum(counts[..., 1, :], 1))


def _precision(counts: Counts) -> npt.NDArray[np.float64]:
    """(…, 3, K) -> (…, K); 0 for a class never predicted."""
    return np.asarray(counts[..., 0, :] / np.maximum(counts[..., 2, :], 1))


def _f1(counts: Counts) -> npt.NDArray[np.float64]:
    """(…, 3, K) -> (…, K); 0 for a class that is neither."""
    either = counts[..., 1, :] + counts[..., 2, :]
    return np.asarray(2 * counts[..., 0, :] / np.maximum(either, 1))


def _balanced(counts: Counts) -> npt.NDArray[np.float64]:
    """(…, 3, K) -> (…)"""
    occur = (counts[..., 1, :] > 0).sum(axis=-1)
    return np.asarray(_recall(counts).sum(axis=-1) / occur)


def _macro_f1(counts: Counts) -> npt.NDArray[np.float64]:
    """(…, 3, K) -> (…)"""
    occur = (counts[..., 1:, :].sum(axis=-2) > 0).sum(axis=-1)
    return np.asarray(_f1(counts).sum(axis=-1) / occur)


def _losses(scored: Scored) -> npt.NDArray[np.float64]:
    """(N,) negative log probability of each label; a probability of 0 counts as 2.2e-16."""
    of_label = scored.known[np.arange(len(scored.y)), scored.y]
    return np.asarray(-np.log(np.clip(of_label, np.finfo(np.float64).eps, 1)))


def accuracy(scored: Scored) -> float:
    """Share of right predictions."""
    return float((scored.y == scored.predicted).mean())


def balanced_accuracy(scored: Scored) -> float:
    """Mean recall over the classes that occur."""
    return float(_balanced(scored.counts))


def macro_f1(scored: Scored) -> float:
    """Mean F1 over the classes that occur as label or prediction."""
    return float(_macro_f1(scored.counts))


def log_loss(scored: Scored) -> float:
    """Mean negative log probability of the label, in nats."""
    return float(_losses(scored).mean())


def ece(scored: Scored) -> float:
    """Expected calibration error of the top class, 15 equal bins (Guo 2017)."""
    confidence = scored.known.max(axis=1)
    right = scored.known.argmax(axis=1) == scored.y
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, weights=confidence - right, minlength=ECE_BINS)
    return float(np.abs(gaps).sum() / len(bins))


METRICS: dict[str, Callable[[Scored], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "log_loss": log_loss,
    "ece": ece,
}

NEED_PROBABILITIES = {"log_loss", "ece"}


def wilson(right: float, n: float) -> Interval:
    """95 % interval of a share (Wilson 1927); (0, 1) where n is 0. Neither need be whole."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _accuracy_interval(scored: Scored) -> Interval:
    return wilson(int((scored.y == scored.predicted).sum()), len(scored.y))


def _log_loss_interval(scored: Scored) -> Interval:
    losses = _losses(scored)
    half = Z * float(losses.std(ddof=1)) / np.sqrt(len(losses)) if len(losses) > 1 else 0.0
    middle = float(losses.mean())
    return max(0.0, middle - half), middle + half


def _percentiles(of: Callable[[Counts], npt.NDArray[np.float64]]) -> Callable[[Scored], Interval]:
    def interval(scored: Scored) -> Interval:
        low, high = np.percentile(of(scored.resampled), [2.5, 97.5])
        return float(low), float(high)

    return interval


INTERVALS: dict[str, Callable[[Scored], Interval]] = {
    "accuracy": _accuracy_interval,
    "balanced_accuracy": _percentiles(_balanced),
    "macro_f1": _percentiles(_macro_f1),
    "log_loss": _log_loss_interval,
}


def score(scored: Scored) -> dict[str, Any]:
    """Every metric that applies, `<metric>_ci95` where an interval is known, and n."""
    result: dict[str, Any] = {"n": len(scored.y)}
    for name, metric in METRICS.items():
        if scored.probabilities is None and name in NEED_PROBABILITIES:
            continue
        result[name] = metric(scored)
        if name in INTERVALS:
            result[f"{name}_ci95"] = list(INTERVALS[name](scored))
    return result


def per_class(scored: Scored, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Precision, recall with its interval, F1 and n of each class."""
    right, labels, _ = scored.counts
    precision, recall, f1 = (of(scored.counts) for of in (_precision, _recall, _f1))
    rows = []
    for index, name in enumerate(names):
        n = int(labels[index])
        low, high = wilson(int(right[index]), n)
        rows.append(
            {
                "class": name,
                "n": n,
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "recall_low": low,
                "recall_high": high,
                "f1": float(f1[index]),
            }
        )
    return rows
