"""The content of metrics.json: every head's figures, the best, how each compares with it."""

from collections.abc import Sequence
from typing import Any

from pipeline import comparison, metrics, transfer
from pipeline.comparison import Answers, Matrix
from pipeline.dataset import Split
from pipeline.evaluation import groups, worth
from pipeline.evaluation.results import Result
from pipeline.finetuned import KIND
from pipeline.params import CONTROL_KINDS
from pipeline.transfer import Contender

Table = dict[str, Any]
"""Backbone -> head -> split -> figures."""

FINETUNED = "finetuned"
"""What a fine-tuned model has beside its splits; see `worth.judged`."""

Order = tuple[float, bool, float, str, str]


def summarise(results: list[Result], transfers: Sequence[dict[str, Any]] | None = None) -> Table:
    """The content of metrics.json; it has no `best` where every head is a control.

    transfers: of `transfers(results)`, where they are at hand.
    """
    table: Table = {}
    for result in results:
        if len(result.scored.y):
            of_head = table.setdefault(result.backbone, {}).setdefault(result.head, {})
            of_head[str(result.split)] = _figures(result)
    for (backbone, name), verdict in worth.judged(results).items():
        table.setdefault(backbone, {}).setdefault(name, {})[FINETUNED] = verdict
    best = _best(results, table)
    if not best:
        return table
    _compare(table, results, (best["backbone"], best["head"]))
    judged = transfers_of(results) if transfers is None else transfers
    for one in judged:
        if one["backbone"] == best["backbone"]:
            best["transfer"] = {name: one[name] for name in ("verdict", "sentence")}
    return {**table, "best": best}


def _figures(result: Result) -> dict[str, Any]:
    figures = {**metrics.score(result.scored), **result.uncalibrated}
    if result.abstention:
        figures["abstention"] = dict(result.abstention)
    if worst := groups.worst(result):
        figures["worst_group"] = worst
    return figures


def _best(results: list[Result], table: Table) -> dict[str, Any] | None:
    """Highest validation accuracy, then lower validation log loss, then name.

    Of a head and a fine-tuned model that are equal the head: it is cheaper, and the model's figure
    is of the images that told it when to stop.
    """
    names = {result.name for result in _scored(results, Split.VAL) if not result.control}
    if not names:
        return None
    backbone, head = min(names, key=lambda name: order(table[name[0]][name[1]], *name))
    chosen = table[backbone][head]
    best = {"backbone": backbone, "head": head, "val_accuracy": chosen["val"]["accuracy"]}
    if "test" in chosen:
        best["accuracy"] = chosen["test"]["accuracy"]
        best["accuracy_ci95"] = chosen["test"]["accuracy_ci95"]
    return best


def order(splits: dict[str, Any], backbone: str, head: str) -> Order:
    """The lower, the better by validation. splits: of metrics.json."""
    val = splits.get("val", {})
    loss = val.get("log_loss", float("inf"))
    return -val.get("accuracy", 0.0), FINETUNED in splits, loss, backbone, head


def _scored(results: list[Result], split: Split) -> list[Result]:
    return [result for result in results if result.split == split and len(result.scored.y)]


def _answers(result: Result) -> Answers:
    return Answers(result.labels.path, result.scored.right)


def _compare(table: Table, results: list[Result], best: tuple[str, str]) -> None:
    """Put `versus_best` into the test figures of every other head."""
    tests = _scored(results, Split.TEST)
    names = [result.name for result in tests]
    if best not in names:
        return
    matrix, place = Matrix([_answers(result) for result in tests]), names.index(best)
    pairs = {name: matrix.pair(at, place) for at, name in enumerate(names) if name != best}
    shared = {name: pair for name, pair in pairs.items() if pair}
    adjusted = comparison.holm([pair.p for pair in shared.values()])
    for ((backbone, head), pair), p in zip(shared.items(), adjusted, strict=True):
        table[backbone][head]["test"]["versus_best"] = comparison.figures(pair, p)


def transfers_of(results: list[Result]) -> list[dict[str, Any]]:
    """The content of transfer.json; on validation images where none is in test."""
    split = Split.TEST if _scored(results, Split.TEST) else Split.VAL
    by_val = {result.name: _by_validation(result) for result in _scored(results, Split.VAL)}
    contenders = [
        Contender(
            *(result.backbone, result.head, result.source, by_val[result.name]),
            *(result.scored.y, result.scored.predicted, _answers(result)),
        )
        for result in _scored(results, split)
        if result.kind not in {*CONTROL_KINDS, KIND} and result.name in by_val
    ]
    return transfer.judge(contenders, split=str(split))


def _by_validation(result: Result) -> Order:
    figures = {"accuracy": metrics.accuracy(result.scored)}
    if result.scored.probabilities is not None:
        figures["log_loss"] = metrics.log_loss(result.scored)
    return order({"val": figures}, *result.name)
