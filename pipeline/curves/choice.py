"""Choose a head's option inside a draw: on folds that keep groups whole, by what all of them say."""

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline import search
from pipeline.fitting import Ground
from pipeline.folds import Part, units_of_class
from pipeline.heads import Recipe
from pipeline.heads.recipe import Fold

FOLDS = 5
FEWEST = 3
"""Folds; with two each would be fitted on half the draw, of two images a class on one, and what is
best for that is not what is best for two: some chose a head that says the same of every image."""

ENOUGH = 1000
"""Images held out, over all folds: then the other folds would say the same."""

Codes = npt.NDArray[np.int64]


def choose(recipe: Recipe, ground: Ground, folds: int | None) -> float:
    """The value of a recipe's option for the rows of a draw.

    ground: its y of classes 0..K-1, all there; folds: how many, None: FOLDS, as many as hold out
    ENOUGH images. The value given, if one is; the recipe's default where no class has FEWEST units.
    """
    if recipe.value is not None or not recipe.grid:
        return recipe.value or 0.0
    cut = folded(ground.y, ground.units, folds or FOLDS, ground.seed, None if folds else ENOUGH)
    if not cut:
        few = [value for value in recipe.grid if not recipe.counts_rows or value <= len(ground.y)]
        return _default(recipe, few)
    return search.choose(recipe, ground, [Part(*fold) for fold in cut]).value


def folded(y: Codes, units: Codes, folds: int, seed: int, enough: int | None) -> list[Fold]:
    """Stratified folds; none where no class has as many units as FEWEST, or `folds` if that is less.

    A class of one unit is in the training part of each, and a fold whose training part lacks a
    class is left out. enough: no more folds once so many images were held out.
    """
    whole = np.flatnonzero(units_of_class(y, units)[y] > 1)
    least, folds = min(FEWEST, folds), min(folds, int(units_of_class(y, units).max(initial=0)))
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


def _default(recipe: Recipe, grid: Sequence[float]) -> float:
    """What a recipe takes where nothing says which is best: its own, else the grid's middle."""
    return grid[len(grid) // 2] if recipe.default is None else recipe.default
