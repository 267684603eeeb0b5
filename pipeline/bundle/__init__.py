"""The winner as one ONNX file that anybody can run, proven before it is written.

    choice      which head, and what a bundle is made of
    expressions a fitted head in ONNX operators (nodes, graph: what they are written with)
    assembly    the backbone, what is done to its vectors, and the head, as one graph
    proof       equal to scikit-learn on the cached rows, and to the frozen backbone on the probe
    record      what it says of itself
    card        the same for people (loading: how other programs run it)

    trained     the same of a fine-tuned model, which is an ONNX file already

What ONNX cannot express, or what is not proven, makes room for the next best by validation.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline import dataset, files
from pipeline.bundle import assembly, card, choice, graph, proof, record, trained
from pipeline.bundle.choice import Candidate, Parts
from pipeline.bundle.nodes import REAL, Inexpressible
from pipeline.errors import ConfigurationError
from pipeline.params import FinetuneParams

__all__ = ["Made", "bundle", "describe", "warn", "write"]


@dataclass(frozen=True)
class Made:
    """What artifacts/model/ gets. content: of model.onnx, None where nothing could be bundled.

    record: of model.json; card: of README.md; figures: of the proof, for artifacts/runs/.
    """

    content: bytes | None
    record: dict[str, Any]
    card: str
    figures: dict[str, Any] = field(default_factory=dict)


def bundle(
    artifacts: Path,
    backbones: Sequence[str],
    heads: Sequence[str],
    named: tuple[str, str] | None = None,
    finetune: Mapping[str, FinetuneParams] | None = None,
) -> Made:
    """The head or fine-tuned model that is named, (backbone, name), or the best by validation that ONNX can express.

    Raises ConfigurationError where the one that is named cannot be, IntegrityError where an
    artifact is not what its record says.
    """
    tuned = finetune or {}
    found = [] if named else choice.candidates(artifacts, backbones, heads, tuned)
    listed = [Candidate(*named)] if named else found
    skipped = list[dict[str, str]]()
    for candidate in listed:
        try:
            entry = tuned.get(candidate.head)
            if entry is not None:
                return _trained(artifacts, candidate, entry, skipped)
            return _built(artifacts, candidate, skipped)
        except Inexpressible as error:
            if named:
                raise ConfigurationError(
                    f"params.yaml: bundle: ONNX cannot express {candidate}: {error}; name another, "
                    "or write null for the best by validation that it can"
                ) from None
            skipped.append({**vars(candidate), "reason": str(error)})
    reason = (
        "ONNX can express no head of the run" if listed else "every head of the run is a control"
    )
    said = record.none_of(reason, skipped)
    return Made(None, said, card.of_none(said), {"skipped": skipped})


def _built(artifacts: Path, candidate: Candidate, skipped: Sequence[dict[str, str]]) -> Made:
    """A candidate's bundle, proven. Raises Inexpressible."""
    parts = choice.read(artifacts, candidate)
    frozen = graph.load(parts.backbone)
    head, figures = _proven_head(artifacts, parts, frozen)
    known = choice.figures(artifacts)
    said = record.record_of(parts, artifacts, known, skipped)
    content = assembly.whole(parts.backbone, frozen, parts.layers, head, said)
    figures["probe"] = proof.against_runtime(content, parts)
    digest = files.sha256_of_bytes(content)
    beside = {**said, "file": record.FILE, "sha256": digest}
    given = card.Given(proof.has_probabilities(parts.fitted), parts.record.chosen_on)
    text = card.of(beside, given, card.Context.read(artifacts, known))
    made = {**vars(candidate), "bytes": len(content), "skipped": list(skipped), **figures}
    return Made(content, beside, text, made)


def _trained(
    artifacts: Path,
    candidate: Candidate,
    entry: FinetuneParams,
    skipped: Sequence[dict[str, str]],
) -> Made:
    """A fine-tuned candidate's bundle, proven. Raises Inexpressible."""
    known = choice.figures(artifacts)
    content, said, figures = trained.build(artifacts, candidate, entry, known, skipped)
    beside = {**said, "file": record.FILE, "sha256": files.sha256_of_bytes(content)}
    text = card.of(beside, card.Given(known=True), card.Context.read(artifacts, known))
    made = {**vars(candidate), "bytes": len(content), "skipped": list(skipped), **figures}
    return Made(content, beside, text, made)


def _proven_head(
    artifacts: Path, parts: Parts, frozen: onnx.ModelProto
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """The head's graph in the shortest float in which it is proven. Raises Inexpressible."""
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    choice.check_labels(labels, parts)
    rows = np.unique(parts.cached.rows(labels.sha256))
    rows = rows[rows >= 0]
    classifier, temperature = parts.fitted.train_val, parts.fitted.temperature
    reasons = list[str]()
    for dtype in REAL:
        try:
            head = assembly.head(classifier, temperature, dim=parts.dim, dtype=dtype, like=frozen)
            shown = proof.against_scikit_learn(graph.content_of(head), parts, rows)
            return head, {"dtype": dtype, "tried": reasons, "head_alone": shown.as_dict()}
        except Inexpressible as error:
            reasons.append(f"in {dtype} {error}")
    raise Inexpressible(_shortly(reasons))


def _shortly(reasons: Sequence[str]) -> str:
    """The reason, told once where it has nothing to do with the type of float."""
    bare = {reason.split(" ", 2)[2] for reason in reasons}
    return bare.pop() if len(bare) == 1 else "; ".join(reasons)


def write(folder: Path, made: Made) -> None:
    """Replace artifacts/model/, whole or not at all; equal bundles give equal bytes."""
    with files.replacing(folder) as beside:
        beside.mkdir()
        if made.content is not None:
            (beside / record.FILE).write_bytes(made.content)
        (beside / record.RECORD).write_text(files.json_text(made.record), encoding="utf-8")
        (beside / record.CARD).write_text(made.card, encoding="utf-8")


def warn(made: Made) -> None:
    """A line on stderr where another than the best by validation was bundled, or nothing."""
    said, best = made.record, made.record["best"]
    if made.content is None:
        told = f"nothing is bundled: {said['reason']}; add another to run.heads or run.backbones"
    elif said["skipped"]:
        told = f"{said['head']} on {said['backbone']} is bundled, not the best by validation"
    else:
        return
    if best:
        first = said["skipped"][0]
        told += f"; {best['head']} on {best['backbone']} is not, since {first['reason']}"
    print(f"headstart: warning: {told}", file=sys.stderr)


def describe(made: Made) -> str:
    """What is in artifacts/model/, in a line."""
    if made.content is None:
        return "artifacts/model: no model.onnx; model.json and README.md say why"
    said, shown = made.record, made.figures.get("head_alone")
    what = (
        f"artifacts/model/model.onnx: {said['head']} on {said['backbone']}, "
        f"{len(said['classes'])} classes, {len(made.content) / 1e6:.1f} MB"
    )
    if shown is None:
        return f"{what}; fine-tuned, compared with torch when it was written"
    return (
        f"{what}; on {shown['rows']} cached rows max |dp| {shown['most']:.1e} from scikit-learn's"
    )
