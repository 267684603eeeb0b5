"""How far probabilities are from the shares that they foretell."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics.scored import Scored
from pipeline.metrics.shares import Interval, wilson

BINS = 15
DRAWS = 1000
SEED = 0
STEPS = 24
"""Halvings of the range in which an end of the interval is sought."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Images by the probability of their prediction, in BINS bins of equal width: (BINS,) each.

    n: images; confidence: sum of the probabilities; right: right predictions.
    """

    n: npt.NDArray[np.int64]
    confidence: Floats
    right: Floats

    @property
    def gaps(self) -> Floats:
        """Confidence less right predictions, as a share of all images."""
        return np.asarray((self.confidence - self.right) / self.n.sum())

    @property
    def noise(self) -> Floats:
        """Standard deviation of the gaps by chance, binomial; after one image more that is right
        and one that is not, so that it is never 0 where there is an image.
        """
        share = (self.right + 1) / (self.n + 2)
        return np.asarray(np.sqrt(self.n * share * (1 - share)) / self.n.sum())


def reliability(scored: Scored) -> Reliability:
    """The bins of the predictions of highest probability."""
    confidence = scored.known.max(axis=1)
    right = scored.known.argmax(axis=1) == scored.y
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    sums = [np.bincount(bins, of, BINS).astype(np.float64) for of in (confidence, right)]
    return Reliability(np.bincount(bins, minlength=BINS), *sums)


def ece(scored: Scored) -> float:
    """Expected calibration error of the top class, 15 equal bins (Guo 2017)."""
    return float(np.abs(reliability(scored).gaps).sum())


def ece_interval(scored: Scored) -> Interval:
    """95 % interval by test inversion (Carpenter 1999), which reckons with the bias of ECE.

    Chance alone makes gaps, of a calibrated head too; an interval around the estimate would leave
    that out. So the gaps are taken to be c times those seen. With the noise of so many images each
    c foretells a distribution of the estimate, and the interval is of those c under which the one
    seen is not among the 2.5 % lowest or highest. It reaches at least as far as that of accuracy
    does from the mean confidence, since ECE is no smaller than the two are apart.
    """
    bins = reliability(scored)
    gaps, n = bins.gaps, bins.n.sum()
    seen = float(np.abs(gaps).sum())
    noise = bins.noise * np.random.default_rng(SEED).standard_normal((DRAWS, BINS))

    def tail(c: float, share: float) -> float:
        return float(np.quantile(np.abs(c * gaps + noise).sum(axis=1), share))

    low = _crossing(lambda c: tail(c, 0.975), seen, 1.0)
    high = _crossing(lambda c: tail(c, 0.025), seen, 1 / max(seen, 1 / n))
    sure = float(bins.confidence.sum() / n)
    apart = [abs(sure - end) for end in wilson(float(bins.right.sum()), float(n))]
    return low * seen, min(1.0, max(high * seen, seen, *apart))


def _crossing(of: Callable[[float], float], level: float, most: float) -> float:
    """Where a rising function of 0..most reaches the level; 0 or most where it does not."""
    low, high = 0.0, most
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if of(middle) >= level else (middle, high)
    return low
