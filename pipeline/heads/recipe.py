"""A head before it is fitted: how its pipeline is built, and which option is searched where."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline

Fold = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows to fit on, rows held out."""


@dataclass(frozen=True)
class Setting:
    """What a pipeline is built for.

    value: of the option searched; rows, dim: shape of the training embeddings;
    tolerance: of an iterative solver; seed: of what is drawn at random; enhance: the steps before
    the classifier that the user named, None: the kind's own; classes: names of the codes 0..K-1,
    where they are known; folds: for what has to be fitted out of fold, each row held out by one of
    them and every class among the rows to fit on, empty where the images are too few for that;
    members: values chosen for the heads that this one is made of, by name.
    """

    value: float
    rows: int
    dim: int
    tolerance: float
    seed: int = 0
    enhance: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    folds: tuple[Fold, ...] = ()
    members: Mapping[str, float] = field(default_factory=dict)


def nothing(_: Setting) -> tuple[str, ...]:
    """No step before the classifier, or no note."""
    return ()


@dataclass(frozen=True)
class Recipe:
    """A head before it is fitted.

    build: makes an unfitted scikit-learn pipeline, whose last step is the classifier and the
    only one that depends on the value searched.
    option: the one that can be searched, if any; value: what the user gave for it;
    grid: its candidates, from the most regularised on;
    warm: a fit reaches the same optimum, sooner, from another candidate's (`warm_start`);
    by_accuracy: chosen by accuracy though it has probabilities, as these are no estimates;
    counts_rows: the option is a number of training images, of which there must be as many;
    default: the value where there is nothing to choose by; enhance: see Setting;
    members: the heads that it is made of, by name, each with a search of its own;
    out_of_fold: it needs `Setting.folds`; alone: no two fits of it, or of another such, at a time;
    enhanced: names of the steps before the classifier; notes: what it does that its entry in params.yaml does not say, and why.
    """

    build: Callable[[Setting], Pipeline]
    option: str | None = None
    value: float | None = None
    grid: tuple[float, ...] = ()
    warm: bool = False
    by_accuracy: bool = False
    counts_rows: bool = False
    default: float | None = None
    enhance: tuple[str, ...] | None = None
    members: "Mapping[str, Recipe]" = field(default_factory=dict)
    out_of_fold: bool = False
    alone: bool = False
    enhanced: Callable[[Setting], tuple[str, ...]] = nothing
    notes: Callable[[Setting], tuple[str, ...]] = nothing
