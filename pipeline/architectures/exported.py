"""A module as one ONNX file, which says nothing of where it was made."""

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline.architectures.restored import Normalised
from pipeline.errors import IntegrityError
from pipeline.images import Pixels

MODEL = "model.onnx"
OPSET = 18
GRAPH = "backbone"


class InexpressibleError(Exception):
    """ONNX, or its exporter, has no way to say what a network does; the text tells why, shortly."""


class _Separate(torch.nn.Module):
    """The same with an output a layer."""

    def __init__(self, module: Normalised) -> None:
        super().__init__()
        self.module = module

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.module.each(images)


def output_name(number: int) -> str:
    """What a model file calls its outputs."""
    return f"embeddings_{number}" if number else "embeddings"


def export(module: Normalised, images: Pixels, path: Path, *, outputs: int = 1) -> None:
    """Export a backbone; outputs: how many layers the module gives. See `export_named`."""
    names = [output_name(number) for number in range(outputs)]
    export_named(_Separate(module), images, path, names)


def export_named(module: torch.nn.Module, images: Pixels, path: Path, names: Sequence[str]) -> None:
    """Export to one ONNX file with a dynamic N; equal modules give equal bytes.

    module: gives a tuple of tensors, which are called `names`; images: (K, ...) uint8, K >= 2, what it
    takes in. Producer, doc strings, stack traces and paths are stripped. Raises InexpressibleError.
    """
    try:
        _export(module, images, path, names)
        model = onnx.load(path, load_external_data=False)
        strip(model)
        onnx.checker.check_model(model)
        content = model.SerializeToString(deterministic=True)
    except IntegrityError:
        raise
    except Exception as error:  # noqa: BLE001 - the exporter and its passes raise dozens of kinds
        raise InexpressibleError(_shortly(error)) from None
    path.write_bytes(content)


def _shortly(error: Exception) -> str:
    """What an exporter's error says, without its pages of advice."""
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    lines = [line.strip() for line in str(root).splitlines() if line.strip()]
    return f"{type(root).__name__}: {lines[0][:200]}" if lines else type(root).__name__


def _export(module: torch.nn.Module, images: Pixels, path: Path, names: Sequence[str]) -> None:
    batch = torch.export.Dim("N")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.from_numpy(images[:2].copy()),),
            path,
            dynamo=True,
            verbose=False,
            external_data=False,
            opset_version=OPSET,
            input_names=["images"],
            output_names=list(names),
            dynamic_shapes={"images": {0: batch}},
        )


def strip(model: onnx.ModelProto) -> None:
    """Clear what tells of where a model was made. Raises IntegrityError on external data."""
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(field)
    model.graph.name = GRAPH
    for graph in [model.graph, *model.functions]:
        _strip_notes(graph)
    if any(tensor.external_data for tensor in model.graph.initializer):
        raise IntegrityError("the export holds external data; freeze writes one file")


def _strip_notes(message: Any) -> None:
    """Clear what an exporter notes of itself, in a protobuf message and every one within."""
    for field, value in message.ListFields():
        if field.name in ("doc_string", "metadata_props"):
            message.ClearField(field.name)
        elif field.message_type is not None:
            for inner in [value] if hasattr(value, "ListFields") else value:
                _strip_notes(inner)
