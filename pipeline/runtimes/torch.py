"""The torch runtime: on the CPU one core a call, on GPUs a few lanes each that callers share."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from threading import BoundedSemaphore

import numpy as np
import torch

from pipeline import frozen
from pipeline import gpus as driver
from pipeline.architectures.restored import probe_of, restore
from pipeline.errors import ConfigurationError, DeviceMemoryError, ResourceError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.runtimes import Setting, compiling, without_gpu
from pipeline.runtimes.streams import Lane

BATCH = {"cpu": 4, "cuda": 128}
"""Images a pass in the plainest way, whose results are the reference."""

LANES = 3
"""Callers at once on a GPU, in the plainest way: one that works, one before it, one behind."""


@dataclass(frozen=True)
class Replica:
    """A backbone on one device."""

    device: torch.device
    module: torch.nn.Module


@dataclass(frozen=True)
class TorchRuntime:
    """A backbone on the CPU or on GPUs; see `pipeline.runtimes.Runtime`.

    Every pass has one shape, the last one padded, since kernels are chosen by it. crop: of an
    image, in pixels; dim: of a vector; cores: of a pass on the CPU; turns: there, of the callers
    that may be in the backbone at once, None for all; lanes: on GPUs, those that no caller has.
    """

    replicas: tuple[Replica, ...]
    device: str
    batch_size: int
    crop: int
    dim: int
    cores: int = 1
    turns: BoundedSemaphore | None = None
    lanes: "SimpleQueue[Lane]" = field(default_factory=SimpleQueue)
    version: str = str(torch.__version__)

    @classmethod
    def load(
        cls,
        backbone: FrozenBackbone,
        device: str,
        gpus: tuple[int, ...] | None = None,
        layers: tuple[int, ...] = (0,),
    ) -> "TorchRuntime":
        """Restore a backbone on `auto`, `cpu` or `cuda`; gpus: which, by number; None: all.

        layers: see `pipeline.runtimes.load`. Raises ConfigurationError where the device is not there, IntegrityError where the file
        is not as it should be or a device makes other vectors of the probe than were frozen.
        """
        found = _device(device)
        places = _places(found, gpus)
        restored = restore(backbone, layers)
        if found == "cuda":
            _be_exact()
        replicas = tuple(_replica(restored.module, place) for place in places)
        for replica in replicas:
            _check(backbone, replica, restored.probe)
        at_once = 1 if found == "cpu" else LANES * len(replicas)
        crop, plain = backbone.preprocessing.crop, Setting(at_once, at_once, BATCH[found])
        dim = sum(backbone.layers[number].dim for number in layers)
        return cls(replicas, found, BATCH[found], crop, dim).run_as(plain)

    @property
    def gpus(self) -> tuple[int, ...]:
        """Numbers of the GPUs that have a replica."""
        return tuple(one.device.index for one in self.replicas if one.device.type == "cuda")

    def run_as(self, setting: Setting) -> "TorchRuntime":
        """See `pipeline.runtimes.Runtime`."""
        if self.device == "cpu":
            share = setting.sessions < setting.threads
            return replace(
                self,
                batch_size=setting.batch_size,
                cores=setting.threads // setting.sessions if share else 1,
                turns=BoundedSemaphore(setting.sessions) if share else None,
            )
        replicas = self.replicas
        if setting.compiled:
            shape = (setting.batch_size, self.crop, self.crop, 3)
            replicas = tuple(
                replace(one, module=compiling.fastest(one.module, one.device, shape))
                for one in replicas
            )
        lanes: SimpleQueue[Lane] = SimpleQueue()
        for number in range(max(setting.sessions, len(replicas))):
            replica = replicas[number % len(replicas)]  # GPUs take turns: callers spread over them
            lanes.put(Lane(replica.module, replica.device, self.dim))
        return replace(self, batch_size=setting.batch_size, lanes=lanes)

    def embed(self, images: Pixels) -> Vectors:
        """See `pipeline.runtimes.Runtime`. Raises DeviceMemoryError where a GPU has too little."""
        count, step = len(images), self.batch_size
        if padding := -count % step:
            images = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        batches = [images[start : start + step] for start in range(0, len(images), step)]
        run = self._on_cpu if self.device == "cpu" else self._on_gpu
        try:
            return np.concatenate(run(batches))[:count]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        torch.cuda.empty_cache()  # here, where nothing of what failed is held any longer
        raise DeviceMemoryError(
            f"the GPU has no memory for {step} images at once; "
            f"set execution.batch_size: {max(1, step // 2)} in params.yaml",
            step,
        )

    def _on_cpu(self, batches: list[Pixels]) -> list[Vectors]:
        module = self.replicas[0].module
        with self.turns or nullcontext(), torch.inference_mode():
            if torch.get_num_threads() != self.cores:
                torch.set_num_threads(self.cores)  # of this thread's passes
            owned = [np.require(batch, requirements=("C", "W")) for batch in batches]
            return [module(torch.from_numpy(batch)).numpy() for batch in owned]

    def _on_gpu(self, batches: list[Pixels]) -> list[Vectors]:
        lane = self.lanes.get()
        try:
            return lane.embed(batches)
        finally:
            self.lanes.put(lane)


def _device(wanted: str) -> str:
    """`cpu` or `cuda`. A GPU that torch cannot use is told on stderr where `auto` means the CPU."""
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    seen = driver.count() > 0
    reason = "the installed torch cannot use it" if seen else "no GPU is seen"
    if torch.version.cuda is None:
        reason = "the installed torch has no CUDA"
    return without_gpu(wanted, reason)


def _places(device: str, gpus: tuple[int, ...] | None) -> list[torch.device]:
    """The devices to have a replica on. gpus: by number, None for all that are seen."""
    if device == "cpu":
        return [torch.device("cpu")]
    there = torch.cuda.device_count()
    if missing := [index for index in gpus or () if index >= there]:
        raise ConfigurationError(
            f"GPU {missing[0]} is asked for, but {there} are seen here, counted from 0; "
            "correct CUDA_VISIBLE_DEVICES"
        )
    return [torch.device("cuda", index) for index in (range(there) if gpus is None else gpus)]


def _be_exact() -> None:
    """No TF32, which float32's tolerance has no room for, and kernels that repeat bit for bit.

    Sums of short floats are float32's, as on the CPU that made the probe. cudnn's search for faster ones is off: each thread has its own, and may find another.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def _replica(module: torch.nn.Module, place: torch.device) -> Replica:
    """A copy of a module on a GPU; on the CPU the module itself."""
    if place.type == "cpu":
        return Replica(place, module)
    try:
        there = copy.deepcopy(module).to(place)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(
            f"{place} has no memory for the backbone; end what else uses it, or write device: cpu"
        ) from None
    torch.cuda.synchronize(place)  # lanes have streams of their own
    return Replica(place, there)


def _check(backbone: FrozenBackbone, replica: Replica, made: Vectors) -> None:
    """Refuse a library or device that makes other vectors of the probe than when it was frozen."""
    frozen.check_drift(
        probe_of(replica.module, backbone, replica.device),
        made,
        precision=str(backbone.fields["precision"]),
        what=f"{backbone.name} on {replica.device}, against the CPU that froze it",
    )


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU had too little memory, which torch and CUDA's libraries say in their own ways."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return True
    text = str(error)
    return ("CUDA" in text and "out of memory" in text) or "_STATUS_ALLOC_FAILED" in text
