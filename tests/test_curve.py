"""Learning curves: which images are drawn, what is chosen inside a draw, what is measured."""

import json
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pipeline import cgroups, curves, dataset, embeddings, features, files, fitting, heads
from pipeline.curves import fits
from pipeline.curves.choice import choose, folded
from pipeline.curves.draws import distinct, draws
from pipeline.dataset import Labels
from pipeline.errors import ConfigurationError, InputError
from pipeline.features import Offer
from pipeline.fitting import Ground
from pipeline.heads import HEADS, Recipe
from pipeline.params import CurveParams, parse
from tests.contracts_heads import embed, toy_labels, toy_vectors

SPLITS = ("train", "train", "train", "test", "test")
FEW = {"head": {"kind": "ridge"}, "shots": [1, 3, 6, 12, "all"], "seeds": 3}
TOY = Offer("toy", ("penultimate",), 0, control=False)


def entry(**options) -> CurveParams:
    return CurveParams.model_validate(options)


def desk(folder: Path, *, rows: int = 150, apart: float = 1.2, **other: Labels) -> Path:
    """artifacts/ with labels of 3 classes and two backbones' embeddings, `good` and `noise`."""
    labels = other.get("labels") or toy_labels(rows, 3, splits=SPLITS)
    dataset.write_labels(folder / "dataset" / "labels.parquet", labels)
    for name, distance, source in (("good", apart, "timm"), ("noise", 0.0, "random")):
        path = folder / "embeddings" / f"{name}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        embed(path, labels, toy_vectors(labels, 8, apart=distance), name=name, source=source)
    return folder


def measure(folder: Path, backbones=("good", "noise"), **options):
    return curves.measure(folder, "mine", entry(**FEW | options), backbones)


def chosen(recipe: Recipe, X: np.ndarray, y: np.ndarray, units: np.ndarray) -> float:
    with fitting.alone_on_a_thread():
        return choose(recipe, Ground(X, y, units), None)


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory) -> Path:
    return desk(tmp_path_factory.mktemp("curve"))


@pytest.fixture(scope="module")
def measured(artifacts):
    return measure(artifacts)


def names(count: int) -> np.ndarray:
    return dataset.digests(sorted(files.sha256_of_bytes(str(n).encode()) for n in range(count)))


# draws


def test_draws__of_one_seed__are_nested_and_hold_so_many_of_each_class():
    y = np.array([0, 1, 2] * 40)
    by_seed = {}
    for draw in draws(names(120), y, [1, 2, 5, 10], 4):
        assert np.bincount(y[draw.rows]).tolist() == [draw.shots] * 3
        by_seed.setdefault(draw.seed, []).append(set(draw.rows.tolist()))
    assert len(by_seed) == 4
    for nested in by_seed.values():
        assert all(small < large for small, large in zip(nested, nested[1:], strict=False))
    assert len({frozenset(nested[-1]) for nested in by_seed.values()}) == 4


def test_draws__class_with_fewer__gives_all_it_has():
    y = np.array([0] * 3 + [1] * 30)
    draw = next(d for d in draws(names(33), y, [5, "all"], 1) if d.shots == 5)
    assert np.bincount(y[draw.rows]).tolist() == [3, 5]


@pytest.mark.parametrize("shots", [[2, "all"], [2, 10, "all"], [2, 10, 50]])
def test_draws__what_is_all_of_train__is_drawn_once_as_all(shots):
    y = np.array([0, 1] * 10)
    found = draws(names(20), y, shots, 3)
    assert [draw.shots for draw in found] == [2, 2, 2, "all"]
    assert found[-1].rows.tolist() == list(range(20))


def test_draws__all_not_asked_for__is_not_drawn():
    found = draws(names(20), np.array([0, 1] * 10), [2, 5], 2)
    assert {draw.shots for draw in found} == {2, 5}


def test_draws__an_image_added__changes_a_draw_by_one_image_at_most():
    every, y = names(61), np.zeros(61, dtype=int)
    for left_out in (0, 30, 60):
        some = np.delete(every, left_out)
        before = draws(some, y[1:], [20], 3)
        after = draws(every, y, [20], 3)
        for one, other in zip(before, after, strict=True):
            assert len(set(every[other.rows]) - set(some[one.rows])) <= 1


def test_distinct__copies_of_an_image__count_once(artifacts):
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    cached = embeddings.open(artifacts / "embeddings" / "good.h5")
    twice = Labels(*(np.repeat(column, 2) for column in vars(labels).values()))
    once = features.images(labels, cached, "train")
    found = distinct(features.images(twice, cached, "train"))
    np.testing.assert_array_equal(found.rows, once.rows)
    np.testing.assert_array_equal(found.labels.label, once.labels.label)


# the choice inside a draw


