"""Abstention: a head says nothing where its highest probability is below a threshold.

Selective classification by the softmax response (Geifman & El-Yaniv 2017).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.metrics import wilson

Probabilities = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def figures(probabilities: Probabilities, y: Codes, threshold: float | None) -> dict[str, Any]:
    """What comes of a threshold on the highest probability; None: nothing is kept.

    probabilities: (N, K) float; y: (N,) int. precision: the share of right predictions among the
    `n` images kept, None where none is, with its interval; coverage: the share of images kept.
    """
    top, right = _tops(probabilities, y)
    kept = top >= (np.inf if threshold is None else threshold)
    n, sure = int(kept.sum()), int(right[kept].sum())
    return {
        "precision": sure / n if n else None,
        "precision_ci95": list(wilson(sure, n)),
        "coverage": n / len(y) if len(y) else 0.0,
        "n": n,
    }


def chosen(probabilities: Probabilities, y: Codes, wanted: float) -> dict[str, Any]:
    """The threshold for a precision wanted, and what it gives on these images, in `figures`.

    threshold: the lowest at which the precision is as wanted; sure: the lowest at which the lower
    end of its 95 % interval is, which other images are then likely to keep to as well. 0 where
    no image has to be left out, None where no threshold will do.
    """
    top, right = _tops(probabilities, y)
    order = np.argsort(-top, kind="stable")
    last = np.append(top[order][1:] != top[order][:-1], True)[: len(top)]  # of equal ones
    kept = np.arange(1, len(top) + 1)
    hits = np.cumsum(right[order])
    low = np.array([wilson(int(hit), int(n))[0] for hit, n in zip(hits, kept, strict=True)])
    threshold, sure = (
        _lowest(top[order], last & (share >= wanted)) for share in (hits / kept, low)
    )
    return {
        "wanted": wanted,
        "threshold": threshold,
        "sure": sure,
        **figures(probabilities, y, threshold),
    }


def _tops(probabilities: Probabilities, y: Codes) -> tuple[Probabilities, npt.NDArray[np.bool_]]:
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == y


def _lowest(top: Probabilities, enough: npt.NDArray[np.bool_]) -> float | None:
    """The last of the falling `top` where it is enough; 0 where that is the last of all."""
    places = np.flatnonzero(enough)
    if len(places) == 0:
        return None
    return 0.0 if places[-1] == len(top) - 1 else float(top[places[-1]])
