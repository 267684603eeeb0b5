"""The part of a frozen ONNX file that some of its layers need; onnxruntime would run all of it."""

from pathlib import Path

import onnx

from pipeline.architectures import graphs


def pruned(model: Path, layers: tuple[int, ...]) -> bytes:
    """The model with these of its outputs, by number, and without what none of them needs."""
    return graphs.part(onnx.load(model, load_external_data=False), layers)
