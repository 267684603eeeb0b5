"""Choose a head's option and layers on the validation images, never on test; fit it twice.

Each candidate set of layers has a search and a fit on train of its own; the chosen one is then
fitted once more, from scratch, on train + val.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline import features, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.features import Images, Sight
from pipeline.heads import Fitted, Recipe, Record, Setting
from pipeline.params import HeadParams
from pipeline.search import FINE_TOLERANCE, Codes, Search, Vectors, choose, criterion, score, scores


class _Rows:
    """What a head is fitted on: the images of train and val, each in so many augmented views too.

    y_seen, y_held: codes of train and val, one an image; y: one a row of `matrix`.
    """

    def __init__(
        self, cached: Embeddings, seen: Images, held: Images, views: int, classes: tuple[str, ...]
    ) -> None:
        self.y_seen, self.y_held = seen.codes(classes), held.codes(classes)
        self.y = np.concatenate([np.tile(y, views + 1) for y in (self.y_seen, self.y_held)])
        self.training = len(self.y_seen) * (views + 1)
        parts = [(images.rows, views) for images in (seen, held)]
        self._gathered = features.Gathered(cached, parts)

    def matrix(self, layers: tuple[str, ...]) -> Vectors:
        """Train in every view, val clean, then in its other views."""
        return self._gathered.of(layers)

    def split(self, layers: tuple[str, ...]) -> tuple[Vectors, Codes, Vectors, Codes]:
        """X and y of the rows to fit on, and of the clean ones to score by."""
        X, start = self.matrix(layers), self.training
        return X[:start], self.y[:start], X[start : start + len(self.y_held)], self.y_held


@dataclass(frozen=True)
class _Fit:
    """A fitted pipeline, and whether its solver converged."""

    pipeline: Pipeline
    converged: bool


@dataclass(frozen=True)
class _Candidate:
    """One set of layers: its search, the fit on train, and how good that is on val.

    by: which of the figures counts.
    """

    layers: tuple[str, ...]
    search: Search
    setting: Setting
    choice: dict[str, float]
    fit: _Fit
    figures: dict[str, Any]
    by: str

    @property
    def score(self) -> float:
        """Lower is better."""
        return score(self.figures, self.by)


def train(
    name: str, entry: HeadParams, labels: Labels, cached: Embeddings
) -> tuple[Fitted, Record]:
    """Choose and fit a head on a backbone's cached embeddings.

    Raises ConfigurationError (the entry), InputError (a class without training images, no
    validation image).
    """
    recipe = heads.recipe(name, entry)
    sight = features.sight(name, entry, features.offer(cached))
    seen = features.images(labels, cached, Split.TRAIN)
    held = features.images(labels, cached, Split.VAL)
    classes = _classes(labels, seen, held)
    rows = _Rows(cached, seen, held, sight.views, classes)
    with threadpool_limits(1), warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore", ConvergenceWarning)  # the fits that are kept tell
        # one thread: faster at these sizes, and the same bits whatever the machine's cores
        chosen, everything, reached = _chosen(recipe, rows, sight)
    record = Record(
        backbone=str(cached.attributes["backbone"]),
        head=name,
        kind=entry.kind,
        fingerprint=cached.fingerprint,
        classes=list(classes),
        rows={"train": rows.training, "val": len(rows.y) - rows.training},
        choice=chosen.choice,
        chosen_by=chosen.search.by,
        trace=chosen.search.trace,
        at_edge=chosen.search.at_edge,
        converged=chosen.fit.converged and everything.converged,
        images={"train": len(seen.rows), "val": len(held.rows)},
        layers=list(chosen.layers),
        layers_by=chosen.by if sight.best else "given",
        views=sight.views,
        fingerprints=features.fingerprints(cached, chosen.layers, sight.views),
        by_layer=reached if len(reached) > 1 else [],
        notes=list(sight.notes),
    )
    return Fitted(classes, chosen.fit.pipeline, everything.pipeline), record


def _classes(labels: Labels, seen: Images, held: Images) -> tuple[str, ...]:
    wanted, found = sorted(set(labels.label)), set(seen.labels.label)
    if lost := [label for label in wanted if label not in found]:
        raise InputError(
            f"class {lost[0]!r} has lost all its training images; see the problems.csv beside "
            "the embeddings, mend the images or remove the class"
        )
    if len(held.rows) == 0:
        raise InputError(
            "no validation image has an embedding; give each class at least three images, or a val split"
        )
    return tuple(wanted)


def _chosen(
    recipe: Recipe, rows: _Rows, sight: Sight
) -> tuple[_Candidate, _Fit, list[dict[str, Any]]]:
    """The layers asked for or, of the candidates, the best; its fit on train + val; what each reached.

    Ties go to the earlier one.
    """
    chosen, reached = _candidate(recipe, rows, sight.candidates[0]), list[dict[str, Any]]()
    for place, layers in enumerate(sight.candidates):
        one = _candidate(recipe, rows, layers) if place else chosen
        if one.score < chosen.score or not sight.best:  # those asked for come last
            chosen = one
        reached.append({"layers": list(layers), "choice": one.choice, **one.figures})
    return chosen, _fit(recipe, chosen.setting, rows.matrix(chosen.layers), rows.y), reached


def _candidate(recipe: Recipe, rows: _Rows, layers: tuple[str, ...]) -> _Candidate:
    X, y, held, y_held = rows.split(layers)
    search = choose(recipe, X, y, held, y_held)
    setting = Setting(search.value, len(X), X.shape[1], FINE_TOLERANCE)
    fit = _fit(recipe, setting, X, y)
    choice = {recipe.option: search.value} if recipe.option else {}
    figures = _figures(fit.pipeline, held, y_held)
    return _Candidate(layers, search, setting, choice, fit, figures, criterion(recipe, figures))


def _fit(recipe: Recipe, setting: Setting, X: Vectors, y: Codes) -> _Fit:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        fitted = recipe.build(setting).fit(X, y)
    return _Fit(fitted, not any(issubclass(w.category, ConvergenceWarning) for w in caught))


def _figures(fit: Pipeline, X: Vectors, y: Codes) -> dict[str, Any]:
    """Accuracy with its interval and, where there are probabilities, log loss."""
    scored = scores(fit, X, y)
    figures = {
        "accuracy": metrics.accuracy(scored),
        "accuracy_ci95": list(metrics.INTERVALS["accuracy"](scored)),
    }
    return figures | (
        {} if scored.probabilities is None else {"log_loss": metrics.log_loss(scored)}
    )


def describe(record: Record) -> str:
    """What was chosen, in a line or two for the terminal."""
    chosen = ", ".join(f"{option} = {value:.4g}" for option, value in record.choice.items())
    tried = f" of {len(record.trace)} tried" if record.trace else ""
    said = [heads.seen(record), chosen + tried if chosen else "fitted"]
    lines = [f"{record.backbone} / {record.head}: {', '.join(filter(None, said))}"]
    lines += [f"note: {note}" for note in record.notes]
    if record.at_edge:
        lines.append("warning: the choice lies at an end of the grid; give a value of your own")
    if not record.converged:
        lines.append("warning: the final fit stopped before it converged")
    return "\n".join(lines)
