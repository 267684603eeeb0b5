"""Freezing: a pretrained module -> one file that a runtime takes, and its record."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import onnxruntime
import torch

from pipeline import backbones, files, frozen
from pipeline.architectures import exported, restored
from pipeline.architectures.restored import Normalised
from pipeline.backbones import weights
from pipeline.backbones.source import Locate, Pretrained
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.frozen import Drift, FrozenBackbone, Vectors
from pipeline.images import Pixels
from pipeline.params import BackboneParams


def freeze(name: str, entry: BackboneParams, folder: Path, *, locate: Locate) -> Drift:
    """Write the model file for the entry's runtime and backbone.json into `folder`.

    Returns how far that file is from the module itself, which is float32. Raises IntegrityError
    where the two differ on the probe beyond tolerance, and what the source raises.
    """
    at = f"params.yaml: backbones.{name}"
    pretrained = backbones.check(name, entry).load(entry, at, locate)
    module = Normalised(pretrained.module, pretrained.preprocessing).eval()
    probe = frozen.probe_pixels(pretrained.preprocessing)
    with torch.inference_mode():
        expected: Vectors = module(torch.from_numpy(probe.copy())).numpy()
    with files.replacing(folder) as beside:
        beside.mkdir()
        record = _record(name, entry, pretrained, beside, dim=expected.shape[1])
        drift = _drift(_WRITE[entry.runtime](module, record), expected, entry, at)
        frozen.write(replace(record, file_sha256=files.sha256_of(record.model)))
    return drift


def _record(
    name: str, entry: BackboneParams, pretrained: Pretrained, folder: Path, *, dim: int
) -> FrozenBackbone:
    """The record, but for the digest of a file that is not there yet."""
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
        file=exported.MODEL if entry.runtime == "onnx" else restored.MODEL,
        file_sha256="",
        dim=dim,
        weights=weights.stated(entry),
        licence=pretrained.licence,
        fields=fields,
    )


def _write_onnx(module: Normalised, record: FrozenBackbone) -> Vectors:
    """Write the model file; what it makes of the probe, (K, D) float32."""
    probe = frozen.probe_pixels(record.preprocessing)
    exported.export(module, probe, record.model)
    return _run(record.model, probe)


def _write_torch(module: Normalised, record: FrozenBackbone) -> Vectors:
    """Likewise."""
    return restored.write(module.backbone, record)


_WRITE = {"onnx": _write_onnx, "torch": _write_torch}


def _drift(measured: Vectors, expected: Vectors, entry: BackboneParams, at: str) -> Drift:
    what = "ONNX against torch" if entry.runtime == "onnx" else f"{entry.precision} against float32"
    try:
        return frozen.check_drift(
            measured, expected, precision=entry.precision, what=f"{at}: {what}"
        )
    except IntegrityError as error:
        if entry.precision == "float32":
            raise
        raise ConfigurationError(
            f"{error}: too coarse for this network; write precision: float32"
        ) from None


def _run(path: Path, images: Pixels) -> Vectors:
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (vectors,) = session.run(None, {"images": images})
    return np.asarray(vectors, dtype=np.float32)


def measured(drift: Drift) -> dict[str, float]:
    """The figures for artifacts/runs/."""
    return asdict(drift)
