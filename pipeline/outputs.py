"""What a frozen backbone gives of an image: outputs, each a layer in a view, with its own identity."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from pipeline import files
from pipeline.images.views import Views
from pipeline.taps import Tap

FIRST = "embeddings"
"""The dataset of the first layer's clean view."""


@dataclass(frozen=True)
class FrozenLayer:
    """A layer of a frozen file. dim: length of its vectors.

    jointly: names of the layers with which alone it is computed to the bit; empty where it is the
    same without them, as nearly always.
    """

    tap: Tap
    dim: int
    jointly: tuple[str, ...] = ()

    @property
    def fields(self) -> dict[str, Any]:
        """Its own ones of the fingerprint's."""
        own: dict[str, Any] = {"layer": self.tap.layer, "pooling": self.tap.pooling}
        return own | ({"jointly": list(self.jointly)} if self.jointly else {})


OF_LAYER = ("layer", "pooling", "jointly")
"""Fields that differ from layer to layer."""


@dataclass(frozen=True, eq=False)
class Output:
    """One vector an image. fields: what the fingerprint is made of.

    dataset: its place in the tracked file; number: which of the model's outputs; view: 0, the
    clean one, or the number of an augmented one; dim: length; beside: numbers of the model's
    outputs that have to be made with it, or it has other bits.
    """

    dataset: str
    number: int
    view: int
    dim: int
    fields: dict[str, Any]
    beside: tuple[int, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Identity of the vectors."""
        return fingerprint_of(self.fields)


def fingerprint_of(fields: Mapping[str, Any]) -> str:
    """Hex sha256 over the fields, as sorted JSON."""
    return files.sha256_of_json(dict(fields))


def dataset_of(layer: str, view: int, *, first: bool) -> str:
    """Where a layer's vectors of a view lie in the tracked file; first: whether it is the first layer."""
    if view:
        return f"views/{view}/{quote(layer, safe='@')}"
    return FIRST if first else f"layers/{quote(layer, safe='@')}"


def outputs(
    fields: Mapping[str, Any], layers: Sequence[FrozenLayer], views: Sequence[Mapping[str, Any]]
) -> tuple[Output, ...]:
    """Every layer in the clean view, then every layer in each augmented one.

    fields: those of the first layer's clean view; views: what is another of each augmented view,
    its `pixel_probe` and `view`.
    """
    shared = {name: value for name, value in fields.items() if name not in OF_LAYER}
    numbers = {layer.tap.name: number for number, layer in enumerate(layers)}
    clean = [
        Output(
            dataset_of(layer.tap.name, 0, first=not number),
            number,
            0,
            layer.dim,
            {**shared, **layer.fields} if number else dict(fields),
            tuple(numbers[name] for name in layer.jointly),
        )
        for number, layer in enumerate(layers)
    ]
    augmented = [
        Output(
            dataset_of(layers[one.number].tap.name, int(view["view"]["number"]), first=False),
            one.number,
            int(view["view"]["number"]),
            one.dim,
            {**{key: value for key, value in one.fields.items() if key != "tta"}, **view},
            one.beside,
        )
        for view in views
        for one in clean
    ]
    return (*clean, *augmented)


def views_of(wanted: Sequence[Output]) -> Views:
    """The views that some outputs need of an image."""
    tta = {str(one.fields["tta"]) for one in wanted if "tta" in one.fields}
    seeds = {int(one.fields["view"]["seed"]) for one in wanted if one.view}
    return Views(
        clean=any(one.view == 0 for one in wanted),
        tta=tta.pop() if tta else None,
        augmented=tuple(sorted({one.view for one in wanted if one.view})),
        seed=seeds.pop() if seeds else 0,
    )


def layers_of(wanted: Sequence[Output]) -> tuple[int, ...]:
    """The numbers of the layers that are made for some outputs, sorted."""
    return tuple(sorted({number for one in wanted for number in (one.number, *one.beside)}))


def separated(
    made: npt.NDArray[np.float32], wanted: Sequence[Output], views: Views, dims: Sequence[int]
) -> dict[Output, npt.NDArray[np.float32]]:
    """By output, (N, D_i) float32, of what a runtime makes.

    made: (N * V, D), the views of an image together, their layers (see `layers_of`) side by side;
    dims: lengths of all the model's layers.
    """
    layers = layers_of(wanted)
    ends = dict(zip(layers, np.cumsum([dims[number] for number in layers]), strict=True))
    by_view = made.reshape(-1, len(views), made.shape[1])
    found = {}
    for one in wanted:
        mine = by_view[:, :, ends[one.number] - one.dim : ends[one.number]]
        if one.view:
            found[one] = mine[:, views.deterministic + views.augmented.index(one.view)]
        else:
            found[one] = _mean([mine[:, number] for number in range(views.deterministic)])
    return found


def _mean(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
    """One after another, so that the bits are the same for any number of images."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total / np.float32(len(parts)) if parts[1:] else total
