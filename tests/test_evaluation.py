"""Scoring fitted heads: which fit on which split, the join, the best, the files."""

import csv
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_info, threadpool_limits

import stages.evaluate
from pipeline import dataset, embeddings, evaluation, features, files, heads, metrics, selection
from pipeline.dataset import Labels, Split
from pipeline.errors import InputError, IntegrityError
from pipeline.evaluation import Result
from pipeline.heads import Fitted, Recipe, Record
from pipeline.metrics import Scored
from pipeline.params import HeadParams
from tests.contracts_heads import embed, of_split, toy_labels, toy_vectors

FILES = (
    "metrics.json",
    "predictions.parquet",
    "per_class.csv",
    "confusion.csv",
    "accuracy.csv",
    "layers.csv",
)


class Run:
    """The artifacts that evaluate reads, made by hand."""

    def __init__(self, root: Path, labels: Labels) -> None:
        self.artifacts = root / "artifacts"
        self.labels = labels
        dataset.write_labels(self.artifacts / "dataset" / "labels.parquet", labels)

    def embed(self, name: str = "toy", *, apart: float = 1.0, keep=slice(None), **options) -> None:
        """Embeddings of the images that `keep` names."""
        X = toy_vectors(self.labels, 6, apart=apart)
        path = self.artifacts / "embeddings" / f"{name}.h5"
        path.parent.mkdir(exist_ok=True)
        embed(path, self.labels.where(keep), X[keep], name=name, **options)

    def cached(self, backbone: str = "toy"):
        return embeddings.open(self.artifacts / "embeddings" / f"{backbone}.h5")

    def train(
        self, head: str, *, backbone: str = "toy", kind: str | None = None, **options
    ) -> None:
        """A real head."""
        entry = HeadParams(kind=kind or head, **options)
        fitted, record = selection.train(head, entry, self.labels, self.cached(backbone))
        heads.save(self.artifacts / "heads" / backbone, fitted, record)

    def constant(self, head: str, *, train: int, train_val: int, backbone: str = "toy") -> None:
        """A head that says the same class of every image, one by each of its fits."""
        cached = self.cached(backbone)
        X, y = of_split(self.labels, cached, "train")
        classes = tuple(sorted(set(self.labels.label)))
        fits = (
            make_pipeline(DummyClassifier(strategy="constant", constant=code)).fit(X, y)
            for code in (train, train_val)
        )
        record = Record(
            backbone=backbone,
            head=head,
            kind="constant",
            fingerprint=cached.fingerprint,
            classes=list(classes),
            rows={},
            choice={},
            chosen_by="accuracy",
            trace=[],
            at_edge=False,
            converged=True,
        )
        heads.save(self.artifacts / "heads" / backbone, Fitted(classes, *fits), record)

    def evaluate(self, *head_names: str, backbones=("toy",)) -> list[Result]:
        return evaluation.evaluate(self.artifacts, backbones, list(head_names))

    def write(self, *head_names: str, folder: str = "evaluation", backbones=("toy",)) -> dict:
        results = self.evaluate(*head_names, backbones=backbones)
        return evaluation.write(self.artifacts / folder, results)

    def predictions(self) -> list[dict]:
        return pq.read_table(self.artifacts / "evaluation" / "predictions.parquet").to_pylist()


@pytest.fixture
def run(tmp_path) -> Run:
    """60 images of 3 classes: 36 train, 12 val, 12 test, all embedded."""
    made = Run(tmp_path, toy_labels(60, 3))
    made.embed()
    return made


def at(labels: Labels, split: str) -> np.ndarray:
    return np.flatnonzero(labels.split == split)


# which fit, which images


def test_val__is_scored_by_the_fit_on_train__test_by_the_fit_on_train_and_val(run):
    run.constant("stubborn", train=0, train_val=2)
    run.write("stubborn")
    said = {(row["split"], row["prediction"]) for row in run.predictions()}
    assert said == {("val", "a"), ("test", "c")}


def test_join__is_by_sha256__images_without_an_embedding_are_left_out(tmp_path):
    labels = toy_labels(60, 3)
    run = Run(tmp_path, labels)
    lost = [at(labels, "val")[1], at(labels, "test")[4]]
    run.embed(keep=np.setdiff1d(np.arange(60), lost), apart=4)
    run.train("nearest_mean")
    summary = run.write("nearest_mean")
    figures = summary["toy"]["nearest_mean"]
    assert (figures["val"]["n"], figures["test"]["n"]) == (11, 11)
    assert figures["test"]["accuracy"] == 1.0, "vectors were given to the wrong images"
    assert not {row["path"] for row in run.predictions()} & set(labels.path[lost])


