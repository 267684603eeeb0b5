"""The power law that learning curves follow: what twice as many images bring, and where it ends."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.metrics import Interval

POWERS = np.arange(0.05, 2.001, 0.025)
"""Exponents tried. Those published lie between 0.07 and 1 (Hestness 2017, Viering 2022)."""

FROM = 5
"""Images a class from which on the law is fitted: with fewer, curves are not there yet (Hestness'
small data region), and what a head's option should be cannot be told."""

LEAST = 4
"""Points that three numbers can be fitted to with one to spare."""

WIDEST = 0.2
"""An interval of the asymptote that is wider says nothing."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """error = floor + scale * images ** -power."""

    floor: float
    scale: float
    power: float


@dataclass(frozen=True)
class Outlook:
    """How a curve goes on. All accuracies are shares.

    gain: what twice as many images would bring beyond the last point; asymptote: the accuracy that
    it tends to; told: whether the points say where that lies. Intervals are of 95 %.
    """

    law: Law
    gain: float
    gain_interval: Interval
    asymptote: float
    asymptote_interval: Interval
    told: bool


def outlook(images: Floats, accuracy: Floats, resampled: Floats, weights: Floats) -> Outlook | None:
    """Fit the law to a curve, and again to each resample of it; None where it has too few points.

    images: (P,) a class, rising; accuracy: (P,); resampled: (B, P); weights: (P,), of each point.
    Intervals are percentiles of the resamples (Efron 1979).
    """
    used = images >= FROM if (images >= FROM).sum() >= LEAST else images > 0
    if used.sum() < LEAST:
        return None
    errors = 1 - np.concatenate([accuracy[None], resampled])[:, used]
    floor, scale, power = fitted(images[used], errors, weights[used])
    last = images[-1]
    gains = scale * last**-power * (1 - 2**-power)
    gain, asymptote = _with_interval(gains), _with_interval(1 - floor)
    low, high = asymptote[1]
    told = low > 0 and high < 1 and high - low <= WIDEST
    law = Law(float(floor[0]), float(scale[0]), float(power[0]))
    return Outlook(law, *gain, *asymptote, told)


def fitted(images: Floats, errors: Floats, weights: Floats) -> tuple[Floats, Floats, Floats]:
    """Floor in 0..1, scale and power of each curve by weighted least squares.

    images: (P,); errors: (B, P); weights: (P,). For a given power the others are a straight line's
    (variable projection, Golub 1973); of POWERS the best is taken.
    """
    x = images[None, :] ** -POWERS[:, None]
    w = weights / weights.sum()
    mean_x, mean_e = x @ w, errors @ w
    spread = ((x - mean_x[:, None]) ** 2) @ w
    slope = ((errors - mean_e[:, None]) * w) @ (x - mean_x[:, None]).T / spread
    floor = np.clip(mean_e[:, None] - slope * mean_x, 0, 1)
    # at a bound the other number is fitted anew
    squares = (x**2) @ w
    scale = np.asarray((errors * w) @ x.T - floor * mean_x) / squares
    misfit = np.stack(
        [((errors - floor[:, [c]] - scale[:, [c]] * x[c]) ** 2) @ w for c in range(len(POWERS))],
        axis=1,
    )
    best = misfit.argmin(axis=1)
    rows = np.arange(len(errors))
    return floor[rows, best], scale[rows, best], POWERS[best]


def _with_interval(values: Floats) -> tuple[float, Interval]:
    """The first, and the interval that the others give it."""
    first = float(values[0])
    low, high = np.percentile(values[1:], [2.5, 97.5])
    return first, (min(first, float(low)), max(first, float(high)))
