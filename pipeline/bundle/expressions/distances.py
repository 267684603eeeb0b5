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
    decision = nodes.affine(kernel, _one_against_one(classifier), classifier.intercept_)
    if classes > 2:
        decision = _votes(nodes, decision, classes)
    return decided(nodes, decision, classes, states=False)


def _one_against_one(classifier: Any) -> Values:
    """(M, P): what each support vector counts for each pair of classes.

    Row j - 1 or j of its dual coefficients is that against class j, which has no row for its own.
    """
    dual, counts = classifier.dual_coef_, classifier.n_support_
    if len(classifier.classes_) == 2:
        return np.asarray(dual.T)
    of_class = np.repeat(np.arange(len(counts)), counts)
    columns = []
    for first, second in combinations(range(len(counts)), 2):
        column = np.where(of_class == first, dual[second - 1], 0.0)
        columns.append(np.where(of_class == second, dual[first], column))
    return np.stack(columns, axis=1)


def _votes(nodes: Nodes, decision: str, classes: int) -> str:
    """(N, P) of pairs -> (N, K): votes, and between equal votes the sums of decisions."""
    pairs = list(combinations(range(classes), 2))
    against, start = np.zeros((len(pairs), classes)), np.zeros(classes)
    for place, (first, second) in enumerate(pairs):
        against[place, first], against[place, second] = -1, 1
        start[first] += 1
    lost = nodes.add("Less", decision, nodes.real(0.0))
    votes = nodes.affine(nodes.cast(lost, nodes.dtype), against, start)
    sums = nodes.add("MatMul", decision, nodes.real(-against))
    size = nodes.add("Add", nodes.add("Abs", sums), nodes.real(1.0))
    share = nodes.add("Div", sums, nodes.add("Mul", size, nodes.real(3.0)))
    return nodes.add("Add", votes, share)


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
    near, places = nodes.top(cosines, int(classifier.n_neighbors))
    apart = nodes.add("Max", nodes.add("Sub", nodes.real(1.0), near), nodes.real(0.0))
    weights = nodes.add("Exp", nodes.add("Mul", apart, nodes.real(-1 / TEMPERATURE)))
    code = nodes.constant(np.asarray(classifier._y, dtype=np.int64)[:, None], "codes")  # noqa: SLF001
    each = nodes.constant(np.arange(classes, dtype=np.int64), "classes")
    is_of = nodes.add("Equal", nodes.add("Gather", code, places, axis=0), each)  # (N, k, K)
    row = nodes.add("Reshape", weights, nodes.constant(np.array([0, 1, -1], np.int64)))
    found = nodes.add("MatMul", row, nodes.cast(is_of, nodes.dtype))  # (N, 1, K)
    by_class = nodes.add("Reshape", found, nodes.constant(np.array([-1, classes], np.int64)))
    share = nodes.add("Div", by_class, nodes.total(by_class))
    return Answer(classes, probabilities=share)
