"""The winner as one ONNX file: choose, assemble, prove equal, write; the next best where it can't be.

choice        which head, and what comes behind it
expressions   scikit-learn's estimators in ONNX operators
nodes, graph  operators written one after another, and models made of them
assembly      backbone + rounding + head -> one graph
proof         equal to scikit-learn on the cached rows, and to the frozen backbone
record        what model.json and the file's metadata say
card          the model card
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from pipeline import embeddings, files, frozen, heads
from pipeline.bundle import assembly, card, graph, proof, record
from pipeline.bundle.choice import Candidate, Choice, choose
from pipeline.bundle.nodes import Inexpressible
from pipeline.bundle.record import FILE, Parts
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.evaluation.results import check_head
from pipeline.params import Params

__all__ = ["Bundled", "bundle", "describe"]

PRECISIONS = ("float32", "float64")
"""What a head reckons in: the first in which it is proven."""


@dataclass(frozen=True)
class Bundled:
    """What was written. record: of model.json; measured: how far it lies from what it was made of."""

    record: dict[str, Any]
    measured: dict[str, Any] = field(default_factory=dict)


def bundle(artifacts: Path, params: Params) -> Bundled:
    """Write artifacts/model/ with the first candidate that ONNX can express.

    Each that it can't is named on stderr. Where none can be, model.json says so and there is no
    model. Raises ConfigurationError where the one that params.yaml names can't be, IntegrityError
    where an artifact is not what its record says; what was there stays.
    """
    choice = choose(params, artifacts / "evaluation" / "metrics.json")
    skipped, content, measured = list[dict[str, str]](), None, dict[str, Any]()
    made = record.of_nothing(choice)
    for one in choice.candidates:
        try:
            made, content, measured = _made(artifacts, one, choice)
            break
        except Inexpressible as error:
            _refuse_or_tell(one, choice, str(error))
            skipped.append({**one.name, "reason": str(error)})
    made["skipped"] = skipped
    _write(artifacts, made, content)
    return Bundled(made, measured)


def _refuse_or_tell(one: Candidate, choice: Choice, why: str) -> None:
    if choice.named:
        raise ConfigurationError(
            f"params.yaml: bundle: {one.head} on {one.backbone} can't be bundled: {why}; name another, "
            "or null for the best that can be"
        )
    print(
        f"headstart: warning: {one.head} on {one.backbone} can't be bundled: {why}; trying the next best",
        file=sys.stderr,
    )


Content = tuple[onnx.ModelProto, tuple[str, ...], Parts, frozen.FrozenBackbone]


def _made(
    artifacts: Path, one: Candidate, choice: Choice
) -> tuple[dict[str, Any], "_Whole", dict[str, Any]]:
    """The record, the parts of the whole file, and what was measured. Raises Inexpressible."""
    backbone = frozen.load(artifacts / "backbones" / one.backbone)
    model = graph.load(backbone)
    fitted, about = heads.load(artifacts / "heads" / one.backbone, one.head)
    cached = embeddings.open(artifacts / "embeddings" / f"{one.backbone}.h5")
    check_head(artifacts / "heads" / one.backbone / one.head, about, cached)
    layers = tuple(about.layers) or cached.layers[:1]
    dim = sum(cached.of(layer).shape[1] for layer in layers)
    head, proven = _proven(fitted, about.kind, model, cached, layers, dim)
    said = record.of(Parts(artifacts, backbone, fitted, about, cached, layers, dim), one, choice)
    whole = _Whole(backbone, model, layers, head)
    drift = proof.of_whole(whole.content(said), backbone, layers)
    measured = {**vars(proven), "cosine": drift.cosine, "max_relative": drift.relative}
    return said, whole, measured


@dataclass(frozen=True)
class _Whole:
    """What the file is put together from; its metadata come last."""

    backbone: frozen.FrozenBackbone
    model: onnx.ModelProto
    layers: tuple[str, ...]
    head: onnx.ModelProto

    def content(self, said: dict[str, Any]) -> bytes:
        return assembly.whole(self.backbone, self.model, self.layers, self.head, said)


def _proven(
    fitted: heads.Fitted,
    kind: str,
    model: onnx.ModelProto,
    cached: Embeddings,
    layers: tuple[str, ...],
    dim: int,
) -> tuple[onnx.ModelProto, proof.Proof]:
    """The head's graph in the first precision in which it is proven. Raises Inexpressible."""
    classifier, temperature = fitted.train_val, fitted.temperature
    said = ""
    for dtype in PRECISIONS:
        made = assembly.head(classifier, temperature, dim=dim, dtype=dtype, like=model)
        try:
            found = proof.of_head(
                made, classifier, temperature, cached, layers, linear=kind in proof.LINEAR
            )
        except InputError as error:
            raise Inexpressible(str(error)) from None
        if found.holds:
            return made, found
        said = found.sentence
    raise Inexpressible(said)


def _write(artifacts: Path, said: dict[str, Any], whole: "_Whole | None") -> None:
    """The folder, whole or not at all."""
    with files.replacing(artifacts / "model") as folder:
        folder.mkdir()
        digest = None
        if whole is not None:
            (folder / FILE).write_bytes(whole.content(said))
            digest = files.sha256_of(folder / FILE)
        beside = {**said, "file": None if whole is None else FILE, "sha256": digest}
        files.write_json(folder / "model.json", beside)
        files.write_bytes(folder / "README.md", card.text(artifacts, beside).encode())


def describe(made: Bundled) -> str:
    """What was bundled, in a few lines for the terminal."""
    said, measured = made.record, made.measured
    if said["backbone"] is None:
        return "nothing was bundled: no head of the run can be expressed in ONNX"
    test = said["metrics"].get("test", {})
    accuracy = f", test accuracy {test['accuracy']:.4f}" if "accuracy" in test else ""
    return (
        f"bundled {said['head']} on {said['backbone']}{accuracy}: artifacts/model/{FILE}\n"
        f"proven on {measured['rows']} cached rows: {measured['labels']} labels equal, max |dp| "
        f"{measured['probability']:.1e}"
    )
