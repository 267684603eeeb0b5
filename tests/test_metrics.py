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
from pipeline.metrics import INTERVALS, METRICS, NEED_PROBABILITIES, PER_CLASS, Scored
from pipeline.metrics.ranked import FIGURES, rank


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


# ranking, each class against the rest


def against_the_rest(case: Scored, code: int) -> list[float]:
    """FIGURES of a class by scikit-learn."""
    of_class, given = case.y == code, case.known[:, code]
    alarms, found, _ = sk.roc_curve(of_class, given, drop_intermediate=False)
    return [
        sk.roc_auc_score(of_class, given),
        sk.average_precision_score(of_class, given),
        found[alarms <= 0.05].max(),
    ]


def rounded(case: Scored, digits: int) -> Scored:
    """The same with many equal probabilities."""
    return Scored(case.y, case.predicted, case.known.round(digits), case.classes)


RANKED = [
    scored(0),
    rounded(scored(0), 1),
    scored(3, n=500, classes=2, sure=0.0),
    rounded(scored(3, n=500, classes=2), 2),
    scored(4, n=60, classes=3, sure=20.0),
    scored(5, n=90, classes=40),
]


@pytest.mark.parametrize("case", RANKED)
def test_ranked__are_those_of_scikit_learn__over_the_classes_that_occur(case):
    expected = np.array([against_the_rest(case, code) for code in np.unique(case.y)])
    for name, value in zip(FIGURES, expected.mean(axis=0), strict=True):
        assert METRICS[name](case) == pytest.approx(value)
    rows = metrics.per_class(case, tuple(map(str, range(case.classes))))
    told = [[row[name] for name in FIGURES] for row in rows if row["n"]]
    np.testing.assert_allclose(told, expected)


def test_ranked__class_without_an_image__is_not_counted__and_empty_in_its_row():
    case = scored(2, n=80, classes=3)
    wider = Scored(case.y, case.predicted, np.c_[case.known, np.zeros(80)], 4)
    for name in FIGURES:
        assert METRICS[name](wider) == METRICS[name](case)
    absent = metrics.per_class(wider, ("a", "b", "c", "d"))[3]
    assert tuple(absent) == PER_CLASS
    assert [absent[name] for name in FIGURES] == [None, None, None]


def test_ranked__one_class_alone__is_left_out():
    case = Scored(np.zeros(9, int), np.zeros(9, int), np.full((9, 2), 0.5), 2)
    assert not {key.removesuffix("_ci95") for key in metrics.score(case)} & {*FIGURES}
    with pytest.raises(ValueError, match="auroc cannot be told"):
        METRICS["auroc"](case)


def test_sensitivity__fewer_than_twenty_others__is_not_told_of_that_class():
    y = np.repeat([0, 1], [30, 19])
    given = np.where(y == 1, 0.9, 0.2)
    case = Scored(y, (given > 0.5).astype(int), np.stack([1 - given, given], axis=1), 2)
    few, many = (
        row["sensitivity_at_95_specificity"] for row in metrics.per_class(case, ("a", "b"))
    )
    assert (few, many) == (None, 1.0)
    assert METRICS["sensitivity_at_95_specificity"](case) == 1.0


def test_auroc__variance_of_two_classes__is_that_of_delong():
    case = rounded(scored(6, n=70, classes=2, sure=1.0), 2)
    given, of_class = case.known[:, 1], case.y == 1
    hits, others = given[of_class], given[~of_class]
    wins = (hits[:, None] > others) + 0.5 * (hits[:, None] == others)
    expected = wins.mean(1).var(ddof=1) / len(hits) + wins.mean(0).var(ddof=1) / len(others)
    mean = rank(case.y, case.known, 2).means[0]
    assert mean.value == pytest.approx(wins.mean())
    assert mean.variance == pytest.approx(expected)


@pytest.mark.parametrize(("place", "of"), [(0, sk.roc_auc_score), (1, sk.average_precision_score)])
def test_ranked__variance__is_from_the_derivative_by_each_image(place, of):
    case = rounded(scored(7, n=50, classes=3, sure=1.0), 2)
    slopes = np.zeros(50)
    for image in range(50):
        ends = []
        for weight in (1 - 1e-5, 1 + 1e-5):
            weights = np.ones(50)
            weights[image] = weight
            ends.append(
                np.mean(
                    [of(case.y == c, case.known[:, c], sample_weight=weights) for c in range(3)]
                )
            )
        slopes[image] = (ends[1] - ends[0]) / 2e-5
    sizes = np.bincount(case.y)[case.y]
    expected = (slopes**2 * sizes / (sizes - 1)).sum()
    assert rank(case.y, case.known, 3).means[place].variance == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", [*FIGURES, "balanced_accuracy", "macro_f1"])
def test_interval__all_right__reaches_below_one__less_so_with_more_images(name):
    lows = []
    for n in (20, 200, 2000):
        y = np.arange(2 * n) % 2
        case = Scored(y, y, np.eye(2)[y] * 0.8 + 0.1, 2)
        low, high = INTERVALS[name](case)
        assert METRICS[name](case) == high == 1.0
        lows.append(low)
    assert 0.75 < lows[0] < 0.95
    assert lows[0] < lows[1] < lows[2] < 1
    assert lows[2] > 0.98


def test_auroc__one_image_of_a_class__has_a_wide_interval():
    y = np.repeat([0, 1], [50, 1])
    given = np.r_[np.linspace(0, 0.5, 50), 0.9]
    low, high = INTERVALS["auroc"](Scored(y, y, np.stack([1 - given, given], axis=1), 2))
    assert (low < 0.4, high) == (True, 1.0)


