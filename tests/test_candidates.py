"""Choosing on folds, in several draws, and of heads made of heads; fits side by side."""

import threading
import time
import warnings
from dataclasses import replace

import numpy as np
import pytest
from scipy.linalg import LinAlgWarning
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import cgroups, fitting, heads, selection
from pipeline.fitting import Ground
from pipeline.heads import HEADS, Recipe
from pipeline.heads.grids import C_GRID
from pipeline.params import HeadParams
from tests.contracts_heads import embed, toy_labels, toy_vectors, train
from tests.test_selection import Spy, added

KINDS = ("logistic", "linear_svm", "rbf_svm", "knn", "ridge", "nearest_mean", "dummy")


def grouped(tmp_path, *, groups: int = 40, seed: int = 0):
    """Vectors that tell the group and nothing of the class; images of a group share its class."""
    labels = toy_labels(300, 2, splits=("train",) * 3 + ("val",))
    random = np.random.default_rng(seed)
    names, where = np.array(["a", "b"], dtype=object), random.integers(0, groups, 300)
    label = names[random.permutation(np.arange(groups) % 2)]
    centres = 5 * random.normal(size=(groups, 30))
    X = (centres[where] + 0.1 * random.normal(size=(300, 30))).astype(np.float32)
    labels = replace(
        labels, label=label[where], group=np.array([f"g{g}" for g in where], dtype=object)
    )
    # whole groups in val, as `prepare` would have it
    split = np.where(where % 4 == 0, "val", "train").astype(object)
    labels = replace(labels, split=split)
    return labels, embed(tmp_path / "grouped.h5", labels, X)


def loose(labels):
    """The same labels, with no group known."""
    return replace(labels, group=np.array([None] * len(labels.group), dtype=object))


def best(record) -> float:
    return max(trial["accuracy"] for trial in record.trace)


# on folds


@pytest.mark.parametrize("kind", ["knn", "logistic"])
def test_folds__whole_groups__leave_nothing_to_learn__split_ones_all(kind, tmp_path):
    labels, cached = grouped(tmp_path)
    entry = HeadParams(kind=kind, cv=5)
    _, whole = selection.train("h", entry, labels, cached)
    _, split = selection.train("h", entry, loose(labels), cached)
    assert whole.chosen_on == split.chosen_on == "5 folds of train"
    assert best(whole) < 0.75
    assert best(split) > 0.95


def test_folds__figures__are_of_every_training_image_once():
    _, record = train("knn", cv=5)
    assert record.chosen_on == "5 folds of train"
    for trial in record.trace:
        assert (trial["accuracy"] * 90) == pytest.approx(round(trial["accuracy"] * 90))
    assert "tried on 5 folds of train" in selection.describe(record)


def test_folds__val_is_not_looked_at_for_the_choice(tmp_path):
    labels = toy_labels(150, 3)
    X = toy_vectors(labels, 8, apart=0.4)
    spoilt = np.where((labels.split == "val")[:, None], np.float32(50), X)
    records = [
        selection.train(
            "h", HeadParams(kind="logistic", cv=3), labels, embed(tmp_path / f"{n}.h5", labels, V)
        )[1]
        for n, V in enumerate((X, spoilt))
    ]
    assert records[0].choice == records[1].choice
    assert records[0].trace == records[1].trace


def test_folds__steps_before_the_classifier__are_fitted_inside_each(monkeypatch):
    notes = []
    added(
        monkeypatch,
        lambda at: make_pipeline(Spy(notes), StandardScaler(), LogisticRegression(C=at.value)),
        option="C",
        grid=C_GRID[:5],
    )
    train("mine", cv=5)
    assert sorted(notes) == [72] * 5 + [90, 120]


def test_folds__views__stay_with_their_image(tmp_path, monkeypatch):
    from tests.contracts_heads import embed_all

    seen = []

    class Noting(KNeighborsClassifier):
        def fit(self, X, y):
            seen.append(len(X))
            return super().fit(X, y)

        def predict_proba(self, X):
            seen.append(len(X))
            return super().predict_proba(X)

    added(monkeypatch, lambda at: make_pipeline(Noting(1)), option="k", grid=(1.0,))
    labels = toy_labels(150, 3)
    X = {"a": toy_vectors(labels, 4, apart=0.0)}
    cached = embed_all(tmp_path / "toy.h5", labels, X, X, X)
    _, record = selection.train("h", HeadParams(kind="mine", views=True, cv=3), labels, cached)
    assert sorted(seen) == [30] * 3 + [30] + [180] * 3 + [270, 360]
    assert best(record) < 0.6, "a view of an image told what it is"


