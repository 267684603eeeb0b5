"""What every head must do, and small labelled embeddings to do it on."""

import hashlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer
from threadpoolctl import threadpool_limits

from pipeline import dataset, embeddings, evaluation, features, files, heads, selection
from pipeline.dataset import Labels
from pipeline.embeddings import Embeddings
from pipeline.errors import ConfigurationError, InputError
from pipeline.frozen import FrozenBackbone
from pipeline.heads import HEADS, Setting
from pipeline.outputs import FrozenLayer
from pipeline.params import CONTROL_KINDS, HeadParams
from pipeline.taps import Tap

ROOT = Path(__file__).parents[1]
SPLITS = ("train", "train", "train", "val", "test")


def backbone(folder: Path, *, dim: int, name: str = "toy", source: str = "timm") -> FrozenBackbone:
    """A frozen backbone made by hand; only its record, no model."""
    return FrozenBackbone(
        folder=folder,
        name=name,
        file="model.onnx",
        file_sha256="0" * 64,
        dim=dim,
        weights="none",
        licence="none needed",
        fields={"source": source, "storage": "float16", "name": name},
    )


def toy_labels(rows: int, classes: int, *, splits=SPLITS) -> Labels:
    """Rows of classes a, b, …; train, val and test by turns within each class."""
    codes = np.arange(rows) % classes
    table = {
        "path": [f"{chr(97 + code)}/{row:05d}.png" for row, code in enumerate(codes)],
        "label": [chr(97 + code) for code in codes],
        "split": [splits[row // classes % len(splits)] for row in range(rows)],
        "group": [None] * rows,
    }
    order = np.argsort(table["path"])
    columns = {name: np.array(values, dtype=object)[order] for name, values in table.items()}
    sha256 = [hashlib.sha256(str(row).encode()).hexdigest() for row in order]
    return Labels(sha256=dataset.digests(sha256), **columns)


def toy_vectors(labels: Labels, dim: int, *, seed: int = 0, apart: float = 1.0) -> np.ndarray:
    """(N, D) float32 in the order of the labels: a normal cloud around each class's centre."""
    random = np.random.default_rng(seed)
    _, codes = np.unique(labels.label.astype(str), return_inverse=True)
    centres = apart * random.normal(size=(codes.max() + 1, dim))
    return (centres[codes] + random.normal(size=(len(codes), dim))).astype(np.float32)


def embed(path: Path, labels: Labels, X: np.ndarray, **options) -> Embeddings:
    """Write the vectors as the tracked file of a backbone, and open it."""
    order = np.argsort(labels.sha256)
    record = backbone(path.parent, dim=X.shape[1], **options)
    vectors = X[order].astype(np.float16)
    embeddings.write(path, record, [labels.sha256[order]], [[vectors]], rows=len(order))
    return embeddings.open(path)


def embed_all(
    path: Path,
    labels: Labels,
    clean: dict[str, np.ndarray],
    *views: dict[str, np.ndarray],
    source: str = "timm",
    recipe: str = "one",
    storage: str = "float16",
) -> Embeddings:
    """The tracked file of a backbone with these layers, and as many augmented views; opened.

    Each maps a layer to its vectors (N, D); recipe: another makes other fingerprints.
    """
    layers = tuple(
        FrozenLayer(Tap(name, name, "avg"), vectors.shape[1]) for name, vectors in clean.items()
    )
    plain = backbone(path.parent, dim=layers[0].dim, source=source)
    record = replace(
        plain,
        fields={**plain.fields, **layers[0].fields, "recipe": recipe, "storage": storage},
        layers=layers,
        views=tuple(
            {"pixel_probe": "0", "view": {"number": number, "seed": 0}}
            for number in range(1, len(views) + 1)
        ),
    )
    order = np.argsort(labels.sha256)
    blocks = [[X[order].astype(storage)] for each in (clean, *views) for X in each.values()]
    path.parent.mkdir(parents=True, exist_ok=True)
    embeddings.write(path, record, [labels.sha256[order]], blocks, rows=len(order))
    return embeddings.open(path)


def of_split(labels: Labels, cached: Embeddings, *splits: str) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and codes of some splits, in the order of evaluation."""
    classes = tuple(sorted(set(labels.label)))
    parts = [features.images(labels, cached, split) for split in splits]
    return (
        features.gather(cached, cached.layers[:1], [(part.rows, 0) for part in parts]),
        np.concatenate([part.codes(classes) for part in parts]),
    )


@cache
def toy() -> tuple[Labels, Embeddings]:
    """150 images of 3 classes, 8 dimensions; shared, read only."""
    labels = toy_labels(150, 3)
    with tempfile.TemporaryDirectory() as folder:
        cached = embed(Path(folder, "toy.h5"), labels, toy_vectors(labels, 8))
        kept = Embeddings(cached.sha256, np.array(cached.vectors), cached.attributes)
    return labels, kept


def train(kind: str, **options):
    """A head of that kind, fitted on the toy."""
    return selection.train(kind, HeadParams(kind=kind, **options), *toy())


trained = cache(train)


def fit_in_folds(kind: str, **setting) -> Pipeline:
    """A head of that kind on the toy's train images, built for five folds of them."""
    X, y = of_split(*toy(), "train")
    turn = np.arange(len(X)) % 5
    folds = tuple((np.flatnonzero(turn != one), np.flatnonzero(turn == one)) for one in range(5))
    recipe = heads.recipe(kind, HeadParams(kind=kind))
    at = Setting(recipe.default or 0.0, *X.shape, 1e-4, classes=("a", "b", "c"), folds=folds)
    with threadpool_limits(1):
        return recipe.build(replace(at, **setting)).fit(X, y)


def digest(kind: str) -> list[str]:
    """sha256 of what a head, fitted afresh, is kept in, without folds and with them."""
    with tempfile.TemporaryDirectory() as folder:
        heads.save(Path(folder), *train(kind))
        kept = io.BytesIO()
        joblib.dump(fit_in_folds(kind), kept)
        return [
            files.sha256_of(Path(folder, f"{kind}.joblib")),
            files.sha256_of_bytes(kept.getvalue()),
        ]


@cache
def digests_elsewhere() -> list[dict[str, list[str]]]:
    """The digests of every head from two processes: other hash seeds, other numbers of threads."""
    code = (
        "import json; from tests.contracts_heads import HEADS, digest; "
        "print(json.dumps({kind: digest(kind) for kind in HEADS}))"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "OPENBLAS_NUM_THREADS": threads},
            stdout=subprocess.PIPE,
        )
        for seed, threads in (("1", "1"), ("2", "2"))
    ]
    return [json.loads(process.communicate()[0]) for process in running]


