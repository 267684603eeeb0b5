"""What a bundle says of itself: model.json, and the file's metadata."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import features, files
from pipeline.bundle.choice import Candidate, Choice
from pipeline.embeddings import Embeddings
from pipeline.frozen import FrozenBackbone
from pipeline.heads import Fitted, Record

FORMAT_VERSION = 1
FILE = "model.onnx"

FIGURES = ("accuracy", "accuracy_ci95", "n", "log_loss", "log_loss_ci95", "ece", "ece_ci95")
"""Of metrics.json, what goes with the model."""


@dataclass(frozen=True)
class Parts:
    """What a bundle is made of. layers: that the head sees; dim: of what it sees."""

    artifacts: Path
    backbone: FrozenBackbone
    fitted: Fitted
    head: Record
    cached: Embeddings
    layers: tuple[str, ...]
    dim: int


def of(parts: Parts, one: Candidate, choice: Choice) -> dict[str, Any]:
    """The record of a bundle, without `file` and `sha256`, which only model.json can have."""
    backbone, fields, head = parts.backbone, parts.backbone.fields, parts.head
    seen = features.fingerprints(parts.cached, parts.layers, 0)
    metrics = choice.metrics[one]
    return {
        **_frame(choice),
        **one.name,
        "kind": head.kind,
        "source": fields["source"],
        "fingerprint": backbone.fingerprint,
        "fingerprints": seen,
        "layers": list(parts.layers),
        "dim": parts.dim,
        "storage": backbone.storage,
        "precision": fields["precision"],
        "runtime": fields["runtime"],
        "classes": list(parts.fitted.classes),
        "probabilities": parts.fitted.temperature is not None
        or hasattr(parts.fitted.train_val, "predict_proba"),
        "preprocessing": fields["preprocessing"],
        "tta": fields.get("tta"),
        "pixel_probe": fields["pixel_probe"],
        "enhance": head.enhance,
        "temperature": parts.fitted.temperature,
        "abstention": _threshold(head.abstention),
        "licence": backbone.licence,
        "weights": backbone.weights,
        "metrics": {split: _figures(metrics.get(split, {})) for split in ("val", "test")},
        "hashes": {
            "backbone": backbone.file_sha256,
            "head": head.sha256,
            "labels": files.sha256_of(parts.artifacts / "dataset" / "labels.parquet"),
            "embeddings": {name: parts.cached.attributes["sha256"][name] for name in seen},
        },
    }


def of_nothing(choice: Choice) -> dict[str, Any]:
    """The record where no candidate can be bundled."""
    nothing = ("backbone", "head", "fingerprint")
    return {**_frame(choice), **dict.fromkeys(nothing), "classes": []}


def _frame(choice: Choice) -> dict[str, Any]:
    best = choice.candidates[0].name if choice.candidates else None
    return {"format_version": FORMAT_VERSION, "best": best, "skipped": []}


def _figures(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in FIGURES if name in given}


def _threshold(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in ("wanted", "threshold", "sure") if name in given}
