"""What is done to the vectors between the backbone and the classifier."""

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from pipeline import heads
from pipeline.errors import ConfigurationError
from pipeline.heads import ENHANCEMENTS, Setting, enhancement
from pipeline.params import HeadParams

RANDOM = np.random.default_rng(0)
X = (RANDOM.normal(size=(60, 20)) * np.arange(1, 21) + 3).astype(np.float32)
NEW = (RANDOM.normal(size=(9, 20)) * np.arange(1, 21) + 3).astype(np.float32)
Y = np.arange(60) % 3


def made(*names: str, rows: int = 60, dim: int = 20, seed: int = 0):
    """An unfitted transformer of these steps."""
    parsed = enhancement.parse(list(names), at="heads.mine")
    return make_pipeline(*enhancement.steps(parsed, Setting(1.0, rows, dim, 1e-4, seed=seed)))


def of(enhance, kind: str = "logistic"):
    return heads.recipe("mine", HeadParams(kind=kind, enhance=enhance))


def setting(recipe, **given) -> Setting:
    return Setting(**{"value": 1.0, "rows": 60, "dim": 20, "tolerance": 1e-4, **given},
                   enhance=recipe.enhance)  # fmt: skip


def refusal(enhance) -> str:
    with pytest.raises(ConfigurationError) as refused:
        of(enhance)
    line = str(refused.value)
    assert line.startswith("params.yaml: heads.mine.enhance: ")
    assert "\n" not in line
    return line


# what each does


