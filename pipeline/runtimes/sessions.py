"""Sessions of onnxruntime, which run where they were meant to or not at all."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime

from pipeline import gpus, runtimes
from pipeline.errors import ConfigurationError, DeviceMemoryError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

CUDA = {
    "use_tf32": "0",  # its products have 10 bits: beyond what float32's probe may drift
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "arena_extend_strategy": "kSameAsRequested",
}
"""What the CUDA provider is told.

A session sees one batch shape, so what planning costs is paid once: EXHAUSTIVE is, with cuDNN 9,
the better of its two heuristics. Neither measures anything, so equal cards take equal plans. For
the same reason memory grows by what is asked for: twice that, the default, would never be used.
"""

BATCH_DIMENSION = "N"
"""What frozen models call the number of their images."""

HEAVY = ("Conv", "Gemm", "MatMul", "Attention")
"""Parts of the names of the operators that a model's time goes to, their fused forms included."""

_NO_MEMORY = re.compile(
    r"Failed to allocate memory for requested buffer"  # onnxruntime's arena
    r"|Available memory of \d+ is smaller than requested"  # the same, with a limit
    r"|CUDA failure 2\b|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|out of memory"
    r"|CU(?:BLAS|DNN|FFT)\w*_ALLOC(?:ATION)?_FAILED",
    re.IGNORECASE,
)


def choose_device(wanted: str) -> str:
    """`cpu` or `cuda`, of `auto` or one of these. Raises ConfigurationError where it is not there.

    A GPU that this onnxruntime cannot use is told on stderr where `auto` then means the CPU.
    """
    if wanted == "cpu":
        return "cpu"
    built, seen = has_cuda(), gpus.count() > 0
    if built and seen:
        return "cuda"
    reason = "no GPU is seen" if built else "the installed onnxruntime has no CUDA"
    return runtimes.without_gpu(wanted, reason)


def has_cuda() -> bool:
    """Whether the installed onnxruntime was built with CUDA."""
    return PROVIDERS["cuda"] in onnxruntime.get_available_providers()


def choose_gpus(wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Indices of GPUs that are there; None: all. Raises ConfigurationError where one is not."""
    seen = tuple(range(gpus.count()))
    chosen = seen if wanted is None else wanted
    if not chosen or not set(chosen) <= set(seen):
        asked = ", ".join(map(str, chosen)) or "none"
        raise ConfigurationError(
            f"GPU {asked} is asked for, but {len(seen)} are seen, counted from 0; correct "
            "CUDA_VISIBLE_DEVICES, or in params.yaml write device: cpu"
        )
    return chosen


def open_session(
    model: Path | bytes, device: str, *, cores: int = 1, gpu: int = 0, batch_size: int | None = None
) -> onnxruntime.InferenceSession:
    """A session for a model on `cpu`, with that many cores, or on `cuda`, on that GPU.

    batch_size: the only one it will see, so that whatever follows from it is worked out once.
    Raises ConfigurationError where the device does not run the model, or not all that takes time.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cores
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if batch_size is not None:
        options.add_free_dimension_override_by_name(BATCH_DIMENSION, batch_size)
    content = model if isinstance(model, bytes) else model.read_bytes()  # errors as Python's are
    if device == "cpu":
        provider: tuple[str, dict[str, str]] = (PROVIDERS["cpu"], {})
        session = onnxruntime.InferenceSession(content, options, providers=[provider])
    else:
        onnxruntime.preload_dlls()  # CUDA's libraries lie in wheels, out of the loader's path
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        provider = (PROVIDERS[device], {"device_id": str(gpu), **CUDA})
        session = onnxruntime.InferenceSession(
            content, options, providers=[provider], enable_fallback=0
        )
    _refuse_fallback(session, device)
    return session


def _refuse_fallback(session: onnxruntime.InferenceSession, device: str) -> None:
    """Left to itself, onnxruntime goes on, on the CPU, with a line in its log.

    `session.disable_cpu_ep_fallback` would not do: what only reckons with shapes is meant to run
    on the CPU, and models that have such nodes would be refused.
    """
    provider = PROVIDERS[device]
    if session.get_providers()[0] != provider:
        raise ConfigurationError(
            f"params.yaml: execution.device: {provider} does not run here, 'headstart doctor' "
            "tells why; mend that or write device: cpu"
        )
    if device != "cpu" and (left := heavy_on_cpu(session)):
        raise ConfigurationError(
            f"params.yaml: execution.device: {provider} leaves {len(left)} nodes of the model to "
            f"the CPU ({', '.join(sorted(set(left)))}); write device: cpu"
        )


def heavy_on_cpu(session: onnxruntime.InferenceSession) -> list[str]:
    """The HEAVY operators, one a node, that a session which recorded it runs on the CPU.

    Empty also where onnxruntime is too old to tell.
    """
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return []
    parts: list[Any] = session.get_provider_graph_assignment_info()
    return [
        node.op_type
        for part in parts
        if part.ep_name == PROVIDERS["cpu"]
        for node in part.get_nodes()
        if any(name in node.op_type for name in HEAVY)
    ]


@contextmanager
def memory_errors(batch_size: int, gpu: int) -> Iterator[None]:
    """Whatever onnxruntime raises where a GPU is full becomes a DeviceMemoryError."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(str(error)):
            raise
        raise out_of_memory(batch_size, gpu) from None


def is_out_of_memory(text: str) -> bool:
    """Whether an error's text says that a GPU has no memory left; its type does not."""
    return bool(_NO_MEMORY.search(text))


def out_of_memory(batch_size: int, gpu: int) -> DeviceMemoryError:
    """What to tell where a GPU is full."""
    advice = "end what else uses it ('nvidia-smi' tells), or in params.yaml write device: cpu"
    if batch_size > 1:
        advice = f"in params.yaml, under execution, write batch_size: {batch_size // 2}"
    images = "an image" if batch_size == 1 else f"{batch_size} images"
    return DeviceMemoryError(
        f"{gpus.named(gpu)} has no memory for {images} a pass; {advice}", batch_size
    )
