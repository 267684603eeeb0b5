"""Fitted heads in ONNX operators: every kind, every enhancement, against scikit-learn."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, Normalizer
from sklearn.svm import SVC

from pipeline import embeddings, selection
from pipeline.bundle import assembly, expressions, graph, proof
from pipeline.bundle.choice import Parts
from pipeline.bundle.nodes import Inexpressible
from pipeline.heads import ENHANCEMENTS, HEADS, Fitted, Record
from pipeline.params import HeadParams
from pipeline.prediction import predict
from tests.bundle_desk import network
from tests.contracts_heads import embed, fit_in_folds, toy, toy_labels, toy_vectors

CLASSES = (2, 3, 5)


@cache
def data(classes: int, folder) -> tuple[Any, embeddings.Embeddings]:
    """Overlapping classes of 20 dimensions, not all of one size and place."""
    labels = toy_labels(40 * classes, classes)
    X = toy_vectors(labels, 20, apart=0.7) * np.geomspace(0.1, 10, 20) + np.linspace(-3, 3, 20)
    return labels, embed(folder / f"{classes}.h5", labels, X.astype(np.float32))


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("bundle_heads")


@cache
def trained(kind: str, classes: int, folder, calibrate: bool | None = None, **options):
    labels, cached = data(classes, folder)
    return selection.train(
        kind, HeadParams(kind=kind, calibrate=calibrate, **options), labels, cached
    )


def parts_of(fitted: Fitted, record: Record, cached) -> Parts:
    return Parts(None, cached, fitted, record)


@dataclass(frozen=True)
class Bare:
    """As much of a record as a proof needs."""

    kind: str
    layers: tuple[str, ...] = ()


def proven(parts: Parts, dtype: str = "float32", opset: int = 18) -> proof.Figures:
    """A head's graph, checked by onnx and compared on all cached rows."""
    made = assembly.head(
        parts.fitted.train_val,
        parts.fitted.temperature,
        dim=parts.dim,
        dtype=dtype,
        like=network(opset=opset),
    )
    onnx.checker.check_model(made, full_check=True)
    assert {node.domain for node in made.graph.node} == {""}
    rows = np.arange(len(parts.cached.sha256))
    return proof.against_scikit_learn(graph.content_of(made), parts, rows)


@pytest.mark.parametrize("calibrate", [None, True, False])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("kind", HEADS)
def test_head__of_every_kind__says_in_float32_what_scikit_learn_says(
    kind, classes, calibrate, folder
):
    fitted, record = trained(kind, classes, folder, calibrate)
    cached = data(classes, folder)[1]
    parts = parts_of(fitted, record, cached)
    if (kind, classes) == ("ridge", 3) and fitted.temperature is not None:
        assert fitted.temperature < 1e-4
        return beyond_float32(parts)
    found = proven(parts)
    linear = kind in ("logistic", "linear_svm", "ridge", "lda")
    assert found.tolerance == (1e-5 if linear else 1e-4)
    assert (found.rows, found.labels, found.undecided) == (40 * classes, 0, 0)
    assert found.most <= found.tolerance
    return None


def beyond_float32(parts: Parts) -> None:
    """Its decisions differ by so little that scikit-learn's own float32 is not near enough."""
    with pytest.raises(Inexpressible, match="from scikit-learn's"):
        proven(parts)
    found = proven(parts, "float64")
    assert 0 < found.undecided < found.rows


@pytest.mark.parametrize("kind", HEADS)
def test_head__in_float64__is_closer_still(kind, folder):
    fitted, record = trained(kind, 5, folder, True)
    found = proven(parts_of(fitted, record, data(5, folder)[1]), "float64")
    assert found.most <= 2e-6  # scikit-learn's own float32


@pytest.mark.parametrize("opset", [11, 13, 15, 20])
@pytest.mark.parametrize("kind", HEADS)
def test_head__in_older_and_newer_operators__says_the_same(kind, opset, folder):
    fitted, record = trained(kind, 5, folder)
    assert proven(parts_of(fitted, record, data(5, folder)[1]), opset=opset).labels == 0


