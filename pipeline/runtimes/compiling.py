"""A module compiled for one batch shape on a GPU, where that is faster; never on a CPU.

There a choice must change no bit, and compiled kernels round otherwise.
"""

import sys
import time
from typing import cast

import torch

GAIN = 1.05
"""How much faster it must be to be worth other roundings than the module's own."""

PASSES = 10
"""Passes that are timed."""


def fastest(
    module: torch.nn.Module, device: torch.device, shape: tuple[int, ...]
) -> torch.nn.Module:
    """The module, or what it is compiled to. shape: (N, H, W, 3), of every batch to come.

    Compiling takes some ten seconds to minutes. Where it fails, a line on stderr says why.
    """
    images = torch.zeros(shape, dtype=torch.uint8, device=device)
    plain = seconds(module, images)
    try:
        compiled = cast("torch.nn.Module", torch.compile(module, dynamic=False))
        quick = seconds(compiled, images)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - of a compiler, of a driver; the module itself runs
        reason = " ".join(str(error).split())[:200]
        print(f"headstart: the backbone runs uncompiled: {reason}", file=sys.stderr)
        return module
    return compiled if plain > GAIN * quick else module


def seconds(module: torch.nn.Module, images: torch.Tensor) -> float:
    """Seconds of a pass, after two that are not counted."""
    with torch.inference_mode():
        for _ in range(2):
            module(images)
        _finish(images.device)
        begun = time.perf_counter()
        for _ in range(PASSES):
            module(images)
        _finish(images.device)
    return (time.perf_counter() - begun) / PASSES


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
