"""Temperature scaling (Guo 2017): one number makes a head's probabilities as sharp as they should be.

Dividing by it changes no prediction.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from pipeline.prediction import logits

BOUNDS = (-12.0, 12.0)
"""Of the logarithm of a temperature, where the logits have a mean square of 1."""

PSEUDO = 2
"""Images that every class shares, added to those at hand: where the head makes no mistake on these, it
is not certain for that. For two classes they are the targets of Platt (1999)."""

Logits = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]


def wanted(classifier: Any, calibrate: bool | None) -> bool:
    """Whether a fitted classifier is to be calibrated. calibrate: see `HeadParams`.

    False where there is nothing to calibrate: neither a decision function nor probabilities.
    """
    decides, states = (hasattr(classifier, name) for name in ("decision_function", "predict_proba"))
    return decides and not states if calibrate is None else calibrate and (decides or states)


def temperature_of(classifier: Any, X: npt.NDArray[np.float32], y: Codes) -> float:
    """The temperature of a fitted classifier. X: (N, D), y: (N,) int, of images it has not seen."""
    return temperature(logits(classifier, X), y)


def temperature(logits: Logits, y: Codes) -> float:
    """The temperature at which the softmax of the logits, (N, K), has the least log loss on y, (N,).

    Each label counts as that of N of N + PSEUDO images, the others being of every class alike.
    """
    n, classes = logits.shape
    scale = float(np.sqrt(np.square(logits - logits.mean(axis=1, keepdims=True)).mean()))
    if scale == 0:  # every class alike at any temperature
        return 1.0
    targets = np.full(logits.shape, PSEUDO / classes / (n + PSEUDO))
    targets[np.arange(n), y] += n / (n + PSEUDO)

    def loss(log_temperature: float) -> float:
        known = log_softmax(logits / (scale * np.exp(log_temperature)), axis=1)
        return float(-(targets * known).sum() / n)

    found = minimize_scalar(loss, bounds=BOUNDS, method="bounded", options={"xatol": 1e-6})
    return float(scale * np.exp(found.x))
