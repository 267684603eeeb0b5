"""Choosing a hyperparameter on validation images, and the two fits that follow."""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline import evaluation, heads, metrics, selection
from pipeline import search as searching
from pipeline.errors import InputError
from pipeline.fitting import FINE_TOLERANCE, Ground
from pipeline.folds import Part
from pipeline.heads import HEADS, Recipe, Setting
from pipeline.heads.grids import C_GRID
from pipeline.metrics import Scored
from pipeline.params import HeadParams
from pipeline.search import STRIDE, Search
from tests.contracts_heads import embed, of_split, toy, toy_labels, toy_vectors, train

GRID = tuple(range(45))


def choose(recipe: Recipe, X_seen, y_seen, X_held, y_held) -> Search:
    """The search on one part."""
    X, y = np.concatenate([X_seen, X_held]), np.concatenate([y_seen, y_held])
    ground = Ground(X, y, np.arange(len(y)))
    return searching.choose(recipe, ground, [Part(slice(0, len(X_seen)), slice(len(X_seen), None))])


def blobs(seed: int, *, rows: int, dim: int, classes: int, apart: float, noise: float = 0.0):
    """X_seen, y_seen, X_held, y_held: normal clouds, some labels at random."""
    random = np.random.default_rng(seed)
    y = np.arange(rows) % classes
    X = apart * random.normal(size=(classes, dim))[y] + random.normal(size=(rows, dim))
    y = np.where(random.random(rows) < noise, random.integers(0, classes, rows), y)
    X, seen = X.astype(np.float32), rows * 7 // 10
    return X[:seen], y[:seen], X[seen:], y[seen:]


def log_loss_of(recipe: Recipe, value: float, X_seen, y_seen, X_held, y_held) -> float:
    """Validation log loss of one independent fit."""
    setting = Setting(value, *X_seen.shape, FINE_TOLERANCE)
    fitted = recipe.build(setting).fit(X_seen, y_seen)
    predicted, probabilities = evaluation.predict(fitted, X_held)
    return metrics.log_loss(Scored(y_held, predicted, probabilities, max(y_seen) + 1))


class Scripted(ClassifierMixin, BaseEstimator):
    """A classifier whose validation log loss on labels 0 is what a script says of its value."""

    def __init__(self, value=0.0, script=None):
        self.value = value
        self.script = script

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        right = np.exp(-self.script(self.value))
        return np.tile([right, 1 - right], (len(X), 1))

    def predict(self, X):
        return self.predict_proba(X).argmax(axis=1)


def choose_by(script, grid=GRID) -> Search:
    recipe = Recipe(
        lambda at: make_pipeline(Scripted(at.value, script)), "C", None, tuple(map(float, grid))
    )
    X, zeros = np.zeros((4, 1), np.float32), np.zeros(4, int)
    return choose(recipe, X, np.array([0, 1, 0, 1]), X, zeros)


def tried(search: Search) -> list[float]:
    return [trial["value"] for trial in search.trace]


# the search


@pytest.mark.parametrize(
    "data",
    [
        blobs(0, rows=300, dim=20, classes=3, apart=0.5),
        blobs(1, rows=400, dim=60, classes=5, apart=0.3),
        blobs(2, rows=300, dim=100, classes=2, apart=0.2),
        blobs(3, rows=500, dim=30, classes=10, apart=0.8, noise=0.2),
        blobs(4, rows=120, dim=200, classes=4, apart=0.15, noise=0.1),
        blobs(5, rows=300, dim=10, classes=3, apart=0.0),
        blobs(6, rows=1000, dim=64, classes=8, apart=0.5, noise=0.1),
        blobs(7, rows=4400, dim=60, classes=5, apart=0.2),
        blobs(8, rows=4400, dim=120, classes=10, apart=0.3, noise=0.2),
        blobs(9, rows=4400, dim=300, classes=2, apart=0.12),
    ],
)
def test_search__is_within_a_step_and_a_thousandth_of_45_independent_fits(data):
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    with threadpool_limits(1):
        search = choose(recipe, *data)
        losses = [log_loss_of(recipe, C, *data) for C in C_GRID]
    chosen = C_GRID.index(search.value)
    assert abs(chosen - np.argmin(losses)) <= 1
    assert losses[chosen] - min(losses) < 0.001


