"""A module as one ONNX file, which says nothing of where it was made."""

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch

from pipeline.errors import IntegrityError
from pipeline.images import Pixels

MODEL = "model.onnx"
OPSET = 18


def export(module: torch.nn.Module, images: Pixels, path: Path) -> None:
    """Export to one ONNX file with a dynamic N; equal modules give equal bytes.

    images: (K, H, W, 3) uint8, K >= 2. Producer, doc strings, stack traces and paths are
    stripped.
    """
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
            output_names=["embeddings"],
            dynamic_shapes={"images": {0: batch}},
        )
    model = onnx.load(path, load_external_data=False)
    _strip(model)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _strip(model: onnx.ModelProto) -> None:
    for field in ("producer_name", "producer_version", "domain", "doc_string", "metadata_props"):
        model.ClearField(field)
    model.graph.name = "backbone"
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
