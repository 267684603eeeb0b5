"""Choose a head's option inside a draw: on folds that keep groups whole, by what all of them say.

The grid is gone through as `pipeline.search` does on validation images: coarse, from the most
regularised on, then around the best.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline import metrics
from pipeline.heads import Recipe, Setting
from pipeline.heads.recipe import Fold
from pipeline.search import (
    COARSE_TOLERANCE,
    FINE_TOLERANCE,
    RISES,
    STRIDE,
    criterion,
    score,
    scores,
)

FOLDS = 5
FEWEST = 3
"""Folds; with two each would be fitted on half the draw, of two images a class on one, and what is
best for that is not what is best for two: some chose a head that says the same of every image."""

ENOUGH = 1000
"""Images held out, over all folds: then the other folds would say the same."""

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


def choose(
    recipe: Recipe, setting: Setting, X: Vectors, y: Codes, units: Codes, folds: int | None
) -> float:
    """The value of a recipe's option for these rows.

    X: (N, D) float32; y: (N,) int64, of classes 0..K-1, all there; units: (N,) int64, equal for
    rows that must not be torn apart; folds: how many, None: FOLDS, as many as hold out ENOUGH
    images. The value given, if one is; the recipe's default where no class has FEWEST units.
    Ties go to the more regularised candidate.
    """
    if recipe.value is not None or not recipe.grid:
        return recipe.value or 0.0
    parts = folded(y, units, folds or FOLDS, setting.seed, None if folds else ENOUGH)
    least = min((len(seen) for seen, _ in parts), default=len(y))
    grid = [value for value in recipe.grid if not recipe.counts_rows or value <= least]
    if not parts:
        return _default(recipe, grid)
    bench = _Bench(recipe, grid, [_part(recipe, setting, X, y, fold) for fold in parts])
    return grid[_best(bench)]


def folded(y: Codes, units: Codes, folds: int, seed: int, enough: int | None) -> list[Fold]:
    """Stratified folds; none where no class has as many units as FEWEST, or `folds` if that is less.

    A class of one unit is in the training part of each, and a fold whose training part lacks a
    class is left out. enough: no more folds once so many images were held out.
    """
    whole = np.flatnonzero(_units_of_class(y, units)[y] > 1)
    least, folds = min(FEWEST, folds), min(folds, int(_units_of_class(y, units).max(initial=0)))
    if folds < least:
        return []
    parts, held_out = list[Fold](), 0
    for inner in _held(y[whole], units[whole], folds, seed):
        held = whole[inner]
        seen = np.setdiff1d(np.arange(len(y)), held)
        done = enough is not None and held_out >= enough
        if len(held) and not done and len(np.unique(y[seen])) == y.max() + 1:
            parts.append((seen, held))
            held_out += len(held)
    return parts


def _held(y: Codes, units: Codes, folds: int, seed: int) -> Iterator[Codes]:
    """The rows that each fold holds out."""
    if len(np.unique(units)) == len(units):  # far sooner than the other with its many groups
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y)
    else:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        splits = splitter.split(y, y, units)
    return (held for _, held in splits)


def _units_of_class(y: Codes, units: Codes) -> Codes:
    """(K,) int64: how many units each class has."""
    pairs = np.unique(np.stack([y, units]), axis=1)
    return np.bincount(pairs[0]).astype(np.int64)


def _default(recipe: Recipe, grid: Sequence[float]) -> float:
    """What a recipe takes where nothing says which is best: its own, else the grid's middle."""
    return grid[len(grid) // 2] if recipe.default is None else recipe.default


@dataclass(frozen=True)
class _Part:
    """A fold, all steps but the classifier applied: vectors and codes fitted on, and held out.

    fitted: the classifier of each candidate tried, where another may start from it.
    """

    setting: Setting
    seen: tuple[Vectors, Codes]
    held: tuple[Vectors, Codes]
    fitted: dict[int, Any] = field(default_factory=dict)


def _part(recipe: Recipe, setting: Setting, X: Vectors, y: Codes, fold: Fold) -> _Part:
    seen, held = fold
    inner = replace(setting, value=recipe.grid[0], tolerance=COARSE_TOLERANCE, rows=len(seen))
    *transforms, _ = (step for _, step in recipe.build(inner).steps)
    X_seen, X_held = X[seen], X[held]
    for step in transforms:
        X_seen, X_held = step.fit_transform(X_seen, y[seen]), step.transform(X_held)
    return _Part(inner, (X_seen, y[seen]), (X_held, y[held]))


class _Bench:
    """Every candidate of a grid on every fold, each tried once at a tolerance."""

    def __init__(self, recipe: Recipe, grid: Sequence[float], parts: Sequence[_Part]) -> None:
        self.recipe, self.grid, self.parts = recipe, grid, parts

    def score(self, index: int, tolerance: float, start: int | None = None) -> float:
        """Of a candidate, over the images of all folds; lower is better.

        start: the candidate from whose coefficients it is fitted, where the recipe can.
        """
        held, total = 0, dict[str, float]()
        for part in self.parts:
            figures = self._figures(part, index, tolerance, start)
            images = len(part.held[1])
            held += images
            for name, figure in figures.items():
                total[name] = total.get(name, 0.0) + images * figure
        means = {name: figure / held for name, figure in total.items()}
        return score(means, criterion(self.recipe, means))

    def _figures(
        self, part: _Part, index: int, tolerance: float, start: int | None
    ) -> dict[str, float]:
        setting = replace(part.setting, value=self.grid[index], tolerance=tolerance)
        classifier = self.recipe.build(setting).steps[-1][1]
        if self.recipe.warm:
            options = {**classifier.get_params(), "warm_start": True}
            before = classifier if start is None else part.fitted[start]
            classifier = part.fitted[index] = copy.copy(before).set_params(**options)
        classifier.fit(*part.seen)
        scored = scores(classifier, *part.held)
        figures = {"accuracy": metrics.accuracy(scored)}
        if scored.probabilities is not None:
            figures["log_loss"] = metrics.log_loss(scored)
        return figures


def _best(bench: _Bench) -> int:
    """Every fourth candidate until the score rose RISES times running; then around the best."""
    found, rises, last = {0: bench.score(0, COARSE_TOLERANCE)}, 0, 0
    for index in range(STRIDE, len(bench.grid), STRIDE):
        found[index] = bench.score(index, COARSE_TOLERANCE, last)
        rises = rises + 1 if found[index] > found[last] else 0
        last = index
        if rises == RISES:
            break
    best = min(found, key=lambda index: (found[index], index))
    if bench.recipe.warm:
        found = {best: bench.score(best, FINE_TOLERANCE, best)}
    for step in (STRIDE // 2, STRIDE // 4):
        for index in (best - step, best + step):
            if 0 <= index < len(bench.grid) and index not in found:
                found[index] = bench.score(index, FINE_TOLERANCE, best)
        best = min(found, key=lambda index: (found[index], index))
    return best