def test_search__few_images_of_many_dimensions__figures_are_those_of_the_head_that_is_kept():
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    for seed in range(4):
        data = blobs(seed, rows=100, dim=400, classes=3, apart=0.12)
        with threadpool_limits(1):
            search = choose(recipe, *data)
            kept = log_loss_of(recipe, search.value, *data)
        stated = next(t["log_loss"] for t in search.trace if t["value"] == search.value)
        assert stated == pytest.approx(kept, abs=0.005)


@pytest.mark.parametrize("lowest", [0, 1, 2, 3, 6, 13, 16, 22, 29, 35, 40, 41, 42, 43, 44])
def test_search__of_a_valley__finds_its_floor_in_16_fits(lowest):
    search = choose_by(lambda value: 0.1 + 0.01 * abs(value - lowest))
    assert search.value == lowest
    assert search.at_edge == (lowest in (0, 44))
    assert len(search.trace) <= 16


@pytest.mark.parametrize("agreement", [searching.AGREEMENT, -1.0])
def test_search__of_many_rows__keeps_a_fit_from_scratch__and_walks_on_where_it_contradicts(
    monkeypatch, agreement
):
    data = blobs(8, rows=4400, dim=60, classes=10, apart=0.3, noise=0.2)
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    monkeypatch.setattr(searching, "AGREEMENT", agreement)
    fresh = []
    fit = LogisticRegression.fit

    def noted(self, X, y):
        fresh.append(not self.warm_start and self.tol == FINE_TOLERANCE)
        return fit(self, X, y)

    monkeypatch.setattr(LogisticRegression, "fit", noted)
    search = choose(recipe, *data)
    assert (sum(fresh) == 1) == (agreement > 0)
    stated = next(t["log_loss"] for t in search.trace if t["value"] == search.value)
    assert stated == pytest.approx(log_loss_of(recipe, search.value, *data), abs=1e-9)


@pytest.fixture
def fits(monkeypatch) -> list[tuple[float, float]]:
    """C and tolerance of every logistic regression that is fitted."""
    seen = []
    fit = LogisticRegression.fit

    def noted(self, X, y):
        seen.append((self.C, self.tol))
        return fit(self, X, y)

    monkeypatch.setattr(LogisticRegression, "fit", noted)
    return seen


def test_search__of_45_values_of_c__costs_17_fits_at_most(fits):
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    assert len(recipe.grid) == 45
    for apart in (0.0, 0.3, 3.0):
        fits.clear()
        choose(recipe, *blobs(7, rows=200, dim=20, classes=2, apart=apart))
        assert len(fits) <= 17


def test_search__chosen_value__was_fitted_at_the_tolerance_of_the_final_fits(fits):
    recipe = heads.recipe("logistic", HeadParams(kind="logistic"))
    coarse = list[bool]()
    for dim in (5, 10, 15, 20, 30, 40):
        data = blobs(1, rows=100, dim=dim, classes=3, apart=0.3)
        fits.clear()
        with threadpool_limits(1):
            search = choose(recipe, *data)
        assert (search.value, FINE_TOLERANCE) in fits
        coarse.append(recipe.grid.index(search.value) % STRIDE == 0)
    assert any(coarse), "no choice was one of the coarse candidates"


def test_search__that_only_gets_worse__stops_after_three_rises():
    search = choose_by(lambda value: 0.1 + 0.0005 * value)
    assert tried(search) == [0, 1, 2, 4, 8, 12]


def test_search__that_gets_clearly_worse__stops_after_one_rise():
    search = choose_by(lambda value: 0.1 + 0.01 * value)
    assert tried(search) == [0, 1, 2, 4]


def test_search__two_rises__do_not_stop_it():
    search = choose_by(lambda value: 0.5 + (0.01 * value if value < 11 else -0.01 * value))
    assert search.value == 44


def test_search__ties__go_to_the_more_regularised():
    assert choose_by(lambda _: 0.3).value == 0
    assert choose_by(lambda value: 0.1 + 0.01 * max(0, abs(value - 22) - 1)).value == 21


