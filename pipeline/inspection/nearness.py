"""How near every image is to every other, by embedding and by perceptual hash: exact, in tiles."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from pipeline.cgroups import cores
from pipeline.inspection.hashes import BITS, Hashes

NEIGHBOURS = 10

COSINE, LARGEST_COSINE = 0.90, 0.999
"""Above the first, two images are near copies, or above the second where all are alike."""

DISTANCE, SMALLEST_DISTANCE = 8, 2
"""Of at most the first many of 64 bits, two hashes are copies', or the second likewise."""

SPREADS = 4.0
"""How many robust standard deviations a copy is nearer than a tenth neighbour usually is."""

ENOUGH = 50
"""From so many images on, what is usual is asked."""

SAMPLE = 2048
"""Images that are asked what is usual."""

FULL = 16
"""An image of more earlier copies than these is paired with few of them."""

ROWS, COLUMNS = 512, 8192
"""Of a tile. Fixed, so that the bits of a product are the same for any number of threads."""

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Limits:
    """From where on two images are near copies. cosine: above it; distance: so many bits or fewer."""

    cosine: float = COSINE
    distance: int = DISTANCE


@dataclass(frozen=True)
class Signs:
    """What N images are compared by. unit: (N, D) float32 rows of length 1; usable: (N,) which of
    them count; hashes: theirs; split: (N,) int, any codes.
    """

    unit: Floats
    usable: Mask
    hashes: Hashes
    split: Rows


@dataclass(frozen=True)
class Pairs:
    """Near copies, (P,) each, sorted by right, then left; left < right are rows.

    cosine: of the embeddings; distance, mirrored: bits of 64 in which the hashes differ, of the
    images and of one and the mirrored other.
    """

    left: Rows
    right: Rows
    cosine: Floats
    distance: Floats
    mirrored: Floats

    def where(self, chosen: npt.NDArray[np.int64] | Mask) -> "Pairs":
        """Those that a mask or an index array names."""
        return Pairs(
            self.left[chosen],
            self.right[chosen],
            self.cosine[chosen],
            self.distance[chosen],
            self.mirrored[chosen],
        )

    def similarity(self, limits: Limits) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """The highest of what is within the limits, and which: cosine 0, hash 1, mirrored hash 2.

        Of a hash it is 1 - distance / 64.
        """
        cosine = np.where(self.cosine > limits.cosine, self.cosine.astype(np.float64), -1.0)
        by_hash = [
            np.where(bits <= limits.distance, 1 - bits.astype(np.float64) / BITS, -1.0)
            for bits in (self.distance, self.mirrored)
        ]
        table = np.stack([np.minimum(cosine, 1.0), *by_hash])
        return table.max(axis=0), table.argmax(axis=0)


@dataclass(frozen=True)
class Nearness:
    """All near copies, by these limits, and how far each image is from the others.

    distance: (N,) float64 cosine distance to the nearest but NEIGHBOURS - 1, which a few copies do
    not bring nearer; NaN where not usable.
    """

    pairs: Pairs
    limits: Limits
    distance: npt.NDArray[np.float64]


def compare(signs: Signs) -> Nearness:
    """Compare all images with each other: N² D multiplications, on every core.

    An image with more than FULL earlier copies in a tile or in all is paired with the first of
    them in each split and the most similar, so that pairs grow with N and not its square.
    """
    count, near = len(signs.unit), min(NEIGHBOURS, int(signs.usable.sum()) - 1)
    with (
        threadpool_limits(1),  # the threads are ours: a tile each
        ThreadPoolExecutor(cores()) as pool,
        tqdm(total=count, unit="img", disable=None, desc="comparing") as bar,
    ):
        limits = _limits(signs, pool)
        tiles = [np.arange(at, min(at + ROWS, count)) for at in range(0, count, ROWS)]
        pairs, distances = list[Pairs](), list[npt.NDArray[np.float64]]()
        for found, distance in pool.map(partial(_compared, signs, limits, max(near, 1)), tiles):
            pairs.append(found)
            distances.append(distance)
            bar.update(len(distance))
    distance = np.concatenate([np.empty(0), *distances])
    return Nearness(_joined(pairs), limits, np.where(signs.usable & (near > 0), distance, np.nan))


def _limits(signs: Signs, pool: ThreadPoolExecutor) -> Limits:
    """The usual limits, stricter where an image's tenth neighbour is nearly as near as a copy.

    The tenth: an image may have a few copies without these becoming what is usual.
    """
    cosine, distance = COSINE, float(DISTANCE)
    if signs.usable.sum() >= ENOUGH:
        usual, spread = _usual(_tenth(signs.unit, signs.usable, pool))
        cosine = float(np.clip(usual + SPREADS * spread, COSINE, LARGEST_COSINE))
    if (there := signs.hashes.there).sum() >= ENOUGH:
        usual, spread = _usual(_bits(_tenth(signs.hashes.plain, there, pool)))
        distance = np.clip(usual - SPREADS * max(spread, 1.0), SMALLEST_DISTANCE, DISTANCE)
    return Limits(cosine, int(distance))


