"""Paired comparison of heads: tests and intervals against other computations."""

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import binomtest

from pipeline import comparison
from pipeline.comparison import Answers, Matrix, Pair, holm
from pipeline.metrics.shares import Z

TABLES = [
    (n, b, c) for n in (1, 5, 40, 153) for b in (0, 1, 3, 12) for c in (0, 2, 9) if b + c <= n
]


@pytest.mark.parametrize(("n", "b", "c"), TABLES)
def test_p__is_the_binomial_one_of_the_images_that_tell_the_two_apart(n, b, c):
    expected = binomtest(b, b + c).pvalue if b + c else 1.0
    assert Pair(n, b, c).p == pytest.approx(expected)


def test_p__very_many_images__is_finite_and_tiny():
    assert 0 <= Pair(50_000, 20_000, 5_000).p < 1e-300


@pytest.mark.parametrize(("n", "b", "c"), [(50, 12, 2), (153, 3, 9), (40, 0, 2), (400, 31, 30)])
def test_interval__at_its_ends_the_score_under_the_likeliest_shares_is_that_of_95_percent(n, b, c):
    # Tango's definition, the likeliest share of images that only the other got right found by search
    for end in Pair(n, b, c).interval:

        def against(lost: float, end=end) -> float:
            won, neither = lost + end, 1 - 2 * lost - end
            return -sum(
                k * np.log(share) for k, share in ((b, won), (c, lost), (n - b - c, neither)) if k
            )

        inside = (max(0.0, -end) + 1e-12, (1 - end) / 2 - 1e-12)
        lost = minimize_scalar(against, bounds=inside, method="bounded", options={"xatol": 1e-12}).x
        error = np.sqrt(n * (2 * lost + end * (1 - end)))
        assert abs(b - c - n * end) / error == pytest.approx(Z, abs=1e-3)


def test_interval__no_image_tells_the_two_apart__is_wilsons_of_none():
    end = Z**2 / (50 + Z**2)
    assert Pair(50, 0, 0).interval == pytest.approx((-end, end))


@pytest.mark.parametrize(("n", "b", "c"), TABLES)
def test_interval__holds_the_difference__and_zero_where_mcnemars_score_test_finds_none(n, b, c):
    pair = Pair(n, b, c)
    low, high = pair.interval
    assert -1 <= low <= pair.difference <= high <= 1
    assert low < high
    score = abs(b - c) / np.sqrt(b + c) if b + c else 0.0
    assert (low <= 0 <= high) == (score <= Z)


@pytest.mark.parametrize(("n", "b", "c"), TABLES)
def test_interval__other_way_round__is_the_same_with_the_other_sign(n, b, c):
    low, high = Pair(n, b, c).interval
    assert Pair(n, c, b).interval == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "only_this", "only_other"),
    [(30, 0.1, 0.1), (100, 0.05, 0.02), (153, 0.01, 0.02), (400, 0.02, 0.0), (1000, 0.1, 0.05)],
)
def test_interval__covers_the_true_difference(n, only_this, only_other):
    random = np.random.default_rng(0)
    draws = random.multinomial(n, [only_this, only_other, 1 - only_this - only_other], 1500)
    ends = np.array([Pair(n, int(b), int(c)).interval for b, c, _ in draws])
    true = only_this - only_other
    assert ((ends[:, 0] <= true) & (true <= ends[:, 1])).mean() >= 0.925


def test_holm__by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm__equal_values__are_equal_and_no_smaller_than_before():
    assert holm([0.02, 0.02, 0.5]) == pytest.approx([0.06, 0.06, 0.5])


def answers(**right: bool) -> Answers:
    return Answers(np.array(list(right), dtype=object), np.array(list(right.values())))


def test_pair__counts_only_images_that_both_have__whatever_their_order():
    one = answers(a=True, b=True, c=False, d=True, lost=True)
    other = answers(d=True, c=True, b=False, a=False, elsewhere=False)
    matrix = Matrix([one, other])
    assert matrix.pair(0, 1) == Pair(n=4, only_this=2, only_other=1)
    assert matrix.pair(1, 0) == Pair(n=4, only_this=1, only_other=2)


def test_pair__no_image_in_common__is_none():
    assert Matrix([answers(a=True), answers(b=True)]).pair(0, 1) is None


@pytest.mark.parametrize(
    ("pair", "p", "expected"),
    [
        (Pair(100, 12, 2), 0.04, "better"),
        (Pair(100, 2, 12), 0.04, "worse"),
        (Pair(100, 2, 12), 0.05, "same"),
        (Pair(100, 5, 5), 1.0, "same"),
    ],
)
def test_verdict__is_by_the_adjusted_p_value(pair, p, expected):
    assert comparison.verdict(pair, p) == expected


def test_figures__say_who_alone_was_right_and_what_that_makes():
    found = comparison.figures(Pair(100, 2, 12), 0.04)
    assert found == {
        "n": 100,
        "difference": -0.1,
        "difference_ci95": list(Pair(100, 2, 12).interval),
        "only_this": 2,
        "only_best": 12,
        "p": Pair(100, 2, 12).p,
        "p_holm": 0.04,
        "verdict": "worse",
    }
