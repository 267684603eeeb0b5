"""What the artifacts of a run say, read by name and checked; the report's only reader of JSON.

heads, evaluation and frozen know the same files, but scikit-learn and the pixel probe would
come with them: the report is part of every swap of a head and must start at once.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import files
from pipeline.errors import IntegrityError
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES

_LATER = (
    *("images", "layers", "views", "by_layer", "notes"),
    *("enhance", "chosen_on", "temperature", "abstention", "seeds"),
)
"""Keys of a head's record that older ones have not."""

Figures = dict[str, Any]
"""One head on one split, as in metrics.json: a metric's name -> its value, <name>_ci95 and n."""


@dataclass(frozen=True)
class Backbone:
    """What backbone.json says that the report shows. source: timm, pixels, …"""

    name: str
    file: str
    file_sha256: str
    dim: int
    weights: str
    licence: str
    fingerprint: str
    fields: dict[str, Any]

    @property
    def source(self) -> str:
        """Where the weights came from."""
        return str(self.fields.get("source", ""))


@dataclass(frozen=True)
class Head:
    """What <h>.json and metrics.json say of one head on one backbone.

    sha256: of the joblib; val, test: its figures, None where the split has no image; from `images`
    on: see `pipeline.heads`, empty in older files.
    """

    backbone: str
    name: str
    kind: str
    choice: dict[str, Any]
    chosen_by: str
    trace: list[dict[str, Any]]
    at_edge: bool
    converged: bool
    rows: dict[str, int]
    sha256: str
    control: bool
    val: Figures | None
    test: Figures | None
    images: dict[str, int] = field(default_factory=dict)
    layers: list[str] = field(default_factory=list)
    views: int = 0
    by_layer: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    enhance: list[str] = field(default_factory=list)
    chosen_on: str = "val"
    temperature: float | None = None
    abstention: dict[str, Any] = field(default_factory=dict)
    seeds: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """What a learning curve's summary.json says; see `pipeline.curves.summary`."""

    name: str
    head: dict[str, Any]
    seeds: int
    test_images: int
    backbones: dict[str, Figures]
    notes: list[str]


@dataclass(frozen=True)
class Run:
    """Everything but the images and the predictions. heads: best by validation first.

    best: the head that metrics.json names, None where all are controls;
    summary: of dataset/summary.json; curves: in the order of params.yaml.
    """

    backbones: list[Backbone]
    heads: list[Head]
    best: Head | None
    summary: dict[str, Any]
    curves: list[Curve] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        """The labels, sorted."""
        return list(self.summary["classes"])


def read(
    artifacts: Path, backbones: list[str], heads: list[str], curves: Iterable[str] = ()
) -> Run:
    """Read what the run's backbones, heads and curves left. Raises IntegrityError."""
    path = artifacts / "dataset" / "summary.json"
    summary = json_object(path, "prepare", ("classes", "splits"))
    frozen = [_backbone(artifacts / "backbones" / name) for name in backbones]
    drawn = [_curve(artifacts / "curve" / name, backbones) for name in curves]
    path = artifacts / "evaluation" / "metrics.json"
    metrics = json_object(path, "evaluate", ())
    try:
        read = [
            _head(artifacts / "heads" / backbone.name, head, backbone, metrics)
            for backbone in frozen
            for head in heads
        ]
        if any(summary["splits"].get(split) for split in ("val", "test")):
            _check_scored(read, path)
        best = _best(read, metrics.get("best"), path)
        return Run(frozen, sorted(read, key=_rank), best, summary, drawn)
    except (AttributeError, TypeError, KeyError) as error:
        raise damaged(path, "evaluate", error) from None


def _check_scored(heads: list[Head], path: Path) -> None:
    for head in heads:
        if head.val is None and head.test is None:
            raise IntegrityError(
                f"{path} has no {head.backbone} / {head.name}; run 'dvc repro evaluate'"
            )