def _usual(values: Floats) -> tuple[float, float]:
    """Median, and a standard deviation by the median of deviations (Rousseeuw 1993)."""
    middle = float(np.median(values))
    return middle, 1.4826 * float(np.median(np.abs(values - middle)))


def _tenth(vectors: Floats, usable: Mask, pool: ThreadPoolExecutor) -> Floats:
    """Of some images the product with the tenth nearest other, (S,)."""
    rows = np.flatnonzero(usable)
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, SAMPLE).astype(np.int64))]
    parts = [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]

    def of(part: Rows) -> Floats:
        best = _nothing(part, NEIGHBOURS)
        for _, block in _blocks(part, vectors, usable):
            best = _best(best, block)
        return np.asarray(best.min(axis=1))

    return np.concatenate(list(pool.map(of, parts)))


def _blocks(rows: Rows, vectors: Floats, usable: Mask) -> Iterator[tuple[int, Floats]]:
    """Products of some rows with all, some columns at a time; -inf with itself and the unusable."""
    mine = vectors[rows]
    for start in range(0, len(vectors), COLUMNS):
        block = mine @ vectors[start : start + COLUMNS].T
        block[:, ~usable[start : start + COLUMNS]] = -np.inf
        own = np.flatnonzero((rows >= start) & (rows < start + COLUMNS))
        block[own, rows[own] - start] = -np.inf
        yield start, block


def _nothing(rows: Rows, near: int) -> Floats:
    return np.full((len(rows), near), -np.inf, np.float32)


def _best(best: Floats, block: Floats) -> Floats:
    """The highest of each row, as many as there were."""
    near = best.shape[1]
    return np.partition(np.hstack([best, block]), -near, axis=1)[:, -near:]


def _compared(
    signs: Signs, limits: Limits, near: int, rows: Rows
) -> tuple[Pairs, npt.NDArray[np.float64]]:
    """The pairs whose later one is in `rows`, and how far the tenth neighbour of each row is."""
    best, found = _nothing(rows, near), list[Pairs]()
    for start, block in _blocks(rows, signs.unit, signs.usable):
        best = _best(best, block)
        if start <= rows[-1]:
            found.append(_few(_found(signs, limits, rows, start, block), signs.split))
    cosine = best.min(axis=1).astype(np.float64)
    return _few(_joined(found), signs.split), 1 - np.minimum(cosine, 1.0)


def _found(signs: Signs, limits: Limits, rows: Rows, start: int, cosine: Floats) -> Pairs:
    columns = np.arange(start, start + cosine.shape[1])
    mine, others = signs.hashes.plain[rows], slice(start, start + COLUMNS)
    plain, mirrored = mine @ signs.hashes.plain[others].T, mine @ signs.hashes.mirrored[others].T
    product = BITS - 2 * limits.distance
    near = (cosine > limits.cosine) | (plain >= product) | (mirrored >= product)
    right, left = np.nonzero(near & (columns < rows[:, None]))
    distance, turned = (_bits(table[right, left]) for table in (plain, mirrored))
    return Pairs(columns[left], rows[right], cosine[right, left], distance, turned)


def _bits(products: Floats) -> Floats:
    """In how many bits hashes of -1 and 1 differ that have these products."""
    return np.asarray((BITS - products) / 2, np.float32)


def _joined(parts: Sequence[Pairs]) -> Pairs:
    """All of them, sorted by right, then left."""
    none = np.empty(0, np.int64), np.empty(0, np.float32)
    if not parts:
        return Pairs(none[0], none[0], none[1], none[1], none[1])
    joined = Pairs(*map(np.concatenate, zip(*map(_columns, parts), strict=True)))
    return joined.where(np.lexsort((joined.left, joined.right)))


def _columns(pairs: Pairs) -> tuple[npt.NDArray[np.int64] | Floats, ...]:
    return pairs.left, pairs.right, pairs.cosine, pairs.distance, pairs.mirrored


def _few(pairs: Pairs, split: Rows) -> Pairs:
    """Without most of those whose later image has more than FULL earlier copies."""
    _, group, counts = np.unique(pairs.right, return_inverse=True, return_counts=True)
    kept = counts[group] <= FULL
    if kept.all():
        return pairs
    of_split = group * (int(split.max()) + 1) + split[pairs.left]
    kept[np.unique(of_split, return_index=True)[1]] = True  # sorted: the first of each
    nearest = np.maximum(pairs.cosine, 1 - np.minimum(pairs.distance, pairs.mirrored) / BITS)
    order = np.lexsort((pairs.left, -nearest, group))
    kept[order[np.unique(group[order], return_index=True)[1]]] = True
    return pairs.where(kept)
