"""Heads: what each is, and the file a fitted one is kept in."""

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from scipy.special import softmax
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.dummy import DummyClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

import stages.evaluate
import stages.train
from pipeline import dataset, evaluation, files, heads
from pipeline.errors import ConfigurationError, IntegrityError
from pipeline.heads import HEADS, Recipe, Setting, grids, kernel
from pipeline.params import HeadParams
from pipeline.prediction import predict
from tests.contracts_heads import (
    HeadContract,
    embed,
    of_split,
    toy,
    toy_labels,
    toy_vectors,
    trained,
)
from tests.test_selection import choose


@pytest.mark.parametrize("kind", sorted(HEADS))
class TestEachHead(HeadContract):
    """Every entry of HEADS keeps the contract."""


def built(kind: str, *, value: float = 1.0, rows: int = 100, dim: int = 8, **options):
    """An unfitted pipeline of a head."""
    recipe = heads.recipe(kind, HeadParams(kind=kind, **options))
    return recipe.build(Setting(value, rows, dim, 1e-4, enhance=recipe.enhance))


@pytest.fixture
def saved(tmp_path) -> Path:
    """A folder with the files of a fitted logistic head."""
    heads.save(tmp_path / "toy", *trained("logistic"))
    return tmp_path / "toy"


# kinds


def test_recipe__unknown_kind__names_the_near_miss():
    with pytest.raises(ConfigurationError) as error:
        heads.recipe("mine", HeadParams(kind="logistik"))
    line = "params.yaml: heads.mine.kind: unknown head 'logistik'; did you mean 'logistic'?"
    assert str(error.value) == line


def test_grids__lead_from_the_most_regularised_on__evenly():
    for grid in (grids.C_GRID, grids.SVM_GRID, grids.RBF_GRID):
        steps = np.diff(np.log10(grid))
        assert (steps > 0).all()
        np.testing.assert_allclose(steps, steps[0])
    assert (np.diff(grids.ALPHA_GRID) < 0).all()
    assert (np.diff(grids.K_GRID) < 0).all()


def test_c_grid__is_that_of_the_linear_probe_protocol():
    assert len(grids.C_GRID) == 45
    np.testing.assert_allclose([grids.C_GRID[0], grids.C_GRID[-1]], [1e-6, 1e5])


def test_rbf_svm__many_rows_of_many_dimensions__works_on_principal_components():
    enough, few = kernel.PCA_ROWS, kernel.PCA_ROWS - 1
    assert [len(built("rbf_svm", rows=rows, dim=1280).steps) for rows in (few, enough)] == [2, 3]


def test_rbf_svm__many_rows_of_few_dimensions__are_fitted():
    random = np.random.default_rng(0)
    X = random.normal(size=(kernel.PCA_ROWS, 4))
    y = (X[:, 0] > 0).astype(int)
    assert built("rbf_svm", rows=len(X), dim=4).fit(X, y).score(X, y) > 0.9


def test_knn__votes_by_the_exponential_of_cosine_similarity():
    labels, cached = toy()
    X, y = of_split(labels, cached, "train")
    new, _ = of_split(labels, cached, "test")
    neighbours = built("knn", value=5, rows=len(X), dim=8).fit(X, y)
    scaled, queries = ((Z - X.mean(0)) / X.std(0) for Z in (X, new))
    for query, found in zip(queries, neighbours.predict_proba(new), strict=True):
        cosine = scaled @ query / np.linalg.norm(scaled, axis=1) / np.linalg.norm(query)
        nearest = np.argsort(-cosine)[:5]
        votes = np.bincount(y[nearest], np.exp(cosine[nearest] / 0.07), minlength=3)
        np.testing.assert_allclose(found, votes / votes.sum(), atol=1e-4)


def test_knn__more_neighbours_than_rows__takes_all_rows():
    X, y = of_split(*toy(), "train")
    neighbours = built("knn", value=500, rows=len(X)).fit(X, y)
    (note,) = heads.recipe("h", HeadParams(kind="knn")).notes(Setting(500, len(X), 8, 1e-4))
    assert note == f"k is {len(X)}, as many as it is fitted on, not 500"
    assert neighbours[-1].n_neighbors == len(X)
    assert set(neighbours.predict(X)) <= {0, 1, 2}


