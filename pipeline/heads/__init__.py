"""HEADS: the classifiers that train on cached embeddings.

A head is a function of its options that returns a Recipe; one function and one line in HEADS
add a head. Options left at null are chosen by `pipeline.selection`.

    recipe      how a pipeline is built, and which option is searched
    grids       where it is searched
    linear, kernel, neighbours      the heads themselves
    fitted      what comes of it, and the files that is kept in
"""

import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, create_model
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline.errors import ConfigurationError
from pipeline.heads.fitted import Fitted, Record, load, load_record, save, seen
from pipeline.heads.kernel import rbf_svm
from pipeline.heads.linear import linear_svm, logistic, ridge
from pipeline.heads.neighbours import knn, nearest_mean
from pipeline.heads.recipe import Recipe, Setting
from pipeline.names import unknown
from pipeline.params import HeadParams, checked

__all__ = [
    "HEADS",
    "Fitted",
    "Recipe",
    "Record",
    "Setting",
    "load",
    "load_record",
    "recipe",
    "save",
    "seen",
]


def dummy() -> Recipe:
    """The class frequencies of the training images, whatever the image: the control."""
    return Recipe(lambda _: make_pipeline(StandardScaler(), DummyClassifier(strategy="prior")))


HEADS: dict[str, Callable[..., Recipe]] = {
    "logistic": logistic,
    "linear_svm": linear_svm,
    "rbf_svm": rbf_svm,
    "knn": knn,
    "nearest_mean": nearest_mean,
    "ridge": ridge,
    "dummy": dummy,
}


def recipe(name: str, entry: HeadParams, *, block: str = "heads") -> Recipe:
    """The recipe of an entry of params.yaml. Raises ConfigurationError, near misses named.

    block: where in params.yaml the entry stands.
    """
    at = f"{block}.{name}"
    if entry.kind not in HEADS:
        raise ConfigurationError(f"params.yaml: {at}.kind: {unknown('head', entry.kind, HEADS)}")
    function = HEADS[entry.kind]
    options = checked(_options(function), dict(entry), where="params.yaml", at=at)
    return function(**{name: getattr(options, name) for name in entry.options})


class _Entry(HeadParams):
    """An entry whose keys are all known."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


def _options(function: Callable[..., Recipe]) -> type[HeadParams]:
    """An entry of one kind as a pydantic model: its options are the function's keyword arguments."""
    arguments: dict[str, Any] = {
        name: (argument.annotation, argument.default)
        for name, argument in inspect.signature(function).parameters.items()
    }
    return create_model(function.__name__, __base__=_Entry, **arguments)