def _rank(head: Head) -> tuple[bool, float, float, str, str]:
    """As evaluation chooses the best: validation accuracy, its log loss, the name."""
    val = head.val or {}
    loss = val.get("log_loss", float("inf"))
    return head.control, -val.get("accuracy", 0.0), loss, head.backbone, head.name


def _best(heads: list[Head], stated: Any, path: Path) -> Head | None:
    if stated is None:
        return None
    for head in heads:
        if (head.backbone, head.name) == (stated["backbone"], stated["head"]):
            return head
    raise IntegrityError(
        f"{path}: the best, {stated['backbone']} / {stated['head']}, is not in the run; "
        "run 'dvc repro evaluate'"
    )


def _backbone(folder: Path) -> Backbone:
    path, stage = folder / "backbone.json", f"freeze@{folder.name}"
    names = ("file", "file_sha256", "dim", "weights", "licence", "fingerprint", "fields")
    record = json_object(path, stage, names)
    return Backbone(name=folder.name, **{name: record[name] for name in names})


def _head(folder: Path, name: str, backbone: Backbone, metrics: dict[str, Any]) -> Head:
    path, stage = folder / f"{name}.json", f"train@{folder.name}-{name}"
    names = ("kind", "choice", "chosen_by", "trace", "at_edge", "converged", "rows", "sha256")
    record = json_object(path, stage, names)
    scored = metrics.get(backbone.name, {}).get(name, {})
    return Head(
        backbone=backbone.name,
        name=name,
        control=record["kind"] in CONTROL_KINDS or backbone.source in CONTROL_SOURCES,
        val=scored.get("val"),
        test=scored.get("test"),
        **{name: record[name] for name in names},
        **{name: record[name] for name in _LATER if name in record},
    )


def _curve(folder: Path, backbones: list[str]) -> Curve:
    path, stage = folder / "summary.json", f"curve@{folder.name}"
    names = ("head", "seeds", "test_images", "backbones", "notes")
    record = json_object(path, stage, names)
    known = {name: record["backbones"][name] for name in backbones if name in record["backbones"]}
    if not known:
        raise damaged(path, stage, "no backbone of the run")
    return Curve(folder.name, **{name: {**record, "backbones": known}[name] for name in names})


def _content(path: Path, stage: str) -> Any:
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise missing(path, stage) from None
    except ValueError as error:
        raise damaged(path, stage, error) from None


def json_list(path: Path, stage: str) -> list[Any]:
    """A JSON list. Raises IntegrityError that names the stage to run."""
    value = _content(path, stage)
    if not isinstance(value, list):
        raise damaged(path, stage, "no list")
    return value


def csv_rows(path: Path, stage: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV that has these columns. Raises IntegrityError that names the stage to run."""
    try:
        rows = files.read_csv(path)
    except FileNotFoundError:
        raise missing(path, stage) from None
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, stage, error) from None
    absent = [name for name in columns if rows and rows[0].get(name) is None]
    if absent:
        raise damaged(path, stage, f"no {absent[0]}")
    return rows


def json_object(path: Path, stage: str, keys: tuple[str, ...]) -> dict[str, Any]:
    """A JSON object that has these keys. Raises IntegrityError that names the stage to run."""
    value = _content(path, stage)
    absent = [key for key in keys if key not in value] if isinstance(value, dict) else ["object"]
    if absent:
        raise damaged(path, stage, f"no {absent[0]}")
    return dict(value)


def missing(path: Path, stage: str) -> IntegrityError:
    """The error for a file that is not there; stage: what writes it, as dvc.yaml names it."""
    return IntegrityError(f"{path} is missing; run 'dvc repro {stage}'")


def damaged(path: Path, stage: str, why: object) -> IntegrityError:
    """The error for a file that is not what it should be."""
    return IntegrityError(f"{path} is damaged ({why}); run 'dvc repro -f {stage}'")