def test_nearest_mean__is_cl2n__and_states_no_probability():
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], 60)  # one class close together, so its mean is long, the other all round
    X = 5 * random.normal(size=(120, 4)) * [1, 1, 1, 9] + np.outer(y == 0, [15, 0, 0, 0])
    new = 5 * random.normal(size=(200, 4)) * [1, 1, 1, 9] + [7, 0, 0, 0]
    head = built("nearest_mean").fit(X, y)
    unit, queries = (Z - X.mean(0) for Z in (X, new))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    means = np.stack([unit[y == code].mean(axis=0) for code in (0, 1)])
    distances = np.linalg.norm(queries[:, None] - means[None], axis=2)
    np.testing.assert_array_equal(head.predict(new), distances.argmin(axis=1))
    assert not hasattr(head, "predict_proba")


@pytest.mark.parametrize("classes", [2, 3])
def test_nearest_mean__decision__is_the_negative_squared_distance(classes):
    random = np.random.default_rng(0)
    y = np.arange(30) % classes
    X = random.normal(size=(30, 4)) + y[:, None]
    head = built("nearest_mean", enhance="none").fit(X, y)
    means = np.stack([X[y == code].mean(axis=0) for code in range(classes)])
    expected = -((X[:, None] - means) ** 2).sum(axis=2)
    expected = expected[:, 1] - expected[:, 0] if classes == 2 else expected
    np.testing.assert_allclose(head.decision_function(X), expected, atol=1e-10)
    predicted, probabilities = predict(head, X, temperature=2.0)
    np.testing.assert_array_equal(predicted, head.predict(X))
    full = -((X[:, None] - means) ** 2).sum(axis=2) / 2.0
    np.testing.assert_allclose(probabilities, softmax(full, axis=1), atol=1e-12)


@pytest.mark.parametrize("kind", ["rbf_svm", "linear_svm", "ridge"])
def test_decision__of_many_classes__has_the_prediction_highest(kind):
    random = np.random.default_rng(0)
    X, y = random.normal(size=(300, 5)).astype(np.float32), np.arange(300) % 6
    head = built(kind, rows=300, dim=5).fit(X, y)
    new = random.normal(size=(500, 5)).astype(np.float32)
    np.testing.assert_array_equal(head.predict(new), predict(head, new, temperature=3.0)[0])


@pytest.mark.parametrize(("rows", "enhance", "reduced"), [
    (999, None, False),
    (1000, None, True),
    (1000, "none", True),
    (1000, "pca:300", True),
    (1000, "whiten:256", False),
])  # fmt: skip
def test_rbf_svm__many_rows_of_many_dimensions__says_so(rows, enhance, reduced):
    recipe = heads.recipe("mine", HeadParams(kind="rbf_svm", enhance=enhance))
    at = Setting(1.0, rows, 1280, 1e-4, enhance=recipe.enhance)
    assert (recipe.enhanced(at)[-1:] == ("pca:256",)) == reduced
    said = [note for note in recipe.notes(at) if "256 principal components" in note]
    assert len(said) == int(reduced)
    assert all(f"here {rows} and 1280" in note for note in said)
    assert isinstance(recipe.build(at)[-2], PCA) == (reduced or enhance == "whiten:256")


def test_lda__is_that_of_scikit_learn__with_a_shrunk_covariance__and_keeps_none():
    X, y = of_split(*toy(), "train")
    new, _ = of_split(*toy(), "test")
    head = built("lda", enhance="none").fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(X, y)
    np.testing.assert_array_equal(head.predict_proba(new), theirs.predict_proba(new))
    assert not hasattr(head[-1], "covariance_")


@pytest.mark.parametrize("shrinkage", [0, 0.3, 1])
def test_lda__shrinkage_given__is_taken(shrinkage):
    X, y = of_split(*toy(), "train")
    head = built("lda", enhance="none", shrinkage=shrinkage).fit(X, y)
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=float(shrinkage)).fit(X, y)
    np.testing.assert_array_equal(head.decision_function(X), theirs.decision_function(X))


