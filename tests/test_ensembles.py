"""Heads made of heads: what they are told, what they say, what is kept of the folds."""

import io
from dataclasses import replace

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline

from pipeline import heads
from pipeline.heads import HEADS, Recipe, Setting, kernel
from pipeline.heads.ensembles import MEMBERS
from pipeline.params import HeadParams
from pipeline.prediction import predict
from tests.contracts_heads import of_split, refusal, toy, toy_labels, toy_vectors

LABELS = toy_labels(400, 4)
MIXED = np.random.default_rng(0).permutation(400)
X, NEW = np.split(toy_vectors(LABELS, 6, apart=1.2)[MIXED], [300])
Y, Y_NEW = np.split(np.unique(LABELS.label.astype(str), return_inverse=True)[1][MIXED], [300])
FOLDS = tuple(
    (np.flatnonzero(np.arange(len(X)) % 4 != fold), np.flatnonzero(np.arange(len(X)) % 4 == fold))
    for fold in range(4)
)
AT = Setting(0.0, *X.shape, 1e-4, folds=FOLDS, classes=("a", "b", "c", "d"))


def recipe(kind: str, *members: str, **entry) -> Recipe:
    return heads.recipe("mine", HeadParams(kind=kind, members=list(members), **entry))


def fitted(kind: str, *members: str, at: Setting = AT, **entry):
    made = recipe(kind, *members, **entry)
    return made.build(replace(at, enhance=made.enhance)).fit(X, Y)


def alone(kind: str, value: float):
    """A head fitted by itself."""
    return heads.recipe("one", HeadParams(kind=kind)).build(replace(AT, value=value)).fit(X, Y)


# votes


def test_vote__is_the_mean_of_the_probabilities_of_its_members_at_the_values_chosen_for_them():
    values = {"logistic": 0.1, "knn": 7.0, "lda": 0.0}
    vote = fitted("vote", *values, at=replace(AT, members=values))
    apart = [alone(kind, value).predict_proba(NEW) for kind, value in values.items()]
    np.testing.assert_allclose(vote.predict_proba(NEW), np.mean(apart, axis=0), atol=1e-12)


def test_vote__member_without_a_value__has_its_default():
    vote = fitted("vote", "logistic", "mlp")
    apart = [
        alone(kind, value).predict_proba(NEW) for kind, value in (("logistic", 0.01), ("mlp", 1.0))
    ]
    np.testing.assert_allclose(vote.predict_proba(NEW), np.mean(apart, axis=0), atol=1e-6)


@pytest.mark.parametrize("kind", ["linear_svm", "rbf_svm", "ridge", "nearest_mean"])
def test_vote__member_without_probabilities__gets_some_out_of_fold_that_fit(kind):
    made = recipe("vote", "logistic", kind)
    assert made.out_of_fold
    member = made.build(AT).fit(X, Y)[-1].estimators_[1]
    told, plain = (
        member.predict_proba(NEW),
        predict(alone(kind, made.members[kind].default), NEW, 1.0)[1],
    )
    np.testing.assert_array_equal(told.argmax(axis=1), plain.argmax(axis=1))
    assert log_loss(Y_NEW, told / told.sum(axis=1, keepdims=True)) < log_loss(Y_NEW, plain)


def test_vote__of_members_with_probabilities__needs_no_folds():
    made = recipe("vote", "logistic", "knn", "lda", "mlp")
    assert not made.out_of_fold
    assert made.notes(replace(AT, folds=())) == ()


def test_vote__too_few_images_for_folds__takes_the_softmax__and_says_so():
    bare = replace(AT, folds=())
    made = recipe("vote", "logistic", "ridge")
    vote = made.build(bare).fit(X, Y)
    plain = predict(alone("ridge", 1000.0), NEW, 1.0)[1]
    np.testing.assert_allclose(vote[-1].estimators_[1].predict_proba(NEW), plain, atol=1e-12)
    (note,) = made.notes(bare)
    assert note == "too few images for folds: the probabilities of ridge are a plain softmax"
    assert made.notes(AT) == ()


