"""Classifiers made of others, and one that says the same of every image, in ONNX operators."""

from functools import reduce
from typing import Any

import numpy as np

from pipeline.bundle.expressions.answers import Answer, known, logits, pair
from pipeline.bundle.nodes import Inexpressible, Nodes


def piped(nodes: Nodes, pipeline: Any, x: str) -> Answer:
    """Pipeline: its steps, then its classifier."""
    from pipeline.bundle.expressions import expressed, transformed

    *steps, (_, classifier) = pipeline.steps
    for _, step in steps:
        x = transformed(nodes, step, x)
    return expressed(nodes, classifier, x)


def voting(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """VotingClassifier: the mean of the members' probabilities."""
    from pipeline.bundle.expressions import expressed

    if classifier.voting != "soft" or classifier.weights is not None:
        raise Inexpressible("no expression for a vote of labels, or of unequal weights")
    answers = [expressed(nodes, member, x) for member in classifier.estimators_]
    mean = _mean(nodes, [known(answer) for answer in answers])
    return Answer(len(classifier.classes_), probabilities=mean)


def stacked(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """StackingClassifier: a classifier on what the members say.

    Of two classes the probability of the second alone, since the first's follows from it.
    """
    from pipeline.bundle.expressions import expressed

    if classifier.passthrough:
        raise Inexpressible("no expression for a stack that sees the vectors too")
    said = []
    for member, method in zip(classifier.estimators_, classifier.stack_method_, strict=True):
        answer = expressed(nodes, member, x)
        if method == "decision_function" and answer.decision is not None:
            said.append(answer.decision)
        elif method == "predict_proba":
            said.append(_without_first(nodes, answer))
        else:
            raise Inexpressible(f"no expression for a stack of what members {method}")
    return expressed(nodes, classifier.final_estimator_, nodes.add("Concat", *said, axis=1))


def _without_first(nodes: Nodes, answer: Answer) -> str:
    if answer.classes > 2:
        return known(answer)
    return nodes.add("MatMul", known(answer), nodes.real([[0.0], [1.0]]))


def softened(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """Softened: the softmax of a decision function."""
    from pipeline.bundle.expressions import expressed

    answer = expressed(nodes, classifier.estimator_, x)
    return Answer(answer.classes, probabilities=nodes.softmax(logits(nodes, answer)))


def calibrated(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """CalibratedClassifierCV by temperature: of two classes it takes the decision both ways."""
    from pipeline.bundle.expressions import expressed

    made = []
    for each in classifier.calibrated_classifiers_:
        answer = expressed(nodes, each.estimator, x)
        if each.method != "temperature" or answer.decision is None:
            raise Inexpressible(f"no expression for a calibration by {each.method}")
        decision = answer.decision
        both = pair(nodes, decision, -1.0) if answer.classes == 2 else decision
        sharp = nodes.real(float(each.calibrators[0].beta_))
        made.append(nodes.softmax(nodes.add("Mul", both, sharp)))
    return Answer(len(classifier.classes_), probabilities=_mean(nodes, made))


def _mean(nodes: Nodes, parts: list[str]) -> str:
    total = reduce(lambda left, right: nodes.add("Add", left, right), parts)
    return nodes.add("Div", total, nodes.real(float(len(parts)))) if parts[1:] else total


def constant(nodes: Nodes, classifier: Any, x: str) -> Answer:
    """DummyClassifier: the shares of the classes, once an image."""
    if classifier.strategy != "prior":
        raise Inexpressible(f"no expression for a dummy of strategy {classifier.strategy}")
    first, one = (nodes.constant(np.array([number], np.int64)) for number in (0, 1))
    rows = nodes.add("Gather", nodes.add("Shape", x), first, axis=0)
    shape = nodes.add("Concat", rows, one, axis=0)
    prior = nodes.real(np.asarray(classifier.class_prior_)[None, :])
    return Answer(len(classifier.classes_), probabilities=nodes.add("Expand", prior, shape))
