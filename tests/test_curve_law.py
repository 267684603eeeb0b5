"""How sure the points of a curve are, and what is said of how it goes on."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.curves.law import Outlook, fitted, outlook
from pipeline.curves.spread import Point, borrow, interval, resampled
from pipeline.curves.summary import sentence
from pipeline.metrics import wilson
from pipeline.metrics.scored import RESAMPLES

SIZES = np.array([1, 2, 5, 10, 20, 50, 400.0])


def right(accuracy: float, draws: int, images: int, *, seed: int = 0, spread: float = 0.0):
    """Which images each draw labels rightly, some draws being better than others."""
    random = np.random.default_rng(seed)
    level = accuracy + spread * random.normal(size=(draws, 1))
    return random.random((draws, images)) < level


def curve(floor: float, scale: float, power: float, *, noise: float = 0.0, seed: int = 0):
    """Accuracies by SIZES, and resamples of them."""
    accuracy = 1 - floor - scale * SIZES**-power
    random = np.random.default_rng(seed)
    return accuracy, accuracy + noise * random.normal(size=(RESAMPLES, len(SIZES)))


def law_of(*arguments: float, **options) -> Outlook:
    known = outlook(SIZES, *curve(*arguments, **options), np.ones(len(SIZES)))
    assert known is not None
    return known


# intervals


def test_interval__one_draw_and_nothing_borrowed__is_wilsons():
    point = Point(100, right(0.8, 1, 200))
    assert interval(point) == pytest.approx(wilson(point.accuracy * 200, 200))


def test_interval__every_image_right__is_wilsons():
    assert interval(Point(10, np.ones((5, 40), bool))) == pytest.approx(wilson(40, 40))


def test_interval__draws_that_differ__make_it_wider():
    alike = Point(10, np.repeat(right(0.7, 1, 500), 5, axis=0))
    low, high = interval(alike)
    unlike = right(0.7, 5, 500, spread=0.1, seed=1)
    least, most = interval(Point(10, unlike))
    assert most - least > 1.5 * (high - low)


def test_interval__covers_the_truth_in_95_of_100_worlds():
    """Draws and images both count: a world has its images' difficulty and its draws' luck."""
    covered = 0
    for world in range(400):
        random = np.random.default_rng(world)
        hard = random.normal(size=(1, 150))
        luck = 0.4 * random.normal(size=(5, 1))
        of = hard + luck + random.normal(size=(5, 150)) < 0.5
        low, high = interval(Point(10, of))
        # P(normal of variance 1 + .16 + 1 < .5)
        covered += low <= 0.6332 <= high
    assert 0.93 <= covered / 400 <= 0.99


def test_borrow__all_of_train__takes_the_spread_of_the_draws_before():
    drawn, whole = Point(100, right(0.7, 4, 300, spread=0.05)), Point(400, right(0.8, 1, 300))
    before, lent = borrow([drawn, whole])
    assert before is drawn
    assert lent.of_draws == pytest.approx(drawn.between / 4)
    alone = interval(whole)
    low, high = interval(lent)
    assert low < alone[0] and high > alone[1]


def test_borrow__nothing_drawn_twice__leaves_points_as_they_are():
    points = [Point(10, right(0.6, 1, 50)), Point(20, right(0.7, 1, 50))]
    assert borrow(points) == points
    only = [Point(10, right(0.6, 1, 50))]
    assert borrow(only) == only


def test_resampled__has_the_variance_that_the_interval_has():
    points = borrow(
        [Point(100, right(0.6, 5, 400, spread=0.05)), Point(400, right(0.7, 1, 400, seed=3))]
    )
    found = resampled(points)
    assert found.shape == (RESAMPLES, 2)
    for column, point in zip(found.T, points, strict=True):
        images = point.right.mean(axis=0).var() / 400
        assert column.mean() == pytest.approx(point.accuracy, abs=0.005)
        # what draws and images have between them, here nearly all, counts thrice instead of twice
        assert 0.9 < column.var() / (point.of_draws + images) < 1.6


def test_resampled__twice__is_the_same():
    points = [Point(10, right(0.6, 3, 50)), Point(20, right(0.7, 3, 50, seed=1))]
    np.testing.assert_array_equal(resampled(points), resampled(points))


def test_resampled__seeds_all_alike__differ_by_images_alone():
    alike = np.repeat(right(0.6, 1, 100), 4, axis=0)
    found = resampled([Point(10, alike), Point(20, alike)])
    np.testing.assert_allclose(found[:, 0], found[:, 1], rtol=0, atol=1e-12)


# the law


@pytest.mark.parametrize(
    "law", [(0.2, 0.64, 0.45), (0.05, 0.9, 0.8), (0.4, 0.3, 0.2), (0.0, 0.6, 0.5)]
)
def test_fitted__of_points_on_a_law__finds_it(law):
    accuracy, _ = curve(*law)
    found = fitted(SIZES, 1 - accuracy[None], np.ones(len(SIZES)))
    np.testing.assert_allclose(np.ravel(found), law, atol=1e-9)


def test_fitted__line_that_would_end_above_1__ends_at_1():
    """Accuracy that rises by as much at each doubling has no floor of its own."""
    errors = 0.5 - 0.05 * np.log2(SIZES)[None]
    floor, scale, _ = fitted(SIZES, errors, np.ones(len(SIZES)))
    assert floor[0] == 0
    assert scale[0] > 0


def test_outlook__gain__is_that_of_the_next_doubling():
    known = law_of(0.2, 0.64, 0.45, noise=0.002)
    expected = 0.64 * (400**-0.45 - 800**-0.45)
    assert known.gain == pytest.approx(expected)
    low, high = known.gain_interval
    assert 0 < low < expected < high < 2 * expected


def test_outlook__little_noise__tells_the_asymptote():
    known = law_of(0.2, 0.64, 0.45, noise=0.002)
    assert known.told
    assert known.asymptote == pytest.approx(0.8)
    low, high = known.asymptote_interval
    assert low < 0.8 < high and high - low < 0.1


def test_outlook__much_noise__does_not_tell_the_asymptote():
    assert not law_of(0.2, 0.64, 0.45, noise=0.03).told


def test_outlook__curve_that_may_become_perfect__does_not_tell_the_asymptote():
    known = law_of(0.0, 0.6, 0.3, noise=0.005)
    assert known.asymptote_interval[1] == 1
    assert not known.told


def test_outlook__flat_curve__has_a_gain_around_0():
    known = law_of(0.5, 0.0, 0.5, noise=0.01)
    low, high = known.gain_interval
    assert low < 0 < high


def test_outlook__few_points__is_none():
    sizes = np.array([1, 5, 20.0])
    assert outlook(sizes, sizes / 30, np.ones((9, 3)), np.ones(3)) is None


def test_outlook__first_points_off_the_law__count_for_nothing():
    accuracy, many = curve(0.2, 0.64, 0.45, noise=0.002)
    worse, many_worse = accuracy.copy(), many.copy()
    worse[:2] -= 0.1
    many_worse[:, :2] -= 0.1
    weights = np.ones(len(SIZES))
    assert outlook(SIZES, worse, many_worse, weights) == outlook(SIZES, accuracy, many, weights)


def test_outlook__interval_of_the_gain__covers_the_truth():
    covered = 0
    for world in range(40):
        random = np.random.default_rng(world)
        truth, _ = curve(0.2, 0.64, 0.45)
        hard = random.random((1, 300))
        points = borrow([
            Point(int(10 * size), np.repeat(hard, draws, axis=0) < level + 0.01 * random.normal(size=(draws, 1)))
            for size, level, draws in zip(SIZES, truth, [5] * 6 + [1], strict=True)
        ])  # fmt: skip
        accuracy = np.array([point.accuracy for point in points])
        known = outlook(SIZES, accuracy, resampled(points), np.ones(len(SIZES)))
        low, high = known.gain_interval
        covered += low <= 0.64 * (400**-0.45 - 800**-0.45) <= high
    assert covered / 40 >= 0.88


# the sentence


def test_sentence__gain_that_is_sure__says_how_much():
    said = sentence(law_of(0.2, 0.64, 0.45, noise=0.002))
    assert said.startswith("twice as many images would bring about +1.2 points (")
    assert "levels off near 0.80 (" in said


def test_sentence__asymptote_not_told__says_so():
    said = sentence(law_of(0.0, 0.6, 0.3, noise=0.005))
    assert said.startswith("twice as many images would bring")
    assert "cannot tell" in said


def test_sentence__flat_curve__says_that_more_would_not_be_seen_to_help():
    said = sentence(law_of(0.5, 0.0, 0.5, noise=0.01))
    assert said.startswith("these images do not show that more would help")
    assert "-0.0" not in said


def test_sentence__gain_that_rounds_to_nothing_at_its_low_end__is_not_promised():
    known = replace(law_of(0.2, 0.64, 0.45, noise=0.002), gain_interval=(0.0002, 0.008))
    said = sentence(known)
    assert said.startswith("these images do not show that more would help")
    assert "(0.0 to 0.8); the curve levels off near 0.80 (" in said


def test_sentence__too_few_points__says_so():
    assert "too few points" in sentence(None)
