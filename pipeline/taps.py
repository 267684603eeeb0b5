"""What is tapped of a network: a layer, and how its positions become one vector."""

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.errors import ConfigurationError

PENULTIMATE, POOLED, DEFAULT = "penultimate", "pooled", "default"
"""The network's own output without its classifier; the last layer that has positions; as it is."""

POOLINGS = ("avg", "max", "gem", "cls", "patch_mean", "flatten")

MAPS, TOKENS, VECTOR = 3, 2, 1
"""Axes of a layer's output beside N: of a feature map, of tokens, of one vector."""


@dataclass(frozen=True)
class Tap:
    """A layer and its pooling. name: as the user wrote it, which embeddings are kept under."""

    name: str
    layer: str
    pooling: str


@dataclass(frozen=True)
class Layer:
    """A layer that can be tapped. shape: of its output, without N."""

    name: str
    shape: tuple[int, ...]

    @property
    def pooling(self) -> str:
        """How its positions become one vector where nobody says."""
        if len(self.shape) == MAPS:
            return "avg"
        if len(self.shape) == TOKENS:
            return "cls" if prefix_tokens(self.shape[0]) else "patch_mean"
        return "flatten"

    @property
    def positions(self) -> int:
        """How many vectors it makes of an image."""
        return math.prod(self.shape) // self.shape[channel_axis(self.shape)]


def prefix_tokens(count: int) -> int:
    """How many of so many tokens come before those of the patches, which fill a square."""
    return int(count - math.isqrt(count) ** 2)


def channel_axis(shape: Sequence[int]) -> int:
    """Which axis of a shape without N is the channels': of a map the first, as a rule.

    The last where the others alone are a square, as in Swin's.
    """
    if len(shape) != MAPS:
        return len(shape) - 1
    return MAPS - 1 if shape[0] == shape[1] != shape[2] else 0


def dim(layer: Layer, pooling: str) -> int:
    """How long the vector is that a pooling makes of a layer."""
    if pooling in ("flatten", DEFAULT):
        return math.prod(layer.shape)
    return layer.shape[channel_axis(layer.shape)]


def resolve(
    wanted: Sequence[str], pooling: str | None, layers: Sequence[Layer], at: str
) -> tuple[Tap, ...]:
    """The taps of a backbone's `layers` and `pooling`. layers: what there is, in order of execution.

    Raises ConfigurationError with near misses. at: the entry, for the message.
    """
    taps = tuple(_resolved(text, pooling, layers, at) for text in wanted)
    for tap in taps:
        if (same := [one.name for one in taps if same_vectors(one, tap)])[1:]:
            raise ConfigurationError(
                f"{at}.layers: {same[0]!r} and {same[1]!r} are the same; delete one"
            )
    return taps


def same_vectors(one: Tap, other: Tap) -> bool:
    """Whether two taps are of one layer and pooling."""
    return (one.layer, one.pooling) == (other.layer, other.pooling)


def _resolved(text: str, pooling: str | None, layers: Sequence[Layer], at: str) -> Tap:
    name, _, own = text.partition("@")
    if own and own not in POOLINGS:
        raise ConfigurationError(
            f"{at}.layers: {text!r}: no pooling {own!r}; choose of {', '.join(POOLINGS)}"
        )
    layer = _named(name, layers, at)
    if layer.name == PENULTIMATE:
        if own:
            raise ConfigurationError(
                f"{at}.layers: {text!r}: {PENULTIMATE} is one vector already; write {PENULTIMATE}"
            )
        return Tap(text, PENULTIMATE, DEFAULT)
    chosen = own or (pooling if len(layer.shape) > VECTOR and pooling else layer.pooling)
    _check(text, layer, chosen, at)
    return Tap(text, layer.name, chosen)


def _named(name: str, layers: Sequence[Layer], at: str) -> Layer:
    known = {layer.name: layer for layer in layers}
    if name == POOLED:
        spatial = [layer for layer in layers if layer.positions > 1]
        if not spatial:
            raise ConfigurationError(f"{at}.layers: no layer of it has positions to pool")
        return spatial[-1]
    if name not in known:
        near = difflib.get_close_matches(name, [*known, POOLED], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        backbone = at.rpartition(".")[2]
        raise ConfigurationError(
            f"{at}.layers: no layer {name!r}; {hint}'headstart backbones show {backbone}' lists them"
        )
    return known[name]


def _check(text: str, layer: Layer, pooling: str, at: str) -> None:
    axes = len(layer.shape)
    fits = {
        "flatten": True,
        "avg": axes > VECTOR,
        "max": axes > VECTOR,
        "gem": axes > VECTOR,
        "cls": axes == TOKENS and prefix_tokens(layer.shape[0]) > 0,
        "patch_mean": axes == TOKENS,
    }
    if not fits[pooling]:
        usable = ", ".join(name for name, good in fits.items() if good)
        raise ConfigurationError(
            f"{at}.layers: {text!r}: pooling {pooling} does not suit its shape {layer.shape}; "
            f"choose of {usable}"
        )