# stacks


class ByHeart(ClassifierMixin, BaseEstimator):
    """Knows the rows that it was fitted on by heart, and guesses of any other; keeps what it saw."""

    seen: list = []

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.known_ = {row.tobytes(): code for row, code in zip(X, y, strict=True)}
        type(self).seen.append({row.tobytes() for row in X})
        return self

    def predict_proba(self, X):
        codes = [self.known_.get(row.tobytes(), 0) for row in X]
        return np.eye(len(self.classes_))[codes]

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture
def memory(monkeypatch):
    """A kind that is always right on what it was fitted on, and on nothing else."""
    monkeypatch.setattr(ByHeart, "seen", [])
    monkeypatch.setitem(HEADS, "memory", lambda: Recipe(lambda _: make_pipeline(ByHeart())))
    return ByHeart


def test_stack__member_that_is_right_only_on_what_it_saw__is_not_believed(memory):
    stack = fitted("stack", "memory", "logistic", at=replace(AT, members={"logistic": 0.1}))
    only = alone("logistic", 0.1).score(NEW, Y_NEW)
    assert fitted("vote", "memory", "logistic").score(X, Y) == 1
    assert stack.score(NEW, Y_NEW) >= only - 0.05
    assert only > 0.7


def test_stack__each_fit_sees_the_rows_of_one_fold_or_all__and_so_do_the_steps_before(memory):
    stack = fitted("stack", "memory", "logistic")
    rows = {row.tobytes() for row in X}
    expected = [rows, *({row.tobytes() for row in X[seen]} for seen, _ in FOLDS)]
    assert sorted(map(sorted, memory.seen)) == sorted(map(sorted, expected))
    logistic = stack[-1].estimators_[1]
    np.testing.assert_allclose(logistic[0].mean_, X.mean(axis=0), atol=1e-6)
    assert len(stack) == 1, "a step before the members would have seen the rows held out"


def test_stack__of_groups_whole_in_folds__keeps_them_whole(memory):
    groups = np.arange(len(X)) // 8
    folds = tuple(
        (np.flatnonzero(groups % 4 != f), np.flatnonzero(groups % 4 == f)) for f in range(4)
    )
    fitted("stack", "memory", "logistic", at=replace(AT, folds=folds))
    place = {row.tobytes(): group for row, group in zip(X, groups, strict=True)}
    for seen in memory.seen:
        inside = {place[row] for row in seen}
        outside = {place[row] for row in place if row not in seen}
        assert not inside & outside


def test_stack__too_few_images_for_folds__is_a_vote__and_says_so():
    bare = replace(AT, folds=())
    made = recipe("stack", "logistic", "knn")
    vote = recipe("vote", "logistic", "knn").build(bare).fit(X, Y)
    np.testing.assert_array_equal(
        made.build(bare).fit(X, Y).predict_proba(NEW), vote.predict_proba(NEW)
    )
    assert made.notes(bare) == ("too few images for folds: a vote instead of a stack",)
    assert made.out_of_fold
    assert made.notes(AT) == ()


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_two_classes__are_told_apart(kind):
    two = Y < 2
    folds = tuple((np.arange(two.sum()) % 3 != f).nonzero() + (np.arange(two.sum()) % 3 == f).nonzero()
                  for f in range(3))  # fmt: skip
    made = recipe(kind, "logistic", "rbf_svm", "nearest_mean", "knn")
    head = made.build(replace(AT, rows=int(two.sum()), folds=folds)).fit(X[two], Y[two])
    assert head.predict_proba(NEW).shape == (len(NEW), 2)
    assert head.score(NEW[Y_NEW < 2], Y_NEW[Y_NEW < 2]) > 0.8


