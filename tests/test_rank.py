"""`headstart rank`, on embeddings made by hand."""

import json
import shutil
from dataclasses import dataclass, replace

import numpy as np
import pytest

from pipeline import dataset, ranking
from pipeline.cli import rank
from pipeline.cli.rank import Candidate
from pipeline.dataset import Labels, Problem
from pipeline.embeddings import Embeddings
from pipeline.ranking import Measured
from tests.contracts_heads import embed, toy_labels, toy_vectors
from tests.test_cli import Desk, desk

__all__ = ["desk"]

APART = {"good": 1.0, "worse": 0.2, "raw": 0.1}
"""Backbones by how far apart they put the classes."""


@pytest.fixture
def labels(desk) -> Labels:
    """120 labelled images; backbones `good`, `worse`, the control `raw`, and `later`, not embedded."""
    made = toy_labels(120, 3)

    def change(params) -> None:
        params["backbones"] = {
            name: {"source": "pixels"} for name in ("worse", "raw", "good", "later")
        }
        params["run"]["backbones"] = ["worse", "good", "later"]

    desk.edit(change)
    dataset.write_labels(desk.folder / "artifacts" / "dataset" / "labels.parquet", made)
    for name, apart in APART.items():
        source = "pixels" if name == "raw" else "timm"
        put(desk, made, name, toy_vectors(made, 12, apart=apart), source=source)
    return made


def put(desk: Desk, labels: Labels, name: str, X: np.ndarray, **options) -> None:
    path = desk.folder / "artifacts" / "embeddings" / f"{name}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    embed(path, labels, X, name=name, **options)


def ranked(desk: Desk, *arguments: str) -> dict:
    done = desk.headstart("rank", "--json", *arguments)
    assert done.code == 0, done.text
    return json.loads(done.out)


def test_rank__every_embedded_backbone__in_the_order_of_logme(desk, labels):
    done = desk.headstart("rank")
    assert (done.code, done.err) == (0, "")
    first, head, *rows = done.out.splitlines()
    assert first == "96 images of 3 classes, of train and val; no test image is looked at"
    assert head.split()[:5] == ["backbone", "layer", "dim", "LogME", "s"]
    assert [row.split()[0] for row in rows[:3]] == ["good", "worse", "raw"]
    assert [row.endswith("control") for row in rows[:3]] == [False, False, True]
    assert rows[3:] == [
        "order not separated by these images (intervals overlap): worse and raw",
        "not ranked: later has no embeddings yet; run 'dvc repro extract@later'",
    ]


def test_rank__figures__are_of_train_and_val(desk, labels):
    learnt = labels.where(labels.split != "test")
    X = toy_vectors(labels, 12, apart=1.0)[labels.split != "test"].astype(np.float16)
    _, y = np.unique(learnt.label.astype(str), return_inverse=True)
    order = np.argsort(learnt.sha256)
    expected = ranking.score(X[order].astype(np.float32), y[order])
    found = ranked(desk, "good")
    assert found["candidates"][0]["scores"] == expected.scores
    assert set(found["candidates"][0]["seconds"]) == set(ranking.SCORES)
    assert (found["images"], found["classes"], found["splits"]) == (96, 3, ["train", "val"])


def test_rank__test_images_changed__says_the_same(desk, labels):
    before = ranked(desk, "good")["candidates"][0]["scores"]
    X = toy_vectors(labels, 12, apart=1.0)
    X[labels.split == "test"] = 9
    put(desk, labels, "good", X)
    assert ranked(desk, "good")["candidates"][0]["scores"] == before


def test_rank__copies_of_an_image__count_once(desk, labels):
    before = ranked(desk, "good")["candidates"][0]
    twice = labels.where(np.repeat(np.arange(len(labels.path)), 2))
    copies = replace(twice, path=np.array([f"{n:04d}" for n in range(240)], dtype=object))
    dataset.write_labels(desk.folder / "artifacts" / "dataset" / "labels.parquet", copies)
    after = ranked(desk, "good")["candidates"][0]
    assert (after["n"], after["scores"]) == (before["n"], before["scores"])


def test_rank__fewer_images__are_the_first_by_sha256(desk, labels):
    found = ranked(desk, "good", "--images", "40")
    assert found["images"] == 40
    assert "2 or more" in desk.headstart("rank", "--images", "1").err


