"""Images that are in the data more than once: the same bytes, or near copies."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.dataset import Labels, Problem
from pipeline.inspection.nearness import Nearness

LEFT_OUT = "left out"
"""The split of a copy that prepare gave no row, since its bytes are elsewhere too."""

BY = ("cosine", "phash", "mirrored phash")

_SAME_BYTES = ("duplicate_across_splits", "conflicting_labels")


@dataclass(frozen=True)
class Duplicate:
    """Two paths, a row of duplicates.csv. kind: exact or near; similarity: at most 1.

    by: what told, sha256, cosine of the embeddings, or pHash, of which similarity is
    1 - distance / 64; label_*: empty where prepare took it away.
    """

    path_a: str
    path_b: str
    similarity: float
    kind: str
    by: str
    split_a: str
    split_b: str
    label_a: str
    label_b: str

    @property
    def leaks(self) -> bool:
        """Whether it is in two splits."""
        return self.split_a != self.split_b and LEFT_OUT not in (self.split_a, self.split_b)

    @property
    def disagrees(self) -> bool:
        """Whether it has two labels."""
        return self.label_a != self.label_b


def exact(labels: Labels, problems: Sequence[Problem]) -> list[Duplicate]:
    """The same bytes under several paths: each later path with the first.

    problems: of prepare, which leaves out copies in a second split or with a second label.
    """
    rows: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    digests = labels.sha256.astype("U64")
    for digest, *row in zip(digests, labels.path, labels.split, labels.label, strict=True):
        rows[str(digest)].append((row[0], str(row[1]), row[2]))
    for problem in sorted(problems):
        if problem.reason in _SAME_BYTES:
            known = rows[problem.sha256]
            rows[problem.sha256].append((problem.path, LEFT_OUT, known[0][2] if known else ""))
    return [
        Duplicate(
            copies[0][0], path, 1.0, "exact", "sha256", copies[0][1], split, copies[0][2], label
        )
        for copies in rows.values()
        for path, split, label in copies[1:]
    ]


def near(images: Labels, found: Nearness) -> list[Duplicate]:
    """Near copies among distinct images, the rows that `found` is of."""
    similarity, by = found.pairs.similarity(found.limits)
    columns = found.pairs.left, found.pairs.right, similarity, by
    return [
        Duplicate(
            images.path[a],
            images.path[b],
            round(float(value), 6),
            "near",
            BY[told],
            str(images.split[a]),
            str(images.split[b]),
            images.label[a],
            images.label[b],
        )
        for a, b, value, told in zip(*columns, strict=True)
    ]


def ordered(found: Sequence[Duplicate]) -> list[Duplicate]:
    """Those in two splits first, then those of two labels; the most similar first."""
    return sorted(
        found,
        key=lambda one: (not one.leaks, not one.disagrees, -one.similarity, one.path_a, one.path_b),
    )


def first_of_each(labels: Labels) -> Labels:
    """A row a distinct image, that of its first path; sorted by path."""
    _, first = np.unique(labels.sha256, return_index=True)
    return labels.where(np.sort(first))
