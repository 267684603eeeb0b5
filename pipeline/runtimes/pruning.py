"""The part of a frozen ONNX file that some of its layers need; onnxruntime would run all of it."""

from pathlib import Path

import onnx
import onnx.utils


def pruned(model: Path, layers: tuple[int, ...]) -> bytes:
    """The model with these of its outputs, by number, and without what none of them needs."""
    whole = onnx.load(model, load_external_data=False)
    inputs = [given.name for given in whole.graph.input]
    names = [output.name for output in whole.graph.output]
    part = onnx.utils.Extractor(whole).extract_model(inputs, [names[number] for number in layers])
    content: bytes = part.SerializeToString(deterministic=True)
    return content
