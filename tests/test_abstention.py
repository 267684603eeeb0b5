"""Abstention: the threshold for a wanted precision, and what comes of one."""

import numpy as np
import pytest

from pipeline import abstention, metrics, selection
from pipeline.metrics import Scored, wilson
from pipeline.params import HeadParams
from tests.contracts_heads import toy, train


def of(tops, right):
    """Predictions of two classes whose highest probability is `tops`, that are `right` or not."""
    tops = np.array(tops, dtype=float)
    y, predicted = np.where(right, 0, 1), np.zeros(len(tops), int)
    return Scored(y, predicted, np.stack([tops, 1 - tops], axis=1), 2)


TOPS = [0.99, 0.95, 0.9, 0.8, 0.7, 0.6]
RIGHT = [1, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("wanted", "threshold", "n", "right"),
    [(0.6, 0.0, 6, 4), (0.8, 0.7, 5, 4), (0.9, 0.9, 3, 3), (1.0, 0.9, 3, 3), (0.66, 0.0, 6, 4)],
)
def test_chosen__is_the_lowest_threshold_that_reaches_it(wanted, threshold, n, right):
    told = abstention.chosen(of(TOPS, RIGHT), wanted)
    assert (told["wanted"], told["threshold"], told["n"]) == (wanted, threshold, n)
    assert told["precision"] == right / n >= wanted
    assert told["precision_ci95"] == list(wilson(right, n))
    assert told["coverage"] == n / 6


def test_chosen__none_reaches_it__is_null():
    told = abstention.chosen(of(TOPS, [0, 1, 0, 1, 0, 1]), 0.9)
    assert told["threshold"] is None
    assert told["sure"] is None
    assert (told["coverage"], told["n"]) == (0.0, 0)
    assert "precision" not in told


def test_chosen__equal_probabilities__are_kept_or_left_together():
    told = abstention.chosen(of([0.9, 0.8, 0.8, 0.8, 0.6], [1, 1, 0, 0, 0]), 0.6)
    assert told["threshold"] == 0.9


def test_chosen__sure__is_where_the_lower_end_of_the_interval_reaches_it():
    tops = np.linspace(0.99, 0.51, 200)
    right = np.arange(200) < 150
    told = abstention.chosen(of(tops, right), 0.9)
    assert told["sure"] > told["threshold"]
    sure = metrics.abstention(of(tops, right), 0.9, told["sure"])
    assert sure["precision_ci95"][0] >= 0.9
    below = metrics.abstention(of(tops, right), 0.9, np.nextafter(told["sure"], 0) - 0.003)
    assert below["precision_ci95"][0] < 0.9
    few = abstention.chosen(of([0.9, 0.8], [1, 1]), 0.9)
    assert (few["threshold"], few["sure"]) == (0.0, None)


def test_chosen__record__says_what_evaluation_says_of_the_same_images():
    case = of(TOPS, RIGHT)
    told = abstention.chosen(case, 0.8)
    assert told == {**metrics.abstention(case, 0.8, told["threshold"]), "sure": told["sure"]}


def test_train__wanted_precision__is_recorded_and_told():
    _, record = train("logistic", wanted_precision=0.9)
    assert record.abstention["wanted"] == 0.9
    assert record.abstention["precision"] >= 0.9
    assert "it abstains" in selection.describe(record)
    assert train("logistic")[1].abstention == {}


def test_train__wanted_precision_of_a_head_without_probabilities__is_noted():
    _, record = train("ridge", wanted_precision=0.9, calibrate=False)
    assert record.abstention == {}
    assert any("no probabilities" in note for note in record.notes)
    _, calibrated = train("ridge", wanted_precision=0.9)
    assert calibrated.abstention["n"] > 0


def test_train__precision_out_of_reach__is_told():
    labels, cached = toy()
    entry = HeadParams(kind="dummy", wanted_precision=0.99)
    _, record = selection.train("dummy", entry, labels, cached)
    assert record.abstention["threshold"] is None
    assert "no threshold reaches a precision of 0.99 on val" in selection.describe(record)
