"""Which image goes to train, val or test, where the data does not say.

Stratified by label, seeded, groups whole, and steady: within a label, units (a group, or an
image with all its copies) are ordered by a hash of the seed and their key, and the first go
to test, the next to val; a group too large for what is left of a share is passed over. So a
new image moves no other but those at a border.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from pipeline.dataset import Split


def assign(
    labels: Sequence[str],
    keys: Sequence[str],
    *,
    fractions: Mapping[Split, float],
    seed: int,
) -> list[Split]:
    """The split of each row.

    labels, keys: (N,) text; rows with equal keys stay together. fractions: the share of each
    split that is made; the rest is train. A label with at least three units has at least one
    in each split.
    """
    sizes = Counter(keys)
    chosen: dict[str, Split] = {}
    for stratum in _strata(labels, keys).values():
        stratum.sort(key=lambda key: _rank(seed, key))
        cut = _cut([sizes[key] for key in stratum], fractions)
        chosen.update(zip(stratum, cut, strict=True))
    return [chosen[key] for key in keys]


def too_few(labels: Sequence[str], keys: Sequence[str], parts: int) -> dict[str, int]:
    """How many units each label has that has fewer than `parts`, so that all are train.

    A label that is in the minority in each of its units has none of its own.
    """
    strata = _strata(labels, keys)
    return {
        label: len(strata.get(label, ()))
        for label in sorted(set(labels))
        if len(strata.get(label, ())) < parts
    }


def units(digests: Sequence[str], groups: Sequence[str | None]) -> list[str]:
    """A key a row; rows that share bytes or a group, also through others, share the key.

    It is the least name of a group, where there is one, so that a new member does not change it.
    """
    parent: dict[str, str] = {}

    def find(key: str) -> str:
        parent.setdefault(key, key)
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    for digest, group in zip(digests, groups, strict=True):
        own = find(digest)
        if group is not None:
            first, second = sorted((own, find(f"#{group}")))
            parent[second] = first
    return [find(digest) for digest in digests]


def _strata(labels: Sequence[str], keys: Sequence[str]) -> dict[str, list[str]]:
    """The keys of each label; a key of several labels goes to its most frequent one."""
    chosen: dict[str, tuple[int, str]] = {}
    for (label, key), count in Counter(zip(labels, keys, strict=True)).items():
        rank = (-count, label)
        chosen[key] = min(chosen.get(key, rank), rank)
    strata: dict[str, list[str]] = defaultdict(list)
    for key, (_, label) in chosen.items():
        strata[label].append(key)
    return dict(strata)


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()


def _cut(sizes: Sequence[int], fractions: Mapping[Split, float]) -> list[Split]:
    """Split for each unit: the first that fit make up each split's share, the rest is train."""
    result = [Split.TRAIN] * len(sizes)
    free = list(range(len(sizes)))
    if len(sizes) <= len(fractions):
        return result
    for later, split in zip(reversed(range(len(fractions))), sorted(fractions), strict=True):
        taken = _take(
            [sizes[unit] for unit in free],
            wanted=fractions[split] * sum(sizes),
            at_most=len(free) - later - 1,
        )
        for index in taken:
            result[free[index]] = split
        free = [unit for unit in free if result[unit] is Split.TRAIN]
    return result


def _take(sizes: Sequence[int], *, wanted: float, at_most: int) -> list[int]:
    """Units, in order, that each bring the rows taken closer to `wanted`; the smallest if none."""
    taken, rows = list[int](), 0
    for index, size in enumerate(sizes):
        if len(taken) < at_most and rows + size / 2 <= wanted:
            taken.append(index)
            rows += size
    return taken or [min(range(len(sizes)), key=sizes.__getitem__)]
