"""What vectors must be like for a head to be fitted on them, or asked about them."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from pipeline.errors import InputError
from pipeline.vectors import check_finite, check_fit, check_predict

X = np.ones((6, 4), np.float32)


def spoilt(*places: tuple[int, int], by: float = np.nan, dtype=np.float32) -> np.ndarray:
    Z = X.astype(dtype)
    for place in places:
        Z[place] = by
    return Z


def line(call, *arguments) -> str:
    with pytest.raises(InputError) as refused:
        call(*arguments)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("by", [np.nan, np.inf, -np.inf])
def test_finite__one_number_that_is_not__is_told_with_its_row(by, dtype):
    told = line(check_finite, spoilt((4, 3), by=by, dtype=dtype))
    assert told.startswith("1 of 6 vectors hold NaN or infinity, the first is row 4; run ")
    assert "headstart embeddings verify" in told
    assert told.endswith("'dvc repro -f extract'")


def test_finite__several_rows__are_counted_once_each():
    told = line(check_finite, spoilt((1, 0), (1, 2), (5, 3)))
    assert told.startswith("2 of 6 vectors hold NaN or infinity, the first is row 1; ")


def test_finite__infinities_of_both_signs_in_a_row__are_seen():
    Z = spoilt((2, 0), by=np.inf)
    Z[2, 1] = -np.inf
    assert "1 of 6" in line(check_finite, Z)


def test_finite__row_whose_sum_overflows__is_let_through():
    check_finite(np.full((3, 4), np.finfo(np.float32).max))


@pytest.mark.parametrize("shape", [(0, 4), (3, 0), (3, 4)])
def test_finite__ordinary_and_empty_ones__pass(shape):
    check_finite(np.zeros(shape, np.float32))


def test_fit__two_classes__pass__one_is_named__none_is_told():
    check_fit(X, np.array([1, 1, 1, 2, 1, 1]), ["a", "b", "c"])
    told = line(check_fit, X, np.full(6, 1), ["a", "b", "c"])
    assert told.startswith("the 6 vectors to fit on are all of class 'b'")
    assert "add images of another class" in told
    assert "the 0 vectors to fit on are none" in line(check_fit, X[:0], np.zeros(0, int), ["a"])


def test_fit__vector_that_is_not_finite__is_refused():
    assert "1 of 6" in line(check_fit, spoilt((0, 0)), np.arange(6) % 2, ["a", "b"])


def test_predict__another_width__is_told_with_both_and_what_to_run():
    fitted = LogisticRegression().fit(np.random.default_rng(0).normal(size=(6, 4)), [0, 1] * 3)
    check_predict(fitted, X)
    told = line(check_predict, fitted, np.ones((2, 5)))
    assert told.startswith("the vectors have 5 dimensions, the head was fitted on 4")
    assert "dvc repro train" in told


def test_predict__classifier_that_knows_no_width__is_asked():
    check_predict(object(), np.ones((2, 9), np.float32))
    assert "1 of 6" in line(check_predict, object(), spoilt((3, 3)))
