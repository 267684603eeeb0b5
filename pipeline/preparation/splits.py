"""A split for every row: the given ones kept, the missing ones cut."""

from collections import defaultdict
from dataclasses import replace

from pipeline import splitting
from pipeline.dataset import Split
from pipeline.errors import InputError
from pipeline.formats import quoted
from pipeline.params import SplitParams
from pipeline.preparation.reading import Row

_SHOWN = 8
"""How many classes a note names."""


def with_splits(rows: list[Row], params: SplitParams) -> tuple[list[Row], list[str]]:
    """Give every row a split; the notes say what was decided.

    Raises InputError where splits are given and none is train.
    """
    given = {row.entry.split for row in rows}
    notes = list[str]()
    if given == {Split.TRAIN, Split.VAL}:
        notes.append(
            "the data has train and val only: val is the test, a new val is cut from train"
        )
        rows = [_moved(row, Split.TEST) if row.entry.split == Split.VAL else row for row in rows]
        given = {Split.TRAIN, Split.TEST}
    if not given & {None, Split.TRAIN} and rows:
        raise InputError(f"no image is in train, only in {quoted(map(str, given))}; add some")
    notes += _leaks(rows)
    wanted = {Split.VAL: params.val, Split.TEST: params.test}
    fractions = {name: share for name, share in wanted.items() if name not in given}
    if fractions:
        rows, cut = _cut(rows, fractions, params.seed)
        notes += cut
    return rows, notes


def _cut(rows: list[Row], fractions: dict[Split, float], seed: int) -> tuple[list[Row], list[str]]:
    free = [row for row in rows if row.entry.split in (None, Split.TRAIN)]
    labels = [row.entry.label for row in free]
    keys = splitting.units([row.sha256 for row in free], [row.entry.group for row in free])
    assigned = splitting.assign(labels, keys, fractions=fractions, seed=seed)
    moved = dict(zip(map(id, free), assigned, strict=True))
    rows = [_moved(row, moved[id(row)]) if id(row) in moved else row for row in rows]
    made = " and ".join(sorted(fractions))
    notes = [f"{made} cut from {len(free)} images, stratified, seed {seed}"]
    few = splitting.too_few(labels, keys, len(fractions) + 1)
    there = set(zip(labels, assigned, strict=True))
    lacking = {  # of groups with several labels each, one that has no group of its own may be there
        label: count
        for label, count in few.items()
        if any((label, split) not in there for split in (Split.TRAIN, *fractions))
    }
    return rows, notes + _uncut(lacking, free, made)


def _uncut(few: dict[str, int], rows: list[Row], made: str) -> list[str]:
    """A note for the labels that have too few units to be cut."""
    if not few:
        return []
    grouped = any(row.entry.group is not None for row in rows)
    what = "groups, or images without one," if grouped else "distinct images"
    counts = ", ".join(f"{label!r} {count}" for label, count in list(few.items())[:_SHOWN])
    more = f", {len(few) - _SHOWN:,} more" if len(few) > _SHOWN else ""
    return [
        (
            f"too few {what} to cut {made} from (class and count): {counts}{more}; "
            "add some, or expect no figure for these classes"
        )
    ]


def _leaks(rows: list[Row]) -> list[str]:
    """A note where groups lie in several of the given splits."""
    splits: dict[str, set[Split | None]] = defaultdict(set)
    for row in rows:
        if row.entry.group is not None:
            splits[row.entry.group].add(row.entry.split)
    leaking = [group for group, found in splits.items() if len(found) > 1]
    if not leaking:
        return []
    return [
        (
            f"{len(leaking)} groups lie in more than one of the given splits, which are kept: "
            f"{quoted(leaking, most=4)}; give each group one split, for what is learnt of it in train "
            "flatters val and test"
        )
    ]


def _moved(row: Row, split: Split) -> Row:
    return replace(row, entry=replace(row.entry, split=split))
