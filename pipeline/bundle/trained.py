"""The bundle of a fine-tuned model: its own ONNX file, with a record in it, seen to run."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import files, finetuned, frozen
from pipeline.bundle import graph, proof, record
from pipeline.bundle.choice import Candidate
from pipeline.bundle.nodes import Inexpressible
from pipeline.evaluation.trained import check
from pipeline.finetuned import Finetuned
from pipeline.frozen import FrozenBackbone
from pipeline.images.views import Views
from pipeline.params import FinetuneParams

SUM = 1e-4
"""How far the probabilities of an image may be from 1 in all."""


def build(
    artifacts: Path,
    candidate: Candidate,
    entry: FinetuneParams,
    known: Mapping[str, Any],
    skipped: Sequence[Mapping[str, str]],
) -> tuple[bytes, dict[str, Any], dict[str, Any]]:
    """The file's bytes, its record, and the figures of its proof. known: what metrics.json has.

    Raises Inexpressible where fine-tuning could not write it in ONNX, IntegrityError where the
    folder is not what its record says, or of another entry or head.
    """
    found = finetuned.load(artifacts / "finetuned" / candidate.head)
    check(found, entry, artifacts / "heads" / entry.backbone)
    backbone = frozen.load(artifacts / "backbones" / candidate.backbone)
    model = _model(found)
    dim = int(model.graph.output[-1].type.tensor_type.shape.dim[-1].dim_value)
    shared = record.common(backbone, found.name, known, skipped)
    said = {**shared, **_own(found, backbone, artifacts, dim)}
    graph.describe(model, said)
    content = graph.content_of(model)
    return content, said, _proven(content, found, backbone)


def _model(found: Finetuned) -> onnx.ModelProto:
    """Its ONNX file, without what is said of it. Raises Inexpressible where there is none."""
    content = found.content(finetuned.ONNX)
    if not content:
        raise Inexpressible(f"its network is none of ONNX: {found.record['onnx']}")
    model = onnx.load_model_from_string(content)
    del model.metadata_props[:]
    return model


def _own(found: Finetuned, backbone: FrozenBackbone, artifacts: Path, dim: int) -> dict[str, Any]:
    """Its part of the record. Nothing is rounded, cached or put before its last layer."""
    said = found.record
    return {
        "kind": finetuned.KIND,
        "fingerprint": _fingerprint(found, backbone),
        "fingerprints": {},
        "layers": list(said["layers"]),
        "dim": dim,
        "storage": "float32",
        "precision": "float32",
        "runtime": "onnx",
        "classes": list(found.classes),
        "tta": said["tta"],
        "enhance": [],
        "temperature": None,
        "abstention": {},
        "hashes": _hashes(found, backbone, artifacts),
    }


def _fingerprint(found: Finetuned, backbone: FrozenBackbone) -> str:
    """An identity of its own: no cached embedding was made by these weights."""
    given = ("weights_sha256", "layers", "tta", "preprocessing")
    own = {"started_from": backbone.fingerprint, **{key: found.record[key] for key in given}}
    return files.sha256_of_json(own)


def _hashes(found: Finetuned, backbone: FrozenBackbone, artifacts: Path) -> dict[str, Any]:
    """backbone, head: what it started from; finetuned: the weights that came of it."""
    return {
        "backbone": backbone.file_sha256,
        "head": found.record["started_from"]["head_sha256"],
        "labels": files.sha256_of(artifacts / "dataset" / "labels.parquet"),
        "embeddings": {},
        "finetuned": found.record["sha256"][finetuned.WEIGHTS],
    }


def _proven(content: bytes, found: Finetuned, backbone: FrozenBackbone) -> dict[str, Any]:
    """Its answers on the probe are of the shapes they should have. Raises Inexpressible.

    That they are torch's was seen when it was written, and its sha256 is the recorded one.
    """
    views = Views(tta=found.record["tta"])
    pixels = frozen.probe_pixels(backbone.preprocessing, views)
    if views.tta:
        pixels = pixels.reshape(-1, len(views), *pixels.shape[1:])
    session = proof.session_of(content)
    label, known, vectors = proof.run(session, graph.IMAGES, pixels)
    whole = np.abs(known.sum(axis=1) - 1).max()
    right = known.shape == (len(pixels), len(found.classes)) and len(vectors) == len(pixels)
    if not (right and np.isfinite(vectors).all() and whole <= SUM):
        raise Inexpressible("what it says of the probe are no probabilities of its classes")
    if not np.array_equal(label, known.argmax(axis=1)):
        raise Inexpressible("its labels of the probe are not its likeliest classes")
    return {"probe": {"rows": len(pixels), "most": float(whole)}}