# what both share


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_members__null_is_a_plane_a_kernel_and_neighbours__each_searched_by_itself(kind):
    made = heads.recipe("mine", HeadParams(kind=kind, enhance="l2"))
    assert tuple(made.members) == MEMBERS == ("logistic", "rbf_svm", "knn")
    for name, member in made.members.items():
        assert member.grid == HEADS[name]().grid
        assert member.enhance == made.enhance == ("l2",)


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_file__keeps_no_fold(kind):
    head, kept = fitted(kind, "ridge", "logistic"), io.BytesIO()
    joblib.dump(head, kept)
    joblib.dump(FOLDS, listed := io.BytesIO())
    for _, held in FOLDS:
        assert held.tobytes() in listed.getvalue()
        assert held.tobytes() not in kept.getvalue()
    loaded = joblib.load(io.BytesIO(kept.getvalue()))
    np.testing.assert_array_equal(loaded.predict_proba(NEW), head.predict_proba(NEW))


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_enhancement_in_force__is_told_by_member_where_they_differ(kind):
    told = {
        ("logistic", "lda"): ("standardise",),
        ("logistic", "nearest_mean"): ("logistic: standardise", "nearest_mean: centre + l2"),
    }
    for members, expected in told.items():
        assert recipe(kind, *members).enhanced(AT) == expected
    bare = recipe(kind, "logistic", "nearest_mean", enhance="none")
    assert bare.enhanced(replace(AT, enhance=())) == ()


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_rows__are_those_that_the_smallest_fold_leaves(kind):
    """A member's components and neighbours are there in every fold, and the notes say how many."""
    few = replace(
        AT,
        enhance=("pca:6",),
        members={"knn": 300.0},
        folds=((np.arange(5), np.arange(5, len(X))), (np.arange(5, len(X)), np.arange(5))),
    )
    made = recipe(kind, "knn", "logistic", enhance="pca:6")
    assert made.enhanced(few) == ("pca:4",)
    assert len([note for note in made.notes(few) if "pca:6 is pca:4" in note]) == 2
    assert made.build(few)[-1].estimators[0][1][-1].n_neighbors == 5


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_notes__of_a_member__carry_its_name(kind):
    many = replace(AT, rows=kernel.PCA_ROWS, dim=1280, folds=())
    notes = recipe(kind, "rbf_svm", "logistic").notes(many)
    assert any(
        note.startswith("rbf_svm: the kernel sees 256 principal components") for note in notes
    )


@pytest.mark.parametrize("kind", ["vote", "stack"])
@pytest.mark.parametrize(
    ("members", "part"),
    [
        (["logistic", "lds"], "unknown head 'lds'; did you mean 'lda'?"),
        (["logistic", "stack"], "stack is made of heads itself; name the kinds that it is made of"),
        (["vote", "knn"], "vote is made of heads itself"),
        (["knn", "logistic", "knn"], "knn stands twice; delete one"),
        (["knn"], "at least 2"),
        ([], "at least 2"),
        ("knn", "list"),
        ([3, "knn"], "string"),
    ],
)
def test_members__that_cannot_be__are_refused_with_what_to_write(kind, members, part):
    line = refusal(kind, members=members)
    assert line.startswith("params.yaml: heads.mine.members")
    assert part in line


@pytest.mark.parametrize("kind", ["vote", "stack"])
def test_one_function_and_one_line__add_a_member(kind, memory):
    assert fitted(kind, "logistic", "memory").predict(NEW).shape == (len(NEW),)


def test_toy__every_single_head_can_be_a_member():
    X, y = of_split(*toy(), "train")
    turn = np.arange(len(X)) % 3
    folds = tuple((np.flatnonzero(turn != one), np.flatnonzero(turn == one)) for one in range(3))
    members = [kind for kind in HEADS if kind not in ("vote", "stack")]
    at = Setting(0.0, *X.shape, 1e-4, folds=folds)
    for kind in ("vote", "stack"):
        head = recipe(kind, *members).build(at).fit(X, y)
        assert head.score(X, y) > 0.85