def test_search__trace__is_in_the_order_of_the_grid_and_holds_the_figures():
    search = choose_by(lambda value: 0.1 + 0.01 * abs(value - 13))
    assert tried(search) == sorted(set(tried(search)))
    for trial in search.trace:
        assert trial["log_loss"] == pytest.approx(0.1 + 0.01 * abs(trial["value"] - 13))
        assert trial["accuracy"] == 1.0


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_search__short_grid__is_searched_whole(size):
    for lowest in range(size):
        search = choose_by(lambda value, lowest=lowest: 0.1 + abs(value - lowest), range(size))
        assert search.value == lowest


@pytest.mark.parametrize("kind", ["ridge", "linear_svm"])
def test_search__head_without_probabilities__takes_the_first_of_highest_accuracy(kind):
    recipe = heads.recipe(kind, HeadParams(kind=kind))
    search = choose(recipe, *blobs(8, rows=200, dim=20, classes=3, apart=0.3))
    accuracies = [trial["accuracy"] for trial in search.trace]
    assert search.value == search.trace[int(np.argmax(accuracies))]["value"]
    assert not any("log_loss" in trial for trial in search.trace)


def test_given_value__is_fitted_twice_and_not_searched(fits):
    _, record = train("logistic", C=0.5)
    assert fits == [(0.5, FINE_TOLERANCE)] * 2
    assert (record.choice, record.trace, record.at_edge) == ({"C": 0.5}, [], False)


def test_chosen_value__given_by_hand__gives_the_same_bytes(tmp_path):
    fitted, record = train("logistic")
    again, pinned = train("logistic", **record.choice)
    heads.save(tmp_path / "searched", fitted, record)
    heads.save(tmp_path / "pinned", again, pinned)
    searched, given = (tmp_path / name / "logistic.joblib" for name in ("searched", "pinned"))
    assert searched.read_bytes() == given.read_bytes()


# what it must not look at


@pytest.mark.parametrize("kind", ["logistic", "knn", "ridge"])
def test_test_rows__are_never_looked_at(kind, tmp_path):
    labels = toy_labels(150, 3)
    X = toy_vectors(labels, 8)
    other, test = X.copy(), labels.split == "test"
    other[test] = 1000 * np.random.default_rng(1).normal(size=other[test].shape)
    shuffled = labels.label.copy()
    shuffled[test] = shuffled[test][::-1]
    for name, rows, table in (("one", X, labels), ("two", other, replace(labels, label=shuffled))):
        cached = embed(tmp_path / f"{name}.h5", table, rows)
        heads.save(tmp_path / name, *selection.train(kind, HeadParams(kind=kind), table, cached))
    for ending in ("joblib", "json"):
        one, two = (tmp_path / name / f"{kind}.{ending}" for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_feature_that_tells_the_label_on_test_rows_only__gains_nothing(tmp_path):
    labels = toy_labels(150, 3)
    X = toy_vectors(labels, 8, apart=0.3)
    _, codes = np.unique(labels.label.astype(str), return_inverse=True)
    leak = np.where(labels.split == "test", codes - 1, 0)
    figures = []
    for name, rows in (("plain", X), ("leaky", np.column_stack([X, leak]))):
        cached = embed(tmp_path / f"{name}.h5", labels, rows.astype(np.float32))
        fitted, record = selection.train("l", HeadParams(kind="logistic"), labels, cached)
        test, y = of_split(labels, cached, "test")
        figures.append((record.choice, (evaluation.predict(fitted.train_val, test)[0] == y).mean()))
    assert figures[0] == figures[1]
    assert figures[0][1] < 0.9, "too easy to show a gain"


class Spy(TransformerMixin, BaseEstimator):
    """Notes on how many rows it is fitted."""

    def __init__(self, notes=None):
        self.notes = notes

    def fit(self, X, y=None):
        self.notes.append(len(X))
        return self

    def transform(self, X):
        return X


def test_steps_before_the_classifier__are_fitted_on_train_alone__val_comes_with_the_last_fit(
    monkeypatch,
):
    notes = []
    spied = Recipe(
        lambda at: make_pipeline(Spy(notes), LogisticRegression(C=at.value)), "C", None, C_GRID[:9]
    )
    monkeypatch.setitem(HEADS, "spied", lambda: spied)
    train("spied")
    assert sorted(notes) == [90, 90, 120]


def test_renamed_files__leave_the_bytes_as_they_were(tmp_path):
    labels = toy_labels(150, 3)
    X = toy_vectors(labels, 8)
    order = np.random.default_rng(0).permutation(150)
    renamed = replace(labels.where(order), path=labels.path)
    for name, table, rows in (("old", labels, X), ("new", renamed, X[order])):
        cached = embed(tmp_path / f"{name}.h5", table, rows)
        heads.save(tmp_path / name, *selection.train("l", HeadParams(kind="knn"), table, cached))
    old, new = (tmp_path / name / "l.joblib" for name in ("old", "new"))
    assert old.read_bytes() == new.read_bytes()


# fits


def added(monkeypatch, build, **recipe) -> None:
    """A head named `mine`."""
    made = Recipe(build, **recipe)
    monkeypatch.setitem(HEADS, "mine", lambda: made)


def test_fits__run_on_one_thread__and_give_the_others_back(monkeypatch):
    seen = []

    class Curious(LogisticRegression):
        def fit(self, X, y):
            seen.extend(pool["num_threads"] for pool in threadpool_info())
            return super().fit(X, y)

    added(
        monkeypatch,
        lambda at: make_pipeline(Curious(C=at.value)),
        option="C",
        grid=C_GRID[:9],
    )
    with threadpool_limits(2):
        before = [pool["num_threads"] for pool in threadpool_info()]
        train("mine")
        assert [pool["num_threads"] for pool in threadpool_info()] == before
    assert seen
    assert set(seen) == {1}


def stopped_early(at: Setting, *, when) -> object:
    rounds = 1 if when(at) else 1000
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=rounds, tol=at.tolerance))