def test_head__in_operators_too_old__says_what_to_do(folder):
    fitted, record = trained("logistic", 3, folder)
    with pytest.raises(Inexpressible, match="opset 9, and heads are written in 11 or later"):
        proven(parts_of(fitted, record, data(3, folder)[1]), opset=9)


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_ensemble__fitted_in_folds__is_proven(kind):
    fitted = Fitted(("a", "b", "c"), *2 * [fit_in_folds(kind)])
    assert proven(parts_of(fitted, Bare(kind), toy()[1])).undecided == 0


@pytest.mark.parametrize("members", [["ridge", "mlp"], ["nearest_mean", "lda", "dummy"]])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_ensemble__of_other_members__is_proven(kind, classes, members, folder):
    labels, cached = data(classes, folder)
    entry = HeadParams(kind=kind, members=members)
    assert proven(parts_of(*selection.train(kind, entry, labels, cached), cached)).labels == 0


@pytest.mark.parametrize("name", ENHANCEMENTS)
@pytest.mark.parametrize("kind", ["logistic", "rbf_svm"])
def test_enhancement__every_one__is_proven(kind, name, folder):
    labels, cached = data(3, folder)
    entry = HeadParams(kind=kind, C=1.0, enhance=f"{name}:6" if name in ("pca", "whiten") else name)
    fitted, record = selection.train(kind, entry, labels, cached)
    assert len(fitted.train_val.steps) == (1 if name == "none" else 2)
    assert proven(parts_of(fitted, record, cached)).labels == 0


def test_enhancements__one_after_another__are_proven(folder):
    labels, cached = data(3, folder)
    entry = HeadParams(kind="logistic", C=1.0, enhance=["power", "centre", "whiten:9", "l2"])
    assert proven(parts_of(*selection.train("logistic", entry, labels, cached), cached)).rows == 120


def test_neighbours__fewer_rows_than_k__are_proven(tmp_path):
    labels = toy_labels(10, 2)
    cached = embed(tmp_path / "few.h5", labels, toy_vectors(labels, 4))
    made = selection.train("knn", HeadParams(kind="knn", k=200), labels, cached)
    assert proven(parts_of(*made, cached)).labels == 0


def test_vectors_of_zeros__stay__where_they_are_brought_to_norm_1(tmp_path):
    labels = toy_labels(20, 2)
    X = toy_vectors(labels, 4)
    X[3] = 0
    cached = embed(tmp_path / "zero.h5", labels, X)
    for kind in ("nearest_mean", "knn"):
        made = selection.train(kind, HeadParams(kind=kind, enhance="l2"), labels, cached)
        assert proven(parts_of(*made, cached)).labels == 0


def broken_scale(nodes, step, x):
    return nodes.add("Sub", x, nodes.real(step.mean_))


def broken_bias(nodes, classifier, x):
    coef = np.atleast_2d(classifier.coef_)
    decision = nodes.affine(x, coef.T, classifier.intercept_ + 1e-4 * np.arange(len(coef)))
    return expressions.answers.decided(nodes, decision, len(classifier.classes_), states=True)


@pytest.mark.parametrize(
    ("table", "broken"),
    [("STEPS", broken_scale), ("CLASSIFIERS", broken_bias)],
)
def test_proof__wrong_expression__is_caught_with_the_figure(table, broken, folder, monkeypatch):
    fitted, record = trained("logistic", 3, folder)
    kind = type(fitted.train_val[0 if table == "STEPS" else -1])
    monkeypatch.setitem(getattr(expressions, table), kind, broken)
    with pytest.raises(Inexpressible, match="lie .*e.* from scikit-learn's, at most 1e-05"):
        proven(parts_of(fitted, record, data(3, folder)[1]))


def test_proof__labels_of_a_head_without_probabilities__are_compared(folder, monkeypatch):
    fitted, record = trained("linear_svm", 3, folder, False)
    kind = type(fitted.train_val[-1])
    monkeypatch.setitem(expressions.CLASSIFIERS, kind, lambda nodes, classifier, x: (
        expressions.answers.Answer(3, nodes.add("Neg", expressions.planes.separating(
            nodes, classifier, x).decision))))  # fmt: skip
    with pytest.raises(Inexpressible, match=r"\d+ labels of it are not scikit-learn's"):
        proven(parts_of(fitted, record, data(3, folder)[1]))


