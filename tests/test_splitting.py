from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset import Split
from pipeline.splitting import assign, too_few, units

BOTH = {Split.VAL: 0.2, Split.TEST: 0.2}
SHARE = st.floats(0.01, 0.4)
SHARES = st.one_of(
    st.fixed_dictionaries({Split.VAL: SHARE, Split.TEST: SHARE}),
    st.fixed_dictionaries({Split.VAL: SHARE}),
)
SEED = st.integers(-3, 3)


def split(rows: list[tuple[str, str]], fractions=BOTH, seed: int = 0) -> list[Split]:
    return assign(
        [label for label, _ in rows], [key for _, key in rows], fractions=fractions, seed=seed
    )


def one_label(keys) -> list[tuple[str, str]]:
    return [("cat", key) for key in keys]


KEYS = st.sets(st.integers(0, 10**9).map(str), min_size=1, max_size=60).map(sorted)
ROWS = st.lists(
    st.tuples(st.sampled_from("abc"), st.integers(0, 25).map(str)), min_size=1, max_size=60
)
GROUPED = st.lists(st.integers(1, 40), min_size=1, max_size=12).map(
    lambda sizes: [("cat", f"g{n}") for n, size in enumerate(sizes) for _ in range(size)]
)


@settings(deadline=None)
@given(ROWS, SHARES, SEED)
def test_assign__any_rows__have_one_split_a_key_and_no_split_that_was_not_asked(rows, shares, seed):
    splits = split(rows, shares, seed)
    assert len(splits) == len(rows)
    assert set(splits) <= {Split.TRAIN, *shares}
    of_key = {}
    for (_, key), one in zip(rows, splits, strict=True):
        assert of_key.setdefault(key, one) is one


@settings(deadline=None)
@given(ROWS, SHARES, SEED, st.randoms(use_true_random=False))
def test_assign__rows_in_another_order__go_where_they_went(rows, shares, seed, random):
    shuffled = list(range(len(rows)))
    random.shuffle(shuffled)
    there = split([rows[place] for place in shuffled], shares, seed)
    here = split(rows, shares, seed)
    assert there == [here[place] for place in shuffled]


@settings(deadline=None)
@given(KEYS, SHARES, SEED)
def test_assign__single_images__every_share_is_met_to_the_nearest_image(keys, shares, seed):
    counts = Counter(split(one_label(keys), shares, seed))
    if len(keys) <= len(shares):
        assert counts == {Split.TRAIN: len(keys)}
        return
    assert set(counts) == {Split.TRAIN, *shares}
    for name, share in shares.items():
        assert counts[name] == 1 or abs(counts[name] - share * len(keys)) <= 0.5 + 1e-9


@settings(deadline=None)
@given(GROUPED, SHARES, SEED)
def test_assign__groups__every_share_is_met_within_the_largest_group(rows, shares, seed):
    sizes = Counter(key for _, key in rows)
    splits = split(rows, shares, seed)
    counts = Counter(splits)
    if len(sizes) <= len(shares):
        assert counts == {Split.TRAIN: len(rows)}
        return
    assert set(counts) == {Split.TRAIN, *shares}
    for name, share in shares.items():
        assert abs(counts[name] - share * len(rows)) <= max(sizes.values())


@settings(deadline=None)
@given(KEYS, SHARES, SEED)
def test_assign__one_image_more__moves_others_at_the_borders_alone(keys, shares, seed):
    old = keys[:-1]
    before = dict(zip(old, split(one_label(old), shares, seed), strict=True))
    after = dict(zip(keys, split(one_label(keys), shares, seed), strict=True))
    moved = {key for key in old if before[key] is not after[key]}
    assert len(moved) <= 1 + len(shares)
    for name in shares:
        assert abs(list(after.values()).count(name) - list(before.values()).count(name)) <= 1


