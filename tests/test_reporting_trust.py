"""The report's sections on what may be believed: transfer, groups, probabilities, inspection."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from pipeline import dataset, files
from pipeline.dataset import Labels
from pipeline.errors import IntegrityError
from pipeline.reporting import groups, inspection, provenance, scores, transfer, trust
from pipeline.reporting.records import Backbone, Head, Run

HEAD = Head(
    backbone="small",
    name="svm",
    kind="linear_svm",
    choice={"C": 0.5},
    chosen_by="accuracy",
    trace=[],
    at_edge=False,
    converged=True,
    rows={"train": 4, "val": 8},
    sha256="0" * 64,
    control=False,
    val={"accuracy": 0.9, "n": 8},
    test={"accuracy": 0.75, "n": 8, "ece": 0.04, "ece_uncalibrated": 0.2, "ece_ci95": [0.01, 0.1]},
)
SMALL = Backbone("small", "model.onnx", "0" * 64, 8, "none", "mit", "f" * 64, {"source": "timm"})
RAW = dataclasses.replace(SMALL, name="raw", fields={"source": "pixels"})


def run_of(*heads: Head, backbones=(SMALL, RAW)) -> Run:
    return Run(list(backbones), list(heads), heads[0] if heads else None, {})


# transfer

STATED = {
    "backbone": "small",
    "head": "svm",
    "verdict": "helps",
    "sentence": "small helps: +31.4 points over pixels",
    "accuracy": 0.75,
    "against": [
        {
            "source": "pixels",
            "backbone": "raw",
            "head": "logistic",
            "accuracy": 0.436,
            "difference": 0.314,
            "difference_ci95": [0.261, 0.366],
            "p": 0.00004,
            "p_holm": 0.00008,
        }
    ],
}


def test_transfer__verdict__stands_with_every_control_and_its_interval(tmp_path):
    files.write_json(tmp_path / "evaluation" / "transfer.json", [STATED])
    (verdict,) = transfer.describe(tmp_path)["transfer"]
    assert (verdict.backbone, verdict.verdict, verdict.mark) == ("small", "helps", "best")
    assert verdict.sentence == STATED["sentence"]
    (rival,) = verdict.rivals
    assert (rival.difference, rival.bounds, rival.p) == ("+31.4", "26.1 to 36.6", "< 0.001")


@pytest.mark.parametrize(
    ("verdict", "mark"), [("hurts", "bad"), ("no signal", "bad"), ("neutral", "control")]
)
def test_transfer__that_does_not_help__is_marked_so(tmp_path, verdict, mark):
    files.write_json(tmp_path / "evaluation" / "transfer.json", [{**STATED, "verdict": verdict}])
    assert transfer.describe(tmp_path)["transfer"][0].mark == mark


@pytest.mark.parametrize("content", ["{}", "[{}]", "[", '[{"accuracy": 1, "against": 3}]'])
def test_transfer__damaged_file__is_named_with_what_to_run(tmp_path, content):
    path = tmp_path / "evaluation" / "transfer.json"
    files.write_bytes(path, content.encode())
    with pytest.raises(IntegrityError) as error:
        transfer.describe(tmp_path)
    assert str(path) in str(error.value)
    assert "dvc repro -f evaluate" in str(error.value)


# the table of heads


def test_heads__difference_that_is_none__says_so_and_one_that_is__has_its_p():
    stated = {
        "difference": -0.02,
        "difference_ci95": [-0.05, 0.01],
        "only_this": 3,
        "only_best": 6,
        "p": 0.51,
        "p_holm": 0.51,
        "verdict": "same",
    }
    text, hint = scores._against_best(stated)
    assert text == "\u22122.0, none shown"
    assert "\u22125.0 to 1.0" in hint
    assert "this head 3, the best 6" in hint
    text, _ = scores._against_best({**stated, "p_holm": 0.003, "verdict": "worse"})
    assert text == "\u22122.0, p 0.003"
    assert scores._against_best(None) == ("", "")


def test_fit__several_draws__are_told_with_their_spread():
    drawn = dataclasses.replace(
        HEAD, seeds=[{"seed": seed, "accuracy": 0.9 + seed / 100} for seed in range(3)]
    )
    (note,) = provenance._draws(drawn)
    assert "over 3 draws" in note
    assert "0.9100, standard deviation 0.0100, 0.9000 to 0.9200" in note
    assert provenance._draws(HEAD) == []


# probabilities


def test_calibration__heads_with_a_temperature__have_the_error_before_and_after():
    calibrated = dataclasses.replace(HEAD, temperature=0.31)
    said = trust.describe(run_of(calibrated, HEAD))["calibration"]
    assert [(row.temperature, row.before, row.after) for row in said] == [
        ("0.31", "0.2000", "0.0400")
    ]


def test_abstention__threshold__stands_with_what_it_gave_on_test():
    test = {
        **HEAD.test,
        "abstention": {"precision": 0.97, "precision_ci95": [0.9, 0.99], "coverage": 0.5},
    }
    careful = dataclasses.replace(HEAD, test=test, abstention={"wanted": 0.95, "threshold": 0.8123})
    (row,) = trust.describe(run_of(careful))["abstention"]
    assert (row.threshold, row.precision) == ("0.8123", "0.9700")
    assert row.share == "50.0\u00a0% of 8"
    never = dataclasses.replace(HEAD, abstention={"wanted": 0.99, "threshold": None})
    (row,) = trust.describe(run_of(never))["abstention"]
    assert (row.threshold, row.share) == ("not reached on val", "\u2013")


# groups


def written_groups(folder, rows) -> None:
    table = [dict(zip(groups.COLUMNS, row, strict=True)) for row in rows]
    files.write_csv(folder / "evaluation" / "groups.csv", groups.COLUMNS, table)


def test_groups__of_the_best_head_on_test__come_surest_losers_first(tmp_path):
    rows = [
        ("small", "svm", "test", "ward 1", 100, 0.5, 0.4, 0.6),
        ("small", "svm", "test", "ward 2", 1, 0.0, 0.0, 0.8),
        ("small", "svm", "test", "ward 3", 50, 0.9, 0.8, 0.96),
        ("small", "svm", "val", "ward 4", 50, 0.1, 0.0, 0.2),
        ("small", "knn", "test", "ward 5", 50, 0.1, 0.0, 0.2),
    ]
    written_groups(tmp_path, rows)
    said = groups.describe(tmp_path, run_of(HEAD))
    assert [row.name for row in said["groups"]] == ["ward 1", "ward 2", "ward 3"]
    assert said["more_groups"] == ""


def test_groups__none__are_not_shown(tmp_path):
    written_groups(tmp_path, [])
    assert groups.describe(tmp_path, run_of(HEAD))["groups"] == []


# inspection


@pytest.fixture
def inspected(tmp_path):
    """Artifacts and photos of three images, the first two copies across splits."""
    paths = ["a/1.png", "a/2.png", "b/3.png"]
    for number, path in enumerate(paths):
        (tmp_path / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (90, 60), (40 * number, 90, 20)).save(tmp_path / "photos" / path)
    sha256 = dataset.digests(files.sha256_of(tmp_path / "photos" / path) for path in paths)
    columns = (paths, ["ant", "ant", "bee"], ["train", "test", "train"], [None] * 3)
    path, label, split, group = (np.array(column, dtype=object) for column in columns)
    labels = Labels(path, sha256, label, split, group)
    artifacts = tmp_path / "artifacts"
    dataset.write_labels(artifacts / "dataset" / "labels.parquet", labels)
    folder = artifacts / "inspect" / "small"
    summary = {"exact": 0, "near": 2, "across_splits": 1, "suspects": 1, "outliers": 1}
    files.write_json(folder / "summary.json", summary)
    pairs = [
        ("a/1.png", "b/3.png", 0.95, "near", "train", "train", "ant", "bee"),
        ("a/1.png", "a/2.png", 0.91, "near", "train", "test", "ant", "ant"),
    ]
    table = [dict(zip(inspection.PAIR_COLUMNS, pair, strict=True)) for pair in pairs]
    files.write_csv(folder / "duplicates.csv", inspection.PAIR_COLUMNS, table)
    suspects = [("b/3.png", "bee", "ant", 0.02), ("a/1.png", "ant", "ant", 0.9)]
    table = [dict(zip(inspection.SUSPECT_COLUMNS, row, strict=True)) for row in suspects]
    files.write_csv(folder / "suspects.csv", inspection.SUSPECT_COLUMNS, table)
    outliers = [("a/2.png", "ant", 6.25, "far"), ("b/3.png", "bee", "", "constant")]
    table = [dict(zip(inspection.OUTLIER_COLUMNS, row, strict=True)) for row in outliers]
    files.write_csv(folder / "outliers.csv", inspection.OUTLIER_COLUMNS, table)
    return artifacts


def said_of(artifacts):
    photos = artifacts.parent / "photos"
    return inspection.describe(artifacts, photos, run_of(HEAD))["inspections"]


def test_inspection__pairs_across_splits__come_first__with_both_pictures(inspected):
    (one,) = said_of(inspected)
    assert [(a.path, b.path) for a, b in one.pairs] == [
        ("a/1.png", "a/2.png"),
        ("a/1.png", "b/3.png"),
    ]
    assert all(item.picture for pair in one.pairs for item in pair)
    assert "2 pairs" in one.text
    assert "1 of them across splits" in one.text


def test_inspection__suspects__are_those_whose_label_is_doubted(inspected):
    (one,) = said_of(inspected)
    assert [(item.path, item.bold) for item in one.suspects] == [("b/3.png", "bee")]
    assert "rather ant?" in one.suspects[0].text
    assert [item.text for item in one.outliers] == ["far, 6.25", "constant"]


def test_inspection__controls__have_none__and_a_changed_photo_has_no_picture(inspected):
    (inspected.parent / "photos/b/3.png").write_bytes(b"other")
    (one,) = said_of(inspected)
    assert one.backbone == "small"
    assert one.suspects[0].picture is None


@pytest.mark.parametrize("name", ["suspects.csv", "duplicates.csv", "outliers.csv", "summary.json"])
def test_inspection__missing_file__is_named_with_what_to_run(inspected, name):
    path = inspected / "inspect" / "small" / name
    path.unlink()
    with pytest.raises(IntegrityError) as error:
        said_of(inspected)
    assert str(error.value) == f"{path} is missing; run 'dvc repro inspect@small'"


@pytest.mark.parametrize("content", ["{}", "[]", "{"])
def test_inspection__damaged_summary__is_named_with_what_to_run(inspected, content):
    (inspected / "inspect" / "small" / "summary.json").write_text(content)
    with pytest.raises(IntegrityError, match="run 'dvc repro -f inspect@small'"):
        said_of(inspected)
