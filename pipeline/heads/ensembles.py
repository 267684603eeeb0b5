"""Heads made of other heads: the mean of their probabilities, and a regression on their outputs.

Each member is the pipeline that it would be alone, with the steps before its classifier and the
value of its option; within folds both are of the rows to fit on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.heads.recipe import Fold, Recipe, Setting
from pipeline.names import unknown
from pipeline.prediction import logits, soften

MEMBERS = ("logistic", "rbf_svm", "knn")
"""A plane, a kernel and neighbours; of 2 to 4 kinds these did best on CIFAR-10's validation images."""

ENSEMBLES = ("vote", "stack")
STACK_C = 0.3
"""Of the regression on standardised outputs of the members; from 0.1 to 1 it mattered little."""


def _known(names: list[str]) -> list[str]:
    """The kinds, if an ensemble can be made of them. Raises ValueError."""
    from pipeline.heads import HEADS  # which lists this module's heads too

    single = [kind for kind in HEADS if kind not in ENSEMBLES]
    for name in names:
        if name in ENSEMBLES:
            raise ValueError(f"{name} is made of heads itself; name the kinds that it is made of")
        if name not in single:
            raise ValueError(unknown("head", name, single))
        if names.count(name) > 1:
            raise ValueError(f"{name} stands twice; delete one")
    return names


Members = Annotated[list[str], Field(min_length=2), AfterValidator(_known)]


def vote(*, members: Members | None = None) -> Recipe:
    """The mean of the members' probabilities.

    Those of a member that has none are the softmax of its decision function, at the temperature
    that fits out of fold (Guo 2017) or, without folds to find it on, at 1.
    """
    known = _recipes(members)
    bare = [name for name, member in known.items() if not _has_probabilities(member)]

    def build(at: Setting) -> Pipeline:
        voters = [
            (name, _with_probabilities(member, at) if name in bare else member)
            for name, member in _built(known, at)
        ]
        return make_pipeline(VotingClassifier(voters, voting="soft"))

    def notes(at: Setting) -> tuple[str, ...]:
        lone = (
            f"too few images for folds: the probabilities of {', '.join(bare)} are a plain softmax"
        )
        return (*_notes(known, at), *([lone] if bare and not at.folds else []))

    return Recipe(
        build,
        members=known,
        out_of_fold=bool(bare),
        alone=_alone(known),
        enhanced=_enhanced(known),
        notes=notes,
    )


def stack(*, members: Members | None = None) -> Recipe:
    """Multinomial logistic regression on what the members say out of fold (Wolpert 1992).

    That is their probabilities or, where they have none, their decision functions.
    """
    known = _recipes(members)
    fallback = vote(members=members)

    def build(at: Setting) -> Pipeline:
        if not at.folds:
            return fallback.build(at)
        last = LogisticRegression(C=STACK_C, tol=at.tolerance, max_iter=1000)
        final = make_pipeline(StandardScaler(), last)
        return make_pipeline(StackingClassifier(_built(known, at), final, cv=Folds(at.folds)))

    def notes(at: Setting) -> tuple[str, ...]:
        if at.folds:
            return _notes(known, at)
        return ("too few images for folds: a vote instead of a stack", *fallback.notes(at))

    return Recipe(
        build,
        members=known,
        out_of_fold=True,
        alone=_alone(known),
        enhanced=_enhanced(known),
        notes=notes,
    )


def _alone(known: Mapping[str, Recipe]) -> bool:
    return any(member.alone for member in known.values())


class Folds:
    """Given folds, as scikit-learn takes them.

    They are gone where a head that has them is saved, or its file would list every row.
    """

    def __init__(self, folds: tuple[Fold, ...] = ()) -> None:
        self._folds = folds

    def __repr__(self) -> str:
        return f"Folds({len(self._folds)})"

    def split(self, *_: object, **__: object) -> Iterator[Fold]:
        """Rows to fit on, rows held out."""
        return iter(self._folds)

    def get_n_splits(self, *_: object, **__: object) -> int:
        """How many there are."""
        return len(self._folds)

    def __deepcopy__(self, _: object) -> "Folds":
        return self  # scikit-learn copies what it clones, and they do not change

    def __reduce__(self) -> tuple[type["Folds"], tuple[()]]:
        return Folds, ()


class Softened(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # sklearn has no types
    """A classifier whose probabilities are the softmax of its decision function."""

    classes_: npt.NDArray[Any]
    n_features_in_: int

    def __init__(self, estimator: Any) -> None:
        self.estimator = estimator

    def fit(self, X: npt.NDArray[Any], y: npt.NDArray[Any]) -> "Softened":
        """X: (N, D) float; y: (N,) class of each row."""
        self.estimator_ = clone(self.estimator).fit(X, y)
        self.classes_, self.n_features_in_ = self.estimator_.classes_, X.shape[1]
        return self

    def predict_proba(self, X: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """(N, D) float -> (N, K)."""
        return soften(logits(self.estimator_, X), 1.0)

    def predict(self, X: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """(N, D) float -> (N,) class."""
        predicted: npt.NDArray[Any] = self.classes_[self.predict_proba(X).argmax(axis=1)]
        return predicted


def _recipes(members: list[str] | None) -> dict[str, Recipe]:
    from pipeline.heads import HEADS  # which lists this module's heads too

    return {name: HEADS[name]() for name in members or MEMBERS}


def _has_probabilities(member: Recipe) -> bool:
    made = member.build(Setting(member.default or 0.0, rows=2, dim=2, tolerance=1e-4))
    return hasattr(made, "predict_proba")


def _setting(name: str, member: Recipe, at: Setting) -> Setting:
    """What a member is built for: as many rows as the smallest fold leaves it."""
    rows = min([at.rows, *(len(seen) for seen, _ in at.folds)])
    return replace(at, value=at.members.get(name, member.default or 0.0), rows=rows)


def _built(known: Mapping[str, Recipe], at: Setting) -> list[tuple[str, Pipeline]]:
    return [(name, member.build(_setting(name, member, at))) for name, member in known.items()]


def _with_probabilities(member: Pipeline, at: Setting) -> Any:
    if not at.folds:
        return Softened(member)
    folds = Folds(at.folds)
    return CalibratedClassifierCV(member, method="temperature", cv=folds, ensemble=False)


def _notes(known: Mapping[str, Recipe], at: Setting) -> tuple[str, ...]:
    return tuple(
        f"{name}: {note}"
        for name, member in known.items()
        for note in member.notes(_setting(name, member, at))
    )


def _enhanced(known: Mapping[str, Recipe]) -> Any:
    """The members' steps, told once where they are the same."""

    def names(at: Setting) -> tuple[str, ...]:
        steps = {
            name: member.enhanced(_setting(name, member, at)) for name, member in known.items()
        }
        if len(set(steps.values())) == 1:
            return next(iter(steps.values()))
        return tuple(f"{name}: {' + '.join(own) or 'none'}" for name, own in steps.items())

    return names
