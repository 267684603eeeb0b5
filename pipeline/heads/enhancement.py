"""ENHANCEMENTS: what is done to the vectors between the backbone and the classifier.

One function and one line in ENHANCEMENTS add one; a function with the argument `dimensions` takes
a number behind a colon, as in `pca:256`.
"""

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.decomposition import PCA
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler

from pipeline.errors import ConfigurationError
from pipeline.heads.recipe import Recipe, Setting, nothing
from pipeline.names import unknown

DIMENSIONS = 256
STANDARDISED = ("standardise",)

Names = tuple[str, ...]


def none() -> None:
    """The vectors as they are cached."""


def standardise() -> StandardScaler:
    """Each dimension less its mean, divided by its standard deviation."""
    return StandardScaler()


def centre() -> StandardScaler:
    """Each dimension less its mean."""
    return StandardScaler(with_std=False)


def l2() -> Normalizer:
    """Each vector divided by its length."""
    return Normalizer()


def pca(dimensions: int = DIMENSIONS, *, seed: int = 0) -> PCA:
    """The principal components of the largest variance."""
    return PCA(dimensions, random_state=seed)


def whiten(dimensions: int = DIMENSIONS, *, seed: int = 0) -> PCA:
    """The same, each divided by its standard deviation."""
    return PCA(dimensions, whiten=True, random_state=seed)


def power() -> FunctionTransformer:
    """The square root of each value's size, its sign kept: large values count for less.

    Perronnin 2010; for few images a class Hu 2021, whose embeddings have no negative values.
    """
    return FunctionTransformer(signed_root, validate=True)


def signed_root(X: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """(N, D) -> (N, D)."""
    rooted: npt.NDArray[Any] = np.copysign(np.sqrt(np.abs(X)), X)
    return rooted


ENHANCEMENTS: dict[str, Callable[..., Any]] = {
    "none": none,
    "standardise": standardise,
    "centre": centre,
    "l2": l2,
    "pca": pca,
    "whiten": whiten,
    "power": power,
}


def parse(given: str | list[str] | None, *, at: str) -> Names | None:
    """The names of an entry's `enhance`, each number written out; None: the kind's own.

    at: dotted key of the entry. Raises ConfigurationError, near misses named.
    """
    if given is None:
        return None
    listed = [given] if isinstance(given, str) else given
    names = tuple(_parsed(text, f"params.yaml: {at}.enhance") for text in listed)
    if "none" not in names:
        return names
    if len(names) > 1:
        raise ConfigurationError(
            f"params.yaml: {at}.enhance: 'none' stands among others; delete it or them"
        )
    return ()


def _parsed(text: str, at: str) -> str:
    name, colon, number = text.partition(":")
    if name not in ENHANCEMENTS:
        raise ConfigurationError(f"{at}: {unknown('enhancement', name, ENHANCEMENTS)}")
    if not _is_sized(name):
        if colon:
            raise ConfigurationError(f"{at}: {text!r}: {name} takes no number; write {name}")
        return name
    if colon and not (number.isascii() and number.isdecimal() and int(number) > 0):
        raise ConfigurationError(
            f"{at}: {text!r}: behind the colon stands a whole number above 0, as in {name}:128"
        )
    return f"{name}:{int(number) if colon else DIMENSIONS}"


def _is_sized(name: str) -> bool:
    return "dimensions" in inspect.signature(ENHANCEMENTS[name]).parameters


def fitting(names: Names, at: Setting) -> Names:
    """The same names, with no more components than the rows and dimensions have."""
    width, found = at.dim, list[str]()
    for text in names:
        name, _, number = text.partition(":")
        if number:
            width = min(int(number), width, max(at.rows - 1, 1))
        found.append(f"{name}:{width}" if number else name)
    return tuple(found)


def width(names: Names, at: Setting) -> int:
    """Dimensions after these steps."""
    numbers = [int(text.partition(":")[2]) for text in fitting(names, at) if ":" in text]
    return numbers[-1] if numbers else at.dim


def steps(names: Names, at: Setting) -> list[Any]:
    """Unfitted scikit-learn transformers."""
    found = []
    for text in fitting(names, at):
        name, _, number = text.partition(":")
        function = ENHANCEMENTS[name]
        found.append(function(int(number), seed=at.seed) if number else function())
    return found


def enhanced(
    classifier: Callable[[Setting], Any],
    option: str | None = None,
    value: float | None = None,
    grid: tuple[float, ...] = (),
    *,
    own: Names = STANDARDISED,
    reduced: Callable[[Names, Setting], Names] = lambda names, _: names,
    notes: Callable[[Setting], tuple[str, ...]] = nothing,
    **more: Any,
) -> Recipe:
    """The recipe of a classifier behind the steps that the user named, or else its own.

    reduced: those steps with what the kind adds to them; more: other fields of Recipe.
    """

    def names(at: Setting) -> Names:
        return reduced(own if at.enhance is None else at.enhance, at)

    def build(at: Setting) -> Pipeline:
        return make_pipeline(*steps(names(at), at), classifier(at))

    def said(at: Setting) -> tuple[str, ...]:
        return (*_caps(names(at), at), *notes(at))

    def in_force(at: Setting) -> Names:
        return fitting(names(at), at)

    return Recipe(build, option, value, grid, enhanced=in_force, notes=said, **more)


def _caps(names: Names, at: Setting) -> tuple[str, ...]:
    return tuple(
        f"{wanted} is {actual}: {at.rows} rows of {at.dim} numbers have no more components"
        for wanted, actual in zip(names, fitting(names, at), strict=True)
        if wanted != actual
    )
