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
from pipeline import (
    comparison,
    dataset,
    embeddings,
    evaluation,
    features,
    files,
    heads,
    metrics,
    selection,
)
from pipeline.comparison import Pair
from pipeline.dataset import Labels, Split
from pipeline.errors import InputError, IntegrityError
from pipeline.evaluation import Result
from pipeline.heads import Fitted, Recipe, Record
from pipeline.metrics import METRICS, Scored
from pipeline.params import HeadParams
from pipeline.prediction import predict
from tests.contracts_heads import embed, of_split, toy_labels, toy_vectors

FILES = (
    "metrics.json",
    "predictions.parquet",
    "transfer.json",
    "per_class.csv",
    "comparisons.csv",
    "groups.csv",
    "confusion.csv",
    "accuracy.csv",
    "reliability.csv",
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
        "transfer": summary["best"]["transfer"],
    }
    assert summary["best"]["transfer"]["verdict"] == "unknown"
    assert "which the heads were chosen on, since none is in test" in str(
        summary["best"]["transfer"]
    )
    assert {row["split"] for row in run.predictions()} == {"val"}
    assert evaluation.describe(summary).splitlines()[1].split() == [
        *("toy", "logistic", f"{summary['best']['val_accuracy']:.4f}", "-", "-", "0", "best")
    ]


def test_headline__no_test_images_or_no_best__says_what_there_is():
    told = "; 'headstart results' prints the table"
    best = {"backbone": "net", "head": "logistic", "val_accuracy": 0.5}
    assert evaluation.headline({"best": best}) == f"best by validation: net / logistic{told}"
    assert evaluation.headline({}) == f"no best: every head is a control{told}"


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


# against the best


def on_val_and_test(*results: Result) -> list[Result]:
    """Each of them on val, where all are right the first the most, and on test."""
    vals = [replace(one, split=Split.VAL) for one in results]
    val = [
        replace(one, scored=result("", "1" * (20 - at) + "0" * at).scored, labels=toy_labels(20, 1))
        for at, one in enumerate(vals)
    ]
    return [*val, *(replace(one, split=Split.TEST) for one in results)]


def test_versus_best__is_paired_on_the_test_images__and_adjusted_for_the_heads_compared():
    best = result("best", "1" * 40)
    worse = result("worse", "0" * 12 + "1" * 28)
    close = result("close", "0" + "1" * 39)
    summary = evaluation.summarise(on_val_and_test(best, worse, close))
    heads_of = summary["toy"]
    assert summary["best"]["head"] == "best"
    assert "versus_best" not in heads_of["best"]["test"]
    assert "versus_best" not in heads_of["worse"]["val"]
    found = heads_of["worse"]["test"]["versus_best"]
    assert found == comparison.figures(Pair(40, 0, 12), 2 * Pair(40, 0, 12).p)
    assert (found["verdict"], found["only_best"]) == ("worse", 12)
    found = heads_of["close"]["test"]["versus_best"]
    assert (found["verdict"], found["p_holm"]) == ("same", 1.0)


def test_versus_best__heads_of_backbones_that_lack_images__are_compared_on_the_common_ones():
    best, other = result("best", "1" * 40), result("other", "0" * 20 + "1" * 20, backbone="small")
    kept = np.arange(10, 40)
    fewer = replace(
        other,
        labels=other.labels.where(kept),
        scored=Scored(other.scored.y[kept], other.scored.predicted[kept], None, 2),
    )
    summary = evaluation.summarise(on_val_and_test(best, fewer))
    found = summary["small"]["other"]["test"]["versus_best"]
    assert (found["n"], found["only_this"], found["only_best"]) == (30, 0, 10)


def test_versus_best__a_control_that_is_better__says_so():
    control = result("raw", "1" * 40, backbone="pixels", control=True)
    summary = evaluation.summarise(on_val_and_test(result("best", "0" * 15 + "1" * 25), control))
    assert summary["pixels"]["raw"]["test"]["versus_best"]["verdict"] == "better"


