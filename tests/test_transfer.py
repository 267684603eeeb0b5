"""Should I transfer: the verdict, the words, and a test for any signal at all."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import fisher_exact
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from pipeline import transfer
from pipeline.comparison import Answers, Pair
from pipeline.transfer import Contender, judge, signal

N = 400
Y = np.arange(N) % 4
PATHS = np.array([f"{row:03d}.png" for row in range(N)], dtype=object)


def contender(
    backbone: str, source: str, wrong: range, *, head: str = "logistic", order: float = 0.0
) -> Contender:
    """A head that is wrong on these images."""
    predicted = Y.copy()
    predicted[list(wrong)] = (Y[list(wrong)] + 1) % 4
    right = Answers(PATHS, predicted == Y)
    return Contender(backbone, head, source, (order, 0.0, backbone, head), Y, predicted, right)


NET = contender("net", "timm", range(40))
PIXELS = contender("raw", "pixels", range(30, 150))
RANDOM = contender("noise", "random", range(100, 300))


def only(*contenders: Contender, split: str = "test") -> dict:
    (entry,) = judge(contenders, split=split)
    return entry


# the verdict


def test_better_than_every_control__helps__with_the_paired_intervals():
    entry = only(NET, PIXELS, RANDOM)
    assert entry["verdict"] == "helps"
    low, high = (f"{100 * end:.1f}" for end in Pair(N, 110, 30).interval)
    first, second = Pair(N, 200, 40).interval
    assert entry["sentence"] == (
        f"net helps: +20.0 points over pixels ({low} to {high}), "
        f"+40.0 points over random weights ({100 * first:.1f} to {100 * second:.1f})"
    )
    assert (entry["backbone"], entry["head"], entry["split"]) == ("net", "logistic", "test")
    assert (entry["accuracy"], entry["n"]) == (0.9, N)
    pixels, random = entry["against"]
    assert pixels == {
        "source": "pixels",
        "backbone": "raw",
        "head": "logistic",
        "accuracy": 0.7,
        "n": N,
        "difference": pytest.approx(0.2),
        "difference_ci95": list(Pair(N, 110, 30).interval),
        "p": Pair(N, 110, 30).p,
        "p_holm": Pair(N, 110, 30).p,  # the larger of the two
    }
    assert random["p_holm"] == 2 * random["p"]


def test_worse_than_one_control__hurts__and_that_one_is_named_first():
    entry = only(NET, contender("raw", "pixels", range(30, 40)), RANDOM)
    assert entry["verdict"] == "hurts"
    assert entry["sentence"].startswith("net hurts: -7.5 points against pixels (-")
    assert ", +40.0 points over random weights (" in entry["sentence"]


def test_no_difference_from_one_control_shown__is_neutral():
    entry = only(NET, contender("raw", "pixels", range(3, 44)), RANDOM)
    assert entry["verdict"] == "neutral"
    assert entry["sentence"].startswith("net is neutral: +0.2 points over pixels (-")


def test_best_of_each__is_chosen_by_validation__not_by_test():
    poor = contender("net", "timm", range(200), head="knn", order=-1.0)
    lucky = contender("raw", "pixels", range(0), head="ridge", order=1.0)
    entry = only(NET, poor, PIXELS, lucky)
    assert entry["head"] == "knn"
    assert [one["head"] for one in entry["against"]] == ["logistic"]


def test_source__is_what_makes_a_control__and_the_best_of_several_is_taken():
    other = contender("photos", "pixels", range(30, 100), order=-1.0)
    entry = only(NET, PIXELS, other)
    assert [one["backbone"] for one in entry["against"]] == ["photos"]


def test_several_backbones__have_an_entry_each_in_their_order():
    second = contender("big", "onnx", range(20))
    assert [one["backbone"] for one in judge([NET, PIXELS, second], split="test")] == ["net", "big"]


def test_one_control_missing__is_said():
    assert only(NET, PIXELS)["sentence"].endswith("; no control of random weights in the run")


def test_no_control__is_unknown():
    entry = only(NET)
    assert (entry["verdict"], entry["against"]) == ("unknown", [])
    assert "the run has no control, a backbone of source pixels or random" in entry["sentence"]


def test_control_without_a_common_image__is_no_control():
    elsewhere = replace(PIXELS, answers=Answers(PATHS + "x", PIXELS.answers.right))
    assert only(NET, elsewhere)["verdict"] == "unknown"


def test_no_test_image__is_said():
    entry = only(NET, PIXELS, RANDOM, split="val")
    assert (entry["verdict"], entry["split"]) == ("helps", "val")
    assert "by validation images, which the heads were chosen on" in entry["sentence"]


def test_only_controls__no_entry():
    assert judge([PIXELS, RANDOM], split="test") == []


# is there any signal


def guesses(seed: int, n: int = 200, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(0, classes, n), random.integers(0, classes, n)


def test_no_signal__comes_before_every_comparison():
    y, predicted = guesses(1, N)
    blind = replace(
        NET, y=y, predicted=predicted, answers=Answers(PATHS, np.asarray(y == predicted))
    )
    entry = only(blind, PIXELS, RANDOM)
    assert entry["verdict"] == "no signal"
    right, chance = 100 * (y == predicted).mean(), 100 * entry["signal"]["expected"]
    p = entry["signal"]["p"]
    assert entry["sentence"] == (
        f"net shows no signal: {right:.1f} % right, {chance:.1f} % by chance (p {p:.2f})"
    )


def test_signal__two_classes__is_fishers_exact_test():
    for seed in range(5):
        y, predicted = guesses(seed, 60, 2)
        predicted[:20] = y[:20]
        table = [[((y == a) & (predicted == b)).sum() for b in (0, 1)] for a in (0, 1)]
        exact = fisher_exact(table, alternative="greater").pvalue
        assert signal(y, predicted).p == pytest.approx(exact, abs=0.015)


def test_signal__few_images__is_the_share_of_all_permutations():
    y, predicted = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 0, 1, 1, 2, 1])
    right = (y == predicted).sum()
    every = [(np.array(p) == predicted).sum() for p in itertools.permutations(y)]
    assert signal(y, predicted).p == pytest.approx(np.mean(np.array(every) >= right), abs=0.005)
    assert signal(y, predicted).expected == pytest.approx(np.mean(every))


def test_signal__many_images__is_close_to_what_shuffles_say(monkeypatch):
    y, predicted = guesses(3, 3000, 3)
    predicted[:90] = y[:90]
    normal = signal(y, predicted).p
    monkeypatch.setattr(transfer, "ENOUGH", np.inf)
    assert 0.001 < normal < 0.2
    assert normal == pytest.approx(signal(y, predicted).p, abs=0.015)


def test_signal__always_the_same_answer__is_none_however_often_right():
    y = np.repeat([0, 1], [90, 10])
    assert signal(y, np.zeros(100, int)).p == 1.0


def test_signal__is_the_same_twice():
    assert signal(*guesses(5)) == signal(*guesses(5))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_signal__hardly_an_image__is_none(n):
    y = np.arange(n) % 2
    assert signal(y, y).p > 0.05


# shuffled labels, a real head


def shuffled(seed: int | None) -> float:
    """P value of a logistic head on real images of digits, its labels shuffled by a seed."""
    X, y = load_digits(return_X_y=True)
    X, y = X[:600] / 16, y[:600]
    if seed is not None:
        y = np.random.default_rng(seed).permutation(y)
    head = LogisticRegression(C=0.1, max_iter=300).fit(X[:400], y[:400])
    return signal(y[400:], head.predict(X[400:])).p


def test_shuffled_labels__show_no_signal_in_17_of_20_seeds__real_ones_do():
    assert sum(shuffled(seed) > 0.05 for seed in range(20)) >= 17
    assert shuffled(None) < 0.001