class Scripted(ClassifierMixin, BaseEstimator):
    """A classifier that is the better the nearer its value is to 20, and notes what it was shown."""

    shown: list[set[int]]

    def __init__(self, value=0.0):
        self.value = value

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        Scripted.shown.append(set(X[:, 0].astype(int).tolist()))
        return self

    def predict_proba(self, X):
        sure = 1 / (1 + abs(self.value - 20) / 20)
        p = 1 / len(self.classes_)
        first = p + (1 - p) * sure * (X[:, 1] == 0)
        rest = (1 - first) / (len(self.classes_) - 1)
        return np.stack([first, *[rest] * (len(self.classes_) - 1)], axis=1)


@pytest.fixture
def scripted() -> Recipe:
    Scripted.shown = []
    grid = tuple(float(value) for value in range(41))
    return Recipe(lambda at: make_pipeline(Scripted(at.value)), "value", None, grid, default=7.0)


def numbered(y: np.ndarray) -> np.ndarray:
    """Vectors that hold their own row's number and class."""
    return np.stack([np.arange(len(y)), y], axis=1).astype(np.float32)


def test_choose__finds_the_best_of_the_grid_by_all_folds(scripted):
    y = np.array([0, 1] * 10)
    found = chosen(scripted, numbered(y), y, np.arange(20))
    assert found == 20.0


def test_choose__one_image_a_class__takes_the_default_and_fits_nothing(scripted):
    y = np.array([0, 1, 2])
    found = chosen(scripted, numbered(y), y, np.arange(3))
    assert found == 7.0
    assert Scripted.shown == []


def test_choose__given_a_value__takes_it(scripted):
    y = np.array([0, 1] * 10)
    given = replace(scripted, value=3.0)
    assert chosen(given, numbered(y), y, np.arange(20)) == 3.0
    assert Scripted.shown == []


def test_choose__groups__are_never_torn_apart(scripted):
    y = np.array([0, 1] * 12)
    units = np.arange(24) // 4
    chosen(scripted, numbered(y), y, units)
    assert Scripted.shown
    for seen in Scripted.shown:
        inside = {int(units[row]) for row in seen}
        assert seen == {row for row in range(24) if units[row] in inside}
        assert len(inside) < 6