def test_no_best__nothing_to_compare_with():
    summary = evaluation.summarise(on_val_and_test(result("raw", "1" * 9, control=True)))
    assert "versus_best" not in summary["toy"]["raw"]["test"]


def comparisons(folder: Path, *results: Result) -> list[dict]:
    evaluation.write(folder, list(results))
    return files.read_csv(folder / "comparisons.csv")


def test_comparisons_csv__has_every_pair__the_one_better_by_validation_as_versus(tmp_path):
    heads_of = [
        result(name, "0" * at + "1" * (40 - at)) for name, at in zip("abc", (0, 12, 1), strict=True)
    ]
    rows = comparisons(tmp_path, *on_val_and_test(*heads_of))
    assert [(row["head"], row["versus_head"]) for row in rows] == [
        ("b", "a"),
        ("c", "a"),
        ("c", "b"),
    ]
    ps = [Pair(40, 0, 12).p, Pair(40, 0, 1).p, Pair(40, 11, 0).p]
    assert [float(row["p"]) for row in rows] == pytest.approx(ps)
    assert [float(row["p_holm"]) for row in rows] == pytest.approx(comparison.holm(ps))
    last = rows[2]
    assert (last["n"], last["only_this"], last["only_versus"]) == ("40", "11", "0")
    figures = [float(last[name]) for name in ("difference", "low", "high")]
    assert figures == pytest.approx([11 / 40, *Pair(40, 11, 0).interval])


def test_comparisons_csv__more_than_thirty_heads__has_the_pairs_with_the_best_alone(tmp_path):
    many = [result(f"h{at:02d}", "1" * 9) for at in range(33)]
    rows = comparisons(tmp_path, *on_val_and_test(*many[:19]), *on_val_and_test(*many[19:]))
    assert {row["versus_head"] for row in rows} == {"h00"}
    assert len(rows) == 32


