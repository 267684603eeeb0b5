"""Linear classifiers and the small network, in ONNX operators: (N, D) -> an Answer."""

from typing import Any

import numpy as np

from pipeline.bundle.expressions.answers import Answer, as_logits, decided
from pipeline.bundle.nodes import Inexpressible, Nodes


def _decision(nodes: Nodes, classifier: Any, x: str) -> str:
    """(N, K), of two classes (N, 1)."""
    coef = np.atleast_2d(classifier.coef_)
    return nodes.affine(x, coef.T, np.broadcast_to(classifier.intercept_, len(coef)))


def probable(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """LogisticRegression and LDA: planes whose softmax are probabilities."""
    decision = _decision(nodes, classifier, x)
    return decided(nodes, decision, len(classifier.classes_), states=True)


def separating(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """LinearSVC and RidgeClassifier: planes without probabilities."""
    decision = _decision(nodes, classifier, x)
    return decided(nodes, decision, len(classifier.classes_), states=False)


def layered(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """MLPClassifier: rectified units, then a plane a class."""
    if classifier.activation != "relu":
        raise Inexpressible(f"no expression for units of kind {classifier.activation}")
    *hidden, last = zip(classifier.coefs_, classifier.intercepts_, strict=True)
    for weights, bias in hidden:
        x = nodes.add("Relu", nodes.affine(x, weights, bias))
    classes = len(classifier.classes_)
    made = nodes.softmax(as_logits(nodes, nodes.affine(x, *last), classes))
    return Answer(classes, probabilities=made)
