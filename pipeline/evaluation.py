"""A head on a split -> numbers with intervals, and which head is best."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, files, heads, metrics
from pipeline.dataset import Labels, Split
from pipeline.embeddings import Embeddings
from pipeline.errors import InputError, IntegrityError
from pipeline.metrics import Scored
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES

EVALUATED = (Split.VAL, Split.TEST)

_PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "split", "label")),
        *((name, pa.string()) for name in ("backbone", "head", "prediction")),
        ("probability", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Examples:
    """Labelled embeddings of one split, ordered by sha256, then path.

    labels: the rows; X: (N, D) float32.
    """

    labels: Labels
    X: npt.NDArray[np.float32]

    def codes(self, classes: tuple[str, ...]) -> npt.NDArray[np.int64]:
        """(N,) int64: each label's place in the sorted `classes`. Raises InputError."""
        place = {name: code for code, name in enumerate(classes)}
        unknown = sorted(set(self.labels.label) - set(place))
        if unknown:
            raise InputError(
                f"class {unknown[0]!r} has images in val or test, but no embedded one in train; "
                "add some or remove the class"
            )
        return np.array([place[label] for label in self.labels.label], dtype=np.int64)


@dataclass(frozen=True)
class Result:
    """One head on one split. control: never the best."""

    backbone: str
    head: str
    split: Split
    labels: Labels
    scored: Scored
    classes: tuple[str, ...]
    control: bool


def examples(labels: Labels, cached: Embeddings, split: Split) -> Examples:
    """The images of a split that have an embedding, joined by sha256."""
    chosen = labels.where(labels.split == split)
    rows = cached.rows(chosen.sha256)
    chosen, rows = chosen.where(rows >= 0), rows[rows >= 0]
    order = np.argsort(chosen.sha256, kind="stable")  # labels are sorted by path already
    return Examples(chosen.where(order), cached.take(rows[order]))


def predict(
    classifier: Any, X: npt.NDArray[np.float32]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64] | None]:
    """Predicted codes (N,) int64 and probabilities (N, K) float64, or None where it has none."""
    if len(X) == 0:
        return np.empty(0, np.int64), None
    if not hasattr(classifier, "predict_proba"):
        return np.asarray(classifier.predict(X), dtype=np.int64), None
    probabilities = np.asarray(classifier.predict_proba(X), dtype=np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)  # float32 rows miss 1 by a little
    return probabilities.argmax(axis=1).astype(np.int64), probabilities


def evaluate(artifacts: Path, backbones: Iterable[str], head_names: list[str]) -> list[Result]:
    """Every backbone and head of the run on val (fit on train) and test (fit on train + val).

    Raises IntegrityError where an artifact is not what its record says.
    """
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    results = list[Result]()
    for backbone in backbones:
        cached = embeddings.open(artifacts / "embeddings" / f"{backbone}.h5")
        splits = {split: examples(labels, cached, split) for split in EVALUATED}
        with threadpool_limits(1):  # the same bits whatever the machine's cores
            for head in head_names:
                results.extend(_of_head(artifacts / "heads" / backbone, head, cached, splits))
    return results


def _of_head(
    folder: Path, name: str, cached: Embeddings, splits: dict[Split, Examples]
) -> Iterator[Result]:
    fitted, record = heads.load(folder, name)
    if record.fingerprint != cached.fingerprint:
        raise IntegrityError(
            f"{folder / name}: fingerprint is {record.fingerprint}, the embeddings have "
            f"{cached.fingerprint}; run 'dvc repro train@{folder.name}-{name}'"
        )
    control = record.kind in CONTROL_KINDS or cached.source in CONTROL_SOURCES
    for split, fit in ((Split.VAL, fitted.train), (Split.TEST, fitted.train_val)):
        rows = splits[split]
        predicted, probabilities = predict(fit, rows.X)
        scored = Scored(rows.codes(fitted.classes), predicted, probabilities, len(fitted.classes))
        yield Result(folder.name, name, split, rows.labels, scored, fitted.classes, control)


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
    """Write metrics.json, predictions.parquet, per_class.csv, confusion.csv and accuracy.csv."""
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
    """What `dvc plots` draws: the best head's confusions and every head's accuracy, on test."""
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


def describe(summary: dict[str, Any]) -> str:
    """The table of heads for the terminal, best by validation first.

    Validation and test accuracy, its 95 % interval, the number of test images.
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
        mark = "best" if (backbone, head) == (best.get("backbone"), best.get("head")) else ""
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
