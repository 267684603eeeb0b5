"""Candidates of a head's option: each fitted and scored on one part of the rows, or on several folds."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline

from pipeline import metrics
from pipeline.fitting import (
    FINE_TOLERANCE,
    Codes,
    Fit,
    Ground,
    Vectors,
    at_once,
    converged,
    each,
    setting,
)
from pipeline.folds import Part
from pipeline.heads import Recipe, Setting
from pipeline.metrics import Scored
from pipeline.prediction import predict


@dataclass(frozen=True)
class Trial:
    """One candidate, fitted on the rows to fit on of every part, scored on those held out, pooled.

    figures: its value, accuracy and, where there are probabilities, log loss; by: which of them it
    is chosen by; classifiers: one a part, where another candidate is to start from them; fit: the
    whole, where it is one that may be kept.
    """

    index: int
    figures: dict[str, float]
    by: str
    classifiers: tuple[Any, ...] = field(default=(), repr=False)
    fit: Fit | None = None

    @property
    def score(self) -> float:
        """Lower is better."""
        return score(self.figures, self.by)

    @property
    def rank(self) -> tuple[float, int]:
        """Lower is better; of equal scores the more regularised."""
        return self.score, self.index


def criterion(recipe: Recipe, figures: dict[str, Any]) -> str:
    """Which of its validation figures a head is chosen by."""
    return "log_loss" if "log_loss" in figures and not recipe.by_accuracy else "accuracy"


def score(figures: dict[str, Any], by: str) -> float:
    """How good validation figures are; lower is better."""
    return -float(figures["accuracy"]) if by == "accuracy" else float(figures[by])


@dataclass(frozen=True)
class _Stand:
    """A part as a classifier sees it, behind the other steps, which are fitted on its rows to fit on."""

    at: Setting
    before: tuple[tuple[str, Any], ...]
    X: Vectors
    y: Codes
    X_held: Vectors
    y_held: Codes


@dataclass(frozen=True)
class _Outcome:
    """A candidate on one part."""

    classifier: Any
    converged: bool
    scored: Scored


class Bench:
    """The classifier of a recipe on some parts, whose other steps are fitted once."""

    def __init__(self, recipe: Recipe, ground: Ground, parts: Sequence[Part]) -> None:
        self.recipe = recipe
        size = max(int(ground.X[:1].nbytes) * len(ground.y[part.seen]) for part in parts)
        self._stands = each(partial(_stand, recipe, ground), parts, size=size)
        self._size = max(stand.X.nbytes for stand in self._stands)

    @property
    def rows(self) -> int:
        """How many rows each part has to fit on, at least."""
        return min(len(stand.y) for stand in self._stands)

    @property
    def width(self) -> int:
        """How many candidates can be tried at a time."""
        return max(1, at_once(self._size) // len(self._stands))

    def path(self, index: int, before: Sequence[Trial], tolerance: float) -> Trial:
        """Try a candidate from what the one or two before it, equally far apart, came to."""
        jobs = [
            (stand, index, tolerance, [trial.classifiers[place] for trial in before[-2:]])
            for place, stand in enumerate(self._stands)
        ]
        outcomes = each(self._try, jobs, size=self._size)
        trial = self._pooled(index, outcomes)
        return replace(trial, classifiers=tuple(outcome.classifier for outcome in outcomes))

    def trials(self, indices: Sequence[int], tolerance: float) -> list[Trial]:
        """Try candidates from scratch."""
        jobs = [
            (stand, index, tolerance, list[Any]())
            for index, stand in product(indices, self._stands)
        ]
        outcomes = each(self._try, jobs, size=self._size)
        number = len(self._stands)
        made = [
            self._pooled(index, outcomes[place * number : (place + 1) * number])
            for place, index in enumerate(indices)
        ]
        if number > 1 or tolerance != FINE_TOLERANCE:
            return made
        pairs = zip(made, outcomes, strict=True)
        return [replace(trial, fit=self._whole(trial.index, outcome)) for trial, outcome in pairs]

    def _try(self, job: tuple[_Stand, int, float, list[Any]]) -> _Outcome:
        stand, index, tolerance, before = job
        at = replace(stand.at, value=self.recipe.grid[index], tolerance=tolerance)
        classifier = self.recipe.build(at).steps[-1][1]
        if before:
            classifier = _ahead(classifier, before)
        done = converged(self.recipe, lambda: classifier.fit(stand.X, stand.y))
        predicted, probabilities = predict(classifier, stand.X_held)
        scored = Scored(stand.y_held, predicted, probabilities, len(classifier.classes_))
        return _Outcome(classifier, done, scored)

    def _pooled(self, index: int, outcomes: Sequence[_Outcome]) -> Trial:
        scored = pooled([outcome.scored for outcome in outcomes])
        figures = {"value": self.recipe.grid[index], **figures_of(scored)}
        return Trial(index, figures, criterion(self.recipe, figures))

    def _whole(self, index: int, outcome: _Outcome) -> Fit:
        """The pipeline as if it had been fitted as a whole."""
        (stand,) = self._stands
        at = replace(stand.at, value=self.recipe.grid[index], tolerance=FINE_TOLERANCE)
        pipeline: Pipeline = self.recipe.build(at)
        pipeline.steps = [*stand.before, (pipeline.steps[-1][0], outcome.classifier)]
        return Fit(pipeline, at, outcome.converged)


def _stand(recipe: Recipe, ground: Ground, part: Part) -> _Stand:
    at = setting(recipe, ground, part.seen, recipe.grid[0])
    *before, _ = recipe.build(at).steps
    X, y, X_held = ground.X[part.seen], ground.y[part.seen], ground.X[part.held]
    for _, step in before:
        X, X_held = step.fit_transform(X, y), step.transform(X_held)
    return _Stand(at, tuple(before), X, y, X_held, ground.y[part.held])


def _ahead(classifier: Any, before: Sequence[Any]) -> Any:
    """The classifier with coefficients to start from: the last ones, or where they are heading."""
    options = {**classifier.get_params(), "warm_start": True}
    started = copy.copy(before[-1]).set_params(**options)
    if len(before) > 1:
        for name in ("coef_", "intercept_"):
            first, last = (getattr(one, name) for one in before)
            setattr(started, name, 2 * last - first)
    return started


def pooled(scored: Sequence[Scored]) -> Scored:
    """What was said of the rows of all parts."""
    if len(scored) == 1:
        return scored[0]
    stated = [one.probabilities for one in scored if one.probabilities is not None]
    return Scored(
        np.concatenate([one.y for one in scored]),
        np.concatenate([one.predicted for one in scored]),
        np.concatenate(stated) if len(stated) == len(scored) else None,
        scored[0].classes,
    )


def figures_of(scored: Scored) -> dict[str, float]:
    """Accuracy and, where there are probabilities, log loss."""
    figures = {"accuracy": metrics.accuracy(scored)}
    if scored.probabilities is not None:
        figures["log_loss"] = metrics.log_loss(scored)
    return figures
