"""What fine-tuned models say of the validation and the test images, from their folders."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline import dataset, finetuned, heads
from pipeline.errors import IntegrityError
from pipeline.evaluation.results import Result
from pipeline.finetuned import KIND, Answers, Finetuned
from pipeline.metrics import Scored
from pipeline.params import CONTROL_SOURCES, BackboneParams, FinetuneParams

SCRATCH = "random"
"""The `init` of a baseline that starts from random weights: there to be beaten, never the best."""


def answered(
    artifacts: Path,
    entries: Mapping[str, FinetuneParams],
    backbones: Mapping[str, BackboneParams],
) -> list[Result]:
    """Every entry's model on val and test, both by the one model that was trained on train.

    entries: the block `finetune` of params.yaml, which alone says what is read; backbones: for
    their sources. Raises IntegrityError where a folder is not what its record says, or is of
    another entry, head or labels than those of the run.
    """
    if not entries:
        return []
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    results = list[Result]()
    for name, entry in entries.items():
        found = finetuned.load(artifacts / "finetuned" / name)
        check(found, entry, artifacts / "heads" / entry.backbone)
        source = backbones[entry.backbone].source
        results.extend(_results(found, found.answers(labels), entry, source))
    return results


def _results(
    found: Finetuned, answers: Iterator[Answers], entry: FinetuneParams, source: str
) -> Iterator[Result]:
    control = source in CONTROL_SOURCES or entry.init == SCRATCH
    for one in answers:
        y = _codes(found, one.labels.label)
        predicted = _codes(found, one.predicted)
        scored = Scored(y, predicted, one.probabilities, len(found.classes))
        yield Result(
            *(found.backbone, found.name, one.split, one.labels, scored, found.classes, control),
            kind=KIND,
            source=source,
            started_from=entry.head,
            scratch=entry.init == SCRATCH,
        )


def _codes(found: Finetuned, names: npt.NDArray[np.object_]) -> npt.NDArray[np.int64]:
    """The place of each among the model's classes."""
    place = {name: code for code, name in enumerate(found.classes)}
    strange = sorted(set(names) - place.keys())
    if strange:
        raise IntegrityError(
            f"{found.folder}: it does not know the class {strange[0]!r}; {found.again}"
        )
    return np.array([place[name] for name in names], dtype=np.int64)


def check(found: Finetuned, entry: FinetuneParams, fitted: Path) -> None:
    """Raise IntegrityError where the folder is of another entry, or its head was fitted again."""
    if found.record.get("entry") != entry.model_dump():
        raise IntegrityError(
            f"{found.folder} was made with other settings than params.yaml has; {found.again}"
        )
    started = found.record.get("started_from", {}).get("head_sha256")
    if started != heads.load_record(fitted, entry.head).sha256:
        raise IntegrityError(
            f"{found.folder} started from another fit of {entry.head} than is in {fitted}; "
            f"{found.again}"
        )
