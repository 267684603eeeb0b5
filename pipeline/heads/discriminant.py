"""Linear discriminant analysis with a shrunk covariance."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from pipeline.heads.enhancement import enhanced
from pipeline.heads.recipe import Recipe, Setting

Shrinkage = Annotated[float, Field(ge=0, le=1)]


class Discriminant(LinearDiscriminantAnalysis):  # type: ignore[misc]  # sklearn has no types
    """scikit-learn's, which keeps no covariance and needs no two images of a class."""

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "Discriminant":
        """X: (N, D) float; y: (N,) class of each row."""
        if len(X) == len(np.unique(y)):
            return self._fit_one_each(X, y)
        super().fit(X, y)
        del self.covariance_  # (D, D) float64, of no more use: 13 MB of 1280 dimensions
        return self

    def _fit_one_each(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "Discriminant":
        """An image a class tells nothing of the covariance within: the identity is taken."""
        order = np.argsort(y)
        means = np.asarray(X, dtype=np.float64)[order]
        squares = (means**2).sum(axis=1)
        two = len(y) == 2
        self.classes_, self.means_ = np.asarray(y)[order], means
        self.priors_ = np.full(len(y), 1 / len(y))
        self.coef_ = means[1:] - means[:1] if two else means
        self.intercept_ = (squares[:1] - squares[1:]) / 2 if two else -squares / 2
        self.n_features_in_ = X.shape[1]
        return self


def lda(*, shrinkage: Shrinkage | None = None) -> Recipe:
    """Linear discriminant analysis; the covariance within classes is shrunk (Ledoit 2004).

    shrinkage: 0 none to 1, the diagonal alone; null: as Ledoit and Wolf estimate it.
    """

    def classifier(_: Setting) -> Discriminant:
        return Discriminant(
            solver="lsqr", shrinkage="auto" if shrinkage is None else float(shrinkage)
        )

    return enhanced(classifier)
