"""How well probabilities rank the images of a class before all others, from one sort a class.

Area under the ROC curve, average precision, and sensitivity at 95 % specificity, each as the mean
over the classes that occur with both kinds, an image of it and one that is not; and the derivative
of each by each image's weight, from which the intervals come.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.shares import Estimate, Floats, Z, independent_images, jackknife

Codes = npt.NDArray[np.int64]

FIGURES = ("auroc", "average_precision", "sensitivity_at_95_specificity")
FALSE_ALARMS = 0.05
"""Share of the other images that may be taken for the class: 1 - specificity."""
ONE_IN = 20
"""The same in whole numbers: one of so many."""
BLOCK = 1 << 22
"""Probabilities that are turned to columns at a time."""


@dataclass(frozen=True)
class Ranked:
    """values: (3, K) FIGURES of each class against the rest, NaN where it cannot be told; means:
    over the classes of which it can, None where there is none.
    """

    values: Floats
    means: tuple[Estimate | None, ...]


def rank(y: Codes, probabilities: Floats, classes: int) -> Ranked:
    """FIGURES of each class and over all. y: (N,) int; probabilities: (N, K) float.

    Of a class that occurs with both kinds; sensitivity where there are ONE_IN others at least,
    since of fewer none may be a false alarm.
    """
    sizes = np.bincount(y, minlength=classes).astype(np.float64)
    values = np.full((len(FIGURES), classes), np.nan)
    both = np.flatnonzero((sizes > 0) & (sizes < len(y)))
    gradient = np.zeros((len(FIGURES), len(y)))
    step = max(1, BLOCK // max(1, len(y)))
    for start in range(0, len(both), step):
        some = both[start : start + step]
        columns = np.ascontiguousarray(probabilities[:, some].T)
        for code, scores in zip(some, columns, strict=True):
            values[:, code] = _one(y == code, scores, gradient)
    images = _images(sizes[both]) if len(both) else (0.0, 0.0, 0.0)
    means = [
        _mean(of_class, row, y, sizes, rests_on)
        for of_class, row, rests_on in zip(values, gradient, images, strict=True)
    ]
    return Ranked(values, tuple(means))


def _mean(
    values: Floats, gradient: Floats, y: Codes, sizes: Floats, images: float
) -> Estimate | None:
    told = values[~np.isnan(values)]
    if len(told) == 0:
        return None
    return Estimate(float(told.mean()), jackknife(gradient / len(told), y, sizes), images)


def _one(positive: npt.NDArray[np.bool_], scores: Floats, gradient: Floats) -> Floats:
    """(3,) FIGURES of one class; each image's derivative is added to `gradient`, (3, N)."""
    order = np.argsort(-scores)
    falling, hits = scores[order], positive[order]
    last = np.append(falling[1:] != falling[:-1], True)  # of images with equal scores
    group = np.cumsum(last) - last
    right = np.cumsum(hits)[last].astype(np.float64)
    wrong = np.flatnonzero(last) + 1 - right
    parts = [of(right, wrong) for of in (_auroc, _average_precision, _sensitivity)]
    for row, (_, of_hits, of_others) in enumerate(parts):
        gradient[row, order] += np.where(hits, of_hits[group], of_others[group])
    return np.array([value for value, _, _ in parts])


_Part = tuple[float, Floats, Floats]
"""A figure, and its derivative by the weight of an image of the class, of another; (G,) by the
place of its score among the G distinct ones, the highest first."""


def _auroc(right: Floats, wrong: Floats) -> _Part:
    """right, wrong: (G,) images of the class and others with at least that score."""
    m, n = right[-1], wrong[-1]
    above = (_before(right) + right) / (2 * m)  # share of the class above the score, ties by half
    below = 1 - (_before(wrong) + wrong) / (2 * n)
    value = float((np.diff(wrong, prepend=0) * above).sum() / n)
    return value, (below - value) / m, (above - value) / n


def _average_precision(right: Floats, wrong: Floats) -> _Part:
    """The mean precision at the images of the class; see `_auroc`."""
    m, taken = right[-1], right + wrong
    precision, new = right / taken, np.diff(right, prepend=0)
    value = float((new * precision).sum() / m)
    of_hits = np.cumsum((new * (1 - precision) / taken)[::-1])[::-1]
    of_others = np.cumsum((new * precision / taken)[::-1])[::-1]
    return value, (precision - value + of_hits) / m, -of_others / m


def _sensitivity(right: Floats, wrong: Floats) -> _Part:
    """The highest share of the class found with at most 5 % false alarms; see `_auroc`.

    Its derivative by another image's weight holds the slope of the ROC curve, over the range that
    the threshold may have by chance (Woodruff 1952), on the side where it is steeper.
    """
    m, n = right[-1], wrong[-1]
    if n < ONE_IN:
        return np.nan, np.zeros(len(right)), np.zeros(len(right))
    allowed = int(np.count_nonzero(wrong * ONE_IN <= n))
    value = float(right[allowed - 1] / m) if allowed else 0.0
    reach = Z * np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) / n)
    ends = np.clip([FALSE_ALARMS - reach, FALSE_ALARMS + reach], 0, 1)
    low, high = np.interp(ends, np.append(0, wrong / n), np.append(0, right / m))
    slope = max((high - value) / (ends[1] - FALSE_ALARMS), (value - low) / (FALSE_ALARMS - ends[0]))
    places = np.arange(len(right))
    edge = min(int(np.count_nonzero(wrong < FALSE_ALARMS * n)), len(wrong) - 1)
    of_hits = ((places < allowed) - value) / m
    of_others = -slope * ((places <= edge) - wrong[edge] / n) / n
    return value, of_hits, of_others


def _before(counts: Floats) -> Floats:
    """The cumulated counts, one place later."""
    return np.append(0, counts[:-1])


def _images(sizes: Floats) -> tuple[float, float, float]:
    """How many images each mean rests on, by what one wrongly placed image costs at most.

    Its own class 1/m; and another, in which it comes first: 1/n of AUROC. Of average precision half
    the mean of 1/(i + 1) over that class's m images: all of it, by simulations, is too careful.
    sizes: (K,) images of each class.
    """
    own, total = 1 / sizes, sizes.sum()
    others = 1 / np.maximum(total - sizes, 1)
    lost = (np.log(sizes) + np.euler_gamma + 1 / (2 * sizes)) / sizes
    costs = (own + _of_another(others), own + _of_another(lost / 2), own)
    first, second, third = (independent_images(cost / len(sizes), sizes) for cost in costs)
    return first, second, third


def _of_another(costs: Floats) -> Floats:
    """(K,) the highest among the other classes."""
    highest, second = np.sort(costs)[[-1, -2]]
    return np.asarray(np.where(costs == highest, second, highest))
