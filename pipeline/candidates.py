"""Sets of layers that a head may see, in one draw of train and val or in several: which is best."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from sklearn.pipeline import Pipeline

from pipeline import calibration, fitting, metrics
from pipeline.features import Gathered, Sight
from pipeline.fitting import FOLDS, Codes, Fit, Ground, Vectors, each
from pipeline.folds import Draw, Index, Pool, units_of_class
from pipeline.heads import Recipe
from pipeline.metrics import Scored
from pipeline.params import HeadParams
from pipeline.prediction import predict
from pipeline.search import Search, choose
from pipeline.trials import criterion, figures_of, score
from pipeline.vectors import check_fit

EVERY = slice(None)
"""All rows: train and val."""


@dataclass(frozen=True)
class Task:
    """A head to be trained, and the images of train and val."""

    recipe: Recipe
    entry: HeadParams
    sight: Sight
    pool: Pool

    @property
    def is_searched(self) -> bool:
        """It, or one of the heads that it is made of, has an option left to choose."""
        made_of = [self.recipe, *self.recipe.members.values()]
        return any(recipe.grid and recipe.value is None for recipe in made_of)

    def ground(self, gathered: Gathered, layers: tuple[str, ...]) -> Ground:
        """The rows of train and val, in all views. Raises InputError where they can't be fitted."""
        pool, folds = self.pool, self.entry.cv or FOLDS
        X, y, units = gathered.of(layers), pool.of_rows(pool.y), pool.of_rows(pool.units)
        check_fit(X, y, pool.classes)
        return Ground(X, y, units, pool.classes, folds=folds)


@dataclass(frozen=True)
class Candidate:
    """One set of layers in one draw: its search, and how good the fit on train is on val.

    folds: how many of train the option was chosen on, 0: on val; scored: what is said of val, at
    the temperature; figures: accuracy with its interval and, where there are probabilities, log
    loss; by: which of them counts.
    """

    layers: tuple[str, ...]
    search: Search
    folds: int
    temperature: float | None
    scored: Scored
    figures: dict[str, Any]
    by: str

    @property
    def score(self) -> float:
        """Lower is better."""
        return score(self.figures, self.by)


@dataclass(frozen=True)
class Fits:
    """A candidate's fit on train and, where it is made already, that on train + val."""

    train: Fit
    everything: Fit | None


def contest(
    task: Task, draws: Sequence[Draw], gathered: Gathered
) -> tuple[list[Candidate], Fits, list[Candidate]]:
    """In each draw the layers asked for or, of several, the best; ties go to the earlier ones.

    And the fits of that of the first draw, and what every set of layers came to there.
    """
    first, *others = task.sight.candidates
    best, kept = _in_draws(task, draws, gathered, first)
    reached = best[:1]
    for layers in others:
        ones, fits = _in_draws(task, draws, gathered, layers)
        reached.append(ones[0])
        won = [  # those asked for come last
            one.score < last.score or not task.sight.best
            for one, last in zip(ones, best, strict=True)
        ]
        best = [one if win else last for one, last, win in zip(ones, best, won, strict=True)]
        kept = fits if won[0] else kept
    return best, kept, reached


def _in_draws(
    task: Task, draws: Sequence[Draw], gathered: Gathered, layers: tuple[str, ...]
) -> tuple[list[Candidate], Fits]:
    """What a set of layers comes to in each draw, and its fits in the first."""
    ground, kept = task.ground(gathered, layers), list[Fits]()

    def of(draw: Draw) -> Candidate:
        one, fits = candidate(task, draw, ground, layers)
        if draw is draws[0]:
            kept.append(fits)
        return one

    return each(of, draws, size=ground.X.nbytes), kept[0]


def candidate(
    task: Task, draw: Draw, ground: Ground, layers: tuple[str, ...]
) -> tuple[Candidate, Fits]:
    """Choose the option in a draw, fit on its train and, of the given split, see to train + val."""
    recipe, entry, pool = task.recipe, task.entry, task.pool
    ground = replace(ground, seed=draw.seed)
    part = pool.part(draw.train, draw.val)
    parts = pool.in_folds(draw, entry.cv) if entry.cv and task.is_searched else []
    search = choose(recipe, ground, parts or [part])
    whole = [EVERY] if draw.seed == 0 and len(task.sight.candidates) == 1 else []
    train: list[Index] = [] if search.fit else [part.seen]
    made = fits(recipe, ground, search, part.seen, [*train, *whole])
    kept = Fits(search.fit or made[0], made[-1] if whole else None)
    X, y = ground.X[part.held], ground.y[part.held]
    temperature, scored = _scored(task, kept.train.pipeline, X, y)
    figures: dict[str, Any] = figures_of(scored)
    figures["accuracy_ci95"] = list(metrics.INTERVALS["accuracy"](scored))
    # a temperature changes no prediction: what has no probabilities of its own is judged by these
    by = criterion(recipe, figures if hasattr(kept.train.pipeline, "predict_proba") else {})
    light = replace(search, fit=None)
    return Candidate(layers, light, len(parts), temperature, scored, figures, by), kept


def _scored(task: Task, pipeline: Pipeline, X: Vectors, y: Codes) -> tuple[float | None, Scored]:
    """The temperature, if any, and what is said of val at it."""
    calibrated = calibration.wanted(pipeline, task.entry.calibrate)
    temperature = calibration.temperature_of(pipeline, X, y) if calibrated else None
    return temperature, Scored(y, *predict(pipeline, X, temperature), len(task.pool.classes))


def fits(
    recipe: Recipe, ground: Ground, search: Search, seen: Index, wanted: Sequence[Index]
) -> list[Fit]:
    """Fit what was chosen on each of some sets of rows.

    seen: those of train, of whose number it is built for whatever it is fitted on, and without
    folds where a class has too few units there, so that the fit on train + val has the same steps.
    """
    rows = len(ground.y[seen])
    least = units_of_class(ground.y[seen], ground.units[seen]).min() if recipe.out_of_fold else 2

    def fitted(index: Index) -> Fit:
        at = fitting.setting(recipe, ground, index, search.value, members=search.members)
        at = replace(at, rows=rows, folds=at.folds if least > 1 else ())
        return fitting.fit(recipe, ground, index, at)

    return each(fitted, wanted, size=ground.X.nbytes)