def test_proof__labels__may_differ_between_classes_as_probable_as_each_other():
    said, known = np.array([0, 1]), np.array([[0.5, 0.5], [0.2, 0.8]])
    near = known + [[-1e-5, 1e-5], [1e-5, -1e-5]]
    assert proof._off((1 - said, near), (said, known), 1e-4).tolist() == [False, True]
    assert proof._off((said, near), (said, known), 1e-6).tolist() == [True, True]
    assert proof._off((said, near * np.nan), (said, known), 1e-4).tolist() == [True, True]


class TwoMinds:
    """A classifier that says one thing of float32 and another of float64, of the second row."""

    def predict_proba(self, X):
        sure = np.where(np.arange(len(X)) + (len(X) == 1) == 1, X.dtype == np.float64, 0.9)
        return np.stack([sure, 1 - sure], axis=1)


def test_proof__row_of_which_scikit_learn_says_two_things__either_is_right():
    parts = parts_of(Fitted(("a", "b"), *2 * [TwoMinds()]), Bare("knn"), None)
    X, figures = np.zeros((2, 3), np.float32), proof.Figures(1e-4)
    for second in (0.0, 1.0):
        known = np.array([[0.9, 0.1], [second, 1 - second]])
        proof._compare(X, (known.argmax(axis=1), known), parts, figures)
    assert (figures.rows, figures.undecided, figures.labels) == (4, 1, 0)
    known[1] = 0.5
    with pytest.raises(Inexpressible, match=r"lie 5\.0e-01 from"):
        proof._compare(X, (known.argmax(axis=1), known), parts, figures)


def test_proof__graph_that_onnxruntime_does_not_run__is_a_reason(folder, monkeypatch):
    fitted, record = trained("logistic", 3, folder)
    kind = type(fitted.train_val[0])

    def of_another_width(nodes, step, x):
        return nodes.add("Add", x, nodes.real(np.ones(7)))

    monkeypatch.setitem(expressions.STEPS, kind, of_another_width)
    made = assembly.head(fitted.train_val, None, dim=20, dtype="float32", like=network())
    rows = np.arange(3)
    with pytest.raises(Inexpressible, match="onnxruntime does not run it: "):
        proof.against_scikit_learn(
            made.SerializeToString(), parts_of(fitted, record, data(3, folder)[1]), rows
        )


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (make_pipeline(MinMaxScaler(), LogisticRegression()), "no expression for MinMaxScaler"),
        (make_pipeline(Normalizer("l1"), LogisticRegression()), "brought to l1 norm 1"),
        (make_pipeline(KNeighborsClassifier(3)), "no expression for neighbours by minkowski"),
        (make_pipeline(SVC(kernel="linear")), "no expression for a kernel linear"),
        (make_pipeline(PCA(2), SVC(break_ties=False)), "ties broken: False"),
    ],
)
def test_head__what_has_no_expression__says_why(estimator, reason):
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    fitted = estimator.fit(X, np.arange(30) % 3)
    with pytest.raises(Inexpressible, match=reason):
        assembly.head(fitted, None, dim=4, dtype="float32", like=network())


def test_head__number_beyond_float32__is_left_to_float64():
    X = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    fitted = make_pipeline(LogisticRegression()).fit(X, np.arange(30) % 2)
    fitted[-1].coef_ = fitted[-1].coef_.astype(np.float64) * 1e60
    with pytest.raises(Inexpressible, match="not finite in float32"):
        assembly.head(fitted, None, dim=4, dtype="float32", like=network())
    made = assembly.head(fitted, None, dim=4, dtype="float64", like=network())
    session = proof.session_of(graph.content_of(made))
    label, _ = session.run(None, {"embedding": X})
    np.testing.assert_array_equal(label, predict(fitted, X.astype(np.float64))[0])
