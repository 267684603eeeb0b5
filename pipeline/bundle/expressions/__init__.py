"""STEPS and CLASSIFIERS: fitted scikit-learn estimators in plain ONNX operators, by their class.

One function and one line add one. Each is written as scikit-learn reckons, in the type of float
that the graph has; `pipeline.bundle.proof` compares the two before anything is kept.

    answers     what a classifier says, and what follows from it
    steps       what is done to the vectors first
    planes, distances, ensembles        the classifiers
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.calibration import CalibratedClassifierCV
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import StackingClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from pipeline.bundle.expressions import distances, ensembles, planes, steps
from pipeline.bundle.expressions.answers import Answer, logits
from pipeline.bundle.nodes import Inexpressible, Nodes
from pipeline.heads.discriminant import Discriminant
from pipeline.heads.ensembles import Softened
from pipeline.heads.neighbours import NearestMean
from pipeline.heads.network import Network

__all__ = ["CLASSIFIERS", "STEPS", "Answer", "expressed", "said_of", "transformed"]

STEPS: dict[type[Any], Callable[[Nodes, Any, str], str]] = {
    StandardScaler: steps.standardised,
    Normalizer: steps.normalised,
    PCA: steps.projected,
    FunctionTransformer: steps.rooted,
}

CLASSIFIERS: dict[type[Any], Callable[[Nodes, Any, str], Answer]] = {
    Pipeline: ensembles.piped,
    LogisticRegression: planes.probable,
    Discriminant: planes.probable,
    LinearSVC: planes.separating,
    RidgeClassifier: planes.separating,
    Network: planes.layered,
    SVC: distances.by_kernel,
    KNeighborsClassifier: distances.by_neighbours,
    NearestMean: distances.by_mean,
    VotingClassifier: ensembles.voting,
    StackingClassifier: ensembles.stacked,
    CalibratedClassifierCV: ensembles.calibrated,
    Softened: ensembles.softened,
    DummyClassifier: ensembles.constant,
}


def transformed(nodes: Nodes, step: Any, x: str) -> str:
    """What a fitted transformer makes of (N, D). Raises Inexpressible."""
    if type(step) not in STEPS:
        raise Inexpressible(f"no expression for {type(step).__name__}")
    return STEPS[type(step)](nodes, step, x)


def expressed(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """What a fitted classifier says of (N, D). Raises Inexpressible."""
    if type(classifier) not in CLASSIFIERS:
        raise Inexpressible(f"no expression for {type(classifier).__name__}")
    classes = np.asarray(classifier.classes_)
    if not np.array_equal(classes, np.arange(len(classes))):
        raise Inexpressible(f"its classes are {classes.tolist()}, not 0 to {len(classes) - 1}")
    return CLASSIFIERS[type(classifier)](nodes, classifier, x)


def said_of(
    nodes: Nodes, classifier: Any, x: str, temperature: float | None
) -> tuple[str, str | None]:
    """Label (N,) int64 and probabilities (N, K) or None, as `pipeline.prediction.predict` has them.

    Raises Inexpressible.
    """
    answer = expressed(nodes, classifier, x)
    probabilities = answer.probabilities
    if temperature is not None:
        raw = logits(nodes, answer)
        probabilities = nodes.softmax(nodes.add("Div", raw, nodes.real(temperature)))
    if probabilities is None:
        return nodes.add("ArgMax", logits(nodes, answer), axis=1, keepdims=0), None
    probabilities = nodes.add("Div", probabilities, nodes.total(probabilities))
    return nodes.add("ArgMax", probabilities, axis=1, keepdims=0), probabilities
