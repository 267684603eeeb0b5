"""A fine-tuned model's folder: what lies in it, and how its answers are read. No torch is needed.

finetuned/<name>/ holds model.safetensors (`backbone.…` and `head.…`), model.onnx (empty
where ONNX cannot express it), predictions.parquet and probabilities.npy (its answers on val and test, a row an
image in both), history.csv (a row an epoch) and record.json, which names the sha256 of each.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline import files
from pipeline.dataset import Labels, Split
from pipeline.errors import IntegrityError

FORMAT_VERSION = 1
KIND = "finetuned"
"""Of such a model, beside the kinds of heads."""

RECORD = "record.json"
WEIGHTS = "model.safetensors"
ONNX = "model.onnx"
PREDICTIONS = "predictions.parquet"
PROBABILITIES = "probabilities.npy"
HISTORY = "history.csv"

OUTPUTS = ("label", "probabilities", "embedding")
"""What model.onnx gives of `images`: (N,) int64, (N, K) and (N, D) float32."""

COLUMNS = ("epoch", "rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
"""Of history.csv. Epoch 0 is the start; rate: of the backbone's last block, at the epoch's end."""

EVALUATED = (Split.VAL, Split.TEST)


@dataclass(frozen=True)
class Answers:
    """What it says of one split. labels: (N,) rows; predicted: (N,) class, as text; probabilities: (N, K)."""

    split: Split
    labels: Labels
    predicted: npt.NDArray[np.object_]
    probabilities: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Finetuned:
    """A fine-tuned model on disk. record: what record.json has."""

    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its entry."""
        return str(self.record["name"])

    @property
    def backbone(self) -> str:
        """The name of the backbone it started from."""
        return str(self.record["backbone"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Sorted; class i of the probabilities is classes[i]."""
        return tuple(self.record["classes"])

    def answers(self, labels: Labels) -> Iterator[Answers]:
        """Its answers on val, then on test. labels: those of the run, which have the groups.

        Raises IntegrityError where a file is not the recorded one, or the labels are others.
        """
        table = pq.read_table(io.BytesIO(self.content(PREDICTIONS)))
        known = np.load(io.BytesIO(self.content(PROBABILITIES)), allow_pickle=False)
        splits = np.array(table["split"].to_pylist(), dtype=object)
        paths = np.array(table["path"].to_pylist(), dtype=object)
        predicted = np.array(table["prediction"].to_pylist(), dtype=object)
        place = {path: at for at, path in enumerate(labels.path)}
        if not all(path in place for path in paths):
            raise IntegrityError(
                f"{self.folder}: it has answers on images that labels.parquet has not; {self.again}"
            )
        for split in EVALUATED:
            mask = splits == split
            rows = np.array([place[path] for path in paths[mask]], dtype=np.int64)
            yield Answers(split, labels.where(rows), predicted[mask], known[mask])

    def content(self, file: str) -> bytes:
        """The bytes of one of its files. Raises IntegrityError where they are not the recorded ones."""
        path = self.folder / file
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            raise IntegrityError(f"{path} is missing; {self.again}") from None
        actual, recorded = files.sha256_of_bytes(content), self.record["sha256"].get(file)
        if actual != recorded:
            raise IntegrityError(f"{path}: sha256 is {actual}, recorded {recorded}; {self.again}")
        return content

    @property
    def again(self) -> str:
        """What to type where it is not right."""
        return f"run 'dvc repro -f finetune@{self.folder.name}'"


def load(folder: Path) -> Finetuned:
    """Read a folder's record. Raises IntegrityError."""
    path, again = folder / RECORD, f"run 'dvc repro -f finetune@{folder.name}'"
    try:
        record = json.loads(path.read_bytes())
        found = Finetuned(folder, record)
        version, _ = record["format_version"], (found.name, found.backbone, found.classes)
        _ = record["sha256"][PREDICTIONS]
    except FileNotFoundError:
        raise IntegrityError(f"{path} is missing; {again}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); {again}") from None
    if version != FORMAT_VERSION:
        raise IntegrityError(f"{path}: format_version is {version}, not {FORMAT_VERSION}; {again}")
    return found


def seal(folder: Path, record: dict[str, Any]) -> None:
    """Write record.json with the sha256 of every file that lies in the folder."""
    digests = {
        path.name: files.sha256_of(path)
        for path in sorted(folder.iterdir())
        if path.name != RECORD and not path.name.startswith(".")
    }
    files.write_json(
        folder / RECORD, {**record, "format_version": FORMAT_VERSION, "sha256": digests}
    )