@settings(deadline=None)
@given(ROWS, SEED)
def test_assign__another_label_gains_an_image__moves_nothing(rows, seed):
    with_owl = split([*rows, ("owl", "an owl")], BOTH, seed)
    assert with_owl[: len(rows)] == split(rows, BOTH, seed)


@settings(deadline=None)
@given(KEYS, SEED)
def test_assign__labels_renamed__moves_nothing(keys, seed):
    rows = [("cat" if len(key) % 2 else "dog", key) for key in keys]
    renamed = [("zebra" if label == "cat" else "ant", key) for label, key in rows]
    assert split(rows, BOTH, seed) == split(renamed, BOTH, seed)


def test_assign__other_seed__is_another_split_and_the_same_seed_the_same():
    rows = one_label(map(str, range(200)))
    assert split(rows, seed=1) == split(rows, seed=1)
    moved = sum(a is not b for a, b in zip(split(rows, seed=1), split(rows, seed=2), strict=True))
    assert 50 < moved < 150


def test_assign__several_labels__are_split_each_for_itself():
    rows = [(label, f"{label}{n}") for label in ("cat", "dog") for n in range(100)]
    counts = Counter(zip((label for label, _ in rows), split(rows), strict=True))
    for label in ("cat", "dog"):
        assert counts[label, Split.TEST] == counts[label, Split.VAL] == 20


@pytest.mark.parametrize("seed", range(10))
def test_assign__one_giant_group__is_trained_on(seed):
    rows = [("cat", "giant")] * 90 + one_label(["small", "tiny"])
    splits = dict(zip([key for _, key in rows], split(rows, seed=seed), strict=True))
    assert splits["giant"] is Split.TRAIN
    assert {splits["small"], splits["tiny"]} == {Split.TEST, Split.VAL}


def test_assign__shares_that_take_nearly_all__still_leave_one_for_each():
    for count in range(3, 12):
        rows = one_label(map(str, range(count)))
        assert set(split(rows, {Split.VAL: 0.05, Split.TEST: 0.9})) == set(Split)


def test_assign__group_of_two_labels__goes_as_a_whole():
    rows = [
        ("cat", "g"),
        ("dog", "g"),
        *((label, f"{label}{n}") for label in ("cat", "dog") for n in range(9)),
    ]
    for seed in range(20):
        first, second, *_ = split(rows, seed=seed)
        assert first is second


def test_units__new_member_of_a_group__does_not_change_its_key():
    members = [(f"{number:02d}" * 32, "patient") for number in range(20)]
    for count in range(1, 20):
        digests, groups = zip(*members[:count], strict=True)
        assert set(units(digests, groups)) == {"#patient"}
    assert units(["ab" * 32], [None]) == ["ab" * 32]


def test_units__groups_joined_by_equal_bytes__share_a_key_and_others_do_not():
    first, second, third = units(["a", "a", "b"], ["g", "h", "i"])
    assert first == second != third


def test_too_few__labels_with_fewer_units_than_parts__are_counted():
    rows = [("cat", "g"), ("cat", "g"), ("cat", "h"), *(("dog", str(n)) for n in range(3))]
    labels, keys = zip(*rows, strict=True)
    assert too_few(labels, keys, 3) == {"cat": 2}
    assert too_few(labels, keys, 2) == {}


def test_too_few__label_always_in_the_minority_of_its_groups__has_no_unit():
    labels, keys = zip(*[("cat", "g"), ("dog", "g"), ("dog", "g"), ("dog", "h")], strict=True)
    assert too_few(labels, keys, 2) == {"cat": 0}


@given(ROWS, SHARES, SEED)
def test_too_few__any_rows__labels_it_does_not_name_have_a_row_for_each_split(rows, shares, seed):
    labels, keys = zip(*rows, strict=True)
    few = too_few(labels, keys, len(shares) + 1)
    splits = Counter(split(rows, shares, seed))
    if set(labels) - set(few):
        assert set(splits) == {Split.TRAIN, *shares}
