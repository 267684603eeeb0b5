"""Choose a head's hyperparameter on the validation images, never on test; fit it twice.

Coarse to fine: every fourth candidate from the most regularised on, until the score has
risen thrice, at a loose tolerance; then those two and one steps from the best; then one fit
at a tight tolerance on train, and one on train + val.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline, make_pipeline
from threadpoolctl import threadpool_limits

from pipeline import evaluation, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.evaluation import Examples
from pipeline.heads import Fitted, Recipe, Record
from pipeline.metrics import Scored
from pipeline.params import HeadParams

STRIDE = 4
RISES = 3
SEARCH_TOLERANCE = 1e-3
FINAL_TOLERANCE = 1e-4

X = npt.NDArray[np.float32]
Y = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Search:
    """The value chosen and all that was tried, in the grid's order."""

    value: float
    trace: list[dict[str, Any]] = field(default_factory=list)
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
        rows = len(seen.X)
        final = recipe.build(search.value, rows, FINAL_TOLERANCE).fit(seen.X, y_seen)
        everything = recipe.build(search.value, rows, FINAL_TOLERANCE).fit(
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
            "no validation image has an embedding; raise data.split.val or give a val split"
        )
    return tuple(wanted)


def choose(recipe: Recipe, X_seen: X, y_seen: Y, X_held: X, y_held: Y) -> Search:
    """Search the recipe's grid by validation log loss (accuracy where it has none).

    X_*: (N, D) float32; y_*: (N,) int. Ties go to the more regularised candidate.
    """
    if recipe.value is not None or not recipe.grid:
        return Search(recipe.value if recipe.value is not None else 0.0)
    *enhance, (_, classifier) = recipe.build(
        recipe.grid[0], len(X_seen), SEARCH_TOLERANCE
    ).steps
    enhancement = make_pipeline(*(step for _, step in enhance)) if enhance else "passthrough"
    bench = _Bench(
        recipe,
        classifier,
        *_enhanced(enhancement, X_seen, X_held),
        y_seen,
        y_held,
    )
    best = bench.best_of(_coarse(bench, len(recipe.grid)))
    for step in (STRIDE // 2, STRIDE // 4):
        best = bench.best_of([best - step, best, best + step])
    trace = [bench.tried[index] for index in sorted(bench.tried)]
    return Search(recipe.grid[best], trace, best in (0, len(recipe.grid) - 1))


def _enhanced(enhancement: Pipeline | str, X_seen: X, X_held: X) -> tuple[X, X]:
    if isinstance(enhancement, str):
        return X_seen, X_held
    return enhancement.fit_transform(X_seen), enhancement.transform(X_held)


@dataclass
class _Bench:
    """One classifier on enhanced embeddings, refitted, warm where it can, for each candidate."""

    recipe: Recipe
    classifier: BaseEstimator
    X_seen: X
    X_held: X
    y_seen: Y
    y_held: Y
    tried: dict[int, dict[str, Any]] = field(default_factory=dict)

    def score(self, index: int) -> float:
        """Validation log loss, or minus the accuracy; lower is better."""
        if index not in self.tried:
            value = self.recipe.grid[index]
            fresh = self.recipe.build(value, len(self.X_seen), SEARCH_TOLERANCE)[-1]
            if "warm_start" in fresh.get_params():
                self.classifier.set_params(**{**fresh.get_params(), "warm_start": True})
            else:
                self.classifier = fresh
            self.classifier.fit(self.X_seen, self.y_seen)
            self.tried[index] = {"value": value, **self._figures()}
        figures = self.tried[index]
        return float(figures.get("log_loss", -figures["accuracy"]))

    def _figures(self) -> dict[str, float]:
        classes = int(max(self.y_seen)) + 1
        predicted, probabilities = evaluation.predict(self.classifier, self.X_held, classes)
        scored = Scored(self.y_held, predicted, probabilities, classes)
        figures = {"accuracy": metrics.accuracy(scored)}
        if probabilities is not None:
            figures["log_loss"] = metrics.log_loss(scored)
        return figures

    def best_of(self, indices: Iterable[int]) -> int:
        """The best candidate; the first, which is more regularised, of equal ones."""
        inside = sorted(index for index in indices if 0 <= index < len(self.recipe.grid))
        return min(inside, key=self.score)


def _coarse(bench: _Bench, size: int) -> list[int]:
    """Every fourth candidate, until the score has risen RISES times in a row."""
    tried, rises = list[int](), 0
    for index in range(0, size, STRIDE):
        rises = rises + 1 if tried and bench.score(index) > bench.score(tried[-1]) else 0
        tried.append(index)
        if rises == RISES:
            break
    return tried


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
