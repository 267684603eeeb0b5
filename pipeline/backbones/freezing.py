"""Freezing: a pretrained module -> one ONNX file that takes uint8 images, and its record."""

import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from pipeline import backbones, files, frozen
from pipeline.backbones import weights
from pipeline.backbones.source import Locate, Pretrained
from pipeline.errors import IntegrityError
from pipeline.frozen import Drift, FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.params import BackboneParams

MODEL = "model.onnx"
OPSET = 18


class Normalised(torch.nn.Module):
    """(N, H, W, 3) uint8 -> (N, D) float32: normalisation, then the backbone."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, pretrained: Pretrained) -> None:
        super().__init__()
        self.backbone = pretrained.module
        recipe = pretrained.preprocessing
        for name, values in (("mean", recipe.mean), ("std", recipe.std)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
        features: torch.Tensor = self.backbone((pixels - self.mean) / self.std)
        return features


def freeze(name: str, entry: BackboneParams, folder: Path, *, locate: Locate) -> Drift:
    """Write folder/model.onnx and folder/backbone.json; returns how far ONNX is from torch.

    Raises IntegrityError where the two differ on the probe beyond tolerance, and what the
    source raises.
    """
    at = f"params.yaml: backbones.{name}"
    pretrained = backbones.check(name, entry).load(entry, at, locate)
    module = Normalised(pretrained).eval()
    probe = frozen.probe_pixels(pretrained.preprocessing)
    with files.replacing(folder) as beside:
        beside.mkdir()
        export(module, probe, beside / MODEL)
        with torch.inference_mode():
            expected = module(torch.from_numpy(probe.copy())).numpy()
        measured = _run(beside / MODEL, probe)
        drift = frozen.check_drift(
            measured, expected, precision=entry.precision, what=f"{at}: ONNX against torch"
        )
        frozen.write(_record(name, entry, pretrained, beside, dim=measured.shape[1]))
    return drift


def _record(
    name: str, entry: BackboneParams, pretrained: Pretrained, folder: Path, *, dim: int
) -> FrozenBackbone:
    fields = {
        "source": entry.source,
        "architecture": pretrained.architecture,
        "package": pretrained.package,
        "weights_sha256": weights.digest(pretrained.module.state_dict()),
        "preprocessing": pretrained.preprocessing.as_dict(),
        "layer": pretrained.layer,
        "pooling": pretrained.pooling,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "storage": entry.storage,
        "pixel_probe": frozen.pixel_probe(pretrained.preprocessing),
    }
    return FrozenBackbone(
        folder=folder,
        name=name,
        file=MODEL,
        file_sha256=files.sha256_of(folder / MODEL),
        dim=dim,
        weights=weights.stated(entry),
        licence=pretrained.licence,
        fields=fields,
    )


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


def _run(path: Path, images: Pixels) -> Vectors:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {"images": images})
    return np.asarray(vectors, dtype=np.float32)


def measured(drift: Drift) -> dict[str, float]:
    """The figures for artifacts/runs/."""
    return asdict(drift)