def drawn(seed: int, sizes: tuple[int, ...], sure: float, stray: float) -> Scored:
    """Images of classes of these sizes; a share `stray` looks like any class."""
    random = np.random.default_rng(seed)
    y = np.repeat(np.arange(len(sizes)), sizes)
    looks = np.where(random.random(len(y)) < stray, random.integers(0, len(sizes), len(y)), y)
    logits = random.normal(size=(len(y), len(sizes)))
    logits[np.arange(len(y)), looks] += sure
    known = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return Scored(y, known.argmax(axis=1), known, len(sizes))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sizes", "sure", "stray", "least"),
    [
        ((70, 83), 1.0, 0.0, (0.92, 0.92, 0.88)),
        ((70, 83), 3.0, 0.0, (0.92, 0.92, 0.92)),
        ((36,) * 10, 8.0, 0.03, (0.92, 0.92, 0.92)),
        ((100,) * 10, 2.0, 0.0, (0.92, 0.92, 0.92)),
        ((1000, 1000), 2.0, 0.0, (0.92, 0.92, 0.92)),
        ((20, 20), 2.0, 0.0, (0.92, 0.92, 0.85)),
        ((20, 20), 8.0, 0.05, (0.92, 0.92, 0.85)),
    ],
)
def test_ranked__intervals_cover_the_truth(sizes, sure, stray, least):
    many = [tuple(20_000 * size // sum(sizes) for size in sizes)] * 5
    truths = np.mean(
        [[METRICS[name](drawn(9000 + s, big, sure, stray)) for name in FIGURES] for s, big in
         enumerate(many)], axis=0,
    )  # fmt: skip
    held = np.zeros(3)
    for seed in range(400):
        case = drawn(seed, sizes, sure, stray)
        ends = np.array([INTERVALS[name](case) for name in FIGURES])
        held += (ends[:, 0] <= truths) & (truths <= ends[:, 1])
    assert (held / 400 >= least).all(), held / 400


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


def foretelling(seed: int, *, n: int, sharpened: float) -> Scored:
    """Labels drawn from probabilities; what is told of them is sharper than these were."""
    random = np.random.default_rng(seed)
    logits = 2 * random.normal(size=(n, 5))
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    y = (shares.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    known = np.exp(sharpened * logits)
    known /= known.sum(axis=1, keepdims=True)
    return Scored(y, known.argmax(axis=1), known, 5)


def test_ece_interval__calibrated_head__reaches_to_zero__though_chance_makes_gaps():
    case = foretelling(0, n=300, sharpened=1.0)
    assert metrics.ece(case) > 0.02
    assert INTERVALS["ece"](case)[0] == 0.0


def test_ece_interval__sharpened_head__stays_off_zero():
    assert INTERVALS["ece"](foretelling(0, n=1000, sharpened=2.0))[0] > 0.1


def test_ece_interval__sure_and_right__reaches_to_what_accuracy_may_be():
    sure, ones = np.array([[0.0, 1.0]] * 40), np.ones(40, int)
    low, high = INTERVALS["ece"](Scored(ones, ones, sure, 2))
    assert (low, high) == (0.0, pytest.approx(1 - metrics.wilson(40, 40)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("sharpened", [1.0, 1.1, 1.5, 3.0])
@pytest.mark.parametrize("n", [50, 153, 1000])
def test_ece_interval__covers_the_truth(n, sharpened):
    truth = 0.0 if sharpened == 1 else metrics.ece(foretelling(9, n=400_000, sharpened=sharpened))
    ends = [INTERVALS["ece"](foretelling(s, n=n, sharpened=sharpened)) for s in range(200)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.92


# abstention


def test_abstention__figures_of_the_images_it_is_sure_enough_of__by_hand():
    sure = np.array([0.9, 0.8, 0.8, 0.7, 0.6])
    case = Scored(
        np.array([0, 0, 1, 1, 0]), np.zeros(5, int), np.stack([sure, 1 - sure], axis=1), 2
    )
    figures = metrics.abstention(case, 0.6, 0.8)
    assert figures == {
        "wanted": 0.6,
        "threshold": 0.8,
        "n": 3,
        "precision": 2 / 3,
        "precision_ci95": list(metrics.wilson(2, 3)),
        "coverage": 0.6,
        "coverage_ci95": list(metrics.wilson(3, 5)),
    }


def test_abstention__no_threshold__answers_none_and_has_no_precision():
    figures = metrics.abstention(scored(1), 0.99, None)
    assert (figures["n"], figures["coverage"], figures["threshold"]) == (0, 0.0, None)
    assert not {"precision", "precision_ci95"} & set(figures)


# intervals


@pytest.mark.parametrize("n", [1, 2, 10, 153, 10_000])
def test_wilson__is_that_of_scipy(n):
    for right in sorted({0, 1, n // 3, n - 1, n}):
        exact = binomtest(right, n).proportion_ci(method="wilson")
        assert metrics.wilson(right, n) == pytest.approx((exact.low, exact.high), abs=1e-12)


def test_wilson__nothing_seen__is_the_whole_range():
    assert metrics.wilson(0, 0) == (0.0, 1.0)


def test_wilson__all_right_or_all_wrong__ends_at_zero_or_one():
    for n in range(1, 200):
        assert metrics.wilson(0, n)[0] == 0.0
        assert metrics.wilson(n, n)[1] == 1.0


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


def test_score__one_image__has_no_interval_of_the_log_loss():
    result = metrics.score(Scored(np.array([1]), np.array([0]), np.array([[0.7, 0.3]]), 2))
    assert "log_loss" in result
    assert "log_loss_ci95" not in result


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
    needing = ("auroc", "average_precision", "sensitivity_at_95_specificity", "log_loss", "ece")
    assert dropped == {key for name in needing for key in (name, f"{name}_ci95")}
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
