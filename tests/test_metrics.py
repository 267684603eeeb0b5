"""Metrics and their intervals, each against another computation."""

import json
import time
import tracemalloc
import warnings

import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn import metrics as sk

from pipeline import metrics
from pipeline.metrics import INTERVALS, METRICS, NEED_PROBABILITIES, Scored


def scored(seed: int, *, n: int = 200, classes: int = 4, sure: float = 2.0) -> Scored:
    """Random labels, and probabilities that lean towards them."""
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, n)
    logits = random.normal(size=(n, classes))
    logits[np.arange(n), y] += sure
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Scored(y, probabilities.argmax(axis=1), probabilities, classes)


def plain(y, predicted, classes: int) -> Scored:
    """Predictions without probabilities."""
    return Scored(np.array(y), np.array(predicted), None, classes)


CASES = [
    scored(0),
    scored(1, n=1, classes=2),
    scored(2, n=7, classes=30),
    scored(3, n=500, classes=2, sure=0.0),
    scored(4, n=60, classes=3, sure=20.0),
]


# against scikit-learn


@pytest.mark.parametrize("case", CASES)
def test_accuracy__is_that_of_scikit_learn(case):
    assert metrics.accuracy(case) == pytest.approx(sk.accuracy_score(case.y, case.predicted))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true", "ignore:A single label")
def test_balanced_accuracy__is_that_of_scikit_learn(case):
    expected = sk.balanced_accuracy_score(case.y, case.predicted)
    assert metrics.balanced_accuracy(case) == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_macro_f1__is_that_of_scikit_learn__over_the_classes_that_occur(case):
    occur = sorted({*case.y, *case.predicted})
    expected = sk.f1_score(case.y, case.predicted, labels=occur, average="macro", zero_division=0)
    assert metrics.macro_f1(case) == pytest.approx(expected)


@pytest.mark.parametrize("case", CASES)
def test_log_loss__is_that_of_scikit_learn(case):
    expected = sk.log_loss(case.y, case.known, labels=range(case.classes))
    assert metrics.log_loss(case) == pytest.approx(expected)


def test_log_loss__label_of_probability_zero__is_large_and_finite():
    case = Scored(np.array([0, 1]), np.array([0, 0]), np.array([[1.0, 0.0]] * 2), 2)
    assert metrics.log_loss(case) == pytest.approx(-np.log(np.finfo(float).eps) / 2)
    assert metrics.log_loss(case) == pytest.approx(sk.log_loss(case.y, case.known, labels=[0, 1]))


@pytest.mark.parametrize("case", CASES)
def test_per_class__is_that_of_scikit_learn(case):
    names = tuple(f"class {code}" for code in range(case.classes))
    rows = metrics.per_class(case, names)
    expected = sk.precision_recall_fscore_support(
        case.y, case.predicted, labels=range(case.classes), zero_division=0
    )
    for name, figures in zip(("precision", "recall", "f1", "n"), expected, strict=True):
        np.testing.assert_allclose([row[name] for row in rows], figures)
    assert [row["class"] for row in rows] == list(names)


def test_per_class__recall_has_a_wilson_interval__the_whole_range_without_an_image():
    cat, dog, owl = metrics.per_class(plain([0] * 10, [0] * 9 + [1], 3), ("cat", "dog", "owl"))
    exact = binomtest(9, 10).proportion_ci(method="wilson")
    assert (cat["recall_low"], cat["recall_high"]) == pytest.approx(exact)
    for absent in (dog, owl):
        assert (absent["n"], absent["recall_low"], absent["recall_high"]) == (0, 0.0, 1.0)


# ECE


def test_ece__by_hand():
    # bins of a fifteenth: 0.95 (right) and 0.94 (wrong) share the last, 0.60 (right) is alone
    top = np.array([0.95, 0.94, 0.60])
    case = Scored(
        np.array([0, 1, 0]), np.array([0, 0, 0]), np.stack([top, 1 - top], axis=1), classes=2
    )
    last = abs((0.95 + 0.94) / 2 - 0.5) * 2 / 3
    alone = abs(0.60 - 1) * 1 / 3
    assert metrics.ece(case) == pytest.approx(last + alone)


@pytest.mark.parametrize("case", CASES)
def test_ece__is_the_mean_gap_of_fifteen_bins(case):
    confidence, right = case.known.max(axis=1), case.predicted == case.y
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence >= low) & ((confidence < low + 1 / 15) | (low == 14 / 15))
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert metrics.ece(case) == pytest.approx(total)


def test_ece__sure_and_right__is_zero__sure_and_wrong__is_one():
    sure = np.array([[1.0, 0.0]] * 5)
    zeros, ones = np.zeros(5, int), np.ones(5, int)
    assert metrics.ece(Scored(zeros, zeros, sure, 2)) == 0
    assert metrics.ece(Scored(ones, zeros, sure, 2)) == 1


# intervals


