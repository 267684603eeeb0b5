"""METRICS: what a head is scored by, and how sure the figure is.

One function of a Scored and one line in METRICS add a metric.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
RESAMPLES = 1000
SEED = 0
ECE_BINS = 15
_CELLS_AT_ONCE = 10_000_000

Interval = tuple[float, float]


@dataclass(frozen=True)
class Scored:
    """Predictions on labelled images. y, predicted: (N,) int of classes 0..K-1;
    probabilities: (N, K) float, or None for a head that has none."""

    y: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64] | None
    classes: int

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(K, K) counts: row the label, column the prediction."""
        matrix: npt.NDArray[np.int64] = sk.confusion_matrix(
            self.y, self.predicted, labels=range(self.classes)
        )
        return matrix

    @property
    def known(self) -> npt.NDArray[np.float64]:
        """The probabilities; a metric that asks for them is only called where there are some."""
        if self.probabilities is None:
            raise ValueError("this head has no probabilities")
        return self.probabilities


def accuracy(scored: Scored) -> float:
    """Share of right predictions."""
    return float(sk.accuracy_score(scored.y, scored.predicted))


def balanced_accuracy(scored: Scored) -> float:
    """Mean recall over the classes that occur."""
    return float(_balanced(scored.confusion[None])[0])


def macro_f1(scored: Scored) -> float:
    """Mean F1 over the classes that occur as label or prediction."""
    return float(_macro_f1(scored.confusion[None])[0])


def log_loss(scored: Scored) -> float:
    """Mean negative log probability of the label, in nats; clipped as scikit-learn does."""
    return float(sk.log_loss(scored.y, scored.known, labels=range(scored.classes)))


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


def wilson(right: int, n: int) -> Interval:
    """95 % interval of a share (Wilson 1927); (0, 1) where n is 0."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def _accuracy_interval(scored: Scored) -> Interval:
    return wilson(int((scored.y == scored.predicted).sum()), len(scored.y))


def _log_loss_interval(scored: Scored) -> Interval:
    p = np.clip(scored.known, np.finfo(scored.known.dtype).eps, 1)
    losses = -np.log(p[np.arange(len(scored.y)), scored.y])
    half = Z * float(losses.std(ddof=1)) / np.sqrt(len(losses)) if len(losses) > 1 else 0.0
    middle = log_loss(scored)
    return max(0.0, middle - half), middle + half


def _resampled(of: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Callable[[Scored], Interval]:
    """Percentile bootstrap (Efron 1979) of what a confusion matrix determines.

    Drawing N images with replacement is drawing the matrix's cells from a multinomial.
    """

    def interval(scored: Scored) -> Interval:
        cells = scored.confusion.ravel()
        random = np.random.default_rng(SEED)
        batch = int(np.clip(_CELLS_AT_ONCE // cells.size, 1, RESAMPLES))
        values = list[float]()
        while len(values) < RESAMPLES:
            drawn = random.multinomial(cells.sum(), cells / cells.sum(), size=batch)
            values.extend(of(drawn.reshape(batch, scored.classes, scored.classes)))
        low, high = np.percentile(values, [2.5, 97.5])
        return float(low), float(high)

    return interval


def _balanced(confusions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B, K, K) -> (B,)"""
    right, labels = np.einsum("bkk->bk", confusions), confusions.sum(axis=2)
    recall = right / np.maximum(labels, 1)
    return np.asarray(recall.sum(axis=1) / np.maximum((labels > 0).sum(axis=1), 1))


def _macro_f1(confusions: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(B, K, K) -> (B,)"""
    right = np.einsum("bkk->bk", confusions)
    either = confusions.sum(axis=2) + confusions.sum(axis=1)
    f1 = 2 * right / np.maximum(either, 1)
    return np.asarray(f1.sum(axis=1) / np.maximum((either > 0).sum(axis=1), 1))


INTERVALS: dict[str, Callable[[Scored], Interval]] = {
    "accuracy": _accuracy_interval,
    "balanced_accuracy": _resampled(_balanced),
    "macro_f1": _resampled(_macro_f1),
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
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        scored.y, scored.predicted, labels=range(scored.classes), zero_division=0
    )
    rows = []
    for index, name in enumerate(names):
        low, high = wilson(int(scored.confusion[index, index]), int(support[index]))
        rows.append(
            {
                "class": name,
                "n": int(support[index]),
                "precision": float(precision[index]),
                "recall": float(recall[index]),
                "recall_low": low,
                "recall_high": high,
                "f1": float(f1[index]),
            }
        )
    return rows
