"""Temperature scaling: what it finds, and whether probabilities are better for it."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from pipeline import calibration, heads, metrics, selection
from pipeline.metrics import Scored
from pipeline.params import HeadParams
from pipeline.prediction import logits, predict, soften
from tests.contracts_heads import embed, of_split, toy_labels, toy_vectors


def stated(known: np.ndarray, y: np.ndarray) -> Scored:
    return Scored(y, known.argmax(axis=1), known, known.shape[1])


@pytest.mark.parametrize("sharpness", [0.01, 0.2, 1.0, 30.0])
def test_temperature__of_logits_that_are_so_much_too_sharp__is_that(sharpness):
    random = np.random.default_rng(0)
    true = random.normal(size=(20_000, 5))
    y = (softmax(true, axis=1).cumsum(axis=1) < random.random((20_000, 1))).sum(axis=1)
    assert calibration.temperature(sharpness * true, y) == pytest.approx(sharpness, rel=0.03)


def test_temperature__is_where_the_log_loss_is_least():
    random = np.random.default_rng(1)
    known, y = random.normal(size=(2000, 3)), random.integers(0, 3, 2000)
    known[np.arange(2000), y] += 1
    best = calibration.temperature(known, y)
    losses = [metrics.log_loss(stated(soften(known, best * by), y)) for by in (0.9, 1, 1.1)]
    assert losses[1] == min(losses)


@pytest.mark.parametrize("classes", [2, 10])
def test_temperature__no_mistake_on_few_images__is_not_certain_for_that(classes):
    y = np.arange(20) % classes
    known = 3.0 * np.eye(classes)[y]
    soft = soften(known, calibration.temperature(known, y))
    assert 0.9 < soft.max() < 0.99


def test_temperature__every_class_alike__is_one():
    assert calibration.temperature(np.ones((5, 3)), np.zeros(5, int)) == 1.0


class Deaf:
    """Neither probabilities nor a decision function."""


@pytest.mark.parametrize(
    ("classifier", "wanted"),
    [
        (RidgeClassifier(), {None: True, True: True, False: False}),
        (SVC(), {None: True, True: True, False: False}),
        (LogisticRegression(), {None: False, True: True, False: False}),
        (KNeighborsClassifier(), {None: False, True: True, False: False}),
        (DummyClassifier(), {None: False, True: True, False: False}),
        (Deaf(), {None: False, True: False, False: False}),
    ],
)
def test_wanted__null__is_heads_that_decide_and_state_no_probability(classifier, wanted):
    for calibrate, expected in wanted.items():
        assert bool(calibration.wanted(classifier, calibrate)) is expected


def made(tmp_path, seed: int, classes: int, *, noise: float = 0.1):
    """Labels and cached vectors of clouds that overlap, some labels at random."""
    labels = toy_labels(600, classes)
    X = toy_vectors(labels, 20, seed=seed, apart=0.35)
    random = np.random.default_rng(seed)
    wrong = random.random(600) < noise
    names = np.array(sorted(set(labels.label)), dtype=object)
    labels.label[wrong] = names[random.integers(0, classes, wrong.sum())]
    return labels, embed(tmp_path / f"{seed}.h5", labels, X)


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("kind", ["linear_svm", "rbf_svm"])
def test_svm__calibration_error_on_test__is_no_greater_after__in_the_mean_of_5_seeds(
    kind, classes, tmp_path
):
    before, after = [], []
    for seed in range(5):
        labels, cached = made(tmp_path, seed, classes)
        fitted, record = selection.train(kind, HeadParams(kind=kind), labels, cached)
        assert fitted.temperature == record.temperature > 0
        X, y = of_split(labels, cached, "test")
        plain = stated(soften(logits(fitted.train_val, X), 1.0), y)
        predicted, known = predict(fitted.train_val, X, fitted.temperature)
        np.testing.assert_array_equal(predicted, plain.predicted)
        before.append(metrics.ece(plain))
        after.append(metrics.ece(stated(known, y)))
    assert np.mean(after) <= np.mean(before)


def test_train__calibrate__null_true_false(tmp_path):
    labels, cached = made(tmp_path, 0, 3)

    def temperature(kind: str, calibrate: bool | None) -> float | None:
        entry = HeadParams(kind=kind, calibrate=calibrate)
        fitted, record = selection.train(kind, entry, labels, cached)
        assert fitted.temperature == record.temperature
        assert ("calibrated at temperature" in selection.describe(record)) == (
            record.temperature is not None
        )
        return record.temperature

    assert temperature("ridge", None) is not None
    assert temperature("ridge", False) is None
    assert temperature("logistic", None) is None
    assert temperature("logistic", True) is not None
    assert temperature("knn", None) is None


def test_train__calibrated_head__is_chosen_by_accuracy_as_before(tmp_path):
    labels, cached = made(tmp_path, 0, 3)
    records = [
        selection.train("ridge", HeadParams(kind="ridge", calibrate=calibrate), labels, cached)[1]
        for calibrate in (None, False)
    ]
    assert records[0].choice == records[1].choice
    assert records[0].trace == records[1].trace
    assert records[0].chosen_by == "accuracy"


def test_train__temperature__does_not_look_at_test(tmp_path):
    labels, _ = made(tmp_path, 0, 3)
    X = toy_vectors(labels, 20, apart=0.35)
    spoilt = np.where((labels.split == "test")[:, None], np.float32(100), X)
    found = [
        selection.train(
            "svm", HeadParams(kind="linear_svm"), labels, embed(tmp_path / n, labels, V)
        )
        for n, V in (("one.h5", X), ("two.h5", spoilt))
    ]
    assert found[0][0].temperature == found[1][0].temperature


def test_saved_head__keeps_its_temperature(tmp_path):
    labels, cached = made(tmp_path, 0, 3)
    fitted, record = selection.train("ridge", HeadParams(kind="ridge"), labels, cached)
    heads.save(tmp_path, fitted, record)
    loaded, said = heads.load(tmp_path, "ridge")
    assert loaded.temperature == said.temperature == fitted.temperature
