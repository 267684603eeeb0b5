"""A frozen backbone, loaded: (N, H, W, 3) uint8 -> (N, D) float32. Chosen by name."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline import gpus as driver
from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.names import unknown

Gpus = tuple[int, ...] | None


@dataclass(frozen=True)
class Setting:
    """How a backbone is run; mechanics, never part of a result.

    threads: callers at once; sessions: how many of them are in the backbone at once, the cores
    shared out among them, or on all GPUs together; batch_size: images a pass; compiled: whether
    to compile the backbone where the runtime can and it then is faster, which takes a minute: on
    a GPU, with torch.
    """

    threads: int
    sessions: int
    batch_size: int
    compiled: bool = False


class Runtime(Protocol):
    """What runs a frozen backbone. A vector does not depend on its batch.

    device: `cpu` or `cuda`; gpus: the indices of the GPUs it runs on, each with a model of its
    own; batch_size: images a pass; version: of the library that runs it.
    """

    @property
    def device(self) -> str: ...
    @property
    def gpus(self) -> tuple[int, ...]: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def version(self) -> str: ...

    def embed(self, images: Pixels) -> Vectors:
        """(N, H, W, 3) uint8 -> (N, D) float32, N at least 1; D: of the layers loaded, together.

        Safe to call from several threads.

        Raises DeviceMemoryError where a GPU is full.
        """

    def run_as(self, setting: Setting) -> "Runtime":
        """The same backbone run in another way; what is loaded is shared where that is possible.

        Raises DeviceMemoryError where a GPU is full.
        """


def without_gpu(wanted: str, reason: str) -> str:
    """`cpu`, where `auto` was wanted and no GPU can be used; a GPU that is there is told on stderr.

    Raises ConfigurationError where `cuda` was wanted.
    """
    if wanted == "cuda":
        raise ConfigurationError(
            f"params.yaml: execution.device is cuda, but {reason} here; write device: cpu"
        )
    if driver.count() > 0:
        told = f"headstart: {driver.named(0)} is not used, {reason}; 'headstart doctor' tells more"
        print(told, file=sys.stderr)
    return "cpu"


def load(
    backbone: FrozenBackbone,
    *,
    device: str,
    gpus: tuple[int, ...] | None = None,
    layers: Sequence[int] = (0,),
) -> Runtime:
    """Load a frozen backbone on `auto`, `cpu` or `cuda`, to run in the plainest way.

    gpus: indices of the GPUs to use, counted from 0 among the visible ones; None: all of them;
    on the CPU it means nothing; layers: numbers of those to compute, whose vectors then stand
    side by side. Raises ConfigurationError where the runtime is unknown or the
    device is not there or does not run the backbone, ResourceError where a GPU is too full for it.
    """
    name = str(backbone.fields["runtime"])
    if name not in RUNTIMES:
        raise ConfigurationError(f"{backbone.folder}: {unknown('runtime', name, RUNTIMES)}")
    return RUNTIMES[name](backbone, device, gpus, tuple(layers))


def _onnx(backbone: FrozenBackbone, device: str, gpus: Gpus, layers: tuple[int, ...]) -> Runtime:
    from pipeline.runtimes import onnx

    return onnx.load(backbone, device, gpus, layers)


def _torch(backbone: FrozenBackbone, device: str, gpus: Gpus, layers: tuple[int, ...]) -> Runtime:
    from pipeline.runtimes import torch

    return torch.TorchRuntime.load(backbone, device, gpus, layers)


Load = Callable[[FrozenBackbone, str, Gpus, tuple[int, ...]], Runtime]

RUNTIMES: dict[str, Load] = {"onnx": _onnx, "torch": _torch}
