"""The ONNX runtime: one thread a call on the CPU, so that callers' threads share the cores.

On GPUs a session each, of one batch shape, and some passes at once in each (`bindings`).
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import onnxruntime

from pipeline.errors import DeviceMemoryError, ResourceError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.gpus import named
from pipeline.images import Pixels
from pipeline.runtimes import Runtime, Setting
from pipeline.runtimes.bindings import Lanes
from pipeline.runtimes.sessions import choose_device, choose_gpus, memory_errors, open_session

BATCH = {"cpu": 4, "cuda": 128}
"""Images a pass in the plainest way, whose results are the reference on a CPU."""

Sessions = SimpleQueue[onnxruntime.InferenceSession]


def load(
    backbone: FrozenBackbone,
    device: str,
    gpus: tuple[int, ...] | None = None,
    layers: tuple[int, ...] = (0,),
) -> Runtime:
    """Open a model on `auto`, `cpu` or `cuda`; gpus: indices of those to use, None: all.

    layers: see `pipeline.runtimes.load`. Raises ConfigurationError where the device is not there or does not run it, ResourceError
    where a GPU is too full for it.
    """
    if choose_device(device) == "cpu":
        return OnnxRuntime.load(_part(backbone, layers))
    return OnnxOnGpus.load(_part(backbone, layers), choose_gpus(gpus))


def _part(backbone: FrozenBackbone, layers: tuple[int, ...]) -> Path | bytes:
    """The model file, or as much of it as the layers need."""
    if layers == tuple(range(len(backbone.layers))):
        return backbone.model
    from pipeline.runtimes.pruning import pruned

    return pruned(backbone.model, layers)


@dataclass(frozen=True)
class OnnxRuntime:
    """Sessions on the CPU; see `pipeline.runtimes.Runtime`.

    Kernels are chosen by shape for a batch of one: so each pass has the same, the last one
    padded. A row's result is then bit-equal for every neighbour and thread count; whether it is
    for another batch size, `pipeline.tuning` finds out.
    idle: None where any number of callers may be in the first session at once.
    """

    model: Path | bytes
    batch_size: int
    first: onnxruntime.InferenceSession
    idle: Sessions | None = None
    device: str = "cpu"
    gpus: tuple[int, ...] = ()
    version: str = onnxruntime.__version__

    @classmethod
    def load(cls, model: Path | bytes) -> "OnnxRuntime":
        """Open the model."""
        return cls(model, BATCH["cpu"], open_session(model, "cpu"))

    def run_as(self, setting: Setting) -> "OnnxRuntime":
        """See `pipeline.runtimes.Runtime`."""
        if setting.sessions >= setting.threads:
            return replace(self, batch_size=setting.batch_size, idle=None)
        idle, cores = Sessions(), setting.threads // setting.sessions
        for _ in range(setting.sessions):
            shared = self.first if cores == 1 else None
            idle.put(shared or open_session(self.model, "cpu", cores=cores))
        return replace(self, batch_size=setting.batch_size, idle=idle)

    def embed(self, images: Pixels) -> Vectors:
        """See `pipeline.runtimes.Runtime`."""
        count, step = len(images), self.batch_size
        if padding := -count % step:
            images = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        batches = [images[start : start + step] for start in range(0, len(images), step)]
        return np.concatenate([self._pass(batch) for batch in batches])[:count]

    def _pass(self, batch: Pixels) -> Vectors:
        session = self.idle.get() if self.idle else self.first
        try:
            made: list[Vectors] = session.run(None, {"images": batch})
        finally:
            if self.idle:
                self.idle.put(session)
        return made[0] if len(made) == 1 else np.concatenate(made, axis=1)


@dataclass(frozen=True)
class OnnxOnGpus:
    """A session a GPU; see `pipeline.runtimes.Runtime`.

    A session belongs to its batch size: what memory it took for another, it would not give back.
    Those of one batch size share their lanes. place: `cpu` where a test has no GPU.
    """

    model: Path | bytes
    gpus: tuple[int, ...]
    lanes: Lanes
    place: str = "cuda"
    device: str = "cuda"
    version: str = onnxruntime.__version__

    @classmethod
    def load(
        cls,
        model: Path | bytes,
        gpus: tuple[int, ...],
        *,
        batch_size: int = BATCH["cuda"],
        place: str = "cuda",
    ) -> "OnnxOnGpus":
        """Open the model on each GPU. Raises ResourceError where one is too full for it."""
        try:
            lanes = _open_lanes(model, gpus, batch_size, place)
        except DeviceMemoryError:  # no smaller batch would help
            raise ResourceError(
                f"no memory for the model on {', '.join(map(named, gpus))}; end what else uses it "
                "('nvidia-smi' tells), or in params.yaml write device: cpu"
            ) from None
        return cls(model, gpus, lanes, place)

    @property
    def batch_size(self) -> int:
        """Images a pass."""
        return self.lanes.batch_size

    def run_as(self, setting: Setting) -> "OnnxOnGpus":
        """See `pipeline.runtimes.Runtime`; `setting.sessions` passes at once, on all GPUs together.

        Raises DeviceMemoryError where a GPU is full.
        """
        lanes = self.lanes
        if lanes.given_up or setting.batch_size != lanes.batch_size:
            lanes = _open_lanes(self.model, self.gpus, setting.batch_size, self.place)
        lanes.spread(setting.sessions)
        return replace(self, lanes=lanes)

    def embed(self, images: Pixels) -> Vectors:
        """See `pipeline.runtimes.Runtime`. Raises DeviceMemoryError where a GPU is full."""
        vectors = []
        for start in range(0, len(images), self.batch_size):
            with self.lanes.borrow() as lane:
                vectors.append(lane.run(images[start : start + self.batch_size]))
        return np.concatenate(vectors)


def _open_lanes(model: Path | bytes, gpus: tuple[int, ...], batch_size: int, device: str) -> Lanes:
    """A session on each GPU, and a lane into each."""
    content = model if isinstance(model, bytes) else model.read_bytes()

    def opened(gpu: int) -> onnxruntime.InferenceSession:
        with memory_errors(batch_size, gpu):
            return open_session(content, device, gpu=gpu, batch_size=batch_size)

    with ThreadPoolExecutor(len(gpus)) as pool:
        lanes = Lanes(list(pool.map(opened, gpus)), gpus, device, batch_size)
    lanes.spread(len(gpus))
    return lanes
