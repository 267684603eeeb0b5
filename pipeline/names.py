"""Names that users give: what one is made of, and the words for one that is not known."""

import difflib
import re
from collections.abc import Iterable

NAME = re.compile(r"[a-z0-9_]+")
"""What the names under backbones and heads are made of."""


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The words for a name that is not known, the near miss named, or all that are."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        return f"unknown {what} {name!r}; did you mean {' or '.join(map(repr, near))}?"
    return f"unknown {what} {name!r}; choose one of: {', '.join(names) or '(none)'}"
