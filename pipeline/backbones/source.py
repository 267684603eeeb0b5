"""What a source of pretrained weights supplies."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.errors import ConfigurationError
from pipeline.frozen import Vectors
from pipeline.images import Pixels, Preprocessing
from pipeline.params import BackboneParams
from pipeline.taps import Layer, Tap

if TYPE_CHECKING:
    import torch

Locate = Callable[[str], Path]
"""Turns a path of params.yaml into an absolute one."""


class Network(Protocol):
    """A pretrained network without its classifier, as its own library computes it, in float32."""

    def layers(self, recipe: Preprocessing) -> list[Layer]:
        """What can be tapped, in the order of execution, `penultimate` the last."""

    def embed(self, images: Pixels, recipe: Preprocessing, taps: Sequence[Tap]) -> list[Vectors]:
        """(N, H, W, 3) uint8, crops of the recipe -> (N, D) float32 a tap."""

    def write_onnx(self, taps: Sequence[Tap], recipe: Preprocessing, path: Path) -> None:
        """Write a model file: `images` uint8 (N, crop, crop, 3) -> float32 (N, D) a tap.

        Its outputs are `embeddings`, `embeddings_1` and so on. Equal networks give equal bytes.
        Raises ConfigurationError where ONNX cannot express it.
        """

    def digest(self) -> str:
        """Hex sha256 over its weights, whatever file they came in."""


@dataclass(frozen=True)
class Pretrained:
    """A pretrained backbone before freezing.

    package: `name version` of what built it; licence: of the weights, as their maker states it;
    classifier: its own last layer, (N, D) float32 -> (N, K) logits, None where it has none;
    transform: its maker's own preprocessing, of a Pillow image -> (3, H, W) float32, normalised.
    """

    network: Network
    preprocessing: Preprocessing
    architecture: str
    package: str
    licence: str
    classifier: "torch.nn.Module | None" = None
    transform: Callable[[Any], "torch.Tensor"] | None = None


@dataclass(frozen=True)
class Origin:
    """Where an entry's weights are. file: on this machine, None where none is yet, or needed.

    download: the address or hub name that `load` would fetch first; empty for nothing.
    """

    file: Path | None = None
    download: str = ""


@dataclass(frozen=True)
class Description:
    """What is known of a backbone before its weights are there.

    layers: what can be tapped, in the order of execution; nested: whether dots in their names are
    levels; parameters: of the network without its classifier; of_classifier: of that, None where it
    has none or a file of the user's says; recipe: None where its maker preprocesses as nothing here does, `doubt`
    then says what to do; crop: side of its images in pixels; tag: of its weights, empty for a file;
    tags: the other ones there are; top1: ImageNet-1k accuracy in percent, as published with the tag.
    """

    layers: tuple[Layer, ...]
    parameters: int
    of_classifier: int | None
    recipe: Preprocessing | None
    crop: int
    licence: str
    package: str
    nested: bool = True
    doubt: str = ""
    tag: str = ""
    tags: tuple[str, ...] = ()
    top1: float | None = None


class Source(Protocol):
    """One kind of origin."""

    def check(self, entry: BackboneParams, at: str) -> None:
        """Refuse an entry that cannot work. at: its place, for the ConfigurationError."""

    def find(self, entry: BackboneParams, at: str, locate: Locate) -> Origin:
        """Where the weights are, without the network. Raises what `load` does of a file."""

    def describe(self, entry: BackboneParams, at: str, locate: Locate) -> Description:
        """Tell what `load` would give, without weights, memory for them, or the network.

        A file that says all of itself has to be there. Raises what `load` does.
        """

    def load(self, entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
        """Build the network with its weights. Raises ConfigurationError or InputError."""


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
