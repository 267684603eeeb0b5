"""A frozen backbone, loaded: (N, H, W, 3) uint8 -> (N, D) float32. Chosen by name."""

from collections.abc import Callable
from typing import Protocol

from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.params import unknown


class Runtime(Protocol):
    """What runs a frozen backbone. A vector does not depend on its batch.

    batch_size: how many images `embed` should be given at a time.
    """

    batch_size: int

    def embed(self, images: Pixels) -> Vectors:
        """(N, H, W, 3) uint8 -> (N, D) float32. Safe to call from several threads."""


def load(backbone: FrozenBackbone, *, device: str, batch_size: int | None) -> Runtime:
    """Load a frozen backbone on `auto`, `cpu` or `cuda`; batch_size None: the runtime's choice.

    Raises ConfigurationError where the runtime is unknown or the device is not there.
    """
    name = str(backbone.fields["runtime"])
    if name not in RUNTIMES:
        raise ConfigurationError(f"{backbone.folder}: {unknown('runtime', name, RUNTIMES)}")
    return RUNTIMES[name](backbone, device, batch_size)


def _onnx(backbone: FrozenBackbone, device: str, batch_size: int | None) -> Runtime:
    from pipeline.runtimes import onnx

    return onnx.OnnxRuntime(backbone, device, batch_size)


RUNTIMES: dict[str, Callable[[FrozenBackbone, str, int | None], Runtime]] = {"onnx": _onnx}
