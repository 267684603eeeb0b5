"""What the artifacts of a run say, read by name and checked.

heads, evaluation and frozen know the same files, but scikit-learn and the pixel probe would
come with them: the report is part of every swap of a head and must start at once.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.errors import IntegrityError
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES, FinetuneParams
from pipeline.reporting.reading import csv_rows, damaged, json_object

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

    sha256: of the joblib, or of a fine-tuned model's weights; val, test: its figures, None where the split has no image; from `images`
    on: see `pipeline.heads`, empty in older files; trained: of a fine-tuned model.
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
    trained: "Trained | None" = None


@dataclass(frozen=True)
class Trained:
    """What a fine-tuned model has beside what a head has. verdict: of metrics.json, against the head
    `started_from`; history: a row an epoch, of history.csv; epoch: the one kept, of `epochs`;
    agreement: share of validation images on which it said what the head does before its first step.
    """

    started_from: str
    init: str
    verdict: dict[str, Any]
    history: list[dict[str, str]]
    epoch: int
    epochs: int
    agreement: float | None


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
    artifacts: Path,
    backbones: list[str],
    heads: list[str],
    curves: Iterable[str] = (),
    finetune: Mapping[str, FinetuneParams] | None = None,
) -> Run:
    """Read what the run's backbones, heads, fine-tuned models and curves left. Raises IntegrityError."""
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
        known = {backbone.name: backbone for backbone in frozen}
        for name, entry in (finetune or {}).items():
            read.append(_trained(artifacts / "finetuned" / name, entry, known, metrics))
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


def _rank(head: Head) -> tuple[bool, float, bool, float, str, str]:
    """As evaluation chooses the best: validation accuracy, a head first, its log loss, the name."""
    val = head.val or {}
    loss = val.get("log_loss", float("inf"))
    trained = head.trained is not None
    return head.control, -val.get("accuracy", 0.0), trained, loss, head.backbone, head.name


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


def _trained(
    folder: Path, entry: FinetuneParams, backbones: dict[str, Backbone], metrics: dict[str, Any]
) -> Head:
    """A fine-tuned model as a line among the heads."""
    name, stage = folder.name, f"finetune@{folder.name}"
    names = ("images", "sha256", "epoch", "epochs", "alpha", "layers", "started_from")
    record = json_object(folder / "record.json", stage, names)
    scored = metrics.get(entry.backbone, {}).get(name, {})
    started, alpha = record["started_from"], record["alpha"]
    return Head(
        backbone=entry.backbone,
        name=name,
        kind="finetuned",
        choice={"epoch": record["epoch"], **({} if alpha is None else {"alpha": alpha})},
        chosen_by="accuracy",
        trace=[],
        at_edge=False,
        converged=True,
        rows={"train": record["images"]["train"]},
        sha256=record["sha256"]["model.safetensors"],
        control=entry.init == "random" or backbones[entry.backbone].source in CONTROL_SOURCES,
        val=scored.get("val"),
        test=scored.get("test"),
        layers=record["layers"],
        notes=[started["note"]] if started["note"] else [],
        trained=Trained(
            *(entry.head, entry.init, scored.get("finetuned", {})),
            csv_rows(folder / "history.csv", stage, ("epoch", "val_accuracy")),
            *(record["epoch"], record["epochs"], started["agreement"]),
        ),
    )


def _curve(folder: Path, backbones: list[str]) -> Curve:
    path, stage = folder / "summary.json", f"curve@{folder.name}"
    names = ("head", "seeds", "test_images", "backbones", "notes")
    record = json_object(path, stage, names)
    known = {name: record["backbones"][name] for name in backbones if name in record["backbones"]}
    if not known:
        raise damaged(path, stage, "no backbone of the run")
    return Curve(folder.name, **{name: {**record, "backbones": known}[name] for name in names})
