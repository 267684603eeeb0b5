"""The results of `python -m benchmarks.gpu`, as a page of markdown."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table import number

Row = Mapping[str, Any]

HEAD = (
    "backbone", "runtime", "precision", "batch", "device alone", "compiled / eager",
    "forward alone", "decode alone", "end to end", "/ forward", "/ slower of the two",
    "parity: cosine", "max d / RMS", "within",
)  # fmt: skip


def page(results: Mapping[str, Any]) -> str:
    """Results as `__main__` writes them -> markdown; rates in images a second."""
    lines = ["# On a GPU", "", _machine(results["machine"]), ""]
    lines += [f"* {note}" for note in results["notes"]]
    lines += ["", "| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    lines += ["| " + " | ".join(_cells(row)) + " |" for row in results["rows"]]
    lines += ["", "Verdicts, as the run itself says them:", "", *_verdicts(results["rows"]), ""]
    return "\n".join(lines)


def ratios(row: Row) -> dict[str, float]:
    """End to end over forward alone, and over the slower of forward and decode alone."""
    whole, forward, decode = (row[key] for key in ("end to end", "forward alone", "decode alone"))
    return {"/ forward": whole / forward, "/ slower of the two": whole / min(forward, decode)}


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['date']}, {machine['device']}, {machine['cpu']}, {machine['cores']} cores, "
        f"{versions}; {machine['seconds']:.0f} s."
    )


def _cells(row: Row) -> list[str]:
    if "error" in row:
        return [str(row[name]) for name in HEAD[:3]] + [""] * (len(HEAD) - 3)
    return [_cell(row.get(name, ""), name) for name in HEAD]


def _cell(value: object, name: str) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name == "parity: cosine" and isinstance(value, float):
        return f"{value:.7f}"
    if name == "max d / RMS" and isinstance(value, float):
        return f"{value:.1e}"
    return number(value) if isinstance(value, float | int) else str(value)


def _verdicts(rows: Sequence[Row]) -> list[str]:
    said = [(row, row.get("verdict") or row.get("error", "")) for row in rows]
    return [
        f"* {row['backbone']}, {row['runtime']}, {row['precision']}: {words}" for row, words in said
    ]
