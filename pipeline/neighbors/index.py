"""An index of many vectors, made once and kept: nearest rows by looking at a part of them.

Rows are parted into cells about means (an inverted file, Sivic 2003; Jégou 2011), each kept in 8
bits a number beside its cell; a search looks into the nearest cells. docs/decisions/0036 has what
that costs and misses. The only module that imports faiss.
"""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.cgroups import cores
from pipeline.errors import is_failing, is_shortage
from pipeline.neighbors.exact import Floats, Rows, blocks

CELL_ROWS = 64
"""Rows a cell that means are found from; fewer make worse cells."""

PROBED = 0.25
"""Share of the cells that are looked into, at least LEAST of them."""

LEAST = 16

SEED = 1


def available() -> bool:
    """Whether faiss is installed."""
    try:
        _faiss()
    except ImportError:
        return False
    return True


def _faiss() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its bindings are older than Python's newest rules
        import faiss

    return faiss


def opened(vectors: npt.NDArray[Any], folder: Path, name: str, digest: str) -> Any:
    """The index of these vectors by cosine, from `folder` or made and kept there.

    vectors: (N, D); digest: the sha256 of their bytes, hex, by which the file is known; name: of
    the backbone, of which no other index is kept.
    """
    faiss = _faiss()
    faiss.omp_set_num_threads(cores())
    path = folder / f"index-{name}-{digest[:32]}.faiss"
    kept = _read(path, vectors.shape)
    if kept is None:
        kept = _made(vectors)
        for old in folder.glob(f"index-{name}-{'[0-9a-f]' * 32}.faiss"):
            old.unlink(missing_ok=True)
        with files.replacing(path) as beside:
            faiss.write_index(kept, str(beside))
    kept.nprobe = min(kept.nlist, max(LEAST, math.ceil(PROBED * kept.nlist)))
    return kept


def _read(path: Path, shape: tuple[int, ...]) -> Any:
    """None where there is none that can be used."""
    if not path.is_file():
        return None
    try:
        kept = _faiss().read_index(str(path))
    except RuntimeError as error:  # as faiss tells everything
        if is_failing(error) or is_shortage(error):
            raise
        return None
    return kept if (kept.ntotal, kept.d) == shape else None


def _made(vectors: npt.NDArray[Any]) -> Any:
    faiss = _faiss()
    count, dim = vectors.shape
    cells = max(1, round(math.sqrt(count)))
    made = faiss.index_factory(dim, f"IVF{cells},SQ8", faiss.METRIC_INNER_PRODUCT)
    made.cp.seed = SEED
    made.cp.min_points_per_centroid = 1
    some = np.sort(np.random.default_rng(SEED).permutation(count)[: CELL_ROWS * cells])
    made.train(_unit(vectors[some].astype(np.float32)))
    for _, block in blocks(vectors):
        made.add(_unit(block))
    return made


def _unit(rows: Floats) -> Floats:
    """Each row of length 1; one that has no direction, or is not finite, zeros."""
    with np.errstate(all="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", rows, rows))[:, None]
        unit = np.where(np.isfinite(norms) & (norms > 0), rows / norms, np.float32(0))
    return np.ascontiguousarray(unit, np.float32)


def candidates(kept: Any, query: Floats, count: int) -> Rows:
    """Rows that are near a vector (D,), `count` at most, as the index has it."""
    _, found = kept.search(_unit(query[None]), count)
    return np.asarray(found[0][found[0] >= 0], np.int64)
