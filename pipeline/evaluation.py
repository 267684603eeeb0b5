"""A head on a split -> numbers with intervals, and which head is best."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, features, files, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import IntegrityError
from pipeline.features import Gathered, Images
from pipeline.heads import Record
from pipeline.metrics import Scored
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES
from pipeline.prediction import predict

EVALUATED = (Split.VAL, Split.TEST)
LAYERS = ("backbone", "head", "layer", "accuracy", "low", "high", "model")
"""Columns of layers.csv; `model` is what DVC's plot is labelled with."""

_PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "split", "label")),
        *((name, pa.string()) for name in ("backbone", "head", "prediction")),
        ("probability", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Result:
    """One head on one split. control: never the best; by_layer: see `heads.Record`."""

    backbone: str
    head: str
    split: Split
    labels: Labels
    scored: Scored
    classes: tuple[str, ...]
    control: bool
    by_layer: Sequence[dict[str, Any]] = ()


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
    _check(folder / name, record, cached)
    X = gathered.of(tuple(record.layers) or cached.layers[:1])
    control = record.kind in CONTROL_KINDS or cached.source in CONTROL_SOURCES
    fits, vectors = (fitted.train, fitted.train_val), np.split(X, [len(images[0].rows)])
    for split, fit, rows, seen in zip(EVALUATED, fits, vectors, images, strict=True):
        predicted, probabilities = predict(fit, rows, fitted.temperature)
        y, classes = seen.codes(fitted.classes), fitted.classes
        scored = Scored(y, predicted, probabilities, len(classes))
        who, by_layer = (folder.name, name, split), record.by_layer
        yield Result(*who, seen.labels, scored, classes, control, by_layer)


def _check(head: Path, record: Record, cached: Embeddings) -> None:
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


def summarise(results: list[Result]) -> dict[str, Any]:
    """The content of metrics.json; `best` is None where every head is a control."""
    table: dict[str, Any] = {}
    for result in results:
        if len(result.scored.y):
            of_head = table.setdefault(result.backbone, {}).setdefault(result.head, {})
            of_head[str(result.split)] = metrics.score(result.scored)
    best = _best(results, table)
    return {**table, "best": best} if best else table


def _best(results: list[Result], table: dict[str, Any]) -> dict[str, Any] | None:
    """Highest validation accuracy, then lower validation log loss, then name."""
    names = {
        (result.backbone, result.head)
        for result in results
        if result.split == Split.VAL and len(result.scored.y) and not result.control
    }

    if not names:
        return None
    backbone, head = min(names, key=lambda name: _order(table[name[0]][name[1]], *name))
    chosen = table[backbone][head]
    best = {"backbone": backbone, "head": head, "val_accuracy": chosen["val"]["accuracy"]}
    if "test" in chosen:
        best["accuracy"] = chosen["test"]["accuracy"]
        best["accuracy_ci95"] = chosen["test"]["accuracy_ci95"]
    return best


def _order(splits: dict[str, Any], backbone: str, head: str) -> tuple[float, float, str, str]:
    val = splits.get("val", {})
    return -val.get("accuracy", 0.0), val.get("log_loss", float("inf")), backbone, head


def write(folder: Path, results: list[Result]) -> dict[str, Any]:
    """Write metrics.json, predictions.parquet, per_class.csv, confusion.csv, accuracy.csv, layers.csv."""
    summary = summarise(results)
    files.write_json(folder / "metrics.json", summary)
    _write_predictions(folder / "predictions.parquet", results)
    _write_per_class(folder / "per_class.csv", results)
    _write_plots(folder, results, summary)
    return summary


def _write_predictions(path: Path, results: list[Result]) -> None:
    batches = []
    for result in results:
        labels, scored, n = result.labels, result.scored, len(result.scored.y)
        known = scored.probabilities
        columns: list[Any] = [
            labels.path.tolist(),
            labels.sha256.astype("U64").tolist(),
            [str(result.split)] * n,
            labels.label.tolist(),
            [result.backbone] * n,
            [result.head] * n,
            [result.classes[code] for code in scored.predicted],
            [None] * n if known is None else known.max(axis=1).tolist(),
        ]
        arrays = [pa.array(c, f.type) for c, f in zip(columns, _PREDICTIONS, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=_PREDICTIONS))
    with files.replacing(path) as beside:
        pq.write_table(pa.Table.from_batches(batches, _PREDICTIONS), beside)


def _write_per_class(path: Path, results: list[Result]) -> None:
    rows = [
        {"backbone": result.backbone, "head": result.head, "split": str(result.split), **row}
        for result in results
        if len(result.scored.y)
        for row in metrics.per_class(result.scored, result.classes)
    ]
    columns = ["backbone", "head", "split", "class", "n", "precision", "recall"]
    files.write_csv(path, [*columns, "recall_low", "recall_high", "f1"], rows)


def _write_plots(folder: Path, results: list[Result], summary: dict[str, Any]) -> None:
    """What `dvc plots` draws: the best head's confusions and every head's accuracy, on test; the
    validation accuracy by layer.
    """
    best = summary.get("best", {})
    tests = [result for result in results if result.split == Split.TEST]
    confusion = [
        {"actual": actual, "predicted": result.classes[code]}
        for result in tests
        if (result.backbone, result.head) == (best.get("backbone"), best.get("head"))
        for actual, code in zip(result.labels.label, result.scored.predicted, strict=True)
    ]
    files.write_csv(folder / "confusion.csv", ["actual", "predicted"], confusion)
    accuracy = [
        {"model": f"{r.backbone} / {r.head}", "accuracy": metrics.accuracy(r.scored)}
        for r in tests
        if len(r.scored.y)
    ]
    files.write_csv(folder / "accuracy.csv", ["model", "accuracy"], accuracy)
    by_layer = [row for result in tests for row in _by_layer(result)]
    files.write_csv(folder / "layers.csv", LAYERS, by_layer)


def _by_layer(result: Result) -> Iterator[dict[str, Any]]:
    """Validation accuracy of each layer alone and of all joined, where a head saw several."""
    for one in result.by_layer:
        layer, (low, high) = " + ".join(one["layers"]), one["accuracy_ci95"]
        model = f"{result.backbone} / {result.head} / {layer}"  # one bar each
        figures = [one["accuracy"], low, high, model]
        yield dict(zip(LAYERS, [result.backbone, result.head, layer, *figures], strict=True))


def controls(results: Iterable[Result]) -> set[tuple[str, str]]:
    """(backbone, head) of those that are never the best."""
    return {(result.backbone, result.head) for result in results if result.control}


def describe(summary: dict[str, Any], controls: Collection[tuple[str, str]] = ()) -> str:
    """The table of heads for the terminal, best by validation first.

    Validation and test accuracy, its 95 % interval, the number of test images. controls: see
    `controls`; they are marked.
    """
    best = summary.get("best", {})
    named = [
        (backbone, head, splits)
        for backbone, of_backbone in summary.items()
        if backbone != "best"
        for head, splits in of_backbone.items()
    ]
    named.sort(key=lambda row: _order(row[2], row[0], row[1]))
    rows = [("backbone", "head", "val", "test", "95 % interval", "n", "")]
    for backbone, head, splits in named:
        mark = "control" if (backbone, head) in controls else ""
        if (backbone, head) == (best.get("backbone"), best.get("head")):
            mark = "best"
        rows.append((backbone, head, *_figures(splits), mark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _figures(splits: dict[str, Any]) -> tuple[str, str, str, str]:
    val, test = splits.get("val"), splits.get("test")
    shown = f"{val['accuracy']:.4f}" if val else "-"
    if not test:
        return shown, "-", "-", "0"
    low, high = test["accuracy_ci95"]
    return shown, f"{test['accuracy']:.4f}", f"{low:.4f} to {high:.4f}", str(test["n"])
