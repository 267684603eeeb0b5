"""Fit a head on every draw of a backbone's training images, and score each on test."""

import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from pipeline import features, metrics, splitting
from pipeline.cgroups import cores
from pipeline.curves.choice import choose
from pipeline.curves.draws import Draw, Shots, distinct, draws
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.features import Images
from pipeline.heads import Recipe, Setting
from pipeline.params import CurveParams
from pipeline.search import FINE_TOLERANCE, scores

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Right = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fit:
    """What came of one draw.

    images: it holds; value: of the head's option; right: (M,) which test images are labelled
    rightly; converged: the solver did.
    """

    shots: Shots
    seed: int
    images: int
    value: float
    right: Right
    balanced_accuracy: float
    converged: bool


@dataclass(frozen=True, eq=False)
class Bench:
    """A backbone's vectors: X (N, D) and y (N,) of the distinct training images, and of test.

    units: (N,) int64, equal for images that stay together; drawn: what is fitted.
    """

    classes: tuple[str, ...]
    X: Vectors
    y: Codes
    units: Codes
    X_test: Vectors
    y_test: Codes
    drawn: Sequence[Draw]


def bench(labels: Labels, cached: Embeddings, entry: CurveParams, layers: tuple[str, ...]) -> Bench:
    """What a curve on a backbone needs.

    Raises InputError: a class without training images, no test image.
    """
    seen = distinct(features.images(labels, cached, Split.TRAIN))
    held = features.images(labels, cached, Split.TEST)
    classes = _classes(labels, seen, held)
    digests, y = seen.labels.sha256, seen.codes(classes)
    names = splitting.units(
        [digest.decode() for digest in digests.tolist()], seen.labels.group.tolist()
    )
    _, units = np.unique(names, return_inverse=True)
    X, X_test = (features.gather(cached, layers, [(part.rows, 0)]) for part in (seen, held))
    drawn = draws(digests, y, entry.shots, entry.seeds)
    return Bench(classes, X, y, units.astype(np.int64), X_test, held.codes(classes), drawn)


def _classes(labels: Labels, seen: Images, held: Images) -> tuple[str, ...]:
    wanted, found = sorted(set(labels.label)), set(seen.labels.label)
    if lost := [label for label in wanted if label not in found]:
        raise InputError(
            f"class {lost[0]!r} has no training image with an embedding; add some or remove the "
            "class"
        )
    if len(held.rows) == 0:
        raise InputError(
            "a curve is measured on test, and no test image has an embedding; give each class at "
            "least three images, or a test split"
        )
    return tuple(wanted)


def fit(of: Bench, recipe: Recipe, *, folds: int | None, threads: int | None = None) -> list[Fit]:
    """A head on each draw, in their order; the same whatever the number of threads.

    folds: see `choose`; threads: None for as many as there are cores.
    """
    order = sorted(range(len(of.drawn)), key=lambda place: -len(of.drawn[place].rows))
    one = partial(_fit, of, recipe, folds)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a Fit tells
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        with ThreadPoolExecutor(threads or cores(), initializer=_alone) as pool:
            done = dict(
                zip(order, pool.map(one, (of.drawn[place] for place in order)), strict=True)
            )
    return [done[place] for place in range(len(of.drawn))]


def _alone() -> None:
    """OpenMP counts threads for each thread by itself."""
    threadpool_limits(1)


def _fit(of: Bench, recipe: Recipe, folds: int | None, draw: Draw) -> Fit:
    X, y, units = of.X[draw.rows], of.y[draw.rows], of.units[draw.rows]
    setting = Setting(
        value=recipe.grid[0] if recipe.grid else 0.0,
        rows=len(X),
        dim=X.shape[1],
        tolerance=FINE_TOLERANCE,
        seed=draw.seed,
        enhance=recipe.enhance,
        classes=of.classes,
    )
    value = choose(recipe, setting, X, y, units, folds)
    fitted = recipe.build(replace(setting, value=value)).fit(X, y)
    scored = scores(fitted, of.X_test, of.y_test)
    return Fit(
        shots=draw.shots,
        seed=draw.seed,
        images=len(X),
        value=value,
        right=scored.predicted == scored.y,
        balanced_accuracy=metrics.balanced_accuracy(scored),
        converged=_converged(fitted.steps[-1][1]),
    )


def _converged(classifier: Any) -> bool:
    """By its count of iterations: warnings are no thread's own."""
    most, done = getattr(classifier, "max_iter", None), getattr(classifier, "n_iter_", 0)
    return not most or most < 0 or int(np.max(done)) < most
