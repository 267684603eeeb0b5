"""The best and the table of heads for the terminal, from the content of metrics.json."""

from collections.abc import Collection
from typing import Any

from pipeline.comparison import LEVEL
from pipeline.evaluation.summary import FINETUNED, order


def headline(summary: dict[str, Any]) -> str:
    """The best by validation, in a line, and what prints the table."""
    best = summary.get("best")
    if best is None:
        return "no best: every head is a control; 'headstart results' prints the table"
    told = f"best by validation: {best['backbone']} / {best['head']}"
    if "accuracy" in best:
        low, high = best["accuracy_ci95"]
        told += f", test {best['accuracy']:.4f} ({low:.4f} to {high:.4f})"
    return f"{told}; 'headstart results' prints the table"


def describe(summary: dict[str, Any], controls: Collection[tuple[str, str]] = ()) -> str:
    """The table of heads for the terminal, best by validation first, and what transfer brings.

    Validation and test accuracy, its 95 % interval, the number of test images, and in points the
    difference from the best on the same ones, with its p value after Holm where it is not chance.
    controls: (backbone, head) of those that are never the best; they are marked.
    """
    best = summary.get("best", {})
    named = [
        (backbone, head, splits)
        for backbone, of_backbone in summary.items()
        if backbone != "best"
        for head, splits in of_backbone.items()
    ]
    named.sort(key=lambda row: order(row[2], row[0], row[1]))
    rows = [("backbone", "head", "val", "test", "95 % interval", "n", "vs best", "")]
    for backbone, head, splits in named:
        mark = "control" if (backbone, head) in controls else ""
        if (backbone, head) == (best.get("backbone"), best.get("head")):
            mark = "best"
        if FINETUNED in splits:
            mark = f"{mark}, fine-tuned".removeprefix(", ")
        rows.append((backbone, head, *_figures(splits), mark))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if "transfer" in best:
        lines.append(f"transfer: {best['transfer']['sentence']}")
    lines += [
        f"fine-tuning: {row[2][FINETUNED]['sentence']}" for row in named if FINETUNED in row[2]
    ]
    return "\n".join(lines)


def _figures(splits: dict[str, Any]) -> tuple[str, str, str, str, str]:
    val, test = splits.get("val"), splits.get("test")
    shown = f"{val['accuracy']:.4f}" if val else "-"
    if not test:
        return shown, "-", "-", "0", ""
    low, high = test["accuracy_ci95"]
    interval, n = f"{low:.4f} to {high:.4f}", str(test["n"])
    return shown, f"{test['accuracy']:.4f}", interval, n, _versus(test.get("versus_best"))


def _versus(found: dict[str, Any] | None) -> str:
    """-2.0 (p 0.03)"""
    if not found:
        return ""
    if found["verdict"] == "same":
        return "no difference shown"
    return f"{100 * found['difference']:+.1f} ({_p(found['p_holm'])})"


def _p(value: float) -> str:
    if value < 0.001:
        return "p < 0.001"
    short = f"{value:.2f}"
    return f"p {short}" if 0.01 <= float(short) < LEVEL else f"p {value:.3f}"
