"""Classifiers that measure distances, in ONNX operators: (N, D) -> an Answer."""

from itertools import combinations
from typing import Any

import numpy as np
from sklearn.preprocessing import normalize

from pipeline.bundle.expressions.answers import Answer, decided
from pipeline.bundle.expressions.steps import SHORT
from pipeline.bundle.nodes import Inexpressible, Nodes, Values
from pipeline.heads.neighbours import TEMPERATURE, similarity_weights


def _squared(nodes: Nodes, x: str, points: Values) -> str:
    """(N, M): squared distances of (N, D) to the points (M, D)."""
    points = np.asarray(points, dtype=np.float64)
    lengths = nodes.total(nodes.add("Mul", x, x))
    apart = nodes.affine(x, -2 * points.T, np.square(points).sum(axis=1))
    return nodes.add("Add", apart, lengths)


def by_mean(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """NearestMean: squared distances to the means, negative; of two classes their difference."""
    decision = nodes.add("Neg", _squared(nodes, x, classifier.means_))
    if (classes := len(classifier.classes_)) == 2:
        decision = nodes.add("MatMul", decision, nodes.real([[-1.0], [1.0]]))
    return decided(nodes, decision, classes, states=False)


def by_kernel(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """SVC with an RBF kernel: one against one, and of more than two classes their votes."""
    classes = len(classifier.classes_)
    shape, ties = classifier.decision_function_shape, classifier.break_ties
    if classifier.kernel != "rbf" or shape != "ovr" or not (ties or classes == 2):
        raise Inexpressible(
            f"no expression for a kernel {classifier.kernel}, {shape}, ties broken: {ties}"
        )
    squared = nodes.add("Max", _squared(nodes, x, classifier.support_vectors_), nodes.real(0.0))
    kernel = nodes.add("Exp", nodes.add("Mul", squared, nodes.real(-classifier._gamma)))  # noqa: SLF001
    if classes == 2:
        decision = nodes.affine(kernel, classifier.dual_coef_.T, classifier.intercept_)
    else:
        decision = _votes(nodes, _one_against_one(nodes, classifier, kernel), classes)
    return decided(nodes, decision, classes, states=False)


def _one_against_one(nodes: Nodes, classifier: Any, kernel: str) -> str:
    """(N, M) of the kernel -> (N, P), a decision for each pair of classes.

    Row j - 1 or j of the dual coefficients is that against class j, which has no row for its own.
    Each class's vectors are summed up against each other class by themselves: of all pairs most
    numbers would be zeros, and of some hundred classes more than memory holds.
    """
    classes, places = len(classifier.classes_), np.arange(len(classifier.support_vectors_))
    parts = []
    for own in np.split(places, np.cumsum(classifier.n_support_)[:-1]):
        some = nodes.add("Gather", kernel, nodes.constant(own), axis=1)
        dual = nodes.real(classifier.dual_coef_[:, own].T, "dual")
        parts.append(nodes.add("MatMul", some, dual))
    against = nodes.add("Concat", *parts, axis=1)  # (N, K * (K - 1))
    pairs = np.array(list(combinations(range(classes), 2)))
    first, second = pairs[:, 0], pairs[:, 1]
    ours = nodes.constant(first * (classes - 1) + second - 1)
    theirs = nodes.constant(second * (classes - 1) + first)
    both = (nodes.add("Gather", against, each, axis=1) for each in (ours, theirs))
    return nodes.add("Add", nodes.add("Add", *both), nodes.real(classifier.intercept_))


def _votes(nodes: Nodes, decision: str, classes: int) -> str:
    """(N, P) of pairs -> (N, K): votes, and between equal votes the sums of decisions."""
    place = np.zeros((classes, classes), np.int64)
    upper = np.triu_indices(classes, 1)
    place[upper] = np.arange(len(upper[0]))
    others = ~np.eye(classes, dtype=bool)
    places = nodes.constant((place + place.T)[others])  # (K * (K - 1),): each class's pairs
    sign = nodes.real(np.where(np.tri(classes, dtype=bool), -1, 1)[others], "sign")
    by_class = nodes.constant(np.array([0, classes, classes - 1], np.int64))
    flat = nodes.constant(np.array([0, classes], np.int64))

    def summed(pairs: str) -> str:
        each = nodes.add("Mul", nodes.add("Gather", pairs, places, axis=1), sign)
        return nodes.add("Reshape", nodes.total(nodes.add("Reshape", each, by_class), 2), flat)

    lost = nodes.cast(nodes.add("Less", decision, nodes.real(0.0)), nodes.dtype)
    start = nodes.real(np.arange(classes - 1, -1, -1))
    votes, sums = nodes.add("Sub", start, summed(lost)), summed(decision)
    size = nodes.add("Add", nodes.add("Abs", sums), nodes.real(1.0))
    return nodes.add("Add", votes, nodes.add("Div", sums, nodes.add("Mul", size, nodes.real(3.0))))


def by_neighbours(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """KNeighborsClassifier by cosine: the weights of the nearest, by class.

    The vectors that it was fitted on, of norm 1, are in the file.
    """
    if classifier.metric != "cosine" or classifier.weights is not similarity_weights:
        raise Inexpressible(
            f"no expression for neighbours by {classifier.metric}, weighted otherwise"
        )
    fitted, classes = normalize(classifier._fit_X), len(classifier.classes_)  # noqa: SLF001
    cosines = nodes.add("MatMul", nodes.unit(x, SHORT), nodes.real(fitted.T, "fitted"))
    count = int(classifier.n_neighbors)
    near, places = nodes.top(cosines, count)
    apart = nodes.add("Max", nodes.add("Sub", nodes.real(1.0), near), nodes.real(0.0))
    weights = nodes.add("Exp", nodes.add("Mul", apart, nodes.real(-1 / TEMPERATURE)))
    code = nodes.constant(np.asarray(classifier._y, dtype=np.int64)[:, None], "codes")  # noqa: SLF001
    each = nodes.constant(np.arange(classes, dtype=np.int64), "classes")
    is_of = nodes.add("Equal", nodes.add("Gather", code, places, axis=0), each)  # (N, k, K)
    row = nodes.add("Reshape", weights, nodes.constant(np.array([0, 1, count], np.int64)))
    found = nodes.add("MatMul", row, nodes.cast(is_of, nodes.dtype))  # (N, 1, K)
    by_class = nodes.add("Reshape", found, nodes.constant(np.array([0, classes], np.int64)))
    share = nodes.add("Div", by_class, nodes.total(by_class))
    return Answer(classes, probabilities=share)
