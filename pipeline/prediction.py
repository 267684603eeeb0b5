"""What a fitted classifier says of vectors: predictions and probabilities, sharpened or softened."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from pipeline.vectors import check_predict

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Probabilities = npt.NDArray[np.float64]


def predict(
    classifier: Any, X: Vectors, temperature: float | None = None
) -> tuple[Codes, Probabilities | None]:
    """Predicted codes (N,) int64 and probabilities (N, K) float64, or None where it has none.

    temperature: the logits are divided by it (temperature scaling, Guo 2017), None: the
    classifier's own probabilities are taken. Raises InputError (NaN, infinity, another width).
    """
    if len(X) == 0:
        return np.empty(0, np.int64), None
    check_predict(classifier, X)
    if temperature is not None:
        return at_temperature(logits(classifier, X), temperature)
    if not hasattr(classifier, "predict_proba"):
        return np.asarray(classifier.predict(X), dtype=np.int64), None
    return _normalised(np.asarray(classifier.predict_proba(X), dtype=np.float64))


def at_temperature(
    logits: npt.NDArray[np.float64], temperature: float
) -> tuple[Codes, Probabilities]:
    """What `predict` gives of a classifier with these logits, (N, K)."""
    return _normalised(soften(logits, temperature))


def _normalised(probabilities: Probabilities) -> tuple[Codes, Probabilities]:
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 rows miss 1 by a little
    return probabilities.argmax(axis=1).astype(np.int64), probabilities


def logits(classifier: Any, X: Vectors) -> npt.NDArray[np.float64]:
    """(N, K) float64 whose softmax is the classifier's probabilities before any calibration.

    The decision function where there is one, else the logarithm of the probabilities.
    """
    if not hasattr(classifier, "decision_function"):
        known = np.asarray(classifier.predict_proba(X), dtype=np.float64)
        return np.log(np.clip(known, np.finfo(np.float64).tiny, 1))
    decision = np.asarray(classifier.decision_function(X), dtype=np.float64)
    if decision.ndim == 1:  # of two classes; the softmax of these is the sigmoid of it
        return np.stack([np.zeros_like(decision), decision], axis=1)
    return decision


def soften(logits: npt.NDArray[np.float64], temperature: float) -> Probabilities:
    """(N, K) logits -> (N, K) probabilities at a temperature above 0; 1 leaves them as they are."""
    probabilities: Probabilities = softmax(logits / temperature, axis=1)
    return probabilities