def test_lda__more_dimensions_than_images__is_finite_and_better_than_chance():
    labels = toy_labels(60, 3)
    X, y = (
        toy_vectors(labels, 200, apart=0.5),
        np.unique(labels.label.astype(str), return_inverse=True)[1],
    )
    head = built("lda", rows=30, dim=200).fit(X[::2], y[::2])
    assert head.score(X[1::2], y[1::2]) > 0.9
    assert np.isfinite(head.predict_proba(X)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_lda__an_image_a_class__is_the_nearest_of_them(classes):
    random = np.random.default_rng(0)
    X, new = random.normal(size=(classes, 6)), random.normal(size=(50, 6))
    y = np.arange(classes)[::-1]
    head = built("lda", enhance="none").fit(X, y)
    nearest = y[((new[:, None] - X) ** 2).sum(axis=2).argmin(axis=1)]
    np.testing.assert_array_equal(head.predict(new), nearest)
    np.testing.assert_array_equal(head.predict_proba(new).argmax(axis=1), nearest)


@pytest.mark.parametrize("value", [-0.1, 1.1, "auto", True])
def test_lda__shrinkage_that_is_none__is_refused_with_the_bounds(value):
    with pytest.raises(ConfigurationError, match="heads.mine.shrinkage is .*(number|equal to)"):
        heads.recipe("mine", HeadParams(kind="lda", shrinkage=value))


def test_mlp__seed_and_width__are_taken__and_its_weights_alone_are_kept():
    X, y = of_split(*toy(), "train")
    recipe = heads.recipe("mine", HeadParams(kind="mlp", hidden=7))
    one, same, other = (
        recipe.build(Setting(1.0, *X.shape, 1e-4, seed=seed)).fit(X, y) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one.predict_proba(X), same.predict_proba(X))
    assert np.abs(one.predict_proba(X) - other.predict_proba(X)).max() > 1e-4
    assert [weights.shape for weights in one[-1].coefs_] == [(8, 7), (7, 3)]
    kept = io.BytesIO()
    joblib.dump(built("mlp", rows=90, dim=8, hidden=1000).fit(X, y), kept)
    assert len(kept.getvalue()) < 1.2 * 4 * 1000 * (8 + 1 + 3)


def test_mlp__finds_what_no_plane_tells():
    random = np.random.default_rng(0)
    X = random.uniform(-1, 1, size=(400, 2)).astype(np.float32)
    y = (X[:, 0] * X[:, 1] > 0).astype(int)
    assert built("logistic", rows=400, dim=2).fit(X, y).score(X, y) < 0.7
    assert built("mlp", value=0.01, rows=400, dim=2).fit(X, y).score(X, y) > 0.9


def test_dummy__gives_every_image_the_class_frequencies():
    X = np.zeros((4, 2), np.float32)
    head = built("dummy").fit(X, [0, 1, 1, 1])
    np.testing.assert_allclose(head.predict_proba(X), [[0.25, 0.75]] * 4)


@pytest.mark.parametrize("kind", ["logistic", "linear_svm", "rbf_svm", "ridge"])
def test_class_weight__balanced__finds_more_of_a_rare_class(kind):
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [190, 10])
    X = (random.normal(size=(200, 3)) + 1.2 * y[:, None]).astype(np.float32)
    plain, balanced = (
        built(kind, rows=200, dim=3, class_weight=weight).fit(X, y) for weight in (None, "balanced")
    )
    assert balanced.predict(X)[y == 1].sum() > plain.predict(X)[y == 1].sum()


WEIGHTED = ["logistic", "linear_svm", "rbf_svm", "ridge"]


def rare() -> tuple[np.ndarray, np.ndarray]:
    """190 rows of class 0 and 10 of class 1, which overlap."""
    random = np.random.default_rng(0)
    y = np.repeat([0, 1], [190, 10])
    return (random.normal(size=(200, 3)) + 1.2 * y[:, None]).astype(np.float32), y


def weighted(kind: str, weight, classes=("common", "rare")):
    recipe = heads.recipe("mine", HeadParams(kind=kind, class_weight=weight))
    return recipe.build(Setting(1.0, 200, 3, 1e-4, classes=classes))


@pytest.mark.parametrize("kind", WEIGHTED)
def test_class_weight__by_name__counts_as_so_many_images(kind):
    X, y = rare()
    named = weighted(kind, {"rare": 19}).fit(X, y)
    balanced = weighted(kind, {"rare": 10.0, "common": 200 / 380}).fit(X, y)
    assert named.predict(X)[y == 1].sum() > weighted(kind, None).fit(X, y).predict(X)[y == 1].sum()
    theirs = weighted(kind, "balanced").fit(X, y)
    np.testing.assert_array_equal(balanced.predict(X), theirs.predict(X))


