"""How sure the points of a curve are: between draws, and between test images."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from pipeline.metrics.scored import RESAMPLES, SEED
from pipeline.metrics.shares import Interval, Z, wilson

CHUNK = 100
"""Resamples that are counted at a time."""

Floats = npt.NDArray[np.float64]
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Point:
    """What was measured with so many images. right: (S, M), one row a draw, one column an image.

    images: of a draw; borrowed: where there is one draw, the variance between draws that it is
    taken to have, in accuracy squared; borrowed_from: the number of draws which that is of.
    """

    images: int
    right: Right
    borrowed: float = 0.0
    borrowed_from: int = 1

    @property
    def accuracy(self) -> float:
        """Mean over draws."""
        return float(self.right.mean())

    @property
    def between(self) -> float:
        """Sample variance of the draws' accuracies; 0 of one draw."""
        return float(self.right.mean(axis=1).var(ddof=1)) if len(self.right) > 1 else 0.0

    @property
    def of_draws(self) -> float:
        """Variance of the mean that comes of which images were drawn."""
        return self.between / len(self.right) if len(self.right) > 1 else self.borrowed


def borrow(points: Sequence[Point]) -> list[Point]:
    """Give the point of one draw, all of train, the spread of the one before.

    Spread between samples falls with the root of their size; that of all of train cannot be
    measured, there being one.
    """
    *before, last = points
    drawn = [point for point in before if len(point.right) > 1]
    if len(last.right) > 1 or not drawn:
        return list(points)
    share = drawn[-1].images / last.images
    lent = Point(last.images, last.right, drawn[-1].between * share, len(drawn[-1].right))
    return [*before, lent]


def interval(point: Point) -> Interval:
    """95 % interval of the mean accuracy, for other draws and other test images.

    The variance is that between draws plus that between images, as of crossed samples; what the
    two have between them counts in both, so that it is a little too wide (Owen 2007). The
    interval is Wilson's at the number of images that has this variance (Korn 1998), by Student's
    distribution with Satterthwaite's degrees of freedom (1946), since draws are few. Where all or
    nothing is right, images vary as if one of them were not so.
    """
    share, images = point.accuracy, point.right.shape[1]
    of_draws, of_images = point.of_draws, float(point.right.mean(axis=0).var())
    spread = share * (1 - share)
    if spread == 0:
        spread = of_images = (1 - 1 / images) / images
    variance = of_draws + of_images / images
    if variance == 0:
        return wilson(share * images, images)
    quantile = Z
    if of_draws > 0:
        draws = max(len(point.right), point.borrowed_from)
        freedom = (draws - 1) * (variance / of_draws) ** 2
        quantile = float(stdtrit(freedom, 0.975))
    effective = spread / variance * (Z / quantile) ** 2
    return wilson(share * effective, effective)


def resampled(points: Sequence[Point]) -> Floats:
    """(B, P) accuracies of each point in resamples of draws and test images together.

    Images are drawn with replacement, the same for every point, and of S seeds S - 1, the same
    for every point (Rao 1988: so that few of them do not look alike more than they are); a
    point of one draw is moved by another seed's deviation at the draws before, as far as it
    borrowed. The numbers are drawn alike for every curve on the same test images.
    """
    seeds = max(len(point.right) for point in points)
    random = np.random.default_rng(SEED)
    chosen = random.integers(0, seeds, (RESAMPLES, max(1, seeds - 1)))
    other = random.integers(0, seeds, RESAMPLES)
    by_draw = _of_images(np.concatenate([point.right for point in points]), random)
    edges = np.cumsum([0, *(len(point.right) for point in points)])
    parts = [by_draw[:, left:right] for left, right in pairwise(edges)]
    rows = np.arange(RESAMPLES)
    columns, away = list[Floats](), np.zeros(RESAMPLES)
    for point, part in zip(points, parts, strict=True):
        if len(point.right) > 1:
            columns.append(np.take_along_axis(part, chosen, axis=1).mean(axis=1))
            own = point.right.mean(axis=1)
            away = (own[other] - own.mean()) / (own.std() or 1.0)
        else:
            columns.append(part[rows, 0] + away * np.sqrt(point.borrowed))
    return np.stack(columns, axis=1)


def _of_images(right: Right, random: np.random.Generator) -> Floats:
    """(B, S): the accuracy of each row of (S, M) in resamples of the images."""
    images, of_images = right.shape[1], right.T.astype(np.float64)
    found = []
    for start in range(0, RESAMPLES, CHUNK):
        size = min(CHUNK, RESAMPLES - start)
        weights = random.multinomial(images, np.full(images, 1 / images), size)
        found.append(weights.astype(np.float64) @ of_images / images)
    return np.concatenate(found)
