"""Fits of scikit-learn pipelines: each on one thread, independent ones side by side.

One thread a fit is faster at these sizes than BLAS on several, and gives the same bits whatever
the machine's cores; how many fits run at a time changes no result.
"""

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import psutil
from scipy.linalg import LinAlgWarning
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline import cgroups
from pipeline.folds import Index, folds
from pipeline.heads import Recipe, Setting

FINE_TOLERANCE = 1e-4
"""Of the fits that are kept. A looser one stops early where the training images can be separated."""

FOLDS = 5
"""For what has to be fitted out of fold, unless the user says how many."""

COPIES = 4
"""A fit takes up to so many times the float32 rows it sees: scaled ones, and float64 for libsvm."""

SHARE_OF_MEMORY = 0.8
NONE: Mapping[str, float] = {}

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]
Item = TypeVar("Item")
Result = TypeVar("Result")


class _Here(threading.local):
    """Of one thread. beside: others work beside it; stopped: a fit stopped before it converged."""

    beside = False
    stopped = False


_here = _Here()


@dataclass(frozen=True)
class Ground:
    """Labelled rows that heads are fitted on.

    X: (R, D) float32; y: (R,) int; units: (R,) int, equal where rows must not be parted; classes:
    names of the codes; seed: of what is drawn at random; folds: for what is fitted out of fold.
    """

    X: Vectors
    y: Codes
    units: Codes
    classes: tuple[str, ...] = ()
    seed: int = 0
    folds: int = FOLDS


@dataclass(frozen=True)
class Fit:
    """A fitted pipeline, what it was built for, and whether its solver converged."""

    pipeline: Pipeline
    setting: Setting
    converged: bool


def setting(
    recipe: Recipe, ground: Ground, rows: Index, value: float, members: Mapping[str, float] = NONE
) -> Setting:
    """What a recipe is built for, to be fitted on some rows."""
    units = ground.units[rows]
    cut = folds(ground.y[rows], units, ground.folds, ground.seed) if recipe.out_of_fold else ()
    return Setting(
        value,
        rows=len(units),
        dim=ground.X.shape[1],
        tolerance=FINE_TOLERANCE,
        seed=ground.seed,
        enhance=recipe.enhance,
        classes=ground.classes,
        folds=cut,
        members=members,
    )


def fit(recipe: Recipe, ground: Ground, rows: Index, at: Setting) -> Fit:
    """Fit a recipe on some rows, from scratch."""
    pipeline = recipe.build(at)
    return Fit(pipeline, at, converged(lambda: pipeline.fit(ground.X[rows], ground.y[rows])))


def converged(fit: Callable[[], object]) -> bool:
    """Call `fit`, within `alone_on_a_thread`; whether no solver stopped before it converged."""
    _here.stopped = False
    fit()
    return not _here.stopped


@contextmanager
def alone_on_a_thread() -> Iterator[None]:
    """Libraries use one thread each, and what a solver warns of is noted for `converged`.

    Elsewhere warnings are caught by changing what all threads share; here one hook tells them apart.
    """
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("always", ConvergenceWarning)
        warnings.simplefilter("ignore", LinAlgWarning)  # of ridge at the weak end of its grid
        shown = warnings.showwarning

        def noted(message: Any, category: type[Warning], *rest: Any, **named: Any) -> None:
            if issubclass(category, ConvergenceWarning):
                _here.stopped = True
            else:
                shown(message, category, *rest, **named)

        warnings.showwarning = noted
        yield


def each(work: Callable[[Item], Result], items: Iterable[Item], *, size: int = 0) -> list[Result]:
    """What `work` returns for each item, in their order; several at a time where that is faster.

    size: bytes that one of them sees. Raises what the first that fails raises.
    """
    listed = list(items)
    width = min(at_once(size), len(listed))
    if width < 2:
        return [work(item) for item in listed]
    with ThreadPoolExecutor(width, initializer=_begin) as pool:
        return list(pool.map(work, listed))


def at_once(size: int) -> int:
    """How many fits run at a time on vectors of `size` bytes: one a core, as memory admits.

    One where this thread is one of several already.
    """
    if _here.beside:
        return 1
    left = cgroups.memory_left()
    free = psutil.virtual_memory().available
    room = SHARE_OF_MEMORY * (free if left is None else min(free, left))
    return max(1, min(cgroups.cores(), int(room // max(1, COPIES * size))))


def _begin() -> None:
    _here.beside = True
    threadpool_limits(1, user_api="openmp")  # which counts threads for each that calls it