def test_folds__too_few_units__are_fewer_and_said(tmp_path):
    labels = toy_labels(15, 3, splits=("train", "train", "train", "val", "val"))
    cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 4))
    _, record = selection.train("h", HeadParams(kind="ridge", cv=5), labels, cached)
    assert record.chosen_on == "3 folds of train"
    assert [note for note in record.notes if "chosen on 3 folds, not on 5" in note]


def test_folds__class_of_one_image__is_chosen_on_val_and_said(tmp_path):
    labels = toy_labels(6, 3, splits=("train", "val"))
    cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 4))
    _, record = selection.train("h", HeadParams(kind="ridge", cv=5), labels, cached)
    assert record.chosen_on == "val"
    assert [note for note in record.notes if "chosen on val, not on 5 folds" in note]


def test_folds__nothing_to_choose__are_not_made():
    for kind, options in (("nearest_mean", {}), ("logistic", {"C": 0.1})):
        _, record = train(kind, cv=5, **options)
        assert (record.chosen_on, record.notes) == ("val", [])


# draws


def test_seeds__the_given_split_first__then_others__each_chosen_afresh():
    _, record = train("logistic", seeds=4)
    assert [draw["seed"] for draw in record.seeds] == [0, 1, 2, 3]
    assert all(draw["n"] == 30 for draw in record.seeds)
    _, alone = train("logistic")
    assert alone.seeds == []
    first = record.seeds[0]
    assert first["choice"] == alone.choice
    figures = next(t for t in alone.trace if t["value"] == alone.choice["C"])
    assert first["accuracy"] == figures["accuracy"]
    assert first["log_loss"] == pytest.approx(figures["log_loss"], abs=1e-12)
    low, high = first["accuracy_ci95"]
    assert low < first["accuracy"] < high
    assert len({draw["log_loss"] for draw in record.seeds}) == 4
    accuracies = [draw["accuracy"] for draw in record.seeds]
    mean, spread = np.mean(accuracies), np.std(accuracies, ddof=1)
    told = f"4 draws of train and val: accuracy {mean:.4f} ± {spread:.4f} on val"
    assert told in selection.describe(record).splitlines()


@pytest.mark.parametrize("kind", ["logistic", "ridge", "knn"])
def test_seeds__change_nothing_of_the_head(kind, tmp_path):
    for name, seeds in (("one", 1), ("three", 3)):
        heads.save(tmp_path / name, *train(kind, seeds=seeds))
    one, three = (tmp_path / name / f"{kind}.joblib" for name in ("one", "three"))
    assert one.read_bytes() == three.read_bytes()


def test_seeds__whole_groups__leave_nothing_to_learn__split_ones_all(tmp_path):
    labels, cached = grouped(tmp_path)
    entry = HeadParams(kind="knn", seeds=4)
    _, whole = selection.train("h", entry, labels, cached)
    _, split = selection.train("h", entry, loose(labels), cached)
    assert np.mean([draw["accuracy"] for draw in whole.seeds]) < 0.75
    assert np.mean([draw["accuracy"] for draw in split.seeds[1:]]) > 0.95


def test_seeds__test_is_never_looked_at(tmp_path):
    labels = toy_labels(150, 3)
    X = toy_vectors(labels, 8)
    spoilt = np.where((labels.split == "test")[:, None], np.float32(1000), X)
    records = [
        selection.train(
            "h", HeadParams(kind="knn", seeds=3), labels, embed(tmp_path / f"{n}.h5", labels, V)
        )[1]
        for n, V in enumerate((X, spoilt))
    ]
    assert records[0] == records[1]