def test_images__are_ordered_by_sha256_then_path__and_carry_their_own_vectors(run):
    cached = run.cached()
    found = features.images(run.labels, cached, Split.TRAIN)
    assert (np.sort(found.labels.sha256) == found.labels.sha256).all()
    X = features.gather(cached, cached.layers[:1], [(found.rows, 0)])
    for sha256, vector in zip(found.labels.sha256, X, strict=True):
        row = cached.sha256.tolist().index(sha256)
        np.testing.assert_array_equal(vector, cached.vectors[row].astype(np.float32))


def test_two_paths_of_equal_bytes__are_two_rows(tmp_path):
    labels = toy_labels(60, 3)
    first, second = at(labels, "test")[:2]
    labels.sha256[second] = labels.sha256[first]
    run = Run(tmp_path, labels)
    run.embed(keep=np.setdiff1d(np.arange(60), [second]))
    run.train("nearest_mean")
    run.write("nearest_mean")
    rows = [row for row in run.predictions() if row["split"] == "test"]
    assert len(rows) == 12
    twins = [row for row in rows if row["path"] in labels.path[[first, second]]]
    assert len({row["prediction"] for row in twins}) == 1


def test_class_that_the_head_does_not_know__is_refused_by_name(run):
    run.train("nearest_mean")
    run.labels.label[at(run.labels, "val")[0]] = "zebra"
    dataset.write_labels(run.artifacts / "dataset" / "labels.parquet", run.labels)
    with pytest.raises(InputError, match="class 'zebra' has images in val or test") as error:
        run.evaluate("nearest_mean")
    assert "\n" not in str(error.value)


class Curious(DummyClassifier):
    """Notes how many threads there are when it predicts."""

    threads: list[int] = []

    def predict_proba(self, X):
        self.threads.extend(pool["num_threads"] for pool in threadpool_info())
        return super().predict_proba(X)


def test_heads__predict_on_one_thread__so_that_bits_do_not_depend_on_the_machine(run, monkeypatch):
    recipe = Recipe(lambda _: make_pipeline(Curious()))
    monkeypatch.setitem(heads.HEADS, "curious", lambda: recipe)
    monkeypatch.setattr(Curious, "threads", [])
    run.train("curious")
    with threadpool_limits(2):
        run.evaluate("curious")
    assert Curious.threads
    assert set(Curious.threads) == {1}


def test_no_test_images__leaves_val_figures_and_a_best_without_a_test_figure(tmp_path):
    run = Run(tmp_path, toy_labels(60, 3, splits=("train", "train", "val")))
    run.embed()
    run.train("logistic", C=1.0)
    summary = run.write("logistic")
    assert list(summary["toy"]["logistic"]) == ["val"]
    assert summary["best"] == {
        "backbone": "toy",
        "head": "logistic",
        "val_accuracy": summary["toy"]["logistic"]["val"]["accuracy"],
    }
    assert {row["split"] for row in run.predictions()} == {"val"}
    assert evaluation.describe(summary).splitlines()[1].split() == [
        *("toy", "logistic", f"{summary['best']['val_accuracy']:.4f}", "-", "-", "0", "best")
    ]


def test_describe__controls__are_marked_and_the_others_not():
    scores = {"val": {"accuracy": 0.5}}
    summary = {"raw": {"logistic": scores}, "net": {"logistic": scores, "dummy": scores}}
    marked = evaluation.describe(summary, {("raw", "logistic"), ("net", "dummy")}).splitlines()
    ends = {tuple(line.split()[:2]): line.split()[-1] for line in marked[1:]}
    assert ends == {
        ("net", "dummy"): "control",
        ("net", "logistic"): "0",
        ("raw", "logistic"): "control",
    }


def test_no_val_images_any_more__leaves_test_figures_and_no_best(run):
    run.train("nearest_mean")
    run.labels.split[at(run.labels, "val")] = "train"
    dataset.write_labels(run.artifacts / "dataset" / "labels.parquet", run.labels)
    summary = run.write("nearest_mean")
    assert list(summary["toy"]["nearest_mean"]) == ["test"]
    assert "best" not in summary


# the best


def result(head: str, right: str, *, backbone="toy", split=Split.VAL, sure=None, control=False):
    """A head by its hits (1) and misses (0) on images of class a; sure: of the label."""
    hits = np.array([int(digit) for digit in right])
    n = len(hits)
    labels = toy_labels(n, 1)
    known = None if sure is None else np.stack([np.full(n, sure), np.full(n, 1 - sure)], axis=1)
    scored = Scored(np.zeros(n, int), 1 - hits, known, 2)
    return Result(backbone, head, split, labels, scored, ("a", "b"), control)


def best_of(*results: Result) -> str:
    best = evaluation.summarise(list(results)).get("best")
    return f"{best['backbone']}/{best['head']}" if best else ""


def test_best__has_the_highest_validation_accuracy():
    assert best_of(result("low", "1100", sure=0.9), result("high", "1110", sure=0.5)) == "toy/high"


