"""Which image goes to train, val or test, where the data does not say.

Stratified by label, seeded, groups whole, and steady: within a label, units (a group, or an
image with all its copies) are ordered by a hash of the seed and their key, and the first go
to test, the next to val. So a new image moves no other but the one at a border.
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
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for label, key in zip(labels, keys, strict=True):
        counts[key][label] += 1
    strata: dict[str, list[str]] = defaultdict(list)
    for key, labels_of_key in counts.items():
        strata[min(labels_of_key, key=lambda label: (-labels_of_key[label], label))].append(key)
    chosen: dict[str, Split] = {}
    for units in strata.values():
        units.sort(key=lambda key: _rank(seed, key))
        sizes = [counts[unit].total() for unit in units]
        chosen.update(zip(units, _cut(sizes, fractions), strict=True))
    return [chosen[key] for key in keys]


def _rank(seed: int, key: str) -> bytes:
    return hashlib.sha256(f"{seed}:{key}".encode("utf-8", "surrogateescape")).digest()


def _cut(sizes: Sequence[int], fractions: Mapping[Split, float]) -> list[Split]:
    """Split for each unit, in order, so that each split's rows come closest to its share."""
    total, result = sum(sizes), list[Split]()
    for split, fraction in sorted(fractions.items()):
        wanted = fraction * total
        enough = len(sizes) > len(fractions)
        taken = 0
        while len(result) < len(sizes) - 1:
            size = sizes[len(result)]
            must = enough and taken == 0
            if not must and (not enough or taken + size / 2 > wanted):
                break
            taken += size
            result.append(split)
    return result + [Split.TRAIN] * (len(sizes) - len(result))
