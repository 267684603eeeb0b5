"""The cached images that are nearest to one: exactly up to a million, beyond by an index.

exact    every row looked at, in blocks
index    cells of rows, kept in a file
queries  a photo, a cached path or a sha256 -> its vector
answers  what is told of the images that were found
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.embeddings import Embeddings
from pipeline.neighbors import exact, index
from pipeline.neighbors.exact import Doubles, Floats, Rows
from pipeline.outputs import FIRST

MILLION = 1_000_000
"""From more rows on an index is used, if faiss is there."""

CANDIDATES = 20
"""How many times k an index is asked for, to be ranked exactly; LEAST at least."""

LEAST = 200


@dataclass
class Search:
    """Looking for the nearest among the first layer's vectors.

    runs: where an index is kept; everything: look at every row, however many; limit: rows up to
    which that is done anyway. notes: how it went otherwise than exactly, a sentence each.
    """

    cached: Embeddings
    runs: Path
    metric: str = "cosine"
    everything: bool = False
    limit: int = MILLION
    notes: list[str] = field(default_factory=list)
    _index: Any = None

    def nearest(self, query: Floats, k: int, *, but: int = -1) -> tuple[Rows, Doubles]:
        """The k nearest rows and their distances, ascending; see `exact.nearest`."""
        vectors = self.cached.vectors
        if self.everything or len(vectors) <= self.limit:
            return exact.nearest(vectors, query, k, metric=self.metric, but=but)
        if self.metric != "cosine" or not index.available():
            return self._slowly(query, k, but)
        found = index.candidates(self._opened(), query, max(LEAST, CANDIDATES * k))
        return exact.ranked(vectors, query, found[found != but], k, metric=self.metric)

    def _slowly(self, query: Floats, k: int, but: int) -> tuple[Rows, Doubles]:
        begun = time.perf_counter()
        found = exact.nearest(self.cached.vectors, query, k, metric=self.metric, but=but)
        why = (
            "faiss is not installed ('python -m pip install faiss-cpu' for an index)"
            if self.metric == "cosine"
            else f"the index is for cosine, not {self.metric}"
        )
        took = time.perf_counter() - begun
        self.notes.append(f"{self._many()}, and {why}: looked at every one, {took:.1f} s an image")
        return found

    def _opened(self) -> Any:
        if self._index is None:
            begun = time.perf_counter()
            said = self.cached.attributes
            self._index = index.opened(
                self.cached.vectors, self.runs, str(said["backbone"]), str(said["sha256"][FIRST])
            )
            took = time.perf_counter() - begun
            self.notes.append(
                f"{self._many()}: by an index, opened in {took:.1f} s, which may miss some; "
                "--exact looks at every one"
            )
        return self._index

    def _many(self) -> str:
        return f"{len(self.cached.vectors):,} images are more than {self.limit:,}"
