"""How the commands say things: sizes, counts, tables."""

from collections.abc import Sequence


def size(count: float) -> str:
    """Bytes in the largest unit that gives a number of at least 1: `57.6 kB`."""
    units = ["B", "kB", "MB", "GB", "TB"]
    while count >= 999.5 and len(units) > 1:
        count, units = count / 1000, units[1:]
    return f"{count:.3g} {units[0]}" if count else "0"


def millions(count: int) -> str:
    """How many parameters, for a column: `11.2 M`."""
    return f"{count / 1e6:,.1f} M" if count >= 50_000 else str(count)


def counted(count: int, noun: str) -> str:
    """A number and its noun: `1 shard`, `2 shards`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def seconds(count: float) -> str:
    """How many, as exactly as one wants to read it: `<0.1`, `3.4`, `210`."""
    return "0" if not count else "<0.1" if count < 0.1 else f"{count:.{1 if count < 10 else 0}f}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """The rows as lines, their columns as wide as the widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