def test_fit_that_did_not_converge__is_recorded_and_told__without_a_warning(monkeypatch, capsys):
    added(monkeypatch, partial(stopped_early, when=lambda _: True))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, record = train("mine")
    assert record.converged is False
    assert capsys.readouterr() == ("", "")
    assert "warning: the final fit stopped before it converged" in selection.describe(record)


def test_search_that_did_not_converge__is_no_matter_where_the_final_fits_did(monkeypatch):
    loose = partial(stopped_early, when=lambda at: at.tolerance > FINE_TOLERANCE)
    added(monkeypatch, loose, option="C", grid=(1.0, 2.0))
    _, record = train("mine")
    assert len(record.trace) == 2
    assert record.converged is True


def test_describe__names_the_choice_and_how_many_were_tried():
    _, record = train("logistic")
    assert selection.describe(record) == (
        f"toy / logistic: C = {record.choice['C']:.4g} of {len(record.trace)} tried"
    )
    assert selection.describe(train("dummy")[1]) == "toy / dummy: fitted"


def test_describe__choice_at_an_end_of_the_grid__warns():
    _, record = train("logistic")
    text = selection.describe(replace(record, at_edge=True))
    assert text.splitlines()[1:] == [
        "warning: the choice lies at an end of the grid; give a value of your own"
    ]


# data that cannot be used


def refusal(labels, cached) -> str:
    with pytest.raises(InputError) as refused:
        selection.train("ridge", HeadParams(kind="ridge"), labels, cached)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_class_that_lost_all_its_training_images__is_refused_by_name(tmp_path):
    labels = toy_labels(60, 3)
    kept = (labels.label != "b") | (labels.split != "train")
    cached = embed(tmp_path / "toy.h5", labels.where(kept), toy_vectors(labels, 4)[kept])
    line = refusal(labels, cached)
    assert "class 'b' has lost all its training images" in line
    assert "problems.csv" in line


def test_no_validation_image__is_refused_with_what_to_change(tmp_path):
    labels = toy_labels(60, 3)
    kept = labels.split != "val"
    cached = embed(tmp_path / "toy.h5", labels.where(kept), toy_vectors(labels, 4)[kept])
    line = refusal(labels, cached)
    assert "no validation image has an embedding" in line
    assert "three images" in line


def test_images_without_an_embedding__are_not_counted(tmp_path):
    labels, _ = toy()
    lost = np.flatnonzero(labels.split == "train")[:4]
    kept = np.setdiff1d(np.arange(150), lost)
    cached = embed(tmp_path / "toy.h5", labels.where(kept), toy_vectors(labels, 8)[kept])
    _, record = selection.train("ridge", HeadParams(kind="ridge"), labels, cached)
    assert record.rows == {"train": 86, "val": 30}
