"""What a bundle says of itself: in the metadata of model.onnx, and in model.json beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline import features, files, frozen
from pipeline.bundle.choice import Candidate, Parts
from pipeline.frozen import FrozenBackbone

FORMAT_VERSION = 1
FILE, RECORD, CARD = "model.onnx", "model.json", "README.md"

METRICS = ("accuracy", "accuracy_ci95", "n", "log_loss", "ece")
ABSTENTION = ("wanted", "threshold", "sure")


def record_of(
    parts: Parts, artifacts: Path, known: Mapping[str, Any], skipped: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    """The record of a bundle. known: what metrics.json has; skipped: see `none_of`."""
    backbone, said, fields = parts.backbone, parts.record, parts.backbone.fields
    return {
        **common(backbone, said.head, known, skipped),
        "kind": said.kind,
        "fingerprint": backbone.fingerprint,
        "fingerprints": features.fingerprints(parts.cached, parts.layers, 0),
        "layers": list(parts.layers),
        "dim": parts.dim,
        "storage": backbone.storage,
        "precision": str(fields["precision"]),
        "runtime": str(fields["runtime"]),
        "classes": list(parts.fitted.classes),
        "tta": fields.get("tta"),
        "enhance": list(said.enhance),
        "temperature": parts.fitted.temperature,
        "abstention": {key: said.abstention[key] for key in ABSTENTION if key in said.abstention},
        "hashes": _hashes(parts, artifacts),
    }


def common(
    backbone: FrozenBackbone,
    head: str,
    known: Mapping[str, Any],
    skipped: Sequence[Mapping[str, str]],
) -> dict[str, Any]:
    """What the records of a head and of a fine-tuned model have in common; head: either's name."""
    figures = known.get(backbone.name, {}).get(head, {})
    return {
        "format_version": FORMAT_VERSION,
        "backbone": backbone.name,
        "head": head,
        "source": str(backbone.fields["source"]),
        "preprocessing": backbone.preprocessing.as_dict(),
        "pixel_probe": frozen.pixel_probe(backbone.preprocessing),
        "licence": backbone.licence,
        "weights": backbone.weights,
        "metrics": {split: _small(figures.get(split, {})) for split in ("val", "test")},
        "best": _best_of(Candidate(backbone.name, head), skipped),
        "skipped": [dict(one) for one in skipped],
    }


def none_of(reason: str, skipped: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """What model.json says where nothing is bundled.

    skipped: backbone, head and reason of each that was better and that ONNX cannot express.
    """
    return {
        "format_version": FORMAT_VERSION,
        "file": None,
        "sha256": None,
        "backbone": None,
        "head": None,
        "reason": reason,
        "best": _best_of(None, skipped),
        "skipped": [dict(one) for one in skipped],
    }


def _best_of(made: Candidate | None, skipped: Sequence[Mapping[str, str]]) -> dict[str, str] | None:
    """The first that was tried."""
    if skipped:
        return {key: skipped[0][key] for key in ("backbone", "head")}
    return None if made is None else {"backbone": made.backbone, "head": made.head}


def _small(of_split: Mapping[str, Any]) -> dict[str, Any]:
    """Of what metrics.json says of a split, what a record has."""
    return {key: of_split[key] for key in METRICS if key in of_split}


def _hashes(parts: Parts, artifacts: Path) -> dict[str, Any]:
    digests = parts.cached.attributes["sha256"]
    seen = features.fingerprints(parts.cached, parts.layers, parts.record.views)
    return {
        "backbone": parts.backbone.file_sha256,
        "head": parts.record.sha256,
        "labels": files.sha256_of(artifacts / "dataset" / "labels.parquet"),
        "embeddings": {name: digests[name] for name in sorted([*seen, "sha256"])},
    }
