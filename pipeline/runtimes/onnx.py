"""The ONNX runtime: one thread a call on the CPU, so that callers' threads share the cores."""

import ctypes
import os
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import onnxruntime

from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.runtimes import Setting

BATCH = {"cpu": 4, "cuda": 128}
"""Images a pass in the plainest way, whose results are the reference."""

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

Sessions = SimpleQueue[onnxruntime.InferenceSession]


@dataclass(frozen=True)
class OnnxRuntime:
    """Sessions on one device; see `pipeline.runtimes.Runtime`.

    Kernels are chosen by shape, on a GPU and, for a batch of one, on the CPU: so each pass has
    the same, the last one padded. A row's result is then bit-equal for every neighbour and
    thread count; whether it is for another batch size, `pipeline.tuning` finds out.
    idle: None where any number of callers may be in the first session at once.
    """

    model: Path
    device: str
    batch_size: int
    first: onnxruntime.InferenceSession
    idle: Sessions | None = None
    version: str = onnxruntime.__version__

    @classmethod
    def load(cls, backbone: FrozenBackbone, device: str) -> "OnnxRuntime":
        """Open the model. Raises ConfigurationError where the device is not there."""
        found = _device(device)
        session = open_session(backbone.model, found)
        return cls(backbone.model, found, BATCH[found], session)

    def run_as(self, setting: Setting) -> "OnnxRuntime":
        """See `pipeline.runtimes.Runtime`."""
        if self.device != "cpu" or setting.sessions >= setting.threads:
            return replace(self, batch_size=setting.batch_size, idle=None)
        idle, cores = Sessions(), setting.threads // setting.sessions
        for _ in range(setting.sessions):
            shared = self.first if cores == 1 else None
            idle.put(shared or open_session(self.model, self.device, cores=cores))
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
            vectors: Vectors = session.run(None, {"images": batch})[0]
        finally:
            if self.idle:
                self.idle.put(session)
        return vectors


def _device(wanted: str) -> str:
    if wanted == "cpu":
        return "cpu"
    built = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    usable = built and gpu_present()
    if wanted == "cuda" and not usable:
        reason = "no GPU is seen" if built else "the installed onnxruntime has no CUDA"
        raise ConfigurationError(
            f"params.yaml: execution.device is cuda, but {reason} here; write device: cpu"
        )
    return "cuda" if usable else "cpu"


def gpu_present() -> bool:
    """Whether the CUDA driver is installed and sees a GPU."""
    try:
        driver = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    return bool(
        driver.cuInit(0) == 0
        and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
        and count.value > 0
    )


def open_session(
    model: Path | bytes, device: str, *, cores: int = 1
) -> onnxruntime.InferenceSession:
    """A session for a model on `cpu` or `cuda`. Raises ConfigurationError where that fails."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries lie in wheels, out of the loader's path
    provider = PROVIDERS[device]
    strict = {"use_tf32": "0"} if device == "cuda" else {}
    content = model if isinstance(model, bytes) else model.read_bytes()  # errors as Python's are
    session = onnxruntime.InferenceSession(content, options, providers=[(provider, strict)])
    if session.get_providers()[0] != provider:  # onnxruntime falls back with a log line only
        raise ConfigurationError(
            f"params.yaml: execution.device: {provider} does not run here; write device: cpu"
        )
    return session
