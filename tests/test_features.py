"""What of the cached embeddings a head sees: the matrix of layers and views, and the entry's wish."""

import numpy as np
import pytest

from pipeline import features, heads
from pipeline.errors import ConfigurationError
from pipeline.features import Gathered, Offer
from pipeline.params import HeadParams
from tests.contracts_heads import embed_all, toy_labels, toy_vectors

LABELS = toy_labels(30, 3)
ORDER = np.argsort(LABELS.sha256)
"""Rows of a file are sorted by sha256."""

NET = Offer("net", ("penultimate", "blocks.2", "blocks.4@max"), 2, control=False)


def layer(seed: int, dim: int = 4) -> np.ndarray:
    """Vectors that float16 holds exactly, in the order of LABELS."""
    return toy_vectors(LABELS, dim, seed=seed).astype(np.float16).astype(np.float32)


def wish(offered: Offer = NET, **entry) -> features.Sight:
    return features.sight("mine", HeadParams(kind="ridge", **entry), offered)


def refusal(offered: Offer = NET, **entry) -> str:
    with pytest.raises(ConfigurationError) as refused:
        wish(offered, **entry)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# the matrix


def test_gather__one_layer__is_as_cached(tmp_path):
    cached = embed_all(tmp_path / "t.h5", LABELS, {"a": layer(0), "b": layer(1, 7)})
    rows = np.array([3, 9, 4])
    np.testing.assert_array_equal(
        features.gather(cached, ["b"], [(rows, 0)]), layer(1, 7)[ORDER][rows]
    )


def test_gather__several_layers__are_each_brought_to_length_one_and_joined_in_order(tmp_path):
    cached = embed_all(tmp_path / "t.h5", LABELS, {"a": layer(0), "b": layer(1, 7)})
    rows = np.arange(30)
    X = features.gather(cached, ["b", "a"], [(rows, 0)])
    assert (X.dtype, X.shape) == (np.float32, (30, 11))
    for part, alone in ((X[:, :7], layer(1, 7)[ORDER]), (X[:, 7:], layer(0)[ORDER])):
        expected = alone / np.linalg.norm(alone, axis=1, keepdims=True)
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-6)


def test_gather__one_layer_a_thousand_times_larger__changes_nothing_where_it_is_joined(tmp_path):
    made = []
    for factor in (1, 1000, 1024):
        layers = {"a": layer(0) * factor, "b": layer(1)}
        cached = embed_all(tmp_path / f"{factor}.h5", LABELS, layers, storage="float32")
        made.append(features.gather(cached, "ab", [(np.arange(30), 0)]))
    np.testing.assert_allclose(made[1], made[0], rtol=1e-6)
    np.testing.assert_array_equal(made[2], made[0], "a power of two rounds no bit")


@pytest.mark.parametrize("factor", [0, 1e-30, 1e37])
def test_gather__vectors_of_zeros_or_of_any_length__become_finite(tmp_path, factor):
    layers = {"a": layer(0) * np.float32(factor), "b": layer(1)}
    cached = embed_all(tmp_path / "t.h5", LABELS, layers, storage="float32")
    X = features.gather(cached, "ab", [(np.arange(30), 0)])
    norms = np.linalg.norm(X[:, :4].astype(float), axis=1)
    np.testing.assert_allclose(norms, 1 if factor else 0, rtol=0, atol=1e-6)


