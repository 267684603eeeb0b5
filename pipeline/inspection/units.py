"""Which rows stay together when folds are cut: groups, the same bytes, near copies."""

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline import splitting
from pipeline.dataset import Labels
from pipeline.inspection.nearness import Pairs

LARGEST = 0.1
"""Share of the rows that near copies may tie together; frames of a film would leave no folds."""

Codes = npt.NDArray[np.int64]


def units(rows: Labels, images: Labels, pairs: Pairs) -> Codes:
    """(N,) a number a row, equal for rows of one unit.

    images: the distinct ones that `pairs` is of. A copy with the same wrong label in another fold
    would vouch for it.
    """
    keys = splitting.units(rows.sha256.astype("U64").tolist(), rows.group.tolist())
    own = np.unique(np.array(keys, dtype=object).astype(str), return_inverse=True)[1]
    by_digest = dict(zip(rows.sha256.tolist(), own.tolist(), strict=True))
    known = np.array([by_digest.get(digest, -1) for digest in images.sha256.tolist()], np.int64)
    left, right = known[pairs.left], known[pairs.right]
    both = (left >= 0) & (right >= 0)
    count = int(own.max(initial=-1)) + 1
    graph = coo_array((np.ones(both.sum()), (left[both], right[both])), shape=(count, count))
    tied = connected_components(graph, directed=False)[1].astype(np.int64)[own]
    too_many = np.bincount(tied)[tied] > LARGEST * len(tied)
    return np.where(too_many, own + count, tied)
