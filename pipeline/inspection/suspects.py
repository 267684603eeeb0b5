"""Labels that a head which has not seen them would not give.

Out of fold: an image is judged by heads fitted on the others, its group and its copies left out
with it. The score is self-confidence, the probability of the label it has (Northcutt 2021).
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from pipeline.cgroups import cores
from pipeline.dataset import Labels

FOLDS = 5
"""A class of fewer units has no image in some fold's training, and is not judged."""

CANDIDATES = tuple(float(value) for value in 10 ** np.arange(-4, -1.4, 0.5))
"""Of C. Weaker regularisation learns the wrong labels by heart."""

CHOOSING_ROWS, CHOOSING_A_CLASS = 4000, 20
"""C is chosen on so many images, or so many a class where that is more."""

FEW_ROWS, REPEATS = 5000, 3
"""Up to so many images the folds are cut so often, and the probabilities averaged."""

LOWEST = 0.1
"""Share of the images that is listed at least."""

TOLERANCE, ITERATIONS = 1e-3, 300
SEED = 0

Vectors = npt.NDArray[np.float32]
Codes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Suspect:
    """A row of suspects.csv. score: probability of its label; probability: of the suggested one."""

    path: str
    label: str
    suggested: str
    score: float
    split: str
    probability: float


@dataclass(frozen=True)
class Judged:
    """The suspects, worst first. rows: how many images were judged; C: chosen, None without any;
    notes: what could not be judged, and why.
    """

    suspects: tuple[Suspect, ...] = ()
    rows: int = 0
    C: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def disagreeing(self) -> int:
        """How many of them have another label suggested; the others are listed for their score."""
        return sum(one.label != one.suggested for one in self.suspects)


def judge(X: Vectors, labels: Labels, units: Codes) -> Judged:
    """Score each label. X: (N, D) float32, finite; units: (N,), equal for what stays together."""
    scarce = _scarce(labels, units)
    notes = tuple(
        f"class {name!r} has {count} of the {FOLDS} independent images that judging its labels takes"
        for name, count in sorted(scarce.items())
    )
    kept = np.flatnonzero([label not in scarce for label in labels.label])
    classes, y = np.unique(labels.label[kept].astype(str), return_inverse=True)
    if len(classes) < 2:
        return Judged(notes=(*notes, "fewer than two classes: no label was judged"))
    X, labels, units, y = X[kept], labels.where(kept), units[kept], y.astype(np.int64)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a rough fit ranks as well
        warnings.simplefilter("ignore", UserWarning)  # of a class with fewer images than folds
        warnings.simplefilter("ignore", RuntimeWarning)  # of the mean of no number: NaN it is
        C = _choose(X, y, units, _some(labels, len(classes)))
        repeats = REPEATS if len(X) <= FEW_ROWS else 1
        probability = np.nanmean(
            [_out_of_fold(X, y, units, [C], seed)[0] for seed in range(repeats)], axis=0
        )
    judged = np.flatnonzero(np.isfinite(probability).all(axis=1))
    return Judged(_listed(labels, classes, y, probability, judged), len(judged), C, notes)


def _scarce(labels: Labels, units: Codes) -> dict[str, int]:
    """Units of each class that has fewer than FOLDS."""
    pairs = set(zip(labels.label, units.tolist(), strict=True))
    counts = Counter(label for label, _ in pairs)
    return {label: count for label, count in counts.items() if count < FOLDS}


def _some(labels: Labels, classes: int) -> Codes:
    """The images that C is chosen on: by digest, as if drawn."""
    wanted = max(CHOOSING_ROWS, CHOOSING_A_CLASS * classes)
    return np.sort(np.argsort(labels.sha256, kind="stable")[:wanted])


def _choose(X: Vectors, y: Codes, units: Codes, rows: Codes) -> float:
    """The C of the lowest log loss out of fold; of equals the most regularised."""
    classes, own = np.unique(y[rows], return_inverse=True)
    tables = _out_of_fold(X[rows], own, units[rows], CANDIDATES, SEED)
    given = [table[np.arange(len(rows)), own] for table in tables]
    losses = [-np.nanmean(np.log(np.maximum(score, 1e-12))) for score in given]
    return CANDIDATES[int(np.argmin(losses))] if len(classes) > 1 else CANDIDATES[0]


def _out_of_fold(
    X: Vectors, y: Codes, units: Codes, values: Sequence[float], seed: int
) -> list[Vectors]:
    """For each C, (N, K) float32 probabilities by heads that saw neither the image nor its unit.

    NaN in a row whose class no other fold has.
    """
    cut = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
    folds = [(seen, held) for seen, held in cut.split(X, y, units) if len(held)]
    tables = [np.full((len(y), y.max() + 1), np.nan, np.float32) for _ in values]

    def fill(task: tuple[int, Codes, Codes]) -> None:
        number, seen, held = task
        known = np.unique(y[seen])
        if len(known) < 2:
            return
        head = make_pipeline(
            StandardScaler(copy=False),  # indexing has made a copy already
            LogisticRegression(C=values[number], tol=TOLERANCE, max_iter=ITERATIONS),
        ).fit(X[seen], y[seen])
        fair = held[np.isin(y[held], known)]
        if len(fair):
            tables[number][fair] = 0
            tables[number][fair[:, None], known] = head.predict_proba(X[fair])

    tasks = [(number, *fold) for number in range(len(values)) for fold in folds]
    with ThreadPoolExecutor(min(cores(), FOLDS)) as pool:  # each holds a copy of its rows
        list(pool.map(fill, tasks))
    return tables


def _listed(
    labels: Labels, classes: npt.NDArray[np.str_], y: Codes, probability: Vectors, judged: Codes
) -> tuple[Suspect, ...]:
    """Those of another suggested label, and the LOWEST by score; worst first."""
    suggested = probability[judged].argmax(axis=1)
    rows = [
        Suspect(
            path=labels.path[row],
            label=str(classes[y[row]]),
            suggested=str(classes[best]),
            score=round(float(probability[row, y[row]]), 6),
            split=str(labels.split[row]),
            probability=round(float(probability[row, best]), 6),
        )
        for row, best in zip(judged, suggested, strict=True)
    ]
    rows.sort(key=lambda one: (one.score, one.path))
    lowest = int(np.ceil(LOWEST * len(rows)))
    return tuple(
        one for rank, one in enumerate(rows) if rank < lowest or one.label != one.suggested
    )