@pytest.mark.parametrize("rows_at_hand", [1, 4, 1000])
def test_gather__parts__lie_below_each_other_view_by_view(tmp_path, monkeypatch, rows_at_hand):
    monkeypatch.setattr(features, "GATHERED_ROWS", rows_at_hand)
    clean, first, second = ({"a": layer(seed), "b": layer(seed + 5)} for seed in range(3))
    cached = embed_all(tmp_path / "t.h5", LABELS, clean, first, second)
    some, others = np.arange(9), np.array([20, 12])
    X = features.gather(cached, ["b"], [(some, 2), (others, 0)])
    views = [view["b"][ORDER] for view in (clean, first, second)]
    np.testing.assert_array_equal(X, np.concatenate([*(v[some] for v in views), views[0][others]]))
    whole = features.gather(cached, ["a", "b"], [(some, 2), (others, 0)])
    assert whole.shape == (29, 8)
    unit = views[2][some] / np.linalg.norm(views[2][some], axis=1, keepdims=True)
    np.testing.assert_allclose(whole[18:27, 4:], unit, rtol=0, atol=1e-6)


def test_gathered__same_layers_again__are_not_read_again(tmp_path):
    cached = embed_all(tmp_path / "t.h5", LABELS, {"a": layer(0), "b": layer(1)})
    gathered = Gathered(cached, [(np.arange(30), 0)])
    first = gathered.of(("a",))
    assert gathered.of(("a",)) is first
    np.testing.assert_array_equal(gathered.of(("b",)), layer(1)[ORDER])
    np.testing.assert_array_equal(gathered.of(("a",)), first)


def test_fingerprints__name_the_datasets_of_the_file(tmp_path):
    clean = {"a": layer(0), "b.1@max": layer(1)}
    cached = embed_all(tmp_path / "t.h5", LABELS, clean, clean)
    found = features.fingerprints(cached, cached.layers, 1)
    assert set(found) == set(cached.arrays)
    assert len(set(found.values())) == 4
    assert found["embeddings"] == cached.fingerprint


# the entry's wish


def test_sight__default__is_the_first_layer_in_its_clean_view():
    assert wish() == features.Sight(("penultimate",))
    assert wish().candidates == (("penultimate",),)


def test_sight__list_all_and_best():
    assert wish(layers=["blocks.4@max", "penultimate"]).layers == ("blocks.4@max", "penultimate")
    assert wish(layers="all") == features.Sight(NET.layers)
    assert wish(layers="best") == features.Sight(NET.layers, best=True)
    assert wish(layers="best").candidates == (*((name,) for name in NET.layers), NET.layers)
    assert wish(views=True).views == 2


def test_sight__unknown_layer__names_the_near_miss_and_all_there_are():
    line = refusal(layers=["penultimate", "block.2"])
    assert line.startswith(
        "params.yaml: heads.mine.layers: net has penultimate, blocks.2, blocks.4@max"
    )
    for word in ("not 'block.2'", "did you mean 'blocks.2'", "backbones.net.layers"):
        assert word in line


def test_sight__layer_twice__is_refused():
    assert "'blocks.2' stands twice" in refusal(layers=["blocks.2", "blocks.2"])


def test_sight__no_views_to_train_on__names_the_key():
    line = refusal(Offer("net", NET.layers, 0, control=False), views=True)
    assert "heads.mine.views" in line
    assert "backbones.net.views" in line


def test_sight__control__gives_what_it_has_and_says_so():
    control = Offer("raw", ("penultimate", "stem"), 0, control=True)
    for layers, kept in ((["blocks.2", "b"], ("penultimate",)), (["b", "stem"], ("stem",))):
        found = wish(control, layers=layers, views=True)
        assert (found.layers, found.views) == (kept, 0)
        assert [kept[0] in found.notes[0], "no augmented views" in found.notes[1]] == [True, True]
        assert all("raw" in note for note in found.notes)
    assert wish(control, layers="all").notes == wish(control, layers=["stem"]).notes == ()


@pytest.mark.parametrize("key", ["layers", "views"])
def test_options_of_kinds__leave_these_names_free(key):
    assert all(key not in heads.inspect.signature(head).parameters for head in heads.HEADS.values())


def test_misspelt_layers__are_refused_with_the_near_miss():
    with pytest.raises(ConfigurationError, match="heads.mine.layer .*did you mean 'layers'"):
        heads.recipe("mine", HeadParams(kind="nearest_mean", layer=["a"]))
