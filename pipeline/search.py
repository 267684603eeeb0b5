"""Search a head's grid on images that it is not fitted on, coarse to fine.

Every fourth candidate from the most regularised on, until the score has clearly risen, at a loose
tolerance; then those around the best of them, at the tolerance of the fits that are kept.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from pipeline.fitting import FINE_TOLERANCE, Fit, Ground, each
from pipeline.folds import Part
from pipeline.heads import Recipe
from pipeline.trials import Bench, Trial

STRIDE = 4
RISES = 3
RISE = 0.2
"""By this share of the least log loss a single rise is clear."""

COARSE_TOLERANCE = 3e-4
PATH_TOLERANCE = 2e-3
"""Of fits that start from others. On what can be separated they stop early, and make little of it as
what is regularised less overfits: hence the walk, from scratch, at the end."""

MANY_ROWS = 3000
WALK_TOLERANCE = 5e-4
AGREEMENT = 0.003
"""Of log losses, in nats."""

ENDS = ("most regularised", "least regularised")


@dataclass(frozen=True)
class Search:
    """The value chosen and all that was tried, in the grid's order.

    choice: option and value; members: the values of a head made of heads; edges: options whose
    value lies at an end of the grid, and which; fit: on the one part there was, if it may be kept.
    """

    value: float
    choice: dict[str, float] = field(default_factory=dict)
    trace: list[dict[str, Any]] = field(default_factory=list)
    by: str = "given"
    edges: dict[str, str] = field(default_factory=dict)
    members: Mapping[str, float] = field(default_factory=dict)
    fit: Fit | None = None

    @property
    def at_edge(self) -> bool:
        """A value lies at an end of its grid."""
        return bool(self.edges)


def choose(recipe: Recipe, ground: Ground, parts: Sequence[Part]) -> Search:
    """Search the recipe's grid by log loss, or accuracy where it has none or says so.

    Figures are those of the held rows of all parts together. Ties go to the more regularised
    candidate.
    """
    if recipe.members:
        return _of_members(recipe, ground, parts)
    option = recipe.option or ""
    if recipe.value is not None or not recipe.grid:
        value = recipe.value or 0.0
        return Search(value, {option: value} if option else {})
    if recipe.counts_rows:
        rows = min(len(ground.y[part.seen]) for part in parts)
        recipe = replace(recipe, grid=tuple(value for value in recipe.grid if value <= rows))
    bench = Bench(recipe, ground, parts)
    coarse = _coarse(bench)
    if recipe.warm:
        coarse, fine = _around(bench, coarse)
    else:
        fine = _halving(bench, coarse)
    tried = {trial.index: trial.figures for trial in [*coarse, *fine]}
    best = min(fine, key=lambda trial: trial.rank)
    value, at_end = recipe.grid[best.index], best.index in (0, len(recipe.grid) - 1)
    return Search(
        value,
        {option: value},
        [tried[index] for index in sorted(tried)],
        best.by,
        {option: ENDS[best.index > 0]} if at_end else {},
        fit=best.fit,
    )


def _of_members(recipe: Recipe, ground: Ground, parts: Sequence[Part]) -> Search:
    """Search the grid of each head that this one is made of, on its own."""
    names = list(recipe.members)
    found = each(
        lambda name: choose(recipe.members[name], ground, parts), names, size=ground.X.nbytes
    )
    searches = dict(zip(names, found, strict=True))

    def joined(of: str) -> dict[str, Any]:
        return {
            f"{name}.{option}": value
            for name, search in searches.items()
            for option, value in getattr(search, of).items()
        }

    measures = sorted({search.by for search in found} - {"given"})
    return Search(
        0.0,
        joined("choice"),
        [{"member": name, **tried} for name, search in searches.items() for tried in search.trace],
        " or ".join(measures) or "given",
        joined("edges"),
        {name: search.value for name, search in searches.items() if search.choice},
    )


def _coarse(bench: Bench) -> list[Trial]:
    """Every fourth candidate, until the score rose: clearly, or RISES times running."""
    places, trials = range(0, len(bench.recipe.grid), STRIDE), list[Trial]()
    if bench.recipe.warm:
        for place in places:
            trials.append(bench.path(place, trials, PATH_TOLERANCE))
            if _is_past(trials):
                break
        return trials
    for start in range(0, len(places), bench.width):  # as many as there are free cores
        for trial in bench.trials(places[start : start + bench.width], COARSE_TOLERANCE):
            trials.append(trial)
            if _is_past(trials):
                return trials
    return trials


def _is_past(trials: Sequence[Trial]) -> bool:
    scores = [trial.score for trial in trials]
    if trials[-1].by == "log_loss" and scores[-1] > (1 + RISE) * min(scores):
        return True
    last = scores[-RISES - 1 :]
    return len(last) > RISES and all(one < next for one, next in pairwise(last))


def _around(bench: Bench, coarse: list[Trial]) -> tuple[list[Trial], list[Trial]]:
    """Downhill from the floor of the valley that three coarse candidates draw, to its lowest place.

    Returns the rough trials, and those fitted from scratch, one of which is the fit to be kept.
    Of many rows the walk starts each fit from the one beside it, and the last place alone is fitted
    from scratch: unless it then says something else, for what can be separated was stopped early.
    """
    size, floor = len(bench.recipe.grid), math.floor(_floor(coarse))
    first = max(0, min(floor, size - 2))
    if bench.rows >= MANY_ROWS:
        walked = _walked(bench, coarse, first)
        place = min(walked, key=lambda trial: trial.rank)
        trials = bench.trials([place.index], FINE_TOLERANCE)
        if abs(trials[0].score - place.score) <= AGREEMENT:
            return [*coarse, *walked], trials
        first = max(0, min(place.index, size - 2))
    return coarse, _from_scratch(bench, first)


def _walked(bench: Bench, coarse: Sequence[Trial], first: int) -> list[Trial]:
    """Downhill from a place and the next, each fit started from the nearest that is known."""
    size, known = len(bench.recipe.grid), dict[int, Trial]()
    beside = list(range(first, min(first + 2, size)))
    while beside:
        for place in beside:
            start = min(known.values() or coarse, key=lambda trial: abs(trial.index - place))
            known[place] = bench.path(place, [start], WALK_TOLERANCE)
        best = min(known.values(), key=lambda trial: trial.rank).index
        beside = [i for i in (best - 1, best + 1) if 0 <= i < size and i not in known]
    return list(known.values())


def _from_scratch(bench: Bench, first: int) -> list[Trial]:
    """Downhill from a place and the next, each fit from scratch."""
    size = len(bench.recipe.grid)
    trials = bench.trials(range(first, min(first + 2, size)), FINE_TOLERANCE)
    while True:
        best = min(trials, key=lambda trial: trial.rank).index
        known = {trial.index for trial in trials}
        trials = [trial if trial.index == best else replace(trial, fit=None) for trial in trials]
        beside = [i for i in (best - 1, best + 1) if 0 <= i < size and i not in known]
        if not beside:
            return trials
        trials += bench.trials(beside, FINE_TOLERANCE)


def _floor(coarse: Sequence[Trial]) -> float:
    """Where the parabola through the best candidate and those beside it is lowest."""
    place = min(range(len(coarse)), key=lambda place: coarse[place].rank)
    if not 0 < place < len(coarse) - 1:
        return float(coarse[place].index)
    before, here, after = (trial.score for trial in coarse[place - 1 : place + 2])
    bend = before - 2 * here + after
    return coarse[place].index + (STRIDE * (before - after) / (2 * bend) if bend > 0 else 0.0)


def _halving(bench: Bench, coarse: Sequence[Trial]) -> list[Trial]:
    """The best coarse candidate, and those two and one steps from the best.

    It is not fitted again, which would cost as much as the first time and say the same.
    """
    size, best = len(bench.recipe.grid), min(coarse, key=lambda trial: trial.rank)
    trials = [best]
    for step in (STRIDE // 2, STRIDE // 4):
        around = [i for i in (best.index - step, best.index + step) if 0 <= i < size]
        trials += bench.trials(around, FINE_TOLERANCE)
        best = min(trials, key=lambda trial: trial.rank)
        trials = [trial if trial is best else replace(trial, fit=None) for trial in trials]
    return trials
