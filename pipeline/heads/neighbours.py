"""Heads that look for what is near: nearest neighbours, the nearest class mean."""

from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import PositiveInt
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from pipeline.heads.grids import K_GRID
from pipeline.heads.recipe import Recipe, Setting

TEMPERATURE = 0.07


def knn(*, k: PositiveInt | None = None) -> Recipe:
    """Nearest neighbours by cosine, weighted exp(cosine / 0.07) as DINO does (Caron 2021)."""

    def build(at: Setting) -> Pipeline:
        neighbours = KNeighborsClassifier(
            min(int(at.value), at.rows),
            metric="cosine",
            algorithm="brute",
            weights=similarity_weights,
        )
        return make_pipeline(StandardScaler(), neighbours)

    return Recipe(build, "k", k, K_GRID, by_accuracy=True, counts_rows=True)


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

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "NearestMean":
        """X: (N, D) float; y: (N,) class of each row."""
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == name].mean(axis=0, dtype=float) for name in self.classes_])
        return self

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, D) float -> (N,) class."""
        closeness = X @ self.means_.T - (self.means_**2).sum(axis=1) / 2
        predicted: npt.NDArray[Any] = self.classes_[closeness.argmax(axis=1)]
        return predicted


def nearest_mean() -> Recipe:
    """The nearest class mean of standardised, L2-normalised embeddings; no option."""
    return Recipe(lambda _: make_pipeline(StandardScaler(), Normalizer(), NearestMean()))
