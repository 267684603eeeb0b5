"""Search a head's grid on the validation images, coarse to fine.

Every fourth candidate from the most regularised on, until the score has risen thrice, at a loose
tolerance; then the best at a tight one, and those two and one steps from it.
"""

import copy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import metrics
from pipeline.heads import Recipe, Setting
from pipeline.metrics import Scored
from pipeline.prediction import predict

STRIDE = 4
RISES = 3
COARSE_TOLERANCE = 3e-4
FINE_TOLERANCE = 1e-4
"""Also of the final fits. A looser one stops early where the training images can be separated:
at 1e-3 the search on 195 photos of ants and bees ended two steps from the best C."""

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """The value chosen and all that was tried, in the grid's order."""

    value: float
    trace: list[dict[str, Any]] = field(default_factory=list)
    by: str = "given"
    at_edge: bool = False


def choose(
    recipe: Recipe, X_seen: Vectors, y_seen: Codes, X_held: Vectors, y_held: Codes
) -> Search:
    """Search the recipe's grid by validation log loss, or accuracy where it has none or says so.

    X_*: (N, D) float32; y_*: (N,) int. Ties go to the more regularised candidate.
    """
    if recipe.value is not None or not recipe.grid:
        return Search(recipe.value or 0.0)
    if recipe.counts_rows:
        possible = tuple(value for value in recipe.grid if value <= len(X_seen))
        recipe = replace(recipe, grid=possible)
    bench = _Bench(recipe, X_seen, y_seen, X_held, y_held)
    coarse = _coarse(bench, len(recipe.grid))
    fine = _fine(bench, min(coarse, key=_rank), len(recipe.grid))
    tried = {trial.index: trial for trial in [*coarse, *fine]}
    best = min(fine, key=_rank).index
    return Search(
        value=recipe.grid[best],
        trace=[tried[index].figures for index in sorted(tried)],
        by=coarse[0].by,
        at_edge=best in (0, len(recipe.grid) - 1),
    )


def scores(classifier: Any, X: Vectors, y: Codes) -> Scored:
    """What a fitted classifier or pipeline says of labelled rows."""
    predicted, probabilities = predict(classifier, X)
    return Scored(y, predicted, probabilities, classes=len(classifier.classes_))


def criterion(recipe: Recipe, figures: dict[str, Any]) -> str:
    """Which of its validation figures a head is chosen by."""
    return "log_loss" if "log_loss" in figures and not recipe.by_accuracy else "accuracy"


def score(figures: dict[str, Any], by: str) -> float:
    """How good validation figures are; lower is better."""
    return -float(figures["accuracy"]) if by == "accuracy" else float(figures[by])


@dataclass(frozen=True)
class _Trial:
    """One candidate, fitted on train and scored on val.

    figures: its value, accuracy and, where there are probabilities, log loss;
    by: which of them it is chosen by; fitted: the classifier, where another is to
    start from it.
    """

    index: int
    figures: dict[str, float]
    by: str
    fitted: Any

    @property
    def score(self) -> float:
        """Lower is better."""
        return score(self.figures, self.by)


def _rank(trial: _Trial) -> tuple[float, int]:
    """Lower is better; of equal scores the more regularised."""
    return trial.score, trial.index


class _Bench:
    """The classifier of a recipe on embeddings that its other steps transformed, once."""

    def __init__(
        self, recipe: Recipe, X_seen: Vectors, y_seen: Codes, X_held: Vectors, y_held: Codes
    ) -> None:
        self.recipe = recipe
        self.rows, self.dim = X_seen.shape
        *transforms, _ = self._steps(0, COARSE_TOLERANCE)
        for step in transforms:
            X_seen, X_held = step.fit_transform(X_seen, y_seen), step.transform(X_held)
        self.seen = X_seen, y_seen
        self.held = X_held, y_held

    def _steps(self, index: int, tolerance: float) -> list[Any]:
        setting = Setting(self.recipe.grid[index], self.rows, self.dim, tolerance)
        return [step for _, step in self.recipe.build(setting).steps]

    def trial(self, index: int, tolerance: float, start: _Trial | None = None) -> _Trial:
        """Fit a candidate, from the coefficients of `start` where the recipe can, and score it."""
        *_, classifier = self._steps(index, tolerance)
        if self.recipe.warm:
            options = {**classifier.get_params(), "warm_start": True}
            classifier = copy.copy(start.fitted if start else classifier).set_params(**options)
        classifier.fit(*self.seen)
        X, y = self.held
        scored = scores(classifier, X, y)
        figures = {"value": self.recipe.grid[index], "accuracy": metrics.accuracy(scored)}
        if scored.probabilities is not None:
            figures["log_loss"] = metrics.log_loss(scored)
        by = criterion(self.recipe, figures)
        return _Trial(index, figures, by, classifier if self.recipe.warm else None)


def _coarse(bench: _Bench, size: int) -> list[_Trial]:
    """Every fourth candidate, each from the one before, until the score rose RISES times running."""
    trials, rises = [bench.trial(0, COARSE_TOLERANCE)], 0
    for index in range(STRIDE, size, STRIDE):
        trials.append(bench.trial(index, COARSE_TOLERANCE, trials[-1]))
        before, after = trials[-2:]
        rises = rises + 1 if after.score > before.score else 0
        if rises == RISES:
            break
    return trials


def _fine(bench: _Bench, best: _Trial, size: int) -> list[_Trial]:
    """The best coarse candidate again, and those two and one steps from the best."""
    if bench.recipe.warm:  # others cost as much the second time, and say the same
        best = bench.trial(best.index, FINE_TOLERANCE, best)
    trials = [best]
    for step in (STRIDE // 2, STRIDE // 4):
        around = [best.index - step, best.index + step]
        trials += [bench.trial(i, FINE_TOLERANCE, best) for i in around if 0 <= i < size]
        best = min(trials, key=_rank)
    return trials