def test_seeds__draw_that_leaves_a_class_without_train__is_left_out_and_said(tmp_path):
    labels = toy_labels(30, 2, splits=("train", "train", "val"))
    rare = np.flatnonzero(labels.split == "train")[:1]
    label = labels.label.copy()
    label[rare] = "c"  # shares its group with more images of another class
    group = np.array([f"g{row}" for row in range(30)], dtype=object)
    group[rare] = group[np.flatnonzero((labels.label == "b") & (labels.split == "train"))[0]]
    group[np.flatnonzero((labels.label == "b") & (labels.split == "train"))[1]] = group[rare][0]
    labels = replace(labels, label=label, group=group)
    cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 4))
    _, record = selection.train("h", HeadParams(kind="ridge", seeds=12), labels, cached)
    notes = [note for note in record.notes if "class 'c' has no image in its train" in note]
    assert notes
    assert len(record.seeds) + len(notes) == 12


def test_seeds__are_given_to_what_is_drawn_at_random(monkeypatch):
    seeds = []

    def build(at):
        seeds.append(at.seed)
        return make_pipeline(StandardScaler(), LogisticRegression())

    added(monkeypatch, build)
    train("mine", seeds=3)
    assert set(seeds) == {0, 1, 2}


# heads made of heads


class Chorus(ClassifierMixin, BaseEstimator):
    """The first of its members speaks; what it was built for is kept."""

    def __init__(self, first=None, values=None, folds=None):
        self.first = first
        self.values = values
        self.folds = folds

    def fit(self, X, y):
        rows = np.sort(np.concatenate([held for _, held in self.folds])) if self.folds else []
        assert list(rows) == list(range(len(X))) or not self.folds
        self.first.fit(X, y)
        self.classes_ = self.first.classes_
        self.many_ = len(self.folds or ())
        return self

    def predict(self, X):
        return self.first.predict(X)

    def predict_proba(self, X):
        return self.first.predict_proba(X)


@pytest.fixture
def chorus(monkeypatch):
    """Of logistic regression and kNN, searched, and a nearest mean."""

    def made(**options) -> Recipe:
        members = {kind: HEADS[kind]() for kind in ("logistic", "knn", "nearest_mean")}
        members["logistic"] = replace(members["logistic"], **options)

        def build(at):
            first = members["logistic"].build(replace(at, value=at.members["logistic"]))
            return make_pipeline(Chorus(first, dict(at.members), at.folds))

        return Recipe(build, members=members, out_of_fold=True)

    def put(**options) -> None:
        monkeypatch.setitem(HEADS, "chorus", lambda: made(**options))

    put()
    return put


def test_members__each_has_a_search_of_its_own__named_in_choice_and_trace(chorus):
    fitted, record = train("chorus")
    alone = {kind: train(kind)[1] for kind in ("logistic", "knn")}
    assert record.choice == {
        "logistic.C": alone["logistic"].choice["C"],
        "knn.k": alone["knn"].choice["k"],
    }
    for kind, one in alone.items():
        entries = [dict(t) for t in record.trace if t["member"] == kind]
        assert [entry.pop("member") for entry in entries] == [kind] * len(one.trace)
        assert entries == one.trace
    assert fitted.train[-1].values == {
        "logistic": record.choice["logistic.C"],
        "knn": record.choice["knn.k"],
    }
    assert record.chosen_by == "accuracy or log_loss"
    text = selection.describe(record)
    assert f"logistic.C = {record.choice['logistic.C']:.4g}, knn.k = " in text


def test_members__given_value__is_not_searched(chorus):
    chorus(value=0.25)
    _, record = train("chorus")
    assert record.choice["logistic.C"] == 0.25
    assert {trial["member"] for trial in record.trace} == {"knn"}


def test_members__edges__are_named(chorus):
    chorus(grid=(1e-6, 1e-5))
    _, record = train("chorus")
    assert record.at_edge
    assert record.edges["logistic.C"] == "least regularised"
    assert (
        "warning: logistic.C lies at the least regularised end of the grid"
        in selection.describe(record).splitlines()
    )


@pytest.mark.parametrize(("cv", "folds"), [(None, 5), (3, 3)])
def test_out_of_fold__folds__are_of_the_rows_it_is_fitted_on(chorus, cv, folds):
    fitted, _ = train("chorus", cv=cv)
    assert (fitted.train[-1].many_, fitted.train_val[-1].many_) == (folds, folds)


