"""Abstention: a head says nothing where its highest probability is below a threshold.

Selective classification by the softmax response (Geifman & El-Yaniv 2017); what comes of a
threshold is told by `pipeline.metrics.abstention`.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.metrics import Scored, wilson


def chosen(scored: Scored, wanted: float) -> dict[str, Any]:
    """The threshold for a precision wanted, and what it gives on these images.

    threshold: the lowest at which the precision is as wanted; sure: the lowest at which the lower
    end of its 95 % interval is, which other images are then likely to keep to as well. 0 where
    no image has to be left out, None where no threshold will do. Needs probabilities.
    """
    top = scored.known.max(axis=1)
    order = np.argsort(-top, kind="stable")
    last = np.append(top[order][1:] != top[order][:-1], True)[: len(top)]  # of equal ones
    kept = np.arange(1, len(top) + 1)
    hits = np.cumsum(scored.right[order])
    low = np.array([wilson(int(hit), int(n))[0] for hit, n in zip(hits, kept, strict=True)])
    threshold, sure = (
        _lowest(top[order], last & (share >= wanted)) for share in (hits / kept, low)
    )
    return {**metrics.abstention(scored, wanted, threshold), "sure": sure}


def _lowest(top: npt.NDArray[np.float64], enough: npt.NDArray[np.bool_]) -> float | None:
    """The last of the falling `top` where it is enough; 0 where that is the last of all."""
    places = np.flatnonzero(enough)
    if len(places) == 0:
        return None
    return 0.0 if places[-1] == len(top) - 1 else float(top[places[-1]])