def test_folded__class_of_one_image__is_in_the_training_part_of_each_fold():
    y = np.array([0] * 9 + [1] * 9 + [2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = folded(y, np.arange(19), 5, 0, None)
    assert len(parts) == 5
    for seen, held in parts:
        assert 18 in seen and not set(seen) & set(held)
    assert sorted(row for _, held in parts for row in held) == list(range(18))


def test_folded__class_in_one_group__is_never_missing_where_it_is_fitted():
    y = np.array([0] * 8 + [1] * 8)
    units = np.array([*range(8), *[9] * 4, *[10] * 4])
    for seen, _ in folded(y, units, 4, 0, None):
        assert set(y[seen]) == {0, 1}


@pytest.mark.parametrize(("shots", "folds"), [(1, 0), (2, 0), (3, 3), (5, 5), (50, 5)])
def test_folded__of_so_many_images_a_class__makes_so_many_folds(shots, folds):
    y = np.repeat([0, 1], shots)
    assert len(folded(y, np.arange(len(y)), 5, 0, 1000)) == folds


def test_folded__many_images__stop_once_enough_were_held_out():
    y = np.array([0, 1] * 2000)
    assert [len(held) for _, held in folded(y, np.arange(4000), 5, 0, 1000)] == [800, 800]
    assert len(folded(y, np.arange(4000), 5, 0, None)) == 5


@pytest.mark.parametrize("kind", [kind for kind in HEADS if kind not in ("stack", "vote")])
def test_every_kind_of_head__has_a_curve(artifacts, kind):
    measured = measure(artifacts, ["good"], head={"kind": kind}, shots=[1, 5, "all"], seeds=2)
    first, *_, last = measured.content["backbones"]["good"]["points"]
    assert last["accuracy"] > 0.85 or kind == "dummy"
    assert first["accuracy"] < last["accuracy"] or kind == "dummy"


def test_choose__test_images__are_seen_by_no_fit(artifacts, monkeypatch):
    """Planted: every test vector carries its label; were they used to choose, it would show."""
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    cached = embeddings.open(artifacts / "embeddings" / "good.h5")
    bench = fits.bench(labels, cached, entry(**FEW), cached.layers[:1])
    recipe = heads.recipe("head", entry(**FEW).head)
    expected = [fit.value for fit in fits.fit(bench, recipe, folds=None)]
    other = replace(bench, X_test=1000 * np.eye(3, 8, dtype=np.float32)[bench.y_test])
    assert [fit.value for fit in fits.fit(other, recipe, folds=None)] == expected
    assert set(np.concatenate([draw.rows for draw in bench.drawn])) <= set(range(len(bench.y)))


# what is measured


def test_measure__curve__rises_where_there_is_something_to_learn(measured):
    good, noise = (measured.content["backbones"][name] for name in ("good", "noise"))
    first, *_, last = [point["accuracy"] for point in good["points"]]
    assert last > first + 0.1
    assert last > 0.85
    assert all(abs(point["accuracy"] - 1 / 3) < 0.15 for point in noise["points"])
    assert not good["control"] and noise["control"]


def test_measure__points__say_how_many_images_and_draws(measured):
    points = measured.content["backbones"]["good"]["points"]
    assert [p["shots"] for p in points] == [1, 3, 6, 12, "all"]
    assert [p["images"] for p in points] == [3, 9, 18, 36, 90]
    assert [p["draws"] for p in points] == [3, 3, 3, 3, 1]
    for point in points:
        low, high = point["accuracy_ci95"]
        assert low < point["accuracy"] < high


def test_measure__same_images_are_drawn_for_every_backbone(artifacts):
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    drawn = []
    for name in ("good", "noise"):
        cached = embeddings.open(artifacts / "embeddings" / f"{name}.h5")
        drawn.append(fits.bench(labels, cached, entry(**FEW), cached.layers[:1]).drawn)
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one.rows, other.rows)


def test_write__twice_with_other_threads__is_byte_identical(
    artifacts, measured, tmp_path, monkeypatch
):
    curves.write(tmp_path / "a", measured)
    others = cgroups.cores() % 3 + 1
    monkeypatch.setattr(cgroups, "cores", lambda: others)
    curves.write(tmp_path / "b", measure(artifacts))
    for name in ("curve.csv", "plot.csv", "summary.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_write__curve_csv__has_a_row_a_fit(measured, tmp_path):
    curves.write(tmp_path, measured)
    rows = files.read_csv(tmp_path / "curve.csv")
    assert len(rows) == 2 * (4 * 3 + 1)
    assert list(rows[0]) == [
        "backbone", "shots", "seed", "images", "choice", "accuracy", "balanced_accuracy"
    ]  # fmt: skip
    content = json.loads((tmp_path / "summary.json").read_bytes())
    mine = [
        float(row["accuracy"]) for row in rows if (row["backbone"], row["shots"]) == ("good", "6")
    ]
    point = content["backbones"]["good"]["points"][2]
    assert point["accuracy"] == pytest.approx(np.mean(mine))
    assert point["std"] == pytest.approx(np.std(mine, ddof=1))
    plotted = files.read_csv(tmp_path / "plot.csv")
    assert len(plotted) == 2 * 5


def test_describe__has_a_row_a_number_and_a_sentence_a_backbone(measured):
    lines = curves.describe(measured).splitlines()
    assert lines[1].split() == ["shots", "good", "noise"]
    assert [line.split()[0] for line in lines[2:7]] == ["1", "3", "6", "12", "all"]
    assert lines[7].startswith("good: ") and "twice as many" in lines[7]


def test_measure__shots_beyond_train__are_noted(artifacts):
    noted = measure(artifacts, ["good"], shots=[5, 40, 100, "all"]).content["notes"]
    assert noted == ["40, 100 a class is all of train, which is drawn once"]


def test_measure__one_seed__is_noted(artifacts):
    noted = measure(artifacts, ["good"], shots=[1, 5], seeds=1).content["notes"]
    assert len(noted) == 1 and "one draw" in noted[0]


def test_measure__entry_names_backbones__takes_those(artifacts):
    content = measure(artifacts, backbones=["good", "noise"], shots=[2]).content
    assert set(content["backbones"]) == {"good", "noise"}
    content = curves.measure(
        artifacts, "mine", entry(backbones=["noise"], shots=[2]), ["good", "noise"]
    ).content
    assert set(content["backbones"]) == {"noise"}


def test_measure__no_test_image__is_one_line(tmp_path):
    folder = desk(tmp_path, labels=toy_labels(60, 3, splits=("train", "val")))
    with pytest.raises(InputError, match="no test image has an embedding"):
        measure(folder)


def test_measure__class_without_training_image__is_named(tmp_path):
    labels = toy_labels(60, 3, splits=SPLITS)
    labels.split[labels.label == "b"] = "test"
    with pytest.raises(InputError, match="class 'b' has no training image"):
        measure(desk(tmp_path, labels=labels))


def test_measure__one_class_or_nan__is_one_line(tmp_path):
    alone = toy_labels(60, 1, splits=SPLITS)
    with pytest.raises(InputError, match="all of class 'a'"):
        measure(desk(tmp_path / "alone", labels=alone))
    labels = toy_labels(60, 3, splits=SPLITS)
    folder, X = desk(tmp_path / "nan", labels=labels), toy_vectors(labels, 8)
    X[np.flatnonzero(labels.split == "train")[0], 2] = np.nan
    embed(folder / "embeddings" / "good.h5", labels, X, name="good")
    with pytest.raises(InputError, match="1 of 36 vectors hold NaN"):
        measure(folder)


# the entry


def refusal(**options) -> str:
    with pytest.raises(ConfigurationError) as refused:
        curves.check("mine", entry(**options), [TOY])
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_check__defaults__are_right():
    recipe, (sight,) = curves.check("mine", entry(), [TOY])
    assert recipe.option == "C"
    assert sight.layers == ("penultimate",)
    assert entry().shots == [1, 2, 5, 10, 20, 50, "all"] and entry().seeds == 5


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ({"kind": "logistik"}, ["curve.mine.head.kind", "did you mean 'logistic'"]),
        ({"kind": "logistic", "Cs": 1.0}, ["curve.mine.head.Cs", "did you mean 'C'"]),
        ({"kind": "logistic", "C": -1.0}, ["curve.mine.head.C", "greater than 0"]),
        ({"kind": "knn", "views": True}, ["curve.mine.head.views", "no use for it"]),
        ({"kind": "knn", "seeds": 3}, ["curve.mine.head.seeds", "no use for it"]),
        ({"kind": "knn", "calibrate": True}, ["curve.mine.head.calibrate", "no use for it"]),
        ({"kind": "knn", "wanted_precision": 0.9}, ["wanted_precision", "no use for it"]),
        ({"kind": "knn", "layers": "best"}, ["curve.mine.head.layers", "name the layers"]),
        ({"kind": "knn", "layers": ["penultimat"]}, ["curve.mine.head.layers", "'penultimate'"]),
    ],
)
def test_check__wrong_head__is_one_line_with_its_place(head, words):
    said = refusal(head=head)
    assert all(word in said for word in words), said


