"""A network of one hidden layer."""

from typing import Any

import numpy.typing as npt
from pydantic import PositiveFloat, PositiveInt
from sklearn.neural_network import MLPClassifier

from pipeline.heads.enhancement import enhanced
from pipeline.heads.grids import DECAY_GRID
from pipeline.heads.recipe import Recipe, Setting

HIDDEN = 256
EPOCHS = 1000
"""At most: of a few hundred images an epoch is one step of the optimiser."""


class Network(MLPClassifier):  # type: ignore[misc]  # sklearn has no types
    """scikit-learn's, which keeps nothing but the weights: it has three more numbers for each."""

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "Network":
        """X: (N, D) float; y: (N,) class of each row."""
        super().fit(X, y)
        for name in ("_optimizer", "_best_coefs", "_best_intercepts"):
            self.__dict__.pop(name, None)
        return self


def mlp(*, hidden: PositiveInt = HIDDEN, alpha: PositiveFloat | None = None) -> Recipe:
    """One hidden layer of rectified units, by Adam (Kingma 2015); alpha: L2, chosen when null."""

    def classifier(at: Setting) -> Network:
        return Network(
            (hidden,),
            alpha=at.value,
            tol=10 * at.tolerance,  # of the loss, over ten epochs; 1e-4 more than doubles them
            max_iter=EPOCHS,
            random_state=at.seed,
        )

    return enhanced(classifier, "alpha", alpha, DECAY_GRID, default=1.0)
