"""Which of two heads is better, on the same images: paired tests and intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtr

from pipeline.metrics import Interval
from pipeline.metrics.shares import Z

LEVEL = 0.05
HALVINGS = 60


@dataclass(frozen=True)
class Answers:
    """Which images a head got right. paths: (N,) of text, all distinct; right: (N,) bool."""

    paths: npt.NDArray[np.object_]
    right: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pair:
    """One head and another on the images that both have answered.

    n: how many; only_this, only_other: that one alone got right.
    """

    n: int
    only_this: int
    only_other: int

    @property
    def difference(self) -> float:
        """Accuracy of this less that of the other."""
        return (self.only_this - self.only_other) / self.n

    @property
    def p(self) -> float:
        """Of McNemar's test (1947), two-sided and exact: each image that one alone got right is
        a toss between the two.
        """
        fewer, both = min(self.only_this, self.only_other), self.only_this + self.only_other
        return min(1.0, 2 * float(bdtr(fewer, both, 0.5))) if both else 1.0

    @property
    def interval(self) -> Interval:
        """95 % score interval of the difference of paired shares (Tango 1998).

        Of the usual intervals the one that goes with McNemar's test: its score is that test's
        where the difference is 0. Also right where no image tells the two apart.
        """
        return _tango(self, -Z), _tango(self, Z)


def _tango(pair: Pair, side: float) -> float:
    """The difference at which the score, which falls as the difference grows, is -side."""
    low, high = -1.0, 1.0
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if _score(pair, middle) > -side:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(pair: Pair, difference: float) -> float:
    """Tango's statistic: the distance from an assumed difference, in standard errors under it."""
    n, b, c = pair.n, pair.only_this, pair.only_other
    linear = -b - c + (2 * n - b + c) * difference
    constant = -c * difference * (1 - difference)
    lost = (np.sqrt(max(0.0, linear * linear - 8 * n * constant)) - linear) / (4 * n)
    variance = n * (2 * lost + difference * (1 - difference))
    apart = b - c - n * difference
    if variance > 0:
        return float(apart / np.sqrt(variance))
    return float(np.copysign(np.inf, apart)) if apart else 0.0


class Matrix:
    """The answers of several heads on the union of their images."""

    def __init__(self, answers: Sequence[Answers]) -> None:
        place = {path: at for at, path in enumerate(_union(answers))}
        self._seen = np.zeros((len(answers), len(place)), dtype=np.bool_)
        self._right = np.zeros_like(self._seen)
        for row, of_head in enumerate(answers):
            at = np.array([place[path] for path in of_head.paths], dtype=np.int64)
            self._seen[row, at] = True
            self._right[row, at] = of_head.right

    def pair(self, this: int, other: int) -> Pair | None:
        """Two of them, by their places; None where no image has an answer from both."""
        both = self._seen[this] & self._seen[other]
        ours, theirs = self._right[this] & both, self._right[other] & both
        n = int(both.sum())
        return Pair(n, int((ours & ~theirs).sum()), int((theirs & ~ours).sum())) if n else None


def _union(answers: Sequence[Answers]) -> list[str]:
    return list(dict.fromkeys(path for one in answers for path in one.paths))


def holm(ps: Sequence[float]) -> list[float]:
    """P values adjusted so that the chance of any false one among them is kept (Holm 1979)."""
    adjusted, least = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = least
    return adjusted


def verdict(pair: Pair, p_holm: float) -> str:
    """`better`, `worse`, or `same` where chance may make such a difference."""
    if p_holm >= LEVEL or pair.difference == 0:
        return "same"
    return "better" if pair.difference > 0 else "worse"


def figures(pair: Pair, p_holm: float) -> dict[str, Any]:
    """What metrics.json says of a head against another."""
    return {
        "n": pair.n,
        "difference": pair.difference,
        "difference_ci95": list(pair.interval),
        "only_this": pair.only_this,
        "only_best": pair.only_other,
        "p": pair.p,
        "p_holm": p_holm,
        "verdict": verdict(pair, p_holm),
    }
