"""What of the cached embeddings a head sees: of which images, layers and views."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.outputs import dataset_of
from pipeline.params import CONTROL_SOURCES, HeadParams

GATHERED_ROWS = 4096
"""Rows of a layer at hand beside the matrix that they are copied into."""

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Offer:
    """What a backbone gives. layers: their names, the first being the default; views: augmented
    ones of each image; control: it is there to be beaten, whatever heads ask for.
    """

    name: str
    layers: tuple[str, ...]
    views: int
    control: bool


@dataclass(frozen=True)
class Sight:
    """What a head sees of a backbone.

    layers: their vectors are joined, in this order; best: or one of them alone, as validation
    says; views: augmented ones of each training image, beside the clean one; notes: where this is
    not what its entry asks for.
    """

    layers: tuple[str, ...]
    best: bool = False
    views: int = 0
    notes: tuple[str, ...] = ()

    @property
    def candidates(self) -> tuple[tuple[str, ...], ...]:
        """Each layer alone, then all of them joined."""
        single = tuple((layer,) for layer in self.layers)
        return single if len(single) == 1 else (*single, self.layers)


@dataclass(frozen=True)
class Images:
    """Labelled images of one split that have an embedding, ordered by sha256, then path.

    labels: one an image; rows: (N,) where their vectors lie in the embeddings file.
    """

    labels: Labels
    rows: Rows

    def codes(self, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """(N,) int64: each label's place in the sorted `classes`. Raises InputError."""
        place = {name: code for code, name in enumerate(classes)}
        unknown = sorted(set(self.labels.label) - set(place))
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} has images in val or test, but no embedded one in train; "
                "add some or remove the class"
            )
        return np.array([place[label] for label in self.labels.label], dtype=np.int64)


def images(labels: Labels, cached: Embeddings, split: Split) -> Images:
    """The images of a split that have an embedding, joined by sha256."""
    chosen = labels.where(labels.split == split)
    rows = cached.rows(chosen.sha256)
    chosen, rows = chosen.where(rows >= 0), rows[rows >= 0]
    order = np.argsort(chosen.sha256, kind="stable")  # labels are sorted by path already
    return Images(chosen.where(order), rows[order])


def offer(cached: Embeddings) -> Offer:
    """What a file of embeddings has."""
    name, control = str(cached.attributes["backbone"]), cached.source in CONTROL_SOURCES
    return Offer(name, cached.layers, cached.views, control)


def sight(head: str, entry: HeadParams, given: Offer, *, block: str = "heads") -> Sight:
    """What an entry of params.yaml asks for, of what a backbone gives.

    block: where in params.yaml the entry stands. A control gives what it has: every run has one, and it must not stop for a layer's name.
    Raises ConfigurationError, near misses named.
    """
    layers, notes = _layers(f"{block}.{head}", entry, given)
    if entry.views and not given.views:
        if not given.control:
            raise ConfigurationError(
                f"params.yaml: {block}.{head}.views is true, but {given.name} has no augmented views; "
                f"set backbones.{given.name}.views"
            )
        notes = (*notes, f"the control {given.name} has no augmented views: trained without")
    views = given.views if entry.views else 0
    return Sight(layers, best=entry.layers == "best", views=views, notes=notes)


def _layers(at: str, entry: HeadParams, given: Offer) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The layers, and a note where they are not those listed. at: the entry's place."""
    if entry.layers is None:
        return given.layers[:1], ()
    if isinstance(entry.layers, str):
        return given.layers, ()
    listed = tuple(entry.layers)
    absent = [name for name in listed if name not in given.layers]
    at = f"params.yaml: {at}.layers"
    if twice := [name for name in listed if listed.count(name) > 1]:
        raise ConfigurationError(f"{at}: {twice[0]!r} stands twice; delete one")
    if absent and not given.control:
        raise ConfigurationError(
            f"{at}: {given.name} has {', '.join(given.layers)}, not {absent[0]!r}; "
            f"{_near(absent[0], given.layers)}add it to backbones.{given.name}.layers"
        )
    kept = tuple(name for name in listed if name in given.layers) or given.layers[:1]
    note = f"the control {given.name} has no layer {', '.join(absent)}: {' + '.join(kept)} instead"
    return kept, (note,) if absent else ()


def _near(name: str, layers: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, layers, n=3)
    return f"did you mean {' or '.join(map(repr, near))}? Else " if near else ""


def gather(cached: Embeddings, layers: Sequence[str], parts: Sequence[tuple[Rows, int]]) -> Vectors:
    """The matrix that a head is fitted on, or predicts from: (R, D) float32.

    parts: rows of the file, and how many augmented views of each; each part is its clean vectors,
    then those of view 1, of view 2, … Of several layers each vector is brought to L2 norm 1 before
    they are joined, so that no layer counts for more since its values are larger; of one layer
    they are as cached. Beside the matrix a few thousand rows are at hand at a time.
    """
    blocks = [(rows, view) for rows, views in parts for view in range(views + 1)]
    if len(layers) == len(blocks) == 1:
        return cached.take(blocks[0][0], layer=layers[0], view=blocks[0][1])
    edges = np.cumsum([0, *(cached.of(layer).shape[1] for layer in layers)])
    X = np.empty((sum(len(rows) for rows, _ in blocks), edges[-1]), dtype=np.float32)
    top = 0
    for rows, view in blocks:
        for start in range(0, len(rows), GATHERED_ROWS):
            some = rows[start : start + GATHERED_ROWS]
            target = X[top + start : top + start + len(some)]
            for layer, left, right in zip(layers, edges, edges[1:], strict=False):
                taken = cached.take(some, layer=layer, view=view)
                target[:, left:right] = unit(taken) if len(layers) > 1 else taken
        top += len(rows)
    return X


def unit(vectors: Vectors) -> Vectors:
    """Each row divided by its L2 norm, in place; a row of zeros stays."""
    norms = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1, keepdims=True))
    norms[norms == 0] = 1
    np.divide(vectors, norms, out=vectors, casting="same_kind")  # in float32 they may overflow
    return vectors


class Gathered:
    """What `gather` makes of the same parts for one set of layers after another; keeps the last."""

    def __init__(self, cached: Embeddings, parts: Sequence[tuple[Rows, int]]) -> None:
        self._of = partial(gather, cached, parts=parts)
        self._layers, self._X = tuple[str, ...](), np.empty((0, 0), dtype=np.float32)

    def of(self, layers: tuple[str, ...]) -> Vectors:
        """The matrix of these layers."""
        if self._layers != layers:
            self._X = np.empty((0, 0), dtype=np.float32)  # one at a time: they may fill the memory
            self._layers, self._X = layers, self._of(layers)
        return self._X


def fingerprints(cached: Embeddings, layers: Sequence[str], views: int) -> dict[str, str]:
    """By dataset of the file, the identity of the vectors that `gather` takes."""
    return {
        dataset_of(layer, view, first=layer == cached.layers[0]): cached.fingerprint_of(layer, view)
        for view in range(views + 1)
        for layer in layers
    }