def test_rank__image_that_one_backbone_failed_on__is_left_out_for_all(desk, labels):
    failed = labels.sha256[np.flatnonzero(labels.split == "train")[0]]
    kept = labels.where(labels.sha256 != failed)
    put(desk, kept, "worse", toy_vectors(kept, 12))
    assert "has no embedding of 1 of 96 images" in desk.refused(3, "rank", "good", "worse")
    problem = Problem("a.png", failed.decode(), "truncated", "")
    folder = desk.folder / "artifacts" / "embeddings"
    dataset.write_problems(folder / "worse.problems.csv", [problem])
    assert [one["n"] for one in ranked(desk, "good", "worse")["candidates"]] == [95, 95]


def test_rank__old_embeddings__are_named_and_the_others_ranked(desk, labels):
    kept = labels.where(np.arange(len(labels.path)) > 20)
    put(desk, kept, "worse", toy_vectors(kept, 12))
    why = "images in train and val; run 'dvc repro extract@worse'"
    assert ranked(desk)["not_ranked"]["worse"].endswith(why)
    assert desk.refused(3, "rank", "worse").endswith(why)


def test_rank__no_embeddings__is_exit_3_with_the_command(desk, labels):
    shutil.rmtree(desk.folder / "artifacts" / "embeddings")
    assert "no backbone is embedded yet; run 'dvc repro extract@worse'" in desk.refused(3, "rank")
    add = "backbone raw has no embeddings yet; add raw to run.backbones in params.yaml, then"
    assert add in desk.refused(3, "rank", "raw")


def test_rank__unknown_backbone__is_exit_2_with_the_near_miss(desk, labels):
    assert "unknown backbone 'worst'; did you mean" in desk.refused(2, "rank", "worst")


def test_rank__one_class__is_refused(desk, labels):
    alone = labels.where((labels.label == "a") | (labels.split == "test"))
    dataset.write_labels(desk.folder / "artifacts" / "dataset" / "labels.parquet", alone)
    assert "32 images of 1 class in train and val: ranking needs two" in desk.refused(3, "rank")


def test_rank__layer_that_is_not_cached__is_exit_3_and_says_which_are(desk, labels):
    line = desk.refused(3, "rank", "good", "--layer", "blocks")
    assert "backbone good has no embeddings of layer 'blocks', only of penultimate; add it" in line
    assert "layer 'blocks'" in desk.refused(3, "rank", "--layer", "blocks")
    assert len(ranked(desk, "good", "--layer", "penultimate")["candidates"]) == 1


@dataclass(frozen=True)
class Layered(Embeddings):
    """Embeddings of two layers: that of the file, and the same without what tells classes apart."""

    layers = ("penultimate", "blocks@avg")

    def take(self, rows, *, layer=None):
        taken = super().take(rows)
        return np.roll(taken, 1, axis=0)[:, :5] if layer == "blocks@avg" else taken


def test_rank__several_layers__are_a_candidate_each(desk, labels, monkeypatch):
    opened = rank.embeddings.open

    def two_layers(path) -> Layered:
        plain = opened(path)
        return Layered(plain.sha256, plain.vectors, plain.attributes)

    monkeypatch.setattr(rank.embeddings, "open", two_layers)
    found = ranked(desk, "good")["candidates"]
    assert [(one["layer"], one["dim"]) for one in found] == [("penultimate", 12), ("blocks@avg", 5)]
    assert [one["scores"]["loo_knn"] > 0.8 for one in found] == [True, False]
    alone = ranked(desk, "--layer", "blocks@avg", "good", "worse")["candidates"]
    assert {(one["backbone"], one["layer"]) for one in alone} == {
        ("good", "blocks@avg"),
        ("worse", "blocks@avg"),
    }
    assert "only of penultimate, blocks@avg" in desk.refused(3, "rank", "good", "--layer", "top")


def candidate(name: str, right: int, logme: float) -> Candidate:
    scores = {"logme": logme, "h_score": 1.0, "loo_knn": right / 100}
    return Candidate(name, "embeddings", False, Measured(100, 8, scores, {}))


def test_doubts__name_the_pairs_that_the_images_do_not_put_in_order():
    """Wilson's intervals of 90 and 70 of 100 are 0.826 to 0.945 and 0.604 to 0.781."""
    found = [candidate("a", 90, 3), candidate("b", 85, 2), candidate("c", 70, 1)]
    assert found[0].interval == pytest.approx((0.8256, 0.9448), abs=1e-4)
    assert not found[0].is_separated(found[1])
    assert found[0].is_separated(found[2])
    (line,) = rank._doubts([found[0], found[2], candidate("d", 69, 0)])
    assert line == "order not separated by these images (intervals overlap): c and d"
    (line,) = rank._doubts([found[2], found[0]])
    assert line == "order reversed by nearest neighbours (intervals apart): c and a"
    assert not list(rank._doubts([found[0], found[2]]))
