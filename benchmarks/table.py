"""Rows of results, what was expected of them, and the page they are shown on."""

import operator
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Row = dict[str, Any]

HEAD = (
    "what", "unit", "expected", "median", "runs", "beside", "median beside", "runs beside",
    "ratio", "met", "note",
)  # fmt: skip
_EXPECTED = re.compile(r"(median|ratio) (<=|>=|<|>) (\d+(?:\.\d+)?)")
_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, ">": operator.gt}


def row(
    what: str,
    runs: Sequence[float],
    *,
    unit: str = "s",
    expected: str = "",
    beside: str = "",
    beside_runs: Sequence[float] = (),
    note: str = "",
) -> Row:
    """A line of the table. ratio: the median of `runs` over that of `beside_runs`.

    expected: empty or `median <= 2`, `ratio >= 0.97` and the like, written before measuring.
    """
    made: Row = {"what": what, "unit": unit, "expected": expected, "note": note, "beside": beside}
    made |= {"runs": list(runs), "runs beside": list(beside_runs)}
    if runs:
        made["median"] = statistics.median(runs)
    if beside_runs:
        made["median beside"] = statistics.median(beside_runs)
    if runs and beside_runs:
        made["ratio"] = made["median"] / made["median beside"]
    return made | {"met": met(made)}


def met(row: Row) -> str:
    """`yes` or `no`; empty where nothing was expected, `not shown` without a figure."""
    if not row["expected"]:
        return ""
    parts = _EXPECTED.fullmatch(row["expected"])
    if parts is None:
        raise ValueError(f"cannot read the expectation {row['expected']!r}")
    name, sign, limit = parts.groups()
    if name not in row:
        return "not shown"
    return "yes" if _COMPARE[sign](row[name], float(limit)) else "no"


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    size = abs(value)
    return f"{value:.0f}" if size >= 100 else f"{value:.3g}" if size >= 0.001 else f"{value:.4f}"


def page(parts: Mapping[str, Mapping[str, Any]]) -> str:
    """Markdown: a section a part, in the order given. See `python -m benchmarks` for `parts`."""
    lines = [
        "# Results",
        "",
        "What each row means: [docs/benchmarks.md](../docs/benchmarks.md).",
        "",
    ]
    for name, part in parts.items():
        lines += [f"## {name}", "", _machine(part["machine"]), "", *_rows(part["rows"]), ""]
    return "\n".join(lines)


def _machine(machine: Mapping[str, Any]) -> str:
    named = {"Python": machine["python"], **machine.get("versions", {})}
    versions = ", ".join(f"{name} {version}" for name, version in named.items())
    took = f"; {machine['seconds']:.0f} s" if "seconds" in machine else ""
    return f"{machine['date']}, {machine['cpu']}, {machine['cores']} cores, {versions}{took}."


def _rows(rows: Sequence[Row]) -> list[str]:
    shown = [name for name in HEAD if any(row.get(name) not in ("", [], None) for row in rows)]
    return [
        "| " + " | ".join(shown) + " |",
        "|" + " --- |" * len(shown),
        *("| " + " | ".join(_cell(row.get(name, "")) for name in shown) + " |" for row in rows),
    ]


def _cell(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(number, value))
    return number(value) if isinstance(value, float | int) else str(value).replace("|", "\\|")
