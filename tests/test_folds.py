"""Folds of train, and train and val drawn anew: what stays whole, what is in each."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline import features
from pipeline.folds import Pool, folds
from tests.contracts_heads import embed, toy_labels, toy_vectors


def pool_of(tmp_path, *, rows=150, classes=3, views=0, group=None, copies=0) -> Pool:
    """The pool of a toy; group: a function of the row; copies: rows that share the first's bytes."""
    labels = toy_labels(rows, classes)
    if group is not None:
        names = [group(row) for row in range(rows)]
        labels = replace(labels, group=np.array(names, dtype=object))
    cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 4))
    if copies:
        digests = labels.sha256.copy()
        same = np.flatnonzero((labels.split == "train") & (labels.label == "a"))[:copies]
        digests[same] = digests[same[0]]
        labels = replace(labels, sha256=digests)
    seen, held = (features.images(labels, cached, split) for split in ("train", "val"))
    return Pool(seen, held, views, tuple(sorted(set(labels.label))))


def everywhere(y: np.ndarray, parts) -> bool:
    """Every class is among the rows to fit on of every fold."""
    return all(set(y[seen]) == set(y) for seen, _ in parts)


@pytest.mark.parametrize("count", [2, 3, 5, 7])
def test_folds__hold_out_each_row_once__with_every_class_in_the_rest(count):
    y = np.arange(60) % 4
    cut = folds(y, np.arange(60), count, seed=0)
    assert len(cut) == count
    assert sorted(np.concatenate([held for _, held in cut])) == list(range(60))
    for seen, held in cut:
        assert sorted([*seen, *held]) == list(range(60))
        shares = np.bincount(y[held], minlength=4)
        assert shares.max() - shares.min() <= 1, "stratified"
    assert everywhere(y, cut)


@pytest.mark.parametrize("sizes", ["equal", "unequal", "several classes"])
def test_folds__never_part_a_unit(sizes):
    random = np.random.default_rng(0)
    units = np.repeat(np.arange(40), 3) if sizes == "equal" else random.integers(0, 40, 120)
    y = units % 3 if sizes != "several classes" else random.integers(0, 3, 120)
    cut = folds(y, units, 5, seed=0)
    assert len(cut) == 5
    for seen, held in cut:
        assert not set(units[seen]) & set(units[held])
    assert everywhere(y, cut)


def test_folds__other_seed__cuts_otherwise__the_same_alike():
    y, units = np.arange(60) % 3, np.arange(60)
    one, again, other = (folds(y, units, 5, seed)[0][1] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert set(one) != set(other)


def test_folds__class_of_two_units__is_learnt_from_in_every_fold():
    y = np.array([0] * 50 + [1] * 2)
    cut = folds(y, np.arange(52), 5, seed=0)
    assert len(cut) == 5
    assert everywhere(y, cut)


def test_folds__few_units__are_fewer_folds():
    assert len(folds(np.array([0, 0, 0, 1, 1, 1]), np.arange(6), 5, seed=0)) == 3


@pytest.mark.parametrize("units", [np.arange(5), np.array([0, 1, 2, 3, 3])])
def test_folds__class_of_one_unit__are_none(units):
    y = np.array([0, 0, 0, 1, 1])
    assert (folds(y, units, 5, seed=0) == ()) == (len(set(units)) == 4)
    assert folds(y[:4], units[:4], 5, seed=0) == ()


def test_pool__groups_and_copies__share_a_unit(tmp_path):
    pool = pool_of(tmp_path, copies=3)
    sizes = np.bincount(pool.units)
    assert sorted(sizes)[-2:] == [1, 3]
    grouped = pool_of(tmp_path, group=lambda row: f"patient {row % 20}")
    places = np.flatnonzero(toy_labels(150, 3).split != "test")
    assert len(set(grouped.units)) == len({place % 20 for place in places})


def test_pool__rows__are_those_of_the_gathered_matrix(tmp_path):
    pool = pool_of(tmp_path, rows=30, views=2)
    trained, validated = pool.images
    draw = pool.given()
    assert pool.rows(draw.train) == slice(0, 3 * trained)
    part = pool.part(draw.train, draw.val)
    assert part.seen == slice(0, 3 * trained)
    assert part.held == slice(3 * trained, 3 * trained + validated)
    np.testing.assert_array_equal(
        pool.rows(np.array([1, trained + 2])),
        [1, 3 * trained + 2, 1 + trained, 3 * trained + 2 + validated]
        + [1 + 2 * trained, 3 * trained + 2 + 2 * validated],
    )
    numbers = np.arange(trained + validated)
    spread = pool.of_rows(numbers)
    for number in numbers:
        assert set(spread[pool.rows(np.array([number]))]) == {number}


def test_pool__folds__views_stay_with_their_image__clean_ones_score(tmp_path):
    pool = pool_of(tmp_path, views=2)
    image = pool.of_rows(np.arange(len(pool.y)))
    clean = set(range(pool.images[0]))
    parts = pool.in_folds(pool.given(), 5)
    assert len(parts) == 5
    for part in parts:
        assert not set(image[part.seen]) & set(image[part.held])
        assert np.bincount(image[part.seen]).max() == 3
        assert np.bincount(image[part.held]).max() == 1
        assert set(np.arange(len(image))[part.held]) <= clean
    assert sum(len(image[part.held]) for part in parts) == pool.images[0]


def test_redrawn__has_as_many_in_val__of_each_class__and_leaves_out_test(tmp_path):
    pool = pool_of(tmp_path)
    given, drawn = pool.given(), pool.redrawn(1)
    assert sorted([*drawn.train, *drawn.val]) == list(range(120))
    assert len(drawn.val) == len(given.val) == 30
    assert list(np.bincount(pool.y[drawn.val])) == [10, 10, 10]
    others = [set(pool.redrawn(seed).val) for seed in (1, 2, 3)]
    assert set(drawn.val) == others[0]
    assert len({frozenset(one) for one in [*others, set(given.val)]}) == 4


def test_redrawn__groups_and_copies__stay_whole(tmp_path):
    pool = pool_of(tmp_path, group=lambda row: f"patient {row % 20}", copies=3)
    for seed in range(1, 6):
        draw = pool.redrawn(seed)
        assert not set(pool.units[draw.train]) & set(pool.units[draw.val])
        assert len(draw.val) > 0


def test_redrawn__does_not_hang_on_paths(tmp_path):
    labels = toy_labels(150, 3)
    order = np.random.default_rng(0).permutation(150)
    drawn = []
    for table in (labels, replace(labels.where(order), path=labels.path)):
        cached = embed(tmp_path / "toy.h5", table, toy_vectors(table, 4))
        images = [features.images(table, cached, split) for split in ("train", "val")]
        pool = Pool(*images, 0, ("a", "b", "c"))
        digests = np.concatenate([one.labels.sha256 for one in images])
        drawn.append((set(digests[pool.redrawn(1).val]), pool.in_folds(pool.given(), 3)[0].held))
    assert drawn[0][0] == drawn[1][0]
    np.testing.assert_array_equal(drawn[0][1], drawn[1][1])