def options_of(kind: str) -> list[str]:
    return list(inspect.signature(HEADS[kind]).parameters)


def numbers_of(kind: str) -> list[str]:
    return [name for name in options_of(kind) if name not in ("class_weight", "members")]


def searched_of(kind: str) -> list[str]:
    option = heads.recipe(kind, HeadParams(kind=kind)).option
    return [option] if option else []


def first_steps(fitted) -> list:
    """What the vectors meet first: of a head made of heads, in each of them."""
    if isinstance(fitted, Pipeline):
        return first_steps(fitted[0])
    if hasattr(fitted, "estimators_"):
        return [step for member in fitted.estimators_ for step in first_steps(member)]
    if hasattr(fitted, "calibrated_classifiers_"):
        return first_steps(fitted.calibrated_classifiers_[0].estimator)
    return first_steps(fitted.estimator_) if hasattr(fitted, "estimator_") else [fitted]


def refusal(kind: str, **options) -> str:
    """The one line that an entry is refused with."""
    with pytest.raises(ConfigurationError) as refused:
        heads.recipe("mine", HeadParams(kind=kind, **options))
    assert "\n" not in str(refused.value)
    return str(refused.value)


class HeadContract:
    """Run with `kind`, a key of HEADS."""

    def test_predictions__are_codes_of_the_classes__and_better_than_chance(self, kind):
        fitted, _ = trained(kind)
        X, y = of_split(*toy(), "test")
        predicted, _ = evaluation.predict(fitted.train, X)
        assert predicted.dtype == np.int64
        assert set(predicted) <= {0, 1, 2}
        assert kind in CONTROL_KINDS or (predicted == y).mean() > 0.7

    def test_probabilities__sum_to_one__and_the_prediction_has_the_highest(self, kind):
        fitted, _ = trained(kind)
        X, _ = of_split(*toy(), "test")
        predicted, probabilities = evaluation.predict(fitted.train_val, X)
        assert (probabilities is None) == (not hasattr(fitted.train_val, "predict_proba"))
        np.testing.assert_array_equal(predicted, fitted.train_val.predict(X))
        if probabilities is not None:
            np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-12)
            np.testing.assert_array_equal(probabilities.argmax(axis=1), predicted)

    @pytest.mark.parametrize("temperature", [0.5, 3.0])
    def test_probabilities__at_a_temperature__sum_to_one__and_predict_the_same(
        self, kind, temperature
    ):
        fitted, _ = trained(kind)
        X, _ = of_split(*toy(), "test")
        predicted, probabilities = evaluation.predict(fitted.train_val, X, temperature)
        np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(predicted, fitted.train_val.predict(X))

    @pytest.mark.parametrize("spoilt", [np.nan, np.inf, -np.inf])
    def test_vector_that_is_not_finite__is_refused_where_it_is_fitted_and_asked(self, kind, spoilt):
        labels, cached = toy()
        X = np.array(cached.vectors, dtype=np.float32)
        rows = features.images(labels, cached, "train").rows[[7, 11]]
        X[rows, 3] = spoilt
        with pytest.raises(InputError) as refused:
            selection.train(kind, HeadParams(kind=kind), labels, replace(cached, vectors=X))
        line = str(refused.value)
        told = r"2 of (90|120) vectors hold NaN or infinity, the first is row 7; run "  # val or not
        assert re.match(told, line)
        fitted, _ = trained(kind)
        with pytest.raises(InputError, match=f"^2 of 150 .* the first is row {rows[0]}; run "):
            evaluation.predict(fitted.train, X)

    def test_one_class__is_refused_by_name(self, kind, tmp_path):
        labels = toy_labels(12, 1)
        cached = embed(tmp_path / "toy.h5", labels, toy_vectors(labels, 5))
        with pytest.raises(InputError) as refused:
            selection.train(kind, HeadParams(kind=kind), labels, cached)
        line = str(refused.value)
        assert "vectors to fit on are all of class 'a'" in line
        assert "add images of another class" in line
        assert "\n" not in line

    @pytest.mark.parametrize("temperature", [None, 2.0])
    def test_wrong_width__is_refused_with_both(self, kind, temperature):
        fitted, _ = trained(kind)
        X, _ = of_split(*toy(), "test")
        for other in (X[:, :-1], np.hstack([X, X])):
            with pytest.raises(InputError) as refused:
                evaluation.predict(fitted.train_val, other, temperature)
            line = str(refused.value)
            assert f"have {other.shape[1]} dimensions, the head was fitted on 8" in line
            assert "\n" not in line

    def test_file__has_the_same_bytes_twice_and_in_other_processes(self, kind):
        here = digest(kind)
        assert digest(kind) == here
        assert [elsewhere[kind] for elsewhere in digests_elsewhere()] == [here, here]

    def test_file__loads_as_what_was_saved(self, kind, tmp_path):
        fitted, record = trained(kind)
        heads.save(tmp_path, fitted, record)
        loaded, said = heads.load(tmp_path, kind)
        X, _ = of_split(*toy(), "test")
        for before, after in (
            (fitted.train, loaded.train),
            (fitted.train_val, loaded.train_val),
        ):
            np.testing.assert_array_equal(
                evaluation.predict(before, X)[0], evaluation.predict(after, X)[0]
            )
        assert loaded.classes == fitted.classes
        assert said.sha256 == files.sha256_of(tmp_path / f"{kind}.joblib")

    def test_classes__are_sorted(self, kind):
        fitted, record = trained(kind)
        assert fitted.classes == tuple(record.classes) == ("a", "b", "c")

    def test_fits__are_of_train__and_of_train_and_val(self, kind):
        fitted, record = trained(kind)
        for pipeline, splits in ((fitted.train, ["train"]), (fitted.train_val, ["train", "val"])):
            X, _ = of_split(*toy(), *splits)
            for step in first_steps(pipeline):
                np.testing.assert_allclose(step.mean_, X.mean(axis=0), rtol=0, atol=1e-5)
        assert record.rows == {"train": 90, "val": 30}

    def test_two_layers__joined__train_in_views_and_repeat_to_the_byte(self, kind, tmp_path):
        labels = toy_labels(60, 3)
        layers = {name: toy_vectors(labels, 6, seed=place) for place, name in enumerate("ab")}
        view = {name: X + np.float32(0.1) for name, X in layers.items()}
        cached = embed_all(tmp_path / "toy.h5", labels, layers, view)
        entry = HeadParams(kind=kind, layers="all", views=True)
        for folder in ("one", "two"):
            heads.save(tmp_path / folder, *selection.train(kind, entry, labels, cached))
        for ending in ("joblib", "json"):
            one, two = (tmp_path / name / f"{kind}.{ending}" for name in ("one", "two"))
            assert one.read_bytes() == two.read_bytes()
        fitted, record = heads.load(tmp_path / "one", kind)
        assert [one["layers"] for one in record.by_layer] == [["a"], ["b"], ["a", "b"]]
        for pipeline, rows in ((fitted.train, 72), (fitted.train_val, 96)):
            for step in first_steps(pipeline):
                assert (step.n_samples_seen_, step.n_features_in_) == (rows, 12)

    def test_null__is_searched__a_given_value_is_not(self, kind):
        _, record = trained(kind)
        grid = heads.recipe(kind, HeadParams(kind=kind)).grid
        own = {option: value for option, value in record.choice.items() if "." not in option}
        assert set(own) == set(searched_of(kind))  # those of a member are member.option
        for option, chosen in own.items():
            assert chosen in [trial["value"] for trial in record.trace]
            assert {trial["value"] for trial in record.trace} <= set(grid)
            given = int(grid[2]) if option == "k" else grid[2]
            _, pinned = train(kind, **{option: given})
            assert (pinned.choice, pinned.trace, pinned.at_edge) == ({option: given}, [], False)

    def test_search__changes_the_last_step_alone(self, kind):
        recipe = heads.recipe(kind, HeadParams(kind=kind))
        low, high = (
            recipe.build(Setting(value, rows=2000, dim=500, tolerance=1e-4))
            for value in (recipe.grid or (1.0, 2.0))[:2]
        )
        assert [repr(step) for step in low[:-1]] == [repr(step) for step in high[:-1]]
        assert (repr(low[-1]) != repr(high[-1])) == bool(recipe.grid)

    def test_one_image_a_class_and_a_dead_dimension__are_fitted(self, kind, tmp_path):
        labels = toy_labels(6, 3, splits=("train", "val"))
        X = toy_vectors(labels, 5, apart=3)
        X[:, 2] = 0
        entry = HeadParams(kind=kind)
        fitted, _ = selection.train(kind, entry, labels, embed(tmp_path / "toy.h5", labels, X))
        predicted, _ = evaluation.predict(fitted.train, X)
        assert kind in CONTROL_KINDS or set(predicted) == {0, 1, 2}

    def test_unknown_option__is_refused_with_key_and_value_and_what_is_allowed(self, kind):
        line = refusal(kind, colour=17)
        assert "heads.mine.colour (= 17)" in line
        assert all(option in line for option in options_of(kind))

    def test_misspelt_option__is_refused_with_the_near_miss(self, kind):
        for option in options_of(kind):
            line = refusal(kind, **{f"{option}s": 3})
            assert f"heads.mine.{option}s (= 3)" in line
            assert f"did you mean {option!r}" in line

    @pytest.mark.parametrize("value", ["1e-3", True, 0, -2, float("nan"), float("inf"), [1]])
    def test_wrong_value__is_refused_with_key_and_value_and_what_is_allowed(self, kind, value):
        allowed = {"str": "number|integer", "bool": "number|integer", "list": "number|integer"}
        for option in numbers_of(kind):
            if option == "shrinkage" and value == 0 and value is not False:
                continue  # the one number that may be 0
            line = refusal(kind, **{option: value})
            assert line.startswith(f"params.yaml: heads.mine.{option} is {value!r}")
            words = "greater than 0|greater than or equal to 0|finite|integer"
            words = allowed.get(type(value).__name__, words).split("|")
            assert any(word in line for word in words)

    def test_enhancement__takes_the_place_of_its_own(self, kind):
        X, y = of_split(*toy(), "train")
        at = Setting(1.0, *X.shape, 1e-4)
        recipe = heads.recipe(kind, HeadParams(kind=kind, enhance=["power", "pca:3", "l2"]))
        pipeline = recipe.build(replace(at, enhance=recipe.enhance)).fit(X, y)
        assert recipe.enhanced(replace(at, enhance=recipe.enhance)) == ("power", "pca:3", "l2")
        for step in first_steps(pipeline):
            assert isinstance(step, FunctionTransformer)
        none = heads.recipe(kind, HeadParams(kind=kind, enhance="none"))
        assert none.enhanced(replace(at, enhance=none.enhance)) == ()
        bare = none.build(replace(at, enhance=none.enhance))
        assert len(bare.steps) == 1
        assert bare.fit(X, y).predict(X).shape == (90,)
        assert recipe.enhanced(at) != ()

    def test_default__is_in_the_grid__of_what_can_be_searched(self, kind):
        recipe = heads.recipe(kind, HeadParams(kind=kind))
        assert (recipe.default in recipe.grid) == bool(recipe.option)
        assert (recipe.default is not None) == bool(recipe.option)

    def test_search_preset__gives_the_grid__or_is_refused_with_who_has_one(self, kind):
        if searched_of(kind) in (["C"], ["alpha"]):
            grid = heads.recipe(kind, HeadParams(kind=kind, search="quick-7")).grid
            as_C = grid if searched_of(kind) == ["C"] else [1 / alpha for alpha in grid]
            np.testing.assert_allclose(np.log10(as_C), [-6, -4, -2, 0, 2, 4, 6], atol=1e-9)
        else:
            line = refusal(kind, search="quick-7")
            assert line.startswith(f"params.yaml: heads.mine.search: {kind} has no C or alpha")
            assert all(able in line for able in ("logistic", "linear_svm", "ridge", "mlp"))

    def test_wrong_class_weight__is_refused_with_what_is_allowed(self, kind):
        if "class_weight" in options_of(kind):
            line = refusal(kind, class_weight="balance")
            assert "heads.mine.class_weight is 'balance'" in line
            assert "'balanced'" in line
