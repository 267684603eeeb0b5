"""Architectures without numbers: built on torch's meta device, for counts and shapes alone."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.overrides import TorchFunctionMode

from pipeline.architectures import tapped
from pipeline.taps import Layer

Built = TypeVar("Built")

META = "meta"


class _HollowTensors(TorchFunctionMode):
    """What layers keep their weights in is made without memory, all else as ever.

    For what reads, while it is built, numbers that it has computed with torch, as RegNet does.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty and given.get("device") is None:
            given["device"] = META
        return func(*args, **given)


def built(build: Callable[[], Built]) -> Built:
    """What `build` makes, its tensors without numbers where torch can do without.

    Raises what `build` does.
    """
    try:
        with torch.device(META):
            return build()
    except RuntimeError:  # also where an operator has no kernel for meta tensors
        with _HollowTensors():
            return build()


def layers(module: torch.nn.Module, crop: int) -> list[Layer]:
    """What can be tapped of a module made so; see `tapped.layers`. It has no numbers after."""
    with torch.device(META):
        return tapped.layers(module.to(META).eval(), crop)


def parameters(module: torch.nn.Module) -> int:
    """How many trained numbers it has."""
    return sum(one.numel() for one in module.parameters())