def test_out_of_fold__whole_groups(monkeypatch, tmp_path):
    seen = []

    def build(at):
        seen.append(at)
        return make_pipeline(StandardScaler(), LogisticRegression())

    added(monkeypatch, build, out_of_fold=True)
    labels, cached = grouped(tmp_path)
    selection.train("h", HeadParams(kind="mine"), labels, cached)
    train_rows = int((labels.split == "train").sum())
    sizes = {sum(len(held) for _, held in at.folds) for at in seen}
    assert sizes == {train_rows, 300}
    assert {at.rows for at in seen} == {train_rows}, "built alike for both fits"


# the search, where fits may start from others


def test_warm_search__kept_fit__is_what_a_fit_of_its_own_gives(tmp_path):
    import io

    import joblib

    labels = toy_labels(150, 3)
    cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 8, apart=0.4))
    kinds = {}
    for kind in ("logistic", "linear_svm", "ridge", "knn"):
        fitted, record = selection.train("h", HeadParams(kind=kind), labels, cached)
        given, _ = selection.train("h", HeadParams(kind=kind, **record.choice), labels, cached)
        kept = io.BytesIO(), io.BytesIO()
        for one, file in zip((fitted, given), kept, strict=True):
            joblib.dump(vars(one), file)
        kinds[kind] = kept[0].getvalue() == kept[1].getvalue()
    assert kinds == dict.fromkeys(kinds, True)


# side by side


def records_on(monkeypatch, cores: int, kind: str, tmp_path, **options):
    monkeypatch.setattr(cgroups, "cores", lambda: cores)
    fitted, record = train(kind, **options)
    heads.save(tmp_path / f"{kind}-{cores}", fitted, record)
    return [
        (tmp_path / f"{kind}-{cores}" / f"{kind}.{end}").read_bytes() for end in ("joblib", "json")
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{}, {"cv": 3, "seeds": 3, "wanted_precision": 0.9}])
def test_cores__one_or_seven__the_same_bytes(monkeypatch, kind, options, tmp_path):
    one = records_on(monkeypatch, 1, kind, tmp_path, **options)
    assert records_on(monkeypatch, 7, kind, tmp_path, **options) == one


def test_each__keeps_the_order__and_works_side_by_side(monkeypatch):
    monkeypatch.setattr(cgroups, "cores", lambda: 3)
    barrier = threading.Barrier(3, timeout=10)

    def work(number: int) -> int:
        barrier.wait()
        time.sleep(0.01 * (3 - number))
        return fitting.at_once(0) * 100 + number

    assert fitting.each(work, range(3)) == [100, 101, 102], "one at a time within"


def test_each__too_little_memory__one_at_a_time(monkeypatch):
    monkeypatch.setattr(cgroups, "cores", lambda: 8)
    monkeypatch.setattr(cgroups, "memory_left", lambda: 1000 * fitting.COPIES)
    assert fitting.at_once(1) == 8
    assert fitting.at_once(400) == 2
    assert fitting.at_once(10**9) == 1


def test_each__what_one_raises__is_raised():
    def work(number: int) -> int:
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        fitting.each(work, [2, 1, 0])


def test_convergence__of_fits_side_by_side__is_told_apart(monkeypatch):
    monkeypatch.setattr(cgroups, "cores", lambda: 4)
    random = np.random.default_rng(0)
    X, y = random.normal(size=(200, 20)).astype(np.float32), np.arange(200) % 3
    ground = Ground(X, y, np.arange(200))

    def done(rounds: int) -> bool:
        recipe = Recipe(lambda _: make_pipeline(LogisticRegression(max_iter=rounds)))
        at = fitting.setting(recipe, ground, slice(None), 0.0)
        return fitting.fit(recipe, ground, slice(None), at).converged

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fitting.alone_on_a_thread():
            told = fitting.each(done, [1, 500] * 8)
    assert told == [False, True] * 8


def test_ill_conditioned_matrix__warns_nobody():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with fitting.alone_on_a_thread():
            warnings.warn("ill-conditioned", LinAlgWarning, stacklevel=1)


def test_other_warnings__are_shown_as_ever():
    with pytest.warns(UserWarning, match="look here"), fitting.alone_on_a_thread():
        warnings.warn("look here", UserWarning, stacklevel=1)
        warnings.warn("not this", ConvergenceWarning, stacklevel=1)