def test_describe__says_which_differences_are_real__with_their_p_values():
    def versus(difference: float, p: float) -> dict:
        verdict = "same" if p >= 0.05 else "worse" if difference < 0 else "better"
        return {"difference": difference, "p_holm": p, "verdict": verdict}

    test = {"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6], "n": 9}
    given = {
        "close": versus(-0.004, 0.7),
        "worse": versus(-0.02, 0.03),
        "worst": versus(-0.2, 0.0001),
        "better": versus(0.1, 0.0031),
        "edge": versus(-0.02, 0.0499),
    }
    summary = {"net": {name: {"test": {**test, "versus_best": v}} for name, v in given.items()}}
    summary["net"]["top"] = {"val": {"accuracy": 0.9}, "test": test}
    summary["best"] = {"backbone": "net", "head": "top", "transfer": {"sentence": "net helps"}}
    lines = evaluation.describe(summary).splitlines()
    assert lines[1].split()[-2:] == ["9", "best"]
    assert {line.split()[1]: line.split("  9  ")[-1] for line in lines[2:-1]} == {
        "close": "no difference shown",
        "worse": "-2.0 (p 0.03)",
        "worst": "-20.0 (p < 0.001)",
        "better": "+10.0 (p 0.003)",
        "edge": "-2.0 (p 0.050)",
    }
    assert lines[-1] == "transfer: net helps"


# should I transfer


def test_transfer__is_told_of_the_bests_backbone__by_the_sources_of_the_embeddings(tmp_path):
    run = Run(tmp_path, toy_labels(300, 3))
    run.embed("net", apart=2.0)
    run.embed("shades", apart=0.3, source="pixels")
    run.embed("noise", apart=0.05, source="random")
    names = ("net", "shades", "noise")
    for backbone in names:
        run.train("ridge", backbone=backbone)
        run.train("dummy", backbone=backbone)
    summary = run.write("ridge", "dummy", backbones=names)
    (entry,) = json.loads((run.artifacts / "evaluation/transfer.json").read_bytes())
    assert (entry["backbone"], entry["head"], entry["verdict"]) == ("net", "ridge", "helps")
    assert [(one["source"], one["backbone"], one["head"]) for one in entry["against"]] == [
        ("pixels", "shades", "ridge"),
        ("random", "noise", "ridge"),
    ]
    for one in entry["against"]:
        of_control = summary[one["backbone"]]["ridge"]["test"]
        assert one["accuracy"] == of_control["accuracy"]
        difference = summary["net"]["ridge"]["test"]["accuracy"] - of_control["accuracy"]
        assert one["difference"] == pytest.approx(difference)
        assert one["p"] == of_control["versus_best"]["p"]
    assert summary["best"]["transfer"]["sentence"] == entry["sentence"]
    assert evaluation.describe(summary).splitlines()[-1] == f"transfer: {entry['sentence']}"


def test_transfer__shuffled_labels__is_no_signal(tmp_path):
    labels = toy_labels(300, 3)
    run = Run(tmp_path, labels)
    run.embed(apart=2.0)
    np.random.default_rng(0).shuffle(labels.label)
    dataset.write_labels(run.artifacts / "dataset" / "labels.parquet", labels)
    run.train("logistic", C=1.0)
    assert run.write("logistic")["best"]["transfer"]["verdict"] == "no signal"


# calibration and abstention


def soften(run: Run, head: str, temperature: float, **changes) -> Fitted:
    """Give a trained head a temperature."""
    folder = run.artifacts / "heads" / "toy"
    fitted, record = heads.load(folder, head)
    fitted = replace(fitted, temperature=temperature)
    heads.save(folder, fitted, replace(record, temperature=temperature, **changes))
    return fitted


def test_temperature__figures_of_calibration_are_told_before_and_after(tmp_path):
    run = Run(tmp_path, toy_labels(300, 3))
    run.embed()
    run.train("logistic", C=1.0)
    before = run.write("logistic")["toy"]["logistic"]
    fitted = soften(run, "logistic", 3.0)
    after = run.write("logistic")["toy"]["logistic"]
    for split, fit in (("val", fitted.train), ("test", fitted.train_val)):
        X, y = of_split(run.labels, run.cached(), split)
        expected = Scored(y, *predict(fit, X, 3.0), 3)
        for name in ("ece", "log_loss"):
            assert f"{name}_uncalibrated" not in before[split]
            assert after[split][f"{name}_uncalibrated"] == pytest.approx(before[split][name])
            assert after[split][name] == METRICS[name](expected)
            assert after[split][name] > before[split][name]  # it was well calibrated


def test_reliability_csv__has_the_best_heads_bins_on_test(tmp_path):
    run = Run(tmp_path, toy_labels(300, 3))
    run.embed()
    run.train("logistic", C=1.0)
    run.train("dummy")
    summary = run.write("dummy", "logistic")
    rows = files.read_csv(run.artifacts / "evaluation/reliability.csv")
    assert {(row["head"], row["split"]) for row in rows} == {("logistic", "test")}
    assert sum(int(row["n"]) for row in rows) == 60
    gaps = [int(r["n"]) * abs(float(r["confidence"]) - float(r["accuracy"])) for r in rows]
    assert sum(gaps) / 60 == pytest.approx(summary["toy"]["logistic"]["test"]["ece"])
    for row in rows:
        assert int(row["bin"]) / 15 <= float(row["confidence"]) <= (int(row["bin"]) + 1) / 15


def test_abstention__threshold_of_the_record__is_held_against_val_and_test(run):
    run.train("logistic", C=1.0)
    soften(run, "logistic", 1.0, abstention={"wanted": 0.9, "threshold": 0.5, "precision": 1.0})
    figures = run.write("logistic")["toy"]["logistic"]
    for split in ("val", "test"):
        rows = [r for r in run.predictions() if r["split"] == split and r["probability"] >= 0.5]
        found = figures[split]["abstention"]
        assert (found["wanted"], found["threshold"], found["n"]) == (0.9, 0.5, len(rows))
        assert found["precision"] == np.mean([r["label"] == r["prediction"] for r in rows])
        assert found["coverage"] == len(rows) / 12


def test_no_temperature_and_no_wanted_precision__leave_their_figures_out(run):
    run.train("logistic", C=1.0)
    keys = set(run.write("logistic")["toy"]["logistic"]["test"])
    assert not keys & {"ece_uncalibrated", "log_loss_uncalibrated", "abstention", "worst_group"}


# groups


def grouped(right: str, groups: list[str | None]) -> Result:
    one = result("h", right, split=Split.TEST)
    return replace(one, labels=replace(one.labels, group=np.array(groups, dtype=object)))


def test_groups_csv__has_the_accuracy_of_each_group__with_its_interval(tmp_path):
    case = grouped("110" + "1000" + "11", ["b"] * 3 + ["a"] * 4 + [None] * 2)
    evaluation.write(tmp_path, [case])
    rows = files.read_csv(tmp_path / "groups.csv")
    assert [(row["split"], row["group"], row["n"]) for row in rows] == [
        ("test", "a", "4"),
        ("test", "b", "3"),
    ]
    for row, right in zip(rows, (1, 2), strict=True):
        n = int(row["n"])
        assert float(row["accuracy"]) == right / n
        assert (float(row["low"]), float(row["high"])) == metrics.wilson(right, n)


def test_worst_group__is_the_one_most_surely_bad__not_a_small_one_by_chance():
    few, many, good = "1" * 5 + "0" * 5, "1" * 110 + "0" * 90, "1" * 50
    names = ["few"] * 10 + ["many"] * 200 + ["good"] * 50 + ["tiny"] * 2
    found = evaluation.summarise([grouped(few + many + good + "00", names)])
    assert found["toy"]["h"]["test"]["worst_group"] == {
        "group": "many",
        "n": 200,
        "accuracy": 0.55,
        "accuracy_ci95": list(metrics.wilson(110, 200)),
    }


@pytest.mark.parametrize("names", [["a"] * 20, ["a"] * 11 + ["b"] * 9])
def test_worst_group__less_than_two_groups_of_ten_images__is_left_out(names):
    summary = evaluation.summarise([grouped("10" * 10, names)])
    assert "worst_group" not in summary["toy"]["h"]["test"]


def test_groups_csv__very_many_groups__keeps_those_with_most_images(tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation.groups, "LISTED", 2)
    evaluation.write(tmp_path, [grouped("1" * 6, ["c", "a", "b", "c", "b", "b"])])
    assert [row["group"] for row in files.read_csv(tmp_path / "groups.csv")] == ["b", "c"]


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
    (transfer,) = json.loads((run.artifacts / "evaluation" / "transfer.json").read_bytes())
    assert written["best"] == {
        "backbone": "toy",
        "head": "logistic",
        "val_accuracy": written["toy"]["logistic"]["val"]["accuracy"],
        "accuracy": test["accuracy"],
        "accuracy_ci95": test["accuracy_ci95"],
        "transfer": {name: transfer[name] for name in ("verdict", "sentence")},
    }


def test_plot_tables__are_the_best_heads_confusions_and_every_heads_test_accuracy(run):
    run.train("logistic")
    run.constant("stubborn", train=0, train_val=0)
    summary = run.write("stubborn", "logistic")
    read = {name: files.read_csv(run.artifacts / "evaluation" / name) for name in FILES[3:]}
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


def test_stage__writes_its_files_and_prints_the_best_alone__and_no_warning(
    run, monkeypatch, capsys
):
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
    (line,) = out.splitlines()
    test = json.loads((run.artifacts / "evaluation/metrics.json").read_bytes())["best"]
    low, high = test["accuracy_ci95"]
    figures = [f"{value:.4f}" for value in (test["accuracy"], low, high)]
    assert line == (
        "best by validation: toy / logistic, test {} ({} to {}); 'headstart results' prints the table"
    ).format(*figures)
    assert err == ""
