"""Libraries tried in a process of their own: a broken native one ends the process it is in.

Run as `python -m pipeline.cli.doctor.trial NAME`, which prints what it saw as one line of JSON.
"""

import json
import re
import signal
import subprocess
import sys
from typing import Any

from pipeline import children

SECONDS = 60
"""How long a trial may take: torch from a cold disk takes many."""

_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class TrialError(Exception):
    """A library that does not run; the text is its reason."""


def attempt(name: str) -> dict[str, Any]:
    """What the trial of that name saw. Raises TrialError with the reason where it failed."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pipeline.cli.doctor.trial", name],
            env=children.environment(),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TrialError(f"it took more than {SECONDS} seconds") from None
    if done.returncode:
        raise TrialError(_reason(done))
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def _reason(done: "subprocess.CompletedProcess[str]") -> str:
    """The line of all that was printed that tells most."""
    said = _COLOUR.sub("", done.stderr)
    native = re.search(r"with error: (.+)", said)  # onnxruntime logs it and falls back to the CPU
    if native:
        return native[1].strip()
    if done.returncode < 0:
        return f"its process was ended by {signal.Signals(-done.returncode).name}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1][:300] if lines else f"its process ended with {done.returncode}"


def _imaging() -> dict[str, Any]:
    import h5py
    from PIL import features

    decoders = {name: bool(features.check(name)) for name in ("jpg", "zlib", "webp", "libtiff")}
    return {"decoders": decoders, "hdf5": h5py.version.hdf5_version}


def _cpu() -> dict[str, Any]:
    import onnxruntime

    from pipeline import gpus
    from pipeline.runtimes.sessions import PROVIDERS, has_cuda

    available = set(onnxruntime.get_available_providers())
    return {
        "version": onnxruntime.__version__,
        "cuda": has_cuda(),
        "gpus": [str(gpu) for gpu in gpus.visible()],
        "others": sorted(available - set(PROVIDERS.values())),
        "right": _runs_right("cpu"),
    }


def _cuda() -> dict[str, Any]:
    from pipeline import gpus

    return {"right": [_runs_right("cuda", gpu) for gpu in range(gpus.count())]}


def _runs_right(device: str, gpu: int = 0) -> bool:
    """Whether a small convolution on a device gives what NumPy makes of it, bound as in a run."""
    import numpy as np

    from pipeline.runtimes.bindings import Lane
    from pipeline.runtimes.sessions import open_session

    kernel = np.random.default_rng(0).standard_normal((8, 3, 4, 4), dtype=np.float32)
    images = np.random.default_rng(1).integers(0, 256, (4, 4, 4, 3), dtype=np.uint8)
    expected = np.einsum("nhwc,dchw->nd", images.astype(np.float32), kernel)
    session = open_session(_convolution(kernel), device, gpu=gpu, batch_size=len(images))
    measured = Lane(session, device, gpu, len(images)).run(images)
    return bool(np.allclose(measured.reshape(expected.shape), expected, rtol=1e-3, atol=0.1))


def _convolution(kernel: Any) -> bytes:
    """An ONNX model: (N, 4, 4, 3) uint8 -> (N, D, 1, 1) float32, one Conv with this kernel."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["numbers"], ["channels"], perm=[0, 3, 1, 2]),
            helper.make_node("Conv", ["channels", "kernel"], ["embeddings"]),
        ],
        "trial",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", 4, 4, 3])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["N", len(kernel), 1, 1])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    content: bytes = model.SerializeToString()
    return content


def _torch() -> dict[str, Any]:
    import torch
    import torchvision

    from pipeline import gpus

    return {
        "driver": gpus.count(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.cuda.is_available(),
        "gpus": [torch.cuda.get_device_name(each) for each in range(torch.cuda.device_count())],
    }


TRIALS = {"imaging": _imaging, "cpu": _cpu, "cuda": _cuda, "torch": _torch}

if __name__ == "__main__":
    print(json.dumps(TRIALS[sys.argv[1]]()))