def test_standardise__has_mean_0_and_deviation_1():
    Z = made("standardise").fit_transform(X)
    np.testing.assert_allclose(Z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(Z.std(axis=0), 1, atol=1e-6)


def test_centre__has_mean_0_and_the_deviation_it_had():
    Z = made("centre").fit_transform(X)
    np.testing.assert_allclose(Z, X - X.mean(axis=0), atol=1e-5)


def test_l2__has_length_1__and_zeros_stay():
    Z = made("l2").fit_transform(np.vstack([X, np.zeros((1, 20), np.float32)]))
    np.testing.assert_allclose(np.linalg.norm(Z[:-1], axis=1), 1, atol=1e-6)
    assert not Z[-1].any()


def test_power__is_the_root_of_the_size__and_keeps_the_sign_and_the_type():
    Z = made("power").fit_transform(np.array([[-4, 0, 9], [1, -16, 0.25]], np.float32))
    np.testing.assert_array_equal(Z, [[-2, 0, 3], [1, -4, 0.5]])
    assert Z.dtype == np.float32


@pytest.mark.parametrize(("name", "whole"), [("pca:5", False), ("whiten:5", True)])
def test_principal_components__are_those_of_the_covariance__whitened_or_not(name, whole):
    fitted = made(name).fit(X)
    Z, covariance = fitted.transform(X), np.cov(X.T)
    largest = np.sort(np.linalg.eigvalsh(covariance))[::-1][:5]
    expected = np.eye(5) if whole else np.diag(largest)
    np.testing.assert_allclose(np.cov(Z.T), expected, rtol=1e-3, atol=1e-3 * expected.max())


@pytest.mark.parametrize("name", sorted(set(ENHANCEMENTS) - {"none"}))
def test_each__is_learnt_from_the_rows_it_is_fitted_on__and_repeats_to_the_byte(name, tmp_path):
    for place in ("one", "two"):
        joblib.dump(made(name).fit(X), tmp_path / place)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    alone = made(name).fit(X).transform(NEW[:1])
    np.testing.assert_allclose(made(name).fit(X).transform(NEW)[:1], alone, atol=1e-5)
    assert np.isfinite(alone).all()


def test_steps__are_done_in_the_order_named():
    first, second = made("power", "l2").fit_transform(X), made("l2", "power").fit_transform(X)
    np.testing.assert_allclose(np.linalg.norm(first, axis=1), 1, atol=1e-6)
    assert not np.allclose(np.linalg.norm(second, axis=1), 1)


def test_pipeline__has_the_steps_named_and_the_classifier_last():
    recipe = of(["power", "standardise", "whiten:7"])
    names = [name for name, _ in recipe.build(setting(recipe)).steps]
    assert names == ["functiontransformer", "standardscaler", "pca", "logisticregression"]


def test_pipeline__of_none__is_the_bare_classifier():
    recipe = of("none")
    fitted = recipe.build(setting(recipe)).fit(X, Y)
    bare = LogisticRegression(C=1.0, tol=1e-4, max_iter=1000).fit(X, Y)
    np.testing.assert_array_equal(fitted.decision_function(NEW), bare.decision_function(NEW))


def test_seed__reaches_the_principal_components():
    assert made("pca:5", seed=7)[0].random_state == 7


# names


def test_parse__null_is_the_kinds_own__a_name_is_a_list_of_one__none_is_no_step():
    def parse(given):
        return enhancement.parse(given, at="heads.mine")

    assert parse(None) is None
    assert parse("l2") == ("l2",)
    assert parse(["none"]) == parse("none") == ()
    assert parse(["standardise", "pca", "whiten:064"]) == ("standardise", "pca:256", "whiten:64")


@pytest.mark.parametrize(
    ("enhance", "part"),
    [
        ("standardize", "unknown enhancement 'standardize'; did you mean 'standardise'?"),
        (["l2", "whitened:3"], "unknown enhancement 'whitened'; did you mean 'whiten'?"),
        ("bleach", "choose one of: centre, l2, none, pca, power, standardise, whiten"),
        ("pca:0", "'pca:0': behind the colon stands a whole number above 0, as in pca:128"),
        ("pca:", "'pca:': behind the colon stands a whole number above 0"),
        ("whiten:1.5", "as in whiten:128"),
        ("pca:-3", "a whole number above 0"),
        ("pca:²", "a whole number above 0"),
        ("l2:5", "'l2:5': l2 takes no number; write l2"),
        (["none", "l2"], "'none' stands among others; delete it or them"),
    ],
)
def test_parse__wrong_name_or_number__is_refused_with_what_to_write(enhance, part):
    assert part in refusal(enhance)


@pytest.mark.parametrize("enhance", [[], 3, True, ["l2", None], {"pca": 3}])
def test_enhance__of_another_shape__is_refused_by_params(enhance):
    with pytest.raises(ValueError, match="enhance"):
        HeadParams(kind="logistic", enhance=enhance)


# what is in force, and said


@pytest.mark.parametrize(
    ("rows", "dim", "named", "in_force"),
    [
        (60, 20, ["pca"], ("pca:20",)),
        (11, 20, ["pca:15"], ("pca:10",)),
        (60, 20, ["pca:15"], ("pca:15",)),
        (60, 20, ["l2", "pca:6", "whiten:9"], ("l2", "pca:6", "whiten:6")),
    ],
)
def test_components__are_no_more_than_rows_and_dimensions_have__and_a_note_says_so(
    rows, dim, named, in_force
):
    recipe = of(named)
    at = setting(recipe, rows=rows, dim=dim)
    assert recipe.enhanced(at) == in_force
    capped = [name for name in enhancement.parse(named, at="x") if name not in in_force]
    assert [note.split(" is ")[0] for note in recipe.notes(at)] == capped
    assert all(f"{rows} rows of {dim} numbers" in note for note in recipe.notes(at))
    few = slice(rows)
    fitted = recipe.build(at).fit(X[few], Y[few])
    assert fitted[-1].n_features_in_ == enhancement.width(in_force, at)


@pytest.mark.parametrize(
    ("kind", "own"),
    [("logistic", ("standardise",)), ("nearest_mean", ("centre", "l2")), ("lda", ("standardise",))],
)
def test_null__is_what_the_kind_states(kind, own):
    recipe = of(None, kind)
    assert recipe.enhance is None
    assert recipe.enhanced(setting(recipe)) == own
    assert recipe.notes(setting(recipe)) == ()


def test_one_function_and_one_line__add_an_enhancement(monkeypatch):
    class Halved(TransformerMixin, BaseEstimator):
        def fit(self, X, y=None):
            return self

        def transform(self, X):
            return X / 2

    monkeypatch.setitem(ENHANCEMENTS, "halved", Halved)
    np.testing.assert_array_equal(made("halved").fit_transform(X), X / 2)
    recipe = of(["halved", "l2"])
    assert recipe.build(setting(recipe)).fit(X, Y).predict(NEW).shape == (9,)
