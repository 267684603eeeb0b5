"""What a classifier answers with in a graph, and what follows from one answer for another."""

from dataclasses import dataclass

import numpy as np

from pipeline.bundle.nodes import Nodes

_LEAST_LOGIT = float(np.log(np.finfo(np.float64).tiny))
"""Of a class whose probability is 0; see `pipeline.prediction.logits`."""


@dataclass(frozen=True)
class Answer:
    """Names of tensors; what nobody asks for is left out of the file in the end.

    classes: K; decision: (N, K), of two classes (N, 1), None where there is no decision function;
    probabilities: (N, K), None where it has none of its own.
    """

    classes: int
    decision: str | None = None
    probabilities: str | None = None


def pair(nodes: Nodes, decision: str, first: float = 0.0) -> str:
    """(N, 1) -> (N, 2): `first` times it, and itself."""
    return nodes.add("MatMul", decision, nodes.real([[first, 1.0]]))


def as_logits(nodes: Nodes, decision: str, classes: int) -> str:
    """A decision as (N, K) numbers whose softmax is its probabilities."""
    return pair(nodes, decision) if classes == 2 else decision


def logits(nodes: Nodes, answer: Answer) -> str:
    """(N, K), as `pipeline.prediction.logits` has them."""
    if answer.decision is not None:
        return as_logits(nodes, answer.decision, answer.classes)
    logarithm = nodes.add("Log", known(answer))
    return nodes.add("Max", logarithm, nodes.real(_LEAST_LOGIT))


def known(answer: Answer) -> str:
    """The probabilities, of who has some."""
    if answer.probabilities is None:
        raise TypeError("a classifier without probabilities was asked for them")
    return answer.probabilities


def decided(nodes: Nodes, decision: str, classes: int, *, states: bool) -> Answer:
    """Of a decision function; states: whether its softmax are the classifier's probabilities."""
    made = nodes.softmax(as_logits(nodes, decision, classes)) if states else None
    return Answer(classes, decision, made)
