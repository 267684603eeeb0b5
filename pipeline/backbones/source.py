"""What a source of pretrained weights supplies."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    import torch

Locate = Callable[[str], Path]
"""Turns a path of params.yaml into an absolute one."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained backbone before freezing.

    module: (N, 3, H, W) float32, normalised -> (N, D) float32, in eval mode.
    package: `name version` of what built it; licence: of the weights, as their maker states it.
    """

    module: "torch.nn.Module"
    preprocessing: Preprocessing
    architecture: str
    package: str
    layer: str
    pooling: str
    licence: str


@dataclass(frozen=True)
class Origin:
    """Where an entry's weights are. file: on this machine, None where none is yet, or needed.

    download: the address or hub name that `load` would fetch first; empty for nothing.
    """

    file: Path | None = None
    download: str = ""


class Source(Protocol):
    """One kind of origin."""

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse an entry that cannot work. at: its place, for the ConfigurationError."""

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        """Where the weights are, without the network. Raises what `load` does of a file."""

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        """Build the module with its weights. Raises ConfigurationError or InputError."""


def preprocessing_or(
    entry: BackboneParams, own: Callable[[], Preprocessing], at: str
) -> Preprocessing:
    """The entry's preprocessing, or the weights' own, which is asked for only then."""
    given = entry.preprocessing
    if given is None:
        recipe = own()
    else:
        mean, std = tuple(given.mean), tuple(given.std)
        recipe = Preprocessing(given.resize, given.crop, given.interpolation, mean, std)  # type: ignore[arg-type]
    if recipe.crop > recipe.resize:
        raise ConfigurationError(
            f"{at}.preprocessing: crop {recipe.crop} is larger than resize {recipe.resize}"
        )
    if min(recipe.std) <= 0:
        raise ConfigurationError(f"{at}.preprocessing: std {list(recipe.std)} must be above 0")
    return recipe
