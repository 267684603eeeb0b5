"""The ONNX runtime: one thread a call on the CPU, so that callers' threads share the cores."""

import ctypes
import math
import os
from pathlib import Path

import numpy as np
import onnxruntime

from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone, Vectors
from pipeline.images import Pixels

CPU_BATCH = 4
CUDA_BATCH = 128

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class OnnxRuntime:
    """A session on one device; see `pipeline.runtimes.Runtime`.

    Kernels are chosen by shape, on a GPU and, for a batch of one, on the CPU: so each call has
    the same, the last one padded, and on the CPU it is the same whatever batch_size was asked
    for. A row's result is then bit-equal for every batch size, neighbour and thread count.
    """

    def __init__(self, backbone: FrozenBackbone, device: str, batch_size: int | None) -> None:
        self.device = _device(device)
        self._step = CPU_BATCH if self.device == "cpu" else batch_size or CUDA_BATCH
        self.batch_size = self._step * math.ceil((batch_size or self._step) / self._step)
        self._session = open_session(backbone.model, self.device)

    def embed(self, images: Pixels) -> Vectors:
        """See `pipeline.runtimes.Runtime`."""
        count, step = len(images), self._step
        if padding := -count % step:
            images = np.concatenate([images, np.repeat(images[-1:], padding, axis=0)])
        batches = [images[start : start + step] for start in range(0, len(images), step)]
        vectors = [self._session.run(None, {"images": batch})[0] for batch in batches]
        return np.concatenate(vectors)[:count]


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


def open_session(model: Path | bytes, device: str) -> onnxruntime.InferenceSession:
    """A session for a model on `cpu` or `cuda`. Raises ConfigurationError where that fails."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if device == "cuda":
        onnxruntime.preload_dlls()  # CUDA's libraries lie in wheels, out of the loader's path
    provider = PROVIDERS[device]
    strict = {"use_tf32": "0"} if device == "cuda" else {}
    session = onnxruntime.InferenceSession(model, options, providers=[(provider, strict)])
    if session.get_providers()[0] != provider:  # onnxruntime falls back with a log line only
        raise ConfigurationError(
            f"params.yaml: execution.device: {provider} does not run here; write device: cpu"
        )
    return session
