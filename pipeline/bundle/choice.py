"""What is bundled: the head or fine-tuned model that params.yaml names, or the best by validation and those after it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import embeddings, features, frozen, heads
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import IntegrityError
from pipeline.evaluation.results import check
from pipeline.evaluation.summary import Order, order
from pipeline.evaluation.trained import SCRATCH
from pipeline.frozen import FrozenBackbone
from pipeline.heads import Fitted, Record
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES, FinetuneParams


@dataclass(frozen=True)
class Candidate:
    """A head of a backbone, or a model fine-tuned from it, by their names."""

    backbone: str
    head: str

    def __str__(self) -> str:
        return f"{self.head} on {self.backbone}"


@dataclass(frozen=True)
class Parts:
    """What a candidate's bundle is made of, each verified, and all made of one another."""

    backbone: FrozenBackbone
    cached: Embeddings
    fitted: Fitted
    record: Record

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of those that the head sees, joined in this order."""
        return tuple(self.record.layers) or self.cached.layers[:1]

    @property
    def dim(self) -> int:
        """Length of the vectors that it sees."""
        return sum(self.cached.of(layer).shape[1] for layer in self.layers)


def figures(artifacts: Path) -> dict[str, Any]:
    """What metrics.json has. Raises IntegrityError."""
    path = artifacts / "evaluation" / "metrics.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; run 'dvc repro evaluate'") from None
    except (ValueError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro -f evaluate'") from None


def candidates(
    artifacts: Path,
    backbones: Sequence[str],
    head_names: Sequence[str],
    finetune: Mapping[str, FinetuneParams],
) -> list[Candidate]:
    """Every head and fine-tuned model of the run that is no control, the best by validation first."""
    known = figures(artifacts)

    def place(one: Candidate) -> Order:
        return order(known.get(one.backbone, {}).get(one.head, {}), one.backbone, one.head)

    heads_of_run = _contenders(artifacts, backbones, head_names)
    return sorted([*heads_of_run, *_trained(artifacts, finetune)], key=place)


def _contenders(
    artifacts: Path, backbones: Sequence[str], head_names: Sequence[str]
) -> Iterator[Candidate]:
    for name in backbones:
        if frozen.read(artifacts / "backbones" / name).fields["source"] in CONTROL_SOURCES:
            continue
        for head in head_names:
            if heads.load_record(artifacts / "heads" / name, head).kind not in CONTROL_KINDS:
                yield Candidate(name, head)


def _trained(artifacts: Path, finetune: Mapping[str, FinetuneParams]) -> Iterator[Candidate]:
    for name, entry in finetune.items():
        source = frozen.read(artifacts / "backbones" / entry.backbone).fields["source"]
        if source not in CONTROL_SOURCES and entry.init != SCRATCH:
            yield Candidate(entry.backbone, name)


def read(artifacts: Path, candidate: Candidate) -> Parts:
    """Its files. Raises IntegrityError where one is not what its record, or another's, says."""
    folder = artifacts / "heads" / candidate.backbone
    backbone = frozen.load(artifacts / "backbones" / candidate.backbone)
    cached = embeddings.open(artifacts / "embeddings" / f"{candidate.backbone}.h5")
    if cached.fingerprint != backbone.fingerprint:
        raise IntegrityError(
            f"{backbone.folder}: fingerprint is {backbone.fingerprint}, the embeddings have "
            f"{cached.fingerprint}; run 'dvc repro extract@{candidate.backbone}'"
        )
    fitted, record = heads.load(folder, candidate.head)
    check(folder / candidate.head, record, cached)
    return Parts(backbone, cached, fitted, record)


def check_labels(labels: Labels, parts: Parts) -> None:
    """Raise IntegrityError where a head was fitted on other classes or images than are labelled now."""
    seen = {
        str(one): features.images(labels, parts.cached, one) for one in (Split.TRAIN, Split.VAL)
    }
    images = {name: len(one.rows) for name, one in seen.items()}
    odd = sorted(set(seen["train"].labels.label) ^ set(parts.fitted.classes))
    then = parts.record.images or images
    if odd or images != then:
        one = Candidate(parts.record.backbone, parts.record.head)
        what = f"class {odd[0]!r}" if odd else f"{images} images, once {then}"
        raise IntegrityError(
            f"labels.parquet is not what {one} was fitted on: {what}; run 'dvc repro bundle'"
        )
