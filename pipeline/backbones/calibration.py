"""Random weights that repeat, and batch normalisation that fits them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline import frozen
from pipeline.architectures.restored import Normalised
from pipeline.images import Preprocessing


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, the CPU's random numbers are those of `seed`; afterwards as if nothing had been."""
    with torch.random.fork_rng(devices=[]), one_thread():
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Within, torch computes on one core, so that the number of cores changes no bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def calibrate(network: torch.nn.Module, recipe: Preprocessing) -> None:
    """Give BatchNorm the mean and variance that it meets on the probe's images, in one pass.

    Each layer sees them as those before it, calibrated likewise, leave them. All else is in eval
    mode. network: (N, 3, H, W) float32, normalised as the recipe says.
    """
    network.eval()
    layers = [part for part in network.modules() if isinstance(part, _BatchNorm)]
    layers = [part for part in layers if part.track_running_stats]
    momenta = [part.momentum for part in layers]
    if not layers:
        return
    for part in layers:
        part.reset_running_stats()
        part.momentum = None  # the plain average over passes, of which there is one
        part.training = True
    images = torch.from_numpy(frozen.probe_pixels(recipe).copy())
    with torch.no_grad(), one_thread():
        Normalised(network, recipe).each(images)
    for part, momentum in zip(layers, momenta, strict=True):
        part.momentum = momentum
    network.eval()
