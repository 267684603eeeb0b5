"""A frozen ONNX file as it is tried out when it is made."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from pipeline.architectures import graphs
from pipeline.frozen import Vectors
from pipeline.images import Pixels


def run(model: Path | bytes, images: Pixels) -> list[Vectors]:
    """(N, H, W, 3) uint8 -> (N, D) float32 an output, on the CPU."""
    content = model if isinstance(model, bytes) else model.read_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return [np.asarray(made, dtype=np.float32) for made in session.run(None, {"images": images})]


def jointly(
    path: Path, names: Sequence[str], images: Pixels, made: Sequence[Vectors]
) -> list[tuple[str, ...]]:
    """Of each layer the names of all, where it makes other bits of the images without the others.

    onnxruntime may fuse operators of a graph otherwise where one of them is an output as well.
    """
    if len(names) == 1:
        return [()]
    model = onnx.load(path, load_external_data=False)
    found = list[tuple[str, ...]]()
    for number, vectors in enumerate(made):
        (alone,) = run(graphs.part(model, [number]), images)
        found.append(() if np.array_equal(alone, vectors) else tuple(sorted(names)))
    return found
