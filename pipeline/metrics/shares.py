"""Intervals of shares and of means of shares, honest where all or nothing is right."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""

Interval = tuple[float, float]
Floats = npt.NDArray[np.float64]


def wilson(right: float, n: float) -> Interval:
    """95 % interval of a share (Wilson 1927); (0, 1) where n is 0.

    Neither need be whole: an effective sample size gives the interval of an estimate with that
    variance.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = right / n, Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * np.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    low, high = float(centre - half), float(centre + half)
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # where rounding cuts 0 or 1 off


@dataclass(frozen=True)
class Estimate:
    """A mean over classes of figures in 0..1, and what its interval takes.

    variance: of the estimate, by the infinitesimal jackknife; images: how many independent ones it
    rests on where each is either right or wrong.
    """

    value: float
    variance: float
    images: float

    @property
    def interval(self) -> Interval:
        """95 %: Wilson's at the effective sample size (Kott and Carr 1997), value(1-value)/variance.

        Where every image seen is right, so that nothing varies, this size is not known. Hence the
        variance is drawn towards that of right and wrong images, with the weight of one image that
        is wrong: what was not seen may still be so.
        """
        one = 1 / self.images
        spread = self.value * (1 - self.value)
        size = (spread + one) / (self.variance + one * one)
        return wilson(self.value * size, size)


def jackknife(gradient: Floats, of_class: npt.NDArray[np.int64], sizes: Floats) -> float:
    """The variance of a figure (Jaeckel 1972) from its derivative by each image's weight, (N,).

    of_class: (N,) each image's class; sizes: (K,) images of each. Each class's squares are
    multiplied by m / (m - 1), so that for two classes the variance of AUROC is DeLong's (1988).
    """
    squares = np.bincount(of_class, gradient * gradient, len(sizes))
    return float((squares * sizes / np.maximum(sizes - 1, 1)).sum())


def independent_images(weights: Floats, sizes: Floats) -> float:
    """How many images a mean over classes rests on: an image of class c that is wrong lowers it by
    weights[c]. Both (K,).
    """
    return float((weights * sizes).sum() / (weights * weights * sizes).sum())
