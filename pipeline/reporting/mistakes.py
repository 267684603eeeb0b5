"""Where the best head errs on the test images: confusions, classes, pictures."""

import math
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import files
from pipeline.reporting import pictures
from pipeline.reporting.pictures import Picture
from pipeline.reporting.reading import damaged, missing
from pipeline.reporting.records import Head, Run
from pipeline.reporting.wording import ABSENT, count, counted, figure, interval, percent

MATRIX_CLASSES = 30
"""Up to this many classes the whole confusion matrix is shown, above it the worst pairs."""
PAIRS = 30
PICTURES = 24
CLASS_ROWS = 1000
CLASS_FIGURES = ("n", "precision", "recall", "recall_low", "recall_high", "f1")
"""What of per_class.csv is shown."""
DECODERS = 4
"""Images decoded at once; each may take some hundred megabytes."""

Confusions = dict[tuple[str, str], int]
"""(label, prediction) -> number of test images."""


@dataclass(frozen=True)
class Cell:
    """A field of the confusion matrix. kind: hit, miss or none; heat: 0 to 1, as CSS has it."""

    text: str
    kind: str
    heat: str
    strong: bool
    hint: str


@dataclass(frozen=True)
class Matrix:
    """Confusions of few classes. rows: (label, cells in the order of classes)."""

    classes: list[str]
    rows: list[tuple[str, list[Cell]]]
    long_names: bool


@dataclass(frozen=True)
class Pair:
    """A label taken for another; share: of the label's test images."""

    label: str
    prediction: str
    count: str
    share: str


@dataclass(frozen=True)
class ClassRow:
    """A line of the table of classes. low, high, x: recall and its interval, in percent."""

    name: str
    figures: list[str]
    low: str
    high: str
    x: str


@dataclass(frozen=True)
class Mistake:
    """A test image the best head gets wrong, or all but right. picture: None where it is gone."""

    label: str
    prediction: str
    probability: str
    path: str
    picture: Picture | None


def describe(artifacts: Path, root: Path, run: Run) -> dict[str, Any]:
    """The template's `errors`: None without a best head or without test images."""
    if run.best is None or run.best.test is None:
        return {"errors": None}
    table = _predictions(artifacts / "evaluation" / "predictions.parquet", run.best)
    confusions = _confusions(table)
    wrong = table.filter(pc.not_equal(table["label"], table["prediction"]))
    few = len(run.classes) <= MATRIX_CLASSES
    rows = _class_rows(artifacts / "evaluation" / "per_class.csv", run.best)
    return {
        "errors": {
            "wrong": f"{count(wrong.num_rows)} of {counted(table.num_rows, 'test image')}",
            "one": wrong.num_rows == 1,
            "matrix": _matrix(run.classes, confusions) if few else None,
            "pairs": [] if few else _pairs(confusions),
            "classes": [_class_row(row) for row in (rows if few else _worst_first(rows))],
            "many_classes": not few,
            "more_classes": count(max(0, len(rows) - CLASS_ROWS)) if len(rows) > CLASS_ROWS else "",
            "pictures": _pictures(root, wrong),
            "sure": wrong["probability"].null_count < wrong.num_rows,
        }
    }


def _predictions(path: Path, head: Head) -> pa.Table:
    """The head's rows on test: path, sha256, label, prediction, probability."""
    columns = ["path", "sha256", "label", "prediction", "probability"]
    wanted = [("split", "=", "test"), ("backbone", "=", head.backbone), ("head", "=", head.name)]
    try:
        return pq.read_table(path, columns=columns, filters=wanted)
    except FileNotFoundError:
        raise missing(path, "evaluate") from None
    except (pa.ArrowException, OSError) as error:
        raise damaged(path, "evaluate", error) from None


def _confusions(table: pa.Table) -> Confusions:
    counted = table.group_by(["label", "prediction"]).aggregate([([], "count_all")])
    return {(row["label"], row["prediction"]): row["count_all"] for row in counted.to_pylist()}


def _matrix(classes: list[str], confusions: Confusions) -> Matrix:
    totals = _totals(confusions)
    rows = [
        (label, [_cell(label, other, confusions, totals[label]) for other in classes])
        for label in classes
    ]
    return Matrix(classes, rows, long_names=max(map(len, classes)) > 3)


def _cell(label: str, prediction: str, confusions: Confusions, total: int) -> Cell:
    number = confusions.get((label, prediction), 0)
    share = number / total if total else 0.0
    heat = share if label == prediction else math.sqrt(share)  # one mistake in 50 is to be seen
    kind = "none" if number == 0 else "hit" if label == prediction else "miss"
    hint = f"{label} taken for {prediction}: {count(number)} of {count(total)}"
    return Cell(count(number) if number else "", kind, f"{heat:.3f}", heat > 0.6, hint)


def _totals(confusions: Confusions) -> Counter[str]:
    totals = Counter[str]()
    for (label, _), number in confusions.items():
        totals[label] += number
    return totals


def _pairs(confusions: Confusions) -> list[Pair]:
    totals = _totals(confusions)
    wrong = [(number, *pair) for pair, number in confusions.items() if pair[0] != pair[1]]
    wrong.sort(key=lambda pair: (-pair[0], -pair[0] / totals[pair[1]], pair[1], pair[2]))
    return [
        Pair(label, prediction, count(number), percent(number / totals[label]))
        for number, label, prediction in wrong[:PAIRS]
    ]


def _class_rows(path: Path, head: Head) -> list[dict[str, Any]]:
    """The head's rows on test: class, and n, precision, recall, recall_low, … as numbers."""
    key = {"backbone": head.backbone, "head": head.name, "split": "test"}
    try:
        return [
            {"class": row["class"], **{name: float(row[name]) for name in CLASS_FIGURES}}
            for row in files.read_csv(path)
            if all(row[name] == value for name, value in key.items())
        ]
    except FileNotFoundError:
        raise missing(path, "evaluate") from None
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, "evaluate", error) from None


def _worst_first(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    order = sorted(rows, key=lambda row: (row["n"] == 0, row["f1"], row["class"]))
    return order[:CLASS_ROWS]


def _class_row(row: dict[str, Any]) -> ClassRow:
    seen, low, high = row["n"] > 0, row["recall_low"], row["recall_high"]
    known = [figure(row["recall"]), interval([low, high]), figure(row["f1"])]
    return ClassRow(
        name=row["class"],
        figures=[
            count(int(row["n"])),
            figure(row["precision"]),
            *(known if seen else [ABSENT] * len(known)),
        ],
        low=f"{100 * low:.2f}%",
        high=f"{100 * high:.2f}%",
        x=f"{100 * row['recall']:.2f}%" if seen else "",
    )


def _pictures(root: Path, wrong: pa.Table) -> list[Mistake]:
    """The surest mistakes; by path where the head has no probabilities."""
    surest = wrong.sort_by([("probability", "descending"), ("path", "ascending")])
    rows = surest.slice(0, PICTURES).to_pylist()
    with ThreadPoolExecutor(DECODERS) as pool:  # Pillow's decoders release the interpreter's lock
        made = list(
            pool.map(lambda row: pictures.thumbnail(root / row["path"], row["sha256"]), rows)
        )
    return [
        Mistake(
            label=row["label"],
            prediction=row["prediction"],
            probability="" if row["probability"] is None else figure(row["probability"]),
            path=row["path"],
            picture=picture,
        )
        for row, picture in zip(rows, made, strict=True)
    ]
