"""How the report writes numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "\u2013"


def figure(value: float | None) -> str:
    """0.9444, as `dvc metrics show` and the stages print it; a dash for None."""
    return ABSENT if value is None else f"{value:.4f}"


def percent(share: float) -> str:
    """94.4 %, never broken over two lines"""
    return f"{100 * share:.1f}\u00a0%"


def count(number: int) -> str:
    """1,797"""
    return f"{number:,}"


def interval(values: tuple[float, float] | list[float] | None) -> str:
    """0.9218 to 0.9608; a dash for None."""
    return ABSENT if values is None else f"{figure(values[0])} to {figure(values[1])}"


def counted(number: int, noun: str, plural: str = "") -> str:
    """1 image, 2 images"""
    return f"{count(number)} {noun if number == 1 else plural or noun + 's'}"


def options(values: Mapping[str, Any]) -> str:
    """C = 0.5623, k = 20; a dash where there is none."""
    return ", ".join(f"{name} = {_short(value)}" for name, value in values.items()) or ABSENT


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flat(fields: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """A nested mapping as {dotted name: text}, sorted by name; lists joined by commas."""
    rows: dict[str, str] = {}
    for name, value in sorted(fields.items()):
        if isinstance(value, Mapping):
            rows.update(flat(value, f"{above}{name}."))
        else:
            rows[above + name] = (
                ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            )
    return rows


def points(difference: float) -> str:
    """+3.1, a difference of two shares in percentage points, with its sign; 0.0 has none."""
    text = _points(difference)
    return text if text.startswith("\u2212") or text == "0.0" else f"+{text}"


def bounds(values: Sequence[float]) -> str:
    """26.1 to 36.6, an interval of such a difference."""
    low, high = map(_points, values)
    return f"{low} to {high}"


def _points(share: float) -> str:
    return f"{round(100 * share, 1) + 0.0:.1f}".replace("-", "\u2212")


def probability(p: float) -> str:
    """0.031, of a test; below a thousandth only that it is."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