def test_best__of_equal_accuracy__has_the_lower_validation_log_loss():
    assert best_of(result("a", "1100", sure=0.5), result("b", "1100", sure=0.6)) == "toy/b"


def test_best__of_equal_accuracy__one_without_probabilities_comes_after_one_with():
    assert best_of(result("a", "1100"), result("b", "1100", sure=0.01)) == "toy/b"


def test_best__of_equals__is_the_first_by_name():
    assert best_of(result("b", "10"), result("a", "10")) == "toy/a"
    assert best_of(result("a", "10", backbone="z"), result("b", "10", backbone="y")) == "y/b"


def test_best__is_not_moved_by_test():
    val = [result("good", "1110"), result("poor", "1000")]
    tests = [result("good", "0000", split=Split.TEST), result("poor", "1111", split=Split.TEST)]
    summary = evaluation.summarise([*val, *tests])
    assert summary["best"]["head"] == "good"
    assert summary["best"]["accuracy"] == 0.0
    assert summary["best"]["accuracy_ci95"] == list(metrics.wilson(0, 4))


def test_best__is_never_a_control():
    assert best_of(result("a", "1111", control=True), result("b", "1000")) == "toy/b"
    assert best_of(result("a", "1111", control=True)) == ""


@pytest.mark.parametrize(
    ("head", "kind", "source", "control"),
    [
        ("dummy", "ridge", "timm", False),
        ("champion", "dummy", "timm", True),
        ("champion", "ridge", "pixels", True),
        ("champion", "ridge", "random", True),
    ],
)
def test_control__is_told_by_kind_and_source__whatever_the_names(
    tmp_path, head, kind, source, control
):
    run = Run(tmp_path, toy_labels(60, 3))
    run.embed("random", source=source)
    run.train(head, backbone="random", kind=kind)
    results = run.evaluate(head, backbones=["random"])
    assert [found.control for found in results] == [control, control]
    assert ("best" in evaluation.summarise(results)) != control


# what is read


def test_files_of_heads_and_backbones_outside_the_run__are_not_read(run):
    run.train("nearest_mean")
    before = run.write("nearest_mean")
    run.constant("removed", train=0, train_val=0)
    (run.artifacts / "heads/toy/broken.joblib").write_bytes(b"junk")
    (run.artifacts / "heads/toy/broken.json").write_bytes(b"junk")
    (run.artifacts / "heads/gone").mkdir()
    (run.artifacts / "embeddings/gone.h5").write_bytes(b"junk")
    assert run.write("nearest_mean") == before
    assert {row["head"] for row in run.predictions()} == {"nearest_mean"}


def test_head_of_other_embeddings__is_refused_with_both_fingerprints(run):
    run.train("nearest_mean")
    old = run.cached().fingerprint
    run.embed(source="onnx")
    with pytest.raises(IntegrityError) as error:
        run.evaluate("nearest_mean")
    for part in (old, run.cached().fingerprint, "dvc repro train@toy-nearest_mean"):
        assert part in str(error.value)


def test_tampered_embeddings__are_refused(run):
    run.train("nearest_mean")
    path = run.artifacts / "embeddings" / "toy.h5"
    content = bytearray(path.read_bytes())
    content[content.index(run.cached().vectors.tobytes()) + 5] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="dataset embeddings is damaged"):
        run.evaluate("nearest_mean")


# what is written


def test_predictions__have_the_documented_columns_and_a_row_an_image_and_head(run):
    for head in ("logistic", "ridge"):
        run.train(head)
    run.write("logistic", "ridge")
    rows = run.predictions()
    columns = ["path", "sha256", "split", "label", "backbone", "head", "prediction", "probability"]
    table = pq.read_table(run.artifacts / "evaluation" / "predictions.parquet")
    assert table.column_names == columns
    assert [str(field.type) for field in table.schema] == ["string"] * 7 + ["double"]
    evaluated = run.labels.where(run.labels.split != "train")
    expected = {
        (path, sha256.decode(), split, label, "toy", head)
        for head in ("logistic", "ridge")
        for path, sha256, label, split in zip(
            evaluated.path, evaluated.sha256, evaluated.label, evaluated.split, strict=True
        )
    }
    assert len(rows) == len(expected) == 48
    assert {tuple(row[name] for name in columns[:6]) for row in rows} == expected
    assert {row["prediction"] for row in rows} <= {"a", "b", "c"}


def test_predictions__probability_is_of_the_prediction__null_where_there_is_none(run):
    for head in ("logistic", "ridge"):
        run.train(head)
    results = run.evaluate("logistic", "ridge")
    evaluation.write(run.artifacts / "evaluation", results)
    rows = {(r["head"], r["split"], r["path"]): r["probability"] for r in run.predictions()}
    for found in results:
        for place, path in enumerate(found.labels.path):
            known = found.scored.probabilities
            chosen = found.scored.predicted[place]
            expected = None if known is None else known[place, chosen]
            assert rows[found.head, str(found.split), path] == expected


