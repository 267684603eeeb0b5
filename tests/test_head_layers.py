"""Heads that choose layers and train on views: what is chosen, what is recorded, what is scored."""

import csv
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import StandardScaler

from pipeline import dataset, evaluation, features, files, heads, selection
from pipeline.dataset import Split
from pipeline.errors import IntegrityError
from pipeline.heads import Record
from pipeline.params import HeadParams
from tests.contracts_heads import embed_all, toy_labels, toy_vectors

LABELS = toy_labels(150, 3)
"""90 images in train, 30 in val, 30 in test, by turns within three classes."""

NOISE = toy_vectors(LABELS, 5, seed=1, apart=0.0)
SHARP = toy_vectors(LABELS, 4, seed=2, apart=2.0)
BLURRED = toy_vectors(LABELS, 4, seed=3, apart=0.6)


def of(split: str) -> np.ndarray:
    return split == LABELS.split


def fit(folder: Path, clean, *views, source="timm", head="mine", **entry):
    """A head on a backbone of these layers and views; what describes it."""
    cached = embed_all(folder / "artifacts/embeddings/toy.h5", LABELS, clean, *views, source=source)
    params = HeadParams(**{"kind": "logistic", **entry})
    fitted, record = selection.train(head, params, LABELS, cached)
    heads.save(folder / "artifacts/heads/toy", fitted, record)
    dataset.write_labels(folder / "artifacts/dataset/labels.parquet", LABELS)
    return fitted, record, cached


def evaluate(folder: Path, *names: str):
    results = evaluation.evaluate(folder / "artifacts", ["toy"], list(names) or ["mine"])
    summary = evaluation.write(folder / "artifacts/evaluation", results)
    return summary["toy"]