@pytest.mark.parametrize("n", [1, 2, 10, 153, 10_000])
def test_wilson__is_that_of_scipy(n):
    for right in sorted({0, 1, n // 3, n - 1, n}):
        exact = binomtest(right, n).proportion_ci(method="wilson")
        assert metrics.wilson(right, n) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_wilson__nothing_seen__is_the_whole_range():
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_wilson__all_right_or_all_wrong__stays_inside_zero_and_one():
    for n in range(1, 200):
        assert 0 <= metrics.wilson(0, n)[0] <= metrics.wilson(n, n)[1] <= 1


def test_log_loss_interval__is_that_of_a_mean():
    case = scored(5, n=400)
    losses = -np.log(case.known[np.arange(400), case.y])
    half = 1.96 * losses.std(ddof=1) / 20
    expected = (losses.mean() - half, losses.mean() + half)
    assert INTERVALS["log_loss"](case) == pytest.approx(expected, rel=1e-4)


def row_bootstrap(case: Scored, of, rounds: int = 400) -> np.ndarray:
    """The plain way: draw images, score them by scikit-learn."""
    random = np.random.default_rng(1)
    n = len(case.y)
    draws = (random.integers(0, n, n) for _ in range(rounds))
    values = [of(case.y[rows], case.predicted[rows]) for rows in draws]
    return np.percentile(values, [2.5, 97.5])


@pytest.mark.parametrize(
    ("name", "of"),
    [
        ("balanced_accuracy", sk.balanced_accuracy_score),
        ("macro_f1", lambda y, predicted: sk.f1_score(y, predicted, average="macro")),
    ],
)
def test_bootstrap__agrees_with_drawing_images(name, of):
    case = scored(6, n=300, sure=1.5)
    np.testing.assert_allclose(INTERVALS[name](case), row_bootstrap(case, of), atol=0.01)


def test_bootstrap__rare_class__keeps_its_width():
    # one class of 5 images, 3 right: its recall alone moves the mean by a tenth an image
    y = np.repeat([0, 1], [195, 5])
    case = plain(y, np.where(np.arange(200) < 198, y, 0), 2)
    expected = row_bootstrap(case, lambda y, p: np.mean([(p == y)[y == c].mean() for c in set(y)]))
    np.testing.assert_allclose(INTERVALS["balanced_accuracy"](case), expected, atol=0.05)
    low, high = INTERVALS["balanced_accuracy"](case)
    assert high - low > 0.3


@pytest.mark.parametrize("name", sorted(INTERVALS))
def test_interval__is_the_same_twice__and_in_any_order_of_the_images(name):
    case = scored(7)
    order = np.random.default_rng(0).permutation(len(case.y))
    shuffled = Scored(case.y[order], case.predicted[order], case.known[order], case.classes)
    first, again, other = (INTERVALS[name](c) for c in (case, scored(7), shuffled))
    assert first == again
    assert other == pytest.approx(first, rel=1e-12)


@pytest.mark.parametrize("name", sorted(INTERVALS))
def test_interval__holds_the_figure__and_narrows_with_more_images(name):
    widths = []
    for n in (100, 1600):
        case = scored(8, n=n)
        low, high = INTERVALS[name](case)
        assert low < METRICS[name](case) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2.5


def test_bootstrap__many_classes__is_quick_and_small():
    case = scored(9, n=6000, classes=300)
    tracemalloc.start()
    start = time.process_time()
    metrics.score(case)
    seconds = time.process_time() - start
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100e6
    assert seconds < 5


# score


def test_score__holds_every_metric_with_its_interval():
    result = metrics.score(scored(10))
    assert result["n"] == 200
    assert set(result) == {"n", *METRICS, *(f"{name}_ci95" for name in INTERVALS)}
    for name in METRICS:
        assert result[name] == METRICS[name](scored(10))
    for name in INTERVALS:
        assert result[f"{name}_ci95"] == list(INTERVALS[name](scored(10)))


def test_score__head_without_probabilities__has_no_metric_that_needs_them():
    case = scored(11)
    with_, without = metrics.score(case), metrics.score(plain(case.y, case.predicted, 4))
    dropped = {key for key in with_ if key.removesuffix("_ci95") in NEED_PROBABILITIES}
    assert dropped == {"log_loss", "log_loss_ci95", "ece"}
    assert without == {key: value for key, value in with_.items() if key not in dropped}


@pytest.mark.parametrize("name", sorted(NEED_PROBABILITIES))
def test_metric_of_probabilities__without_any__is_our_bug(name):
    with pytest.raises(ValueError, match="no probabilities"):
        METRICS[name](plain([0, 1], [0, 1], 2))


@pytest.mark.parametrize(
    "case",
    [
        plain([0], [1], 2),
        plain([1, 1, 1], [1, 1, 1], 3),
        Scored(np.array([1]), np.array([0]), np.array([[1.0, 0.0]]), 2),
    ],
)
def test_score__degenerate_split__is_finite_json_without_a_warning(case):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = json.dumps(metrics.score(case), allow_nan=False)
    assert all(value >= 0 for value in json.loads(text).values() if isinstance(value, float))


def test_one_function_and_one_line__add_a_metric(monkeypatch):
    monkeypatch.setitem(METRICS, "error", lambda case: 1 - metrics.accuracy(case))
    result = metrics.score(scored(12))
    assert result["error"] == pytest.approx(1 - result["accuracy"])
