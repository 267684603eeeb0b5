"""The files of artifacts/evaluation/."""

from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import comparison, files, metrics
from pipeline.comparison import Answers, Matrix, Pair
from pipeline.dataset import Split
from pipeline.evaluation import groups
from pipeline.evaluation.results import Result
from pipeline.evaluation.summary import order, summarise, transfers_of

LAYERS = ("backbone", "head", "layer", "accuracy", "low", "high", "model")
"""Columns of layers.csv; `model` is what DVC's plot is labelled with."""
ALL_PAIRS = 30
"""Heads up to which comparisons.csv has every pair; of more, those with the best."""
COMPARISONS = (
    *("backbone", "head", "versus_backbone", "versus_head", "n", "only_this", "only_versus"),
    *("difference", "low", "high", "p", "p_holm"),
)
RELIABILITY = ("backbone", "head", "split", "bin", "confidence", "accuracy", "n")

_PREDICTIONS = pa.schema(
    [
        *((name, pa.string()) for name in ("path", "sha256", "split", "label")),
        *((name, pa.string()) for name in ("backbone", "head", "prediction")),
        ("probability", pa.float64()),
    ]
)


def write(folder: Path, results: list[Result]) -> dict[str, Any]:
    """Write metrics.json and all beside it; returns what metrics.json has."""
    transfers = transfers_of(results)
    summary = summarise(results, transfers)
    files.write_json(folder / "metrics.json", summary)
    files.write_json(folder / "transfer.json", transfers)
    write_predictions(folder / "predictions.parquet", results)
    tests = [r for r in results if r.split == Split.TEST and len(r.scored.y)]
    best = summary.get("best", {})
    chosen = [r for r in results if r.name == (best.get("backbone"), best.get("head"))]
    tables = {
        "per_class": (("backbone", "head", "split", *metrics.PER_CLASS), _per_class(results)),
        "groups": (groups.COLUMNS, groups.rows(results)),
        "comparisons": (COMPARISONS, _comparisons(tests, summary)),
        "confusion": (("actual", "predicted"), _confusion(chosen)),
        "accuracy": (("model", "accuracy"), map(_accuracy, tests)),
        "reliability": (RELIABILITY, _reliability(chosen)),
        "layers": (LAYERS, _layers(results)),
    }
    for name, (columns, rows) in tables.items():
        files.write_csv(folder / f"{name}.csv", columns, rows)
    return summary


def write_predictions(path: Path, results: list[Result]) -> None:
    """Write a predictions.parquet: a row an image and head, in the order of the results."""
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


def _per_class(results: list[Result]) -> Iterator[dict[str, Any]]:
    for result in results:
        of = {"backbone": result.backbone, "head": result.head, "split": str(result.split)}
        if len(result.scored.y):
            yield from ({**of, **row} for row in metrics.per_class(result.scored, result.classes))


def _comparisons(tests: list[Result], summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Each pair of heads on the test images of both, the one better by validation as `versus`."""
    best = summary.get("best", {})

    def place(result: Result) -> tuple[Any, ...]:
        is_best = result.name == (best.get("backbone"), best.get("head"))
        return not is_best, *order(summary[result.backbone][result.head], *result.name)

    tests = sorted(tests, key=place)
    matrix = Matrix([Answers(r.labels.path, r.scored.right) for r in tests])
    wanted = list(combinations(range(len(tests)), 2))
    if len(tests) > ALL_PAIRS:
        wanted = [(first, other) for first, other in wanted if first == 0 and best]
    pairs = [(other, first, matrix.pair(other, first)) for first, other in wanted]
    shared = [(tests[this], tests[other], pair) for this, other, pair in pairs if pair]
    adjusted = comparison.holm([pair.p for _, _, pair in shared])
    return [_comparison(*one, p) for one, p in zip(shared, adjusted, strict=True)]


def _comparison(this: Result, other: Result, pair: Pair, p_holm: float) -> dict[str, Any]:
    counts = (pair.n, pair.only_this, pair.only_other)
    figures = (pair.difference, *pair.interval, pair.p, p_holm)
    return dict(zip(COMPARISONS, (*this.name, *other.name, *counts, *figures), strict=True))


def _confusion(chosen: list[Result]) -> Iterator[dict[str, Any]]:
    """The best head's answers on test, one an image."""
    for result in chosen:
        if result.split == Split.TEST:
            pairs = zip(result.labels.label, result.scored.predicted, strict=True)
            yield from ({"actual": a, "predicted": result.classes[code]} for a, code in pairs)


def _accuracy(result: Result) -> dict[str, Any]:
    model = f"{result.backbone} / {result.head}"
    return {"model": model, "accuracy": metrics.accuracy(result.scored)}


def _reliability(chosen: list[Result]) -> Iterator[dict[str, Any]]:
    """The best head's bins that have an image, on test, or on val where none is in test."""
    told = [r for r in chosen if len(r.scored.y) and r.scored.probabilities is not None]
    for result in [r for r in told if r.split == Split.TEST] or told:
        of = (result.backbone, result.head, str(result.split))
        bins = metrics.reliability(result.scored)
        for number, n in enumerate(bins.n.tolist()):
            if n:
                shares = (float(bins.confidence[number] / n), float(bins.right[number] / n))
                yield dict(zip(RELIABILITY, (*of, number, *shares, n), strict=True))


def _layers(results: list[Result]) -> Iterator[dict[str, Any]]:
    """Validation accuracy of each layer alone and of all joined, where a head saw several."""
    for result in results:
        for one in result.by_layer if result.split == Split.TEST else ():
            layer, (low, high) = " + ".join(one["layers"]), one["accuracy_ci95"]
            model = f"{result.backbone} / {result.head} / {layer}"  # one bar each
            figures = [one["accuracy"], low, high, model]
            yield dict(zip(LAYERS, [*result.name, layer, *figures], strict=True))