def test_metrics_json__has_the_documented_shape_and_the_figures_of_the_predictions(run):
    run.train("logistic")
    run.train("dummy")
    run.write("logistic", "dummy")
    written = json.loads((run.artifacts / "evaluation" / "metrics.json").read_bytes())
    assert set(written) == {"toy", "best"}
    assert set(written["toy"]) == {"logistic", "dummy"}
    for head, splits in written["toy"].items():
        assert set(splits) == {"val", "test"}
        for split, figures in splits.items():
            rows = [r for r in run.predictions() if (r["head"], r["split"]) == (head, split)]
            right = sum(row["label"] == row["prediction"] for row in rows)
            assert figures["n"] == len(rows) == 12
            assert figures["accuracy"] == right / 12
            assert figures["accuracy_ci95"] == list(metrics.wilson(right, 12))
    test = written["toy"]["logistic"]["test"]
    assert written["best"] == {
        "backbone": "toy",
        "head": "logistic",
        "val_accuracy": written["toy"]["logistic"]["val"]["accuracy"],
        "accuracy": test["accuracy"],
        "accuracy_ci95": test["accuracy_ci95"],
    }


def test_plot_tables__are_the_best_heads_confusions_and_every_heads_test_accuracy(run):
    run.train("logistic")
    run.constant("stubborn", train=0, train_val=0)
    summary = run.write("stubborn", "logistic")
    read = {name: files.read_csv(run.artifacts / "evaluation" / name) for name in FILES[2:]}
    tests = [r for r in run.predictions() if (r["head"], r["split"]) == ("logistic", "test")]
    expected = [{"actual": row["label"], "predicted": row["prediction"]} for row in tests]
    assert read["confusion.csv"] == expected
    assert {row["model"]: float(row["accuracy"]) for row in read["accuracy.csv"]} == {
        f"toy / {head}": summary["toy"][head]["test"]["accuracy"] for head in summary["toy"]
    }
    places = [(row["head"], row["split"], row["class"]) for row in read["per_class.csv"]]
    assert places == [
        (head, split, name)
        for head in ("stubborn", "logistic")
        for split in ("val", "test")
        for name in "abc"
    ]
    stubborn = read["per_class.csv"][0]
    assert (stubborn["n"], stubborn["recall"], stubborn["precision"]) == ("4", "1.0", str(4 / 12))


def test_awkward_labels_and_paths__come_through_every_file(tmp_path):
    labels = toy_labels(30, 2)
    strange = {"a": 'Blåbær, "wild"', "b": "line\nbreak"}
    labels = replace(
        labels,
        label=np.array([strange[name] for name in labels.label], dtype=object),
        path=np.array([f'{path}, "ü"' for path in labels.path], dtype=object),
    )
    run = Run(tmp_path, labels)
    run.embed()
    run.train("nearest_mean")
    run.write("nearest_mean")
    assert {row["label"] for row in run.predictions()} == set(strange.values())
    with (run.artifacts / "evaluation/per_class.csv").open(newline="") as file:
        assert {row["class"] for row in csv.DictReader(file)} == set(strange.values())


def test_files__are_the_same_bytes_twice(run):
    run.train("logistic")
    run.train("knn")
    run.write("logistic", "knn")
    run.write("logistic", "knn", folder="again")
    for name in FILES:
        first, second = (run.artifacts / folder / name for folder in ("evaluation", "again"))
        assert first.read_bytes() == second.read_bytes(), name


def test_stage__writes_its_files_and_prints_the_table__and_no_warning(run, monkeypatch, capsys):
    run.train("logistic")
    (run.artifacts.parent / "params.yaml").write_text(
        "data: {path: photos}\n"
        "backbones: {toy: {source: timm}}\n"
        "heads: {logistic: {kind: logistic}}\n"
        "run: {backbones: [toy], heads: [logistic]}\n"
    )
    monkeypatch.chdir(run.artifacts.parent)
    monkeypatch.setattr(sys, "argv", ["evaluate"])
    stages.evaluate.main()
    assert sorted(path.name for path in (run.artifacts / "evaluation").iterdir()) == sorted(FILES)
    out, err = capsys.readouterr()
    header, line = out.splitlines()
    assert header.split() == ["backbone", "head", "val", "test", "95", "%", "interval", "n"]
    test = json.loads((run.artifacts / "evaluation/metrics.json").read_bytes())["best"]
    low, high = test["accuracy_ci95"]
    figures = [f"{value:.4f}" for value in (test["val_accuracy"], test["accuracy"], low, high)]
    assert line.split() == [*("toy", "logistic", *figures[:3], "to", figures[3], "12", "best")]
    assert err == ""
