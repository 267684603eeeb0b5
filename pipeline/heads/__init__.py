"""HEADS: the classifiers that train on cached embeddings.

A head is a function of its options that returns a Recipe; one function and one line in HEADS
add a head. Options left at null are chosen by `pipeline.selection`.

    recipe      how a pipeline is built, and which option is searched
    grids       where it is searched
    enhancement     what is done to the vectors before the classifier
    weights     how much an image counts, by its class
    linear, kernel, discriminant, neighbours, network       the heads themselves
    ensembles   heads made of heads
    fitted      what comes of it, and the files that is kept in
"""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from pydantic import ConfigDict, create_model
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline

from pipeline.errors import ConfigurationError
from pipeline.heads import enhancement, grids
from pipeline.heads.discriminant import lda
from pipeline.heads.enhancement import ENHANCEMENTS, enhanced
from pipeline.heads.ensembles import stack, vote
from pipeline.heads.fitted import Fitted, Record, load, load_record, save, seen
from pipeline.heads.grids import PRESETS
from pipeline.heads.kernel import rbf_svm
from pipeline.heads.linear import linear_svm, logistic, ridge
from pipeline.heads.neighbours import knn, nearest_mean
from pipeline.heads.network import mlp
from pipeline.heads.recipe import Recipe, Setting
from pipeline.names import unknown
from pipeline.params import HeadParams, checked

__all__ = [
    "ENHANCEMENTS",
    "HEADS",
    "PRESETS",
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
    return enhanced(lambda _: DummyClassifier(strategy="prior"))


HEADS: dict[str, Callable[..., Recipe]] = {
    "logistic": logistic,
    "linear_svm": linear_svm,
    "rbf_svm": rbf_svm,
    "ridge": ridge,
    "lda": lda,
    "knn": knn,
    "nearest_mean": nearest_mean,
    "mlp": mlp,
    "stack": stack,
    "vote": vote,
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
    found = function(**{name: getattr(options, name) for name in entry.options})
    steps = enhancement.parse(entry.enhance, at=at)
    return replace(
        found,
        build=_naming(found.build, at),
        enhance=steps,
        members={name: replace(member, enhance=steps) for name, member in found.members.items()},
        grid=found.grid if entry.search is None else _grid(found, entry, at),
    )


def _naming(build: Callable[[Setting], Pipeline], at: str) -> Callable[[Setting], Pipeline]:
    """The same, whose refusals name the entry: classes are known only when it is built."""

    def named(setting: Setting) -> Pipeline:
        try:
            return build(setting)
        except ConfigurationError as error:
            raise ConfigurationError(f"params.yaml: {at}.{error}") from None

    return named


def _grid(found: Recipe, entry: HeadParams, at: str) -> tuple[float, ...]:
    """The named grid, for an option that it is for."""
    if found.option in grids.PRESET_OPTIONS:
        return grids.preset(str(entry.search), str(found.option), at=at)
    able = [kind for kind, made in HEADS.items() if made().option in grids.PRESET_OPTIONS]
    raise ConfigurationError(
        f"params.yaml: {at}.search: {entry.kind} has no C or alpha to search; delete it here, "
        f"{', '.join(able)} have one"
    )


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