@pytest.mark.parametrize("kind", WEIGHTED)
def test_class_weight__of_an_unknown_class__is_refused_with_the_near_miss(kind):
    with pytest.raises(ConfigurationError) as refused:
        weighted(kind, {"rares": 2.0})
    line = "params.yaml: heads.mine.class_weight: unknown class 'rares'; did you mean 'rare'?"
    assert str(refused.value) == line


def test_class_weight__name_that_yaml_reads_as_a_number__is_that_class():
    X, y = rare()
    by_number = weighted("logistic", {1: 19.0}, ("0", "1")).fit(X, y)
    by_text = weighted("logistic", {"1": 19.0}, ("0", "1")).fit(X, y)
    np.testing.assert_array_equal(by_number.predict_proba(X), by_text.predict_proba(X))


@pytest.mark.parametrize("weight", [{"rare": 0}, {"rare": -1.0}, {"rare": "2"}, {True: 2.0}, [2.0]])
def test_class_weight__that_is_none__is_refused_by_key(weight):
    with pytest.raises(ConfigurationError, match=r"^params.yaml: heads.mine.class_weight"):
        heads.recipe("mine", HeadParams(kind="logistic", class_weight=weight))


@pytest.mark.parametrize("kind", sorted(set(HEADS) - set(WEIGHTED)))
def test_class_weight__of_a_kind_that_has_none__is_an_unknown_key(kind):
    with pytest.raises(ConfigurationError, match="unknown key heads.mine.class_weight"):
        heads.recipe("mine", HeadParams(kind=kind, class_weight="balanced"))


# grids by name


def test_presets__are_what_was_published():
    assert list(grids.PRESETS) == ["quick-7", "dinov2-45", "clip-96"]
    np.testing.assert_allclose(grids.PRESETS["quick-7"], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])
    np.testing.assert_allclose(grids.PRESETS["dinov2-45"], 10.0 ** np.linspace(-6, 5, 45))
    np.testing.assert_allclose(grids.PRESETS["clip-96"], np.logspace(-6, 6, 96))


@pytest.mark.parametrize("name", grids.PRESETS)
def test_search__goes_from_the_most_regularised_on__whatever_the_option(name):
    C = heads.recipe("mine", HeadParams(kind="linear_svm", search=name)).grid
    alpha = heads.recipe("mine", HeadParams(kind="ridge", search=name)).grid
    assert grids.PRESETS[name] == C
    np.testing.assert_allclose(np.multiply(C, alpha), 1)
    assert (np.diff(C) > 0).all()


def test_search__unknown_name__is_refused_with_the_near_miss():
    with pytest.raises(ConfigurationError) as refused:
        heads.recipe("mine", HeadParams(kind="logistic", search="dinov2-4"))
    line = "params.yaml: heads.mine.search: unknown search 'dinov2-4'; did you mean 'dinov2-45'?"
    assert str(refused.value) == line


# the file


@pytest.mark.parametrize("place", [0, 0.5, 1])
def test_load__one_bit_flipped__is_refused_with_both_digests_before_unpickling(
    saved, place, monkeypatch
):
    path = saved / "logistic.joblib"
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(joblib, "load", lambda *_: pytest.fail("it was unpickled"))
    with pytest.raises(IntegrityError) as error:
        heads.load(saved, "logistic")
    recorded = json.loads((saved / "logistic.json").read_bytes())["sha256"]
    for part in (str(path), recorded, files.sha256_of(path), "dvc repro train@toy-logistic"):
        assert part in str(error.value)