def by_layer(folder: Path) -> list[dict[str, str]]:
    with (folder / "artifacts/evaluation/layers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# which layers


@pytest.mark.parametrize("kind", ["logistic", "ridge", "knn"])
def test_best__is_the_layer_that_separates_the_classes(tmp_path, kind):
    _, record, _ = fit(tmp_path, {"noise": NOISE, "sharp": SHARP}, kind=kind, layers="best")
    assert record.layers == (["sharp"] if kind != "logistic" else record.layers)
    assert "sharp" in record.layers
    figures = {tuple(one["layers"]): one for one in record.by_layer}
    assert list(figures) == [("noise",), ("sharp",), ("noise", "sharp")]
    measure = "log_loss" if kind == "logistic" else "accuracy"
    sign = 1 if kind == "logistic" else -1
    assert record.layers_by == measure
    assert tuple(record.layers) == min(figures, key=lambda name: sign * figures[name][measure])
    assert figures["noise",]["accuracy"] < 0.6 < 0.9 < figures["sharp",]["accuracy"]


def test_best__ties__go_to_the_earlier(tmp_path):
    _, record, _ = fit(
        tmp_path, {"one": SHARP, "twin": SHARP, "noise": NOISE}, kind="dummy", layers="best"
    )
    assert record.layers == ["one"]
    assert len({one["log_loss"] for one in record.by_layer}) == 1


def test_joined_layers__of_which_each_tells_one_class_from_another__tell_all(tmp_path):
    codes = np.unique(LABELS.label.astype(str), return_inverse=True)[1]
    random = np.random.default_rng(0)
    first, second = (
        (8 * (codes == code)[:, None] + random.normal(size=(150, 3))).astype(np.float32)
        for code in (0, 1)
    )
    _, record, _ = fit(tmp_path, {"first": first, "second": second}, layers="best")
    assert record.layers == ["first", "second"]
    one, other, both = (entry["accuracy"] for entry in record.by_layer)
    assert max(one, other) < 0.75 < 0.9 < both
    assert evaluate(tmp_path)["mine"]["test"]["accuracy"] > 0.85


def test_list__is_joined_in_its_order__and_the_rest_is_not_read(tmp_path):
    layers = {"a": BLURRED, "b": SHARP, "c": NOISE}
    fitted, record, cached = fit(tmp_path, layers, layers=["b", "a"])
    assert (record.layers, record.layers_by) == (["b", "a"], "given")
    assert set(record.fingerprints) == {"embeddings", "layers/b"}
    assert [one["layers"] for one in record.by_layer] == [["b"], ["a"], ["b", "a"]]
    rows = features.images(LABELS, cached, Split.TRAIN).rows
    X = features.gather(cached, ["b", "a"], [(rows, 0)])
    np.testing.assert_array_equal(fitted.train[0].mean_, StandardScaler().fit(X).mean_)


def test_default_and_its_name__are_the_same_bytes_as_a_backbone_of_that_layer_alone(tmp_path):
    fit(tmp_path / "alone", {"a": BLURRED})
    fit(tmp_path / "default", {"a": BLURRED, "b": SHARP})
    fit(tmp_path / "named", {"b": SHARP, "a": BLURRED}, layers=["a"])
    alone, default, named = (
        (tmp_path / name / "artifacts/heads/toy/mine.joblib").read_bytes()
        for name in ("alone", "default", "named")
    )
    assert alone == default == named


def test_by_layer__figures__are_those_that_evaluate_gives_a_head_of_that_layer(tmp_path):
    layers = {"a": BLURRED, "b": NOISE}
    _, record, _ = fit(tmp_path, layers, layers="all")
    for one in record.by_layer:
        fit(tmp_path, layers, head="alone", layers=one["layers"])
        val = evaluate(tmp_path, "alone")["alone"]["val"]
        for name in ("accuracy", "accuracy_ci95", "log_loss"):
            assert one[name] == val[name]


def test_choice_of_layers__does_not_look_at_test(tmp_path):
    spoilt = {}
    for name, X in {"a": BLURRED, "b": SHARP}.items():
        spoilt[name] = np.where(of("test")[:, None], np.float32(1000), X)
    fit(tmp_path / "one", {"a": BLURRED, "b": SHARP}, layers="best")
    fit(tmp_path / "two", spoilt, layers="best")
    for ending in ("joblib", "json"):
        one, two = (
            (tmp_path / name / f"artifacts/heads/toy/mine.{ending}").read_bytes()
            for name in ("one", "two")
        )
        assert one == two


# views


def shifted(seed: int) -> dict[str, np.ndarray]:
    """A view of BLURRED: its vectors, moved a little."""
    random = np.random.default_rng(seed)
    return {"a": BLURRED + random.normal(scale=0.3, size=BLURRED.shape).astype(np.float32)}


def test_views__train_rows_are_the_clean_view_and_all_others__held_rows_are_clean(tmp_path):
    views = [shifted(7), shifted(8)]
    fitted, record, cached = fit(tmp_path, {"a": BLURRED}, *views, views=True)
    assert record.views == 2
    assert record.images == {"train": 90, "val": 30}
    assert record.rows == {"train": 270, "val": 90}
    assert set(record.fingerprints) == {"embeddings", "views/1/a", "views/2/a"}
    stacked = [X["a"].astype(np.float16).astype(float) for X in ({"a": BLURRED}, *views)]
    for pipeline, chosen in (
        (fitted.train, of("train")),
        (fitted.train_val, of("train") | of("val")),
    ):
        expected = np.concatenate([X[chosen] for X in stacked]).mean(axis=0)
        np.testing.assert_allclose(pipeline[0].mean_, expected, rtol=0, atol=1e-6)
    figures = evaluate(tmp_path)["mine"]
    assert (figures["val"]["n"], figures["test"]["n"]) == (30, 30)


def test_views__are_used_only_where_asked_for(tmp_path):
    fit(tmp_path / "without", {"a": BLURRED})
    fit(tmp_path / "unused", {"a": BLURRED}, shifted(7))
    without, unused = (
        (tmp_path / name / "artifacts/heads/toy/mine.joblib").read_bytes()
        for name in ("without", "unused")
    )
    assert without == unused


def planted(*splits: str) -> dict[str, np.ndarray]:
    """A view of BLURRED whose vectors tell the label of the images of some splits, and of no other."""
    codes = np.unique(LABELS.label.astype(str), return_inverse=True)[1]
    view = shifted(7)["a"].copy()
    chosen = np.isin(LABELS.split.astype(str), splits)
    view[chosen] = 50 * np.eye(4, dtype=np.float32)[codes][chosen]
    return {"a": view}


def test_views__of_test_images__change_no_byte_of_head_nor_figures(tmp_path):
    written = []
    for name, view in (("plain", shifted(7)), ("planted", planted("test"))):
        fit(tmp_path / name, {"a": BLURRED}, view, views=True)
        evaluate(tmp_path / name)
        paths = ("heads/toy/mine.joblib", "heads/toy/mine.json", "evaluation/metrics.json")
        written.append([(tmp_path / name / "artifacts" / path).read_bytes() for path in paths])
    assert written[0] == written[1]


def test_views__of_val_images__change_the_fit_on_train_and_val_alone(tmp_path):
    (plain, said, _), (other, told, _) = (
        fit(tmp_path / name, {"a": BLURRED}, view, views=True)
        for name, view in (("plain", shifted(7)), ("planted", planted("val")))
    )
    assert told == replace(said, sha256=told.sha256)
    np.testing.assert_array_equal(plain.train[-1].coef_, other.train[-1].coef_)
    assert not np.array_equal(plain.train_val[-1].coef_, other.train_val[-1].coef_)


def test_views__of_train_images__change_both_fits(tmp_path):
    (plain, _, _), (other, _, _) = (
        fit(tmp_path / name, {"a": BLURRED}, view, views=True)
        for name, view in (("plain", shifted(7)), ("planted", planted("train")))
    )
    for one, two in ((plain.train, other.train), (plain.train_val, other.train_val)):
        assert not np.array_equal(one[0].mean_, two[0].mean_)


def test_views__k_of_knn__may_exceed_the_images_but_not_the_rows(tmp_path):
    _, record, _ = fit(tmp_path, {"a": BLURRED}, shifted(7), shifted(8), kind="knn", views=True)
    assert max(trial["value"] for trial in record.trace) == 200


# controls


@pytest.mark.parametrize("source", ["pixels", "random"])
def test_control_without_these_layers_and_views__is_fitted_on_its_first_and_says_so(
    tmp_path, source
):
    _, record, _ = fit(tmp_path, {"raw": BLURRED}, source=source, layers=["b", "c"], views=True)
    assert (record.layers, record.views, record.by_layer) == (["raw"], 0, [])
    assert [note.split(":")[0] for note in record.notes] == [
        "the control toy has no layer b, c",
        "the control toy has no augmented views",
    ]
    lines = selection.describe(record).splitlines()
    assert lines[1:] == [f"note: {note}" for note in record.notes]
    assert evaluate(tmp_path)["mine"]["test"]["n"] == 30


# what is recorded and said


def test_describe__says_which_layers_and_views(tmp_path):
    layers = {"a": SHARP, "noise": NOISE}
    plain = {"kind": "nearest_mean", "calibrate": False}
    _, given, _ = fit(tmp_path, layers, layers=["noise"], **plain)
    assert selection.describe(given) == "toy / mine: layer noise, fitted"
    _, best, _ = fit(tmp_path, layers, layers="best", **plain)
    assert selection.describe(best) == "toy / mine: layer a (best of 3 by accuracy), fitted"
    _, joined, _ = fit(tmp_path, layers, layers, layers="all", views=True, C=0.5)
    assert selection.describe(joined) == "toy / mine: layers a + noise in 2 views, C = 0.5"


def test_record__of_before_layers_were_known__still_loads_and_is_scored(tmp_path):
    _, record, _ = fit(tmp_path, {"a": BLURRED, "b": NOISE}, shifted(1) | {"b": NOISE})
    expected = evaluate(tmp_path)
    path = tmp_path / "artifacts/heads/toy/mine.json"
    known = json.loads(path.read_bytes())
    for name in ("images", "layers", "layers_by", "views", "fingerprints", "by_layer", "notes"):
        del known[name]
    files.write_json(path, known)
    old = heads.load_record(path.parent, "mine")
    assert asdict(old) | {"sha256": ""} != asdict(record)
    assert evaluate(tmp_path) == expected
    assert selection.describe(old) == selection.describe(record)


# evaluation


def test_evaluate__gives_each_head_its_own_layers(tmp_path):
    layers = {"noise": NOISE, "sharp": SHARP}
    for name, wish in (("first", None), ("second", ["sharp"]), ("both", "all"), ("again", None)):
        fit(tmp_path, layers, head=name, layers=wish)
    figures = evaluate(tmp_path, "first", "second", "both", "again")
    accuracy = {name: split["test"]["accuracy"] for name, split in figures.items()}
    assert accuracy["first"] == accuracy["again"] < 0.6
    assert min(accuracy["second"], accuracy["both"]) > 0.9


def test_evaluate__other_vectors_in_a_layer_that_a_head_saw__are_refused_by_name(tmp_path):
    layers = {"a": BLURRED, "b": SHARP}
    _, record, cached = fit(tmp_path, layers, layers="all")
    path = tmp_path / "artifacts/heads/toy/mine.json"
    known = json.loads(path.read_bytes())
    files.write_json(path, known | {"fingerprints": known["fingerprints"] | {"layers/b": "0" * 64}})
    with pytest.raises(IntegrityError) as refused:
        evaluate(tmp_path)
    for part in ("layers/b", "0" * 64, cached.fingerprint_of("b"), "dvc repro train@toy-mine"):
        assert part in str(refused.value)
    assert "\n" not in str(refused.value)


def test_evaluate__layer_that_is_gone__is_refused_by_name(tmp_path):
    fit(tmp_path, {"a": BLURRED, "b": SHARP}, layers="all")
    embed_all(tmp_path / "artifacts/embeddings/toy.h5", LABELS, {"a": BLURRED})
    with pytest.raises(IntegrityError, match="layers/b.*no such dataset.*dvc repro train@toy-mine"):
        evaluate(tmp_path)


def test_layers_csv__has_a_row_a_candidate_of_heads_that_see_several(tmp_path):
    layers = {"noise": NOISE, "sharp": SHARP}
    fit(tmp_path, layers, head="plain")
    _, record, _ = fit(tmp_path, layers, head="both", layers="all")
    evaluate(tmp_path, "plain", "both")
    rows = by_layer(tmp_path)
    assert [tuple(row.values())[:3] for row in rows] == [
        ("toy", "both", name) for name in ("noise", "sharp", "noise + sharp")
    ]
    for row, one in zip(rows, record.by_layer, strict=True):
        figures = [float(row[name]) for name in ("accuracy", "low", "high")]
        assert figures == [one["accuracy"], *one["accuracy_ci95"]]
    assert len({row["model"] for row in rows}) == 3


def test_layers_csv__no_head_sees_several__is_a_header(tmp_path):
    fit(tmp_path, {"a": BLURRED})
    evaluate(tmp_path)
    text = (tmp_path / "artifacts/evaluation/layers.csv").read_text()
    assert text == "backbone,head,layer,accuracy,low,high,model\n"


def test_record__is_made_of_json(tmp_path):
    _, record, _ = fit(tmp_path, {"a": BLURRED, "b": SHARP}, layers="best")
    written = heads.load_record(tmp_path / "artifacts/heads/toy", "mine")
    assert isinstance(written, Record)
    assert replace(written, sha256="") == record
