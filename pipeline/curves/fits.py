"""Fit a head on every draw of a backbone's training images, and score each on test."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline import features, fitting, metrics, splitting
from pipeline.curves.choice import choose
from pipeline.curves.draws import Draw, Shots, distinct, draws
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError
from pipeline.features import Images
from pipeline.fitting import Ground
from pipeline.heads import Recipe
from pipeline.metrics import Scored
from pipeline.params import CurveParams
from pipeline.prediction import predict
from pipeline.vectors import check_fit

EVERY = slice(None)

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

    Raises InputError: a class without training images, one class alone, no test image, NaN.
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
    check_fit(X, y, classes)
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


def fit(of: Bench, recipe: Recipe, *, folds: int | None) -> list[Fit]:
    """A head on each draw, in their order; the same whatever the number of threads.

    folds: see `choose`.
    """
    order = sorted(range(len(of.drawn)), key=lambda place: -len(of.drawn[place].rows))
    one = partial(_fit, of, recipe, folds)
    with fitting.alone_on_a_thread():
        fits = fitting.each(one, [of.drawn[place] for place in order], size=of.X.nbytes)
    done = dict(zip(order, fits, strict=True))
    return [done[place] for place in range(len(of.drawn))]


def _fit(of: Bench, recipe: Recipe, folds: int | None, draw: Draw) -> Fit:
    X, y, units = of.X[draw.rows], of.y[draw.rows], of.units[draw.rows]
    ground = Ground(X, y, units, of.classes, seed=draw.seed)
    value = choose(recipe, ground, folds)
    at = fitting.setting(recipe, ground, EVERY, value)
    fitted = fitting.fit(recipe, ground, EVERY, at)
    predicted, probabilities = predict(fitted.pipeline, of.X_test)
    scored = Scored(of.y_test, predicted, probabilities, len(of.classes))
    return Fit(
        shots=draw.shots,
        seed=draw.seed,
        images=len(X),
        value=value,
        right=scored.right,
        balanced_accuracy=metrics.balanced_accuracy(scored),
        converged=fitted.converged,
    )
