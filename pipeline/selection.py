"""Choose a head's hyperparameter on the validation images, never on test; fit it twice.

Coarse to fine: every fourth candidate from the most regularised on, until the score has
risen thrice, at a loose tolerance; then the best at a tight one, and those two and one steps
from it; then one fit from scratch on train, and one on train + val.
"""

import copy
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from pipeline import evaluation, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.evaluation import Examples
from pipeline.heads import Fitted, Recipe, Record, Setting
from pipeline.metrics import Scored
from pipeline.params import HeadParams

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


def train(
    name: str, entry: HeadParams, labels: Labels, cached: Embeddings
) -> tuple[Fitted, Record]:
    """Choose and fit a head on a backbone's cached embeddings.

    Raises ConfigurationError (the entry), InputError (a class without training images, no
    validation image).
    """
    recipe = heads.recipe(name, entry)
    seen = evaluation.examples(labels, cached, Split.TRAIN)
    held = evaluation.examples(labels, cached, Split.VAL)
    classes = _classes(labels, seen, held)
    y_seen, y_held = seen.codes(classes), held.codes(classes)
    with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
        # one thread: faster at these sizes, and the same bits whatever the machine's cores
        warnings.simplefilter("always", ConvergenceWarning)
        search = choose(recipe, seen.X, y_seen, held.X, y_held)
        caught.clear()
        rows, dim = seen.X.shape
        setting = Setting(search.value, rows, dim, FINE_TOLERANCE)
        final = recipe.build(setting).fit(seen.X, y_seen)
        everything = recipe.build(setting).fit(
            np.concatenate([seen.X, held.X]), np.concatenate([y_seen, y_held])
        )
    record = Record(
        backbone=str(cached.attributes["backbone"]),
        head=name,
        kind=entry.kind,
        fingerprint=cached.fingerprint,
        classes=list(classes),
        rows={"train": rows, "val": len(held.X)},
        choice={recipe.option: search.value} if recipe.option else {},
        chosen_by=search.by,
        trace=search.trace,
        at_edge=search.at_edge,
        converged=not any(issubclass(w.category, ConvergenceWarning) for w in caught),
    )
    return Fitted(classes, final, everything), record


def _classes(labels: Labels, seen: Examples, held: Examples) -> tuple[str, ...]:
    wanted, found = sorted(set(labels.label)), set(seen.labels.label)
    if lost := [label for label in wanted if label not in found]:
        raise InputError(
            f"class {lost[0]!r} has lost all its training images; see the problems.csv beside "
            "the embeddings, mend the images or remove the class"
        )
    if len(held.X) == 0:
        raise InputError(
            "no validation image has an embedding; give each class at least three images, or a val split"
        )
    return tuple(wanted)


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
        return -self.figures["accuracy"] if self.by == "accuracy" else self.figures[self.by]


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
        figures = {"value": self.recipe.grid[index], **self._figures(classifier)}
        by_loss = "log_loss" in figures and not self.recipe.by_accuracy
        by = "log_loss" if by_loss else "accuracy"
        return _Trial(index, figures, by, classifier if self.recipe.warm else None)

    def _figures(self, classifier: Any) -> dict[str, float]:
        X, y = self.held
        predicted, probabilities = evaluation.predict(classifier, X)
        scored = Scored(y, predicted, probabilities, classes=len(classifier.classes_))
        figures = {"accuracy": metrics.accuracy(scored)}
        if probabilities is not None:
            figures["log_loss"] = metrics.log_loss(scored)
        return figures


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


def describe(record: Record) -> str:
    """What was chosen, in a line or two for the terminal."""
    chosen = ", ".join(f"{option} = {value:.4g}" for option, value in record.choice.items())
    tried = f" of {len(record.trace)} tried" if record.trace else ""
    lines = [f"{record.backbone} / {record.head}: {chosen + tried if chosen else 'fitted'}"]
    if record.at_edge:
        lines.append("warning: the choice lies at an end of the grid; give a value of your own")
    if not record.converged:
        lines.append("warning: the final fit stopped before it converged")
    return "\n".join(lines)
