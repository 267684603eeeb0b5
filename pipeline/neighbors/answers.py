"""What is told of the images that were found: distance, label, split and paths."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.dataset import Labels


@dataclass(frozen=True)
class Neighbor:
    """A cached image. paths: where it lies, sorted; label and split: of the first; "" where unknown."""

    sha256: str
    distance: float
    paths: tuple[str, ...] = ()
    label: str = ""
    split: str = ""

    @property
    def path(self) -> str:
        """The first of its paths; where it has none, its sha256."""
        return self.paths[0] if self.paths else self.sha256


@dataclass(frozen=True)
class Answer:
    """What was found of an image. said: as it was asked for; file: where it lies, "" if unknown.

    same: the image itself, where it is cached; found: the others, the nearest first; error: why
    there is none, reason and detail, as in problems.csv.
    """

    said: str
    sha256: str = ""
    file: str = ""
    same: Neighbor | None = None
    found: tuple[Neighbor, ...] = ()
    error: tuple[str, str] = ("", "")

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        if self.error[0]:
            return {"path": self.said, "error": self.error[0], "detail": self.error[1]}
        same = None if self.same is None else _plain(self.same)
        neighbors = [_plain(one) for one in self.found]
        return {"path": self.said, "sha256": self.sha256, "same": same, "neighbors": neighbors}


def _plain(one: Neighbor) -> dict[str, Any]:
    return {**vars(one), "paths": list(one.paths)}


class Known:
    """The labels table, by sha256 and by path."""

    def __init__(self, labels: Labels) -> None:
        self._labels = labels.where(np.lexsort((labels.path.astype(str), labels.sha256)))

    def neighbor(self, sha256: str, distance: float) -> Neighbor:
        """What is known of a cached image; it may have lost its label since it was embedded."""
        wanted = np.array(sha256, "S64")
        left = int(np.searchsorted(self._labels.sha256, wanted))
        right = int(np.searchsorted(self._labels.sha256, wanted, "right"))
        rows = self._labels.where(np.arange(left, right))
        if not len(rows.path):
            return Neighbor(sha256, distance)
        return Neighbor(sha256, distance, tuple(rows.path), rows.label[0], str(rows.split[0]))

    def sha256_at(self, path: str) -> str:
        """Of the image that the table lists at a path; empty where it lists none."""
        rows = np.flatnonzero(self._labels.path == path)
        return self._labels.sha256[rows[0]].decode() if len(rows) else ""
