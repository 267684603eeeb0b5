"""What every head of a run says of the validation and the test images."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.pipeline import Pipeline
from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, features, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import IntegrityError
from pipeline.features import Gathered, Images, Vectors
from pipeline.heads import Fitted, Record
from pipeline.metrics import Scored
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES
from pipeline.prediction import at_temperature, logits, predict

EVALUATED = (Split.VAL, Split.TEST)


@dataclass(frozen=True)
class Result:
    """One head on one split.

    control: never the best; by_layer: see `heads.Record`; kind, source: of the head, of the
    backbone; uncalibrated: figures before its temperature, where it has one; abstention: of the
    images it is sure enough of, where a precision is wanted. Of a fine-tuned model, started_from: the
    head; scratch: whether its weights were random at first.
    """

    backbone: str
    head: str
    split: Split
    labels: Labels
    scored: Scored
    classes: tuple[str, ...]
    control: bool
    by_layer: Sequence[dict[str, Any]] = ()
    kind: str = ""
    source: str = ""
    uncalibrated: Mapping[str, float] = field(default_factory=dict)
    abstention: Mapping[str, Any] = field(default_factory=dict)
    started_from: str = ""
    scratch: bool = False

    @property
    def name(self) -> tuple[str, str]:
        """(backbone, head)"""
        return self.backbone, self.head


def evaluate(artifacts: Path, backbones: Iterable[str], head_names: list[str]) -> list[Result]:
    """Every backbone and head of the run on val (fit on train) and test (fit on train + val).

    Raises IntegrityError where an artifact is not what its record says.
    """
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    results = list[Result]()
    for backbone in backbones:
        cached = embeddings.open(artifacts / "embeddings" / f"{backbone}.h5")
        images = [features.images(labels, cached, split) for split in EVALUATED]
        gathered = Gathered(cached, [(of_split.rows, 0) for of_split in images])
        with threadpool_limits(1):  # the same bits whatever the machine's cores
            for head in head_names:
                folder = artifacts / "heads" / backbone
                results.extend(_of_head(folder, head, cached, images, gathered))
    return results


def _of_head(
    folder: Path, name: str, cached: Embeddings, images: list[Images], gathered: Gathered
) -> Iterator[Result]:
    """gathered: the vectors of all images, one split after the other."""
    fitted, record = heads.load(folder, name)
    check(folder / name, record, cached)
    X = gathered.of(tuple(record.layers) or cached.layers[:1])
    control = record.kind in CONTROL_KINDS or cached.source in CONTROL_SOURCES
    fits, vectors = (fitted.train, fitted.train_val), np.split(X, [len(images[0].rows)])
    for split, fit, rows, seen in zip(EVALUATED, fits, vectors, images, strict=True):
        scored, before = _scored(fitted, fit, rows, seen.codes(fitted.classes))
        yield Result(
            *(folder.name, name, split, seen.labels, scored, fitted.classes, control),
            by_layer=record.by_layer,
            kind=record.kind,
            source=cached.source,
            uncalibrated=before,
            abstention=_abstention(scored, record),
        )


def _scored(
    fitted: Fitted, fit: Pipeline, X: Vectors, y: npt.NDArray[np.int64]
) -> tuple[Scored, dict[str, float]]:
    """What one of its fits says, and the figures of calibration without its temperature."""
    k = len(fitted.classes)
    if fitted.temperature is None or len(X) == 0:
        return Scored(y, *predict(fit, X), k), {}
    raw = logits(fit, X)  # once: predicting may be slow
    plain = Scored(y, *at_temperature(raw, 1.0), k)
    before = {
        "ece_uncalibrated": metrics.ece(plain),
        "log_loss_uncalibrated": metrics.log_loss(plain),
    }
    return Scored(y, *at_temperature(raw, fitted.temperature), k), before


def _abstention(scored: Scored, record: Record) -> dict[str, Any]:
    wanted = record.abstention
    if "wanted" not in wanted or scored.probabilities is None:
        return {}
    return metrics.abstention(scored, wanted["wanted"], wanted.get("threshold"))


def check(head: Path, record: Record, cached: Embeddings) -> None:
    """Raise IntegrityError where a head was fitted on other vectors than are in the file."""
    again = f"run 'dvc repro train@{head.parent.name}-{head.name}'"
    if record.fingerprint != cached.fingerprint:
        raise IntegrityError(
            f"{head}: fingerprint is {record.fingerprint}, the embeddings have "
            f"{cached.fingerprint}; {again}"
        )
    found = features.fingerprints(cached, cached.layers, cached.views)
    for place, expected in sorted(record.fingerprints.items()):
        if expected != found.get(place):
            raise IntegrityError(
                f"{head}: fingerprint of {place} is {expected}, the embeddings have "
                f"{found.get(place, 'no such dataset')}; {again}"
            )
