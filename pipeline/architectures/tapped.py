"""A torch module's layers: which there are, and their outputs, pooled, in one pass.

Layers are tapped by forward hooks, which a pass through torch's exporter keeps as well.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from pipeline import taps
from pipeline.taps import PENULTIMATE, TOKENS, VECTOR, Layer, Tap

GEM_POWER, GEM_LEAST = 3.0, 1e-6

SHOWN = 2
"""Images that show which layers there are."""


class _Reached(Exception):  # noqa: N818 - no error: the pass ends early
    """Every wanted layer was passed; what follows is not needed."""


class Tapped(torch.nn.Module):
    """(N, 3, H, W) -> a tuple, one a tap, of (N, D_i). Safe for several threads at once."""

    def __init__(self, network: torch.nn.Module, wanted: Sequence[Tap]) -> None:
        super().__init__()
        self.network = network
        self.taps = tuple(wanted)
        self._here = threading.local()
        self._whole = any(tap.layer == PENULTIMATE for tap in self.taps)
        for layer in {tap.layer for tap in self.taps} - {PENULTIMATE}:
            self._hook(layer)

    def _hook(self, layer: str) -> None:
        mine = [tap for tap in self.taps if tap.layer == layer]

        def keep(_module: torch.nn.Module, _given: Any, made: torch.Tensor) -> None:
            found = getattr(self._here, "found", None)
            if found is None:
                return  # the network is used by itself
            found.update({tap: pooled(made, tap.pooling) for tap in mine})
            if len(found) == len(self.taps) and not self._whole:
                raise _Reached

        self.network.get_submodule(layer).register_forward_hook(keep)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Tapped":
        """A copy whose hooks are its own, for another device."""
        import copy

        bare = copy.deepcopy(self.network, memo)
        for part in bare.modules():
            part._forward_hooks.clear()  # noqa: SLF001 - those of this one, which were copied
        return Tapped(bare, self.taps)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """images: (N, 3, H, W), normalised."""
        found: dict[Tap, torch.Tensor] = {}
        self._here.found = found
        try:
            last = self.network(images)
            found.update({tap: last for tap in self.taps if tap.layer == PENULTIMATE})
        except _Reached:
            pass
        finally:
            self._here.found = None
        return tuple(found[tap] for tap in self.taps)


def pooled(made: torch.Tensor, pooling: str) -> torch.Tensor:
    """A layer's output, (N, ...), as (N, D); a copy, since layers after it may write in place."""
    shape = tuple(made.shape[1:])
    if pooling == "flatten" or len(shape) == VECTOR:
        return made.flatten(1).clone()
    if pooling == "cls":
        return made[:, 0].clone()
    if len(shape) == TOKENS:
        before = taps.prefix_tokens(shape[0]) if pooling == "patch_mean" else 0
        positions = made[:, before:]
    elif taps.channel_axis(shape) == 0:
        positions = made.flatten(2).transpose(1, 2)
    else:
        positions = made.flatten(1, 2)
    if pooling == "max":
        return positions.amax(dim=1)
    if pooling == "gem":  # Radenovic 2018, with the power that it ends near
        return positions.clamp(min=GEM_LEAST).pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER)
    return positions.mean(dim=1)


def layers(network: torch.nn.Module, crop: int) -> list[Layer]:
    """What can be tapped, in the order of execution, `penultimate` the last.

    That is every submodule that runs once a pass and makes one tensor of it, with a row an image:
    of two, since one row may be of all images, as positions are. crop: of an image.
    """
    found: list[Layer] = []
    calls: Counter[str] = Counter()
    hooks = []

    def hook(name: str) -> Any:
        def note(_module: torch.nn.Module, _given: Any, made: Any) -> None:
            calls[name] += 1
            if isinstance(made, torch.Tensor) and made.ndim > VECTOR and len(made) == SHOWN:
                found.append(Layer(name, tuple(made.shape[1:])))

        return note

    for name, part in network.named_modules():
        if name:
            hooks.append(part.register_forward_hook(hook(name)))
    try:
        with torch.inference_mode():
            last = network(torch.zeros(SHOWN, 3, crop, crop))
    finally:
        for handle in hooks:
            handle.remove()
    once = [layer for layer in found if calls[layer.name] == 1]
    usable = [layer for layer in once if len(layer.shape) <= taps.MAPS]
    return [*usable, Layer(PENULTIMATE, tuple(last.shape[1:]))]
