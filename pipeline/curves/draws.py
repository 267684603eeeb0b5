"""Which images a head is trained on: nested draws of so many a class, seeded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.dataset import Digests
from pipeline.features import Images

Codes = npt.NDArray[np.int64]
Shots = int | Literal["all"]


@dataclass(frozen=True, eq=False)
class Draw:
    """shots: images a class, as asked for; seed; rows: (n,) int64, sorted, of the training images."""

    shots: Shots
    seed: int
    rows: Codes


def distinct(images: Images) -> Images:
    """The first of those with equal bytes: an image and its copies count once."""
    _, first = np.unique(images.labels.sha256, return_index=True)
    return Images(images.labels.where(first), images.rows[first])


def draws(sha256: Digests, y: Codes, shots: Sequence[Shots], seeds: int) -> list[Draw]:
    """Every draw of a curve.

    sha256: (N,) S64, distinct; y: (N,) int64. Within a class images are ordered by a hash of the
    seed and their bytes, and the first so many are taken: a draw holds the smaller ones of its
    seed, is the same for every backbone, and a new image changes it by one image at most. A class
    that has fewer gives all. What would be all of train for every seed is `all`, drawn once.
    """
    largest = int(np.bincount(y).max(initial=0))
    some = [number for number in shots if number != "all" and number < largest]
    orders = [_order(sha256, y, seed) for seed in range(seeds)]
    drawn = [
        Draw(number, seed, np.flatnonzero(place < number))
        for number in some
        for seed, place in enumerate(orders)
    ]
    everything = [Draw("all", 0, np.arange(len(y)))] if len(some) < len(shots) else []
    return drawn + everything


def _order(sha256: Digests, y: Codes, seed: int) -> Codes:
    """(N,) int64: the place of each image within its class."""
    salt = f"curve:{seed}:".encode()
    hashed = np.array([files.sha256_of_bytes(salt + digest) for digest in sha256.tolist()], "S64")
    order = np.lexsort((hashed, y))
    ordered = y[order]
    place = np.empty_like(y)
    place[order] = np.arange(len(y)) - np.searchsorted(ordered, ordered)
    return place
