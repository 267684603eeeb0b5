"""Heads that look for what is near: nearest neighbours, the nearest class mean."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

from pipeline.heads.enhancement import enhanced
from pipeline.heads.grids import K_GRID
from pipeline.heads.recipe import Recipe, Setting

TEMPERATURE = 0.07
CL2N = ("centre", "l2")


def knn(*, k: PositiveInt | None = None) -> Recipe:
    """Nearest neighbours by cosine, weighted exp(cosine / 0.07) as DINO does (Caron 2021)."""

    def classifier(at: Setting) -> KNeighborsClassifier:
        return KNeighborsClassifier(
            min(int(at.value), at.rows),
            metric="cosine",
            algorithm="brute",
            weights=similarity_weights,
        )

    def notes(at: Setting) -> tuple[str, ...]:
        said = f"k is {at.rows}, as many as it is fitted on, not {int(at.value)}"
        return (said,) if at.value > at.rows else ()

    return enhanced(
        classifier, "k", k, K_GRID, by_accuracy=True, counts_rows=True, default=20.0, notes=notes
    )


def similarity_weights(distances: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """DINO's weights of neighbours at cosine distances; both (N, k)."""
    weights: npt.NDArray[Any] = np.exp(-distances / TEMPERATURE)
    return weights


class NearestMean(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """The class whose mean is nearest; no probabilities.

    scikit-learn's NearestCentroid predicts by plain distances, but its probabilities divide each
    dimension by its spread: their argmax is another classifier, and they are all but 0 and 1.
    """

    classes_: npt.NDArray[Any]
    means_: npt.NDArray[np.float64]
    n_features_in_: int

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "NearestMean":
        """X: (N, D) float; y: (N,) class of each row."""
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == name].mean(axis=0, dtype=float) for name in self.classes_])
        self.n_features_in_ = X.shape[1]
        return self

    def decision_function(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(N, D) float -> (N, K): squared distances to the K means, negative.

        Of two classes (N,), the second less the first, as scikit-learn has it.
        """
        lengths = np.einsum("ij,ij->i", X, X, dtype=np.float64)
        apart: npt.NDArray[np.float64] = (
            2 * X @ self.means_.T - (self.means_**2).sum(axis=1) - lengths[:, None]
        )
        return apart[:, 1] - apart[:, 0] if len(self.classes_) == 2 else apart

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, D) float -> (N,) class; of equally near means the first."""
        decision = self.decision_function(X)
        place = decision > 0 if decision.ndim == 1 else decision.argmax(axis=1)
        predicted: npt.NDArray[Any] = self.classes_[np.asarray(place, dtype=np.int64)]
        return predicted


def nearest_mean() -> Recipe:
    """The nearest class mean of centred, L2-normalised embeddings (CL2N, Wang 2019); no option."""
    return enhanced(lambda _: NearestMean(), own=CL2N)