def test_check__head_made_of_others__is_refused(monkeypatch):
    monkeypatch.setitem(HEADS, "pair", lambda: Recipe(make_pipeline, out_of_fold=True))
    assert "pair is made of other heads" in refusal(head={"kind": "pair"})


PARAMS = {
    "data": {"path": "photos"},
    "backbones": {"lite": {"source": "pixels"}, "raw": {"source": "pixels"}},
    "heads": {"knn": {"kind": "knn"}},
    "run": {"backbones": ["raw"], "heads": ["knn"]},
}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"shots": [0]}, ["curve.mine.shots.0 is 0", "greater than or equal to 1"]),
        ({"shots": ["few"]}, ["curve.mine.shots.0 is 'few'", "'all'"]),
        ({"shots": [2, 1]}, ["curve.mine.shots is [2, 1]", "must rise"]),
        ({"shots": ["all", 5]}, ["must rise", "'all' being the last"]),
        ({"shots": [5, 5]}, ["name none twice"]),
        ({"shots": []}, ["curve.mine.shots"]),
        ({"shot": [1]}, ["unknown key curve.mine.shot", "did you mean 'shots'"]),
        ({"seeds": 0}, ["curve.mine.seeds"]),
        ({"backbones": ["raws"]}, ["curve.mine.backbones", "did you mean 'raw'"]),
        ({"backbones": ["lite"]}, ["curve.mine.backbones", "run.backbones"]),
        ({"backbones": ["raw", "raw"]}, ["'raw' stands twice"]),
        (None, ["curve.mine", "a mapping"]),
    ],
)
def test_parse__wrong_curve__is_one_line_with_its_place(content, words):
    with pytest.raises(ConfigurationError) as refused:
        parse({**PARAMS, "curve": {"mine": content}})
    said = str(refused.value)
    assert "\n" not in said
    assert all(word in said for word in words), said


def test_parse__name_of_a_curve__is_made_of_plain_characters():
    with pytest.raises(ConfigurationError, match="curve: the name 'My curve'"):
        parse({**PARAMS, "curve": {"My curve": {}}})


def test_parse__empty_entry__has_every_default():
    assert parse({**PARAMS, "curve": {"mine": {}}}).curve["mine"] == CurveParams()


def test_scaler__is_fitted_on_the_training_part_of_a_fold_alone(monkeypatch):
    seen = []
    fit = StandardScaler.fit

    def noted(self, X, y=None, sample_weight=None):
        seen.append(len(X))
        return fit(self, X, y, sample_weight)

    monkeypatch.setattr(StandardScaler, "fit", noted)
    recipe = heads.recipe("head", entry().head)
    X = toy_vectors(toy_labels(30, 3), 4)
    y = np.arange(30) % 3
    chosen(recipe, X, y, np.arange(30))
    assert set(seen) == {24}