class Trap:
    """Runs code when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return Path.touch, (self.proof,)


def test_load__malicious_pickle__never_runs(saved, tmp_path):
    proof = tmp_path / "proof"
    trap = io.BytesIO()
    joblib.dump({"classes": Trap(proof)}, trap)
    joblib.load(io.BytesIO(trap.getvalue()))
    assert proof.exists(), "the trap itself does not work"
    proof.unlink()
    (saved / "logistic.joblib").write_bytes(trap.getvalue())
    with pytest.raises(IntegrityError):
        heads.load(saved, "logistic")
    assert not proof.exists()


@pytest.mark.parametrize("ending", ["joblib", "json"])
def test_load__missing_file__is_named_with_what_to_run(saved, ending):
    path = saved / f"logistic.{ending}"
    path.unlink()
    with pytest.raises(IntegrityError) as error:
        heads.load(saved, "logistic")
    assert str(error.value) == f"{path} is missing; run 'dvc repro train@toy-logistic'"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"kind": "logistic"}', "\xff"])
def test_load__damaged_record__is_named_with_what_to_run(saved, content):
    path = saved / "logistic.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(IntegrityError) as error:
        heads.load(saved, "logistic")
    assert str(error.value).startswith(f"{path} is damaged (")
    assert "dvc repro train@toy-logistic" in str(error.value)


def test_load__record_with_a_key_of_another_version__is_refused(saved):
    path = saved / "logistic.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "seconds": 3}))
    with pytest.raises(IntegrityError, match="seconds"):
        heads.load(saved, "logistic")


def test_load__fitted_by_another_scikit_learn__is_refused_with_both_versions(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("sklearn.base.__version__", "1.0.2")
        heads.save(tmp_path / "toy", *trained("ridge"))
    with pytest.raises(IntegrityError) as error:
        heads.load(tmp_path / "toy", "ridge")
    for part in ("scikit-learn 1.0.2", sklearn.__version__, "dvc repro -f train@toy-ridge"):
        assert part in str(error.value)


def test_save__stopped_before_the_record__leaves_nothing_that_loads(saved, monkeypatch):
    fitted, record = trained("ridge")
    renamed = replace(record, head="logistic")
    monkeypatch.setattr(files, "write_json", lambda *_: pytest.fail("stop"))
    with pytest.raises(pytest.fail.Exception):
        heads.save(saved, fitted, renamed)
    with pytest.raises(IntegrityError, match="sha256"):
        heads.load(saved, "logistic")


# adding one


def bayes(*, smoothing: float | None = None) -> Recipe:
    """A head as a user would add it."""
    return Recipe(
        lambda at: make_pipeline(GaussianNB(var_smoothing=at.value)),
        "smoothing",
        smoothing,
        (1.0, 0.1, 0.01),
    )


def test_one_function_and_one_line__add_a_head(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(HEADS, "bayes", bayes)
    (tmp_path / "params.yaml").write_text(
        "data: {path: photos}\n"
        "backbones: {toy: {source: pixels}}\n"
        "heads: {naive: {kind: bayes, smoothing: null}}\n"
        "run: {backbones: [toy], heads: [naive]}\n"
    )
    labels = toy_labels(150, 3)
    dataset.write_labels(tmp_path / "artifacts/dataset/labels.parquet", labels)
    embed(tmp_path / "artifacts/embeddings/toy.h5", labels, toy_vectors(labels, 8, apart=2))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "toy", "naive"])
    stages.train.main()
    assert "toy / naive: smoothing = " in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    stages.evaluate.main()
    metrics = json.loads((tmp_path / "artifacts/evaluation/metrics.json").read_bytes())
    assert metrics["toy"]["naive"]["test"]["accuracy"] > 0.9
    with pytest.raises(ConfigurationError, match="did you mean 'smoothing'"):
        heads.recipe("naive", HeadParams(kind="bayes", smoothin=1.0))


def test_search__step_before_the_classifier_that_needs_labels__is_given_them(tmp_path):
    from sklearn.feature_selection import SelectKBest

    recipe = Recipe(
        lambda at: make_pipeline(SelectKBest(k=2), GaussianNB(var_smoothing=at.value)),
        "smoothing",
        None,
        (1.0, 0.1),
    )
    X, y = of_split(*toy(), "train")
    held, y_held = of_split(*toy(), "val")
    assert choose(recipe, X, y, held, y_held).value in (1.0, 0.1)


def test_predict__head_with_probabilities_in_float32__still_sums_to_one():
    class Rough(DummyClassifier):
        def predict_proba(self, X):
            return super().predict_proba(X).astype(np.float32) * np.float32(1.00001)

    rough = Rough(strategy="prior").fit(np.zeros((3, 1)), [0, 1, 2])
    _, probabilities = evaluation.predict(rough, np.zeros((2, 1), np.float32))
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-15)
