"""Which images are learnt from and which are scored: folds of them, and train and val drawn anew."""

import warnings
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from pipeline import splitting
from pipeline.dataset import Split
from pipeline.features import Images
from pipeline.heads.recipe import Fold

DRAWS = 1_000_000
"""Seeds of further draws begin here, so that none is the seed that the given split was cut with."""

Numbers = npt.NDArray[np.int64]
Index = slice | Numbers
"""Rows of a matrix: a slice where they follow each other, for that copies nothing."""


@dataclass(frozen=True)
class Part:
    """Rows to fit on, every view of each image, and rows to score by, the clean ones."""

    seen: Index
    held: Index


@dataclass(frozen=True)
class Draw:
    """Images to train on and to validate on: (n,) int64 each. seed: 0 is the split that is given."""

    seed: int
    train: Numbers
    val: Numbers


class Pool:
    """The images of train and val, and where their rows are in the matrix that heads see.

    y, units: (N,) int64 an image, its class and what it must not be parted from: its copies and
    its group. The matrix has train in one view after the other, then val.
    """

    def __init__(self, seen: Images, held: Images, views: int, classes: tuple[str, ...]) -> None:
        self.classes, self.views = classes, views
        self.images = len(seen.rows), len(held.rows)
        self.y = np.concatenate([seen.codes(classes), held.codes(classes)])
        both = seen.labels, held.labels
        digests = [str(digest, "ascii") for labels in both for digest in labels.sha256]
        self._keys = splitting.units(digests, [group for one in both for group in one.group])
        self.units = np.unique(self._keys, return_inverse=True)[1].astype(np.int64)

    @cached_property
    def _rows(self) -> Numbers:
        """(N, V) rows of each image: the clean one, then its other views."""
        trained, validated = self.images
        views = np.arange(self.views + 1)
        of_train = np.arange(trained)[:, None] + trained * views
        of_val = np.arange(validated)[:, None] + validated * views
        return np.concatenate([of_train, trained * len(views) + of_val]).astype(np.int64)

    def of_rows(self, values: Numbers) -> Numbers:
        """(N,) values of the images -> (R,) of the rows of the matrix."""
        spread = np.empty(self._rows.size, dtype=np.int64)
        spread[self._rows] = values[:, None]
        return spread

    def rows(self, images: Numbers) -> Index:
        """Rows of these images: view after view."""
        return _index(self._rows[images].T.ravel())

    def part(self, seen: Numbers, held: Numbers) -> Part:
        """What these images are as rows."""
        return Part(self.rows(seen), _index(self._rows[held, 0]))

    def given(self) -> Draw:
        """The split as the data has it."""
        numbers = np.arange(len(self.y), dtype=np.int64)
        return Draw(0, *np.split(numbers, [self.images[0]]))

    def redrawn(self, seed: int) -> Draw:
        """Train and val anew, as many in val: stratified, units whole, test left where it is."""
        labels = [self.classes[code] for code in self.y]
        share = {Split.VAL: self.images[1] / len(self.y)}
        splits = splitting.assign(labels, self._keys, fractions=share, seed=DRAWS + seed)
        in_val = np.array([split is Split.VAL for split in splits])
        return Draw(seed, np.flatnonzero(~in_val), np.flatnonzero(in_val))

    def lost(self, draw: Draw) -> list[str]:
        """Classes that have no image in the train of a draw."""
        found = set(self.y[draw.train].tolist())
        return [name for code, name in enumerate(self.classes) if code not in found]

    def in_folds(self, draw: Draw, count: int) -> list[Part]:
        """Folds of a draw's train, `count` or fewer; none where it has too few units."""
        images = draw.train
        cut = folds(self.y[images], self.units[images], count, draw.seed)
        return [self.part(images[seen], images[held]) for seen, held in cut]


def _index(rows: Numbers) -> Index:
    if len(rows) and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def folds(y: Numbers, units: Numbers, count: int, seed: int) -> tuple[Fold, ...]:
    """Cut rows into folds: stratified, no unit parted, every class among the rows to fit on.

    y, units: (R,) int. As many as `count`, fewer where a class has its units in too few places,
    none where it has one unit alone.
    """
    of_class = units_of_class(y, units)
    if len(of_class) == 0 or of_class.min() < 2:
        return ()
    for number in range(min(count, int(of_class.max())), 1, -1):
        fold = _assigned(y, units, number, seed)
        places = np.unique(np.stack([y, fold]), axis=1)[0]
        if np.unique(places, return_counts=True)[1].min() > 1 and len(np.unique(fold)) == number:
            return tuple(
                (np.flatnonzero(fold != one), np.flatnonzero(fold == one)) for one in range(number)
            )
    return ()


def units_of_class(y: Numbers, units: Numbers) -> Numbers:
    """How many units each class that occurs has, in the order of the classes."""
    pairs = np.unique(np.stack([y, units]), axis=1)
    return np.unique(pairs[0], return_counts=True)[1]


def _assigned(y: Numbers, units: Numbers, count: int, seed: int) -> Numbers:
    """The fold of each row."""
    fold = np.empty(len(y), dtype=np.int64)
    _, first, of_row, sizes = np.unique(
        units, return_index=True, return_inverse=True, return_counts=True
    )
    with warnings.catch_warnings():
        # of a class with fewer units than folds; `folds` sees to it that one is learnt from
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        if sizes.min() == sizes.max() and (y == y[first][of_row]).all():
            whole = StratifiedKFold(count, shuffle=True, random_state=seed)
            of_unit = np.empty(len(first), dtype=np.int64)
            for number, (_, held) in enumerate(whole.split(first, y[first])):
                of_unit[held] = number
            return of_unit[of_row]
        grouped = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
        for number, (_, held) in enumerate(grouped.split(y, y, units)):  # seconds from 50,000 on
            fold[held] = number
    return fold
