"""METRICS: what a head is scored by, and how sure the figure is.

One function of a Scored and one line in METRICS add a metric.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics import counted
from pipeline.metrics.calibration import ece, ece_interval, reliability
from pipeline.metrics.ranked import FIGURES
from pipeline.metrics.scored import Scored
from pipeline.metrics.selective import abstention
from pipeline.metrics.shares import Estimate, Interval, Z, wilson

__all__ = [
    "INTERVALS",
    "METRICS",
    "NEED_PROBABILITIES",
    "PER_CLASS",
    "Interval",
    "Scored",
    "abstention",
    "accuracy",
    "balanced_accuracy",
    "ece",
    "log_loss",
    "macro_f1",
    "per_class",
    "reliability",
    "score",
    "wilson",
]


def accuracy(scored: Scored) -> float:
    """Share of right predictions."""
    return float(scored.right.mean())


def balanced_accuracy(scored: Scored) -> float:
    """Mean recall over the classes that occur."""
    return float(counted.balanced(scored.counts))


def macro_f1(scored: Scored) -> float:
    """Mean F1 over the classes that occur as label or prediction."""
    return float(counted.macro_f1(scored.counts))


def log_loss(scored: Scored) -> float:
    """Mean negative log probability of the label, in nats."""
    return float(_losses(scored).mean())


def _losses(scored: Scored) -> npt.NDArray[np.float64]:
    """(N,) negative log probability of each label; a probability of 0 counts as 2.2e-16."""
    of_label = scored.known[np.arange(len(scored.y)), scored.y]
    return np.asarray(-np.log(np.clip(of_label, np.finfo(np.float64).eps, 1)))


def _estimate(scored: Scored, figure: str) -> Estimate:
    found = scored.ranked.means[FIGURES.index(figure)]
    if found is None:
        raise ValueError(f"{figure} cannot be told of these images")
    return found


def _ranked_figure(scored: Scored, figure: str) -> float:
    """Mean over the classes, each against the rest; see `pipeline.metrics.ranked`."""
    return _estimate(scored, figure).value


def _ranked_interval(scored: Scored, figure: str) -> Interval:
    return _estimate(scored, figure).interval


def _accuracy_interval(scored: Scored) -> Interval:
    return wilson(int(scored.right.sum()), len(scored.y))


def _log_loss_interval(scored: Scored) -> Interval:
    losses = _losses(scored)
    half = Z * float(losses.std(ddof=1) / np.sqrt(len(losses)))
    middle = float(losses.mean())
    return max(0.0, middle - half), middle + half


METRICS: dict[str, Callable[[Scored], float]] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "auroc": partial(_ranked_figure, figure="auroc"),
    "average_precision": partial(_ranked_figure, figure="average_precision"),
    "sensitivity_at_95_specificity": partial(
        _ranked_figure, figure="sensitivity_at_95_specificity"
    ),
    "log_loss": log_loss,
    "ece": ece,
}

INTERVALS: dict[str, Callable[[Scored], Interval]] = {
    "accuracy": _accuracy_interval,
    "balanced_accuracy": counted.percentiles(counted.balanced),
    "macro_f1": counted.percentiles(counted.macro_f1),
    **{name: partial(_ranked_interval, figure=name) for name in FIGURES},
    "log_loss": _log_loss_interval,
    "ece": ece_interval,
}

NEED_PROBABILITIES = {*FIGURES, "log_loss", "ece"}
NEED_TWO_IMAGES = {"log_loss"}
"""Metrics whose interval says nothing of one image alone."""


def score(scored: Scored) -> dict[str, Any]:
    """Every metric that applies, `<metric>_ci95` where an interval is known, and n."""
    result: dict[str, Any] = {"n": len(scored.y)}
    for name, metric in METRICS.items():
        if not _applies(name, scored):
            continue
        result[name] = metric(scored)
        if name in INTERVALS and (len(scored.y) > 1 or name not in NEED_TWO_IMAGES):
            result[f"{name}_ci95"] = list(INTERVALS[name](scored))
    return result


def _applies(name: str, scored: Scored) -> bool:
    if scored.probabilities is None:
        return name not in NEED_PROBABILITIES
    return name not in FIGURES or scored.ranked.means[FIGURES.index(name)] is not None


PER_CLASS = ("class", "n", "precision", "recall", "recall_low", "recall_high", "f1", *FIGURES)


def per_class(scored: Scored, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """PER_CLASS of each class, FIGURES being None where they cannot be told."""
    right, labels, _ = scored.counts
    shares = [of(scored.counts) for of in (counted.precision, counted.recall, counted.f1)]
    unknown = np.full((len(FIGURES), scored.classes), np.nan)
    ranked = unknown if scored.probabilities is None else scored.ranked.values
    rows = []
    for index, name in enumerate(names):
        n = int(labels[index])
        low, high = wilson(int(right[index]), n)
        precision, recall, f1 = (float(share[index]) for share in shares)
        against_rest = [None if np.isnan(value) else float(value) for value in ranked[:, index]]
        figures = (name, n, precision, recall, low, high, f1, *against_rest)
        rows.append(dict(zip(PER_CLASS, figures, strict=True)))
    return rows
