"""What a head is worth that abstains where it is not sure enough."""

from typing import Any

from pipeline.metrics.scored import Scored
from pipeline.metrics.shares import wilson


def abstention(scored: Scored, wanted: float, threshold: float | None) -> dict[str, Any]:
    """Figures of the images whose highest probability is `threshold` or more: those it answers.

    n: how many; coverage: their share; precision: the share of right answers, left out where it
    answers none; wanted: the precision that the threshold was chosen for, None where no threshold
    gives it: then it answers none.
    """
    answered = scored.known.max(axis=1) >= (2.0 if threshold is None else threshold)
    n, right = int(answered.sum()), int(scored.right[answered].sum())
    figures: dict[str, Any] = {"wanted": wanted, "threshold": threshold, "n": n}
    shares = [("precision", right, n)] if n else []
    for name, part, whole in (*shares, ("coverage", n, len(answered))):
        figures |= {name: part / whole, f"{name}_ci95": list(wilson(part, whole))}
    return figures
