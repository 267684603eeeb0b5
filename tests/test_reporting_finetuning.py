"""The report on fine-tuning: verdicts, what stands side by side, the way by epoch, and the timings page."""

import json

import pytest

from pipeline import files, reporting
from pipeline.errors import IntegrityError
from pipeline.params import FinetuneParams
from pipeline.reporting import finetuning, timings
from pipeline.reporting.records import Backbone, Head, Run, Trained
from tests.test_reporting import Case

ENTRY = FinetuneParams(backbone="small", head="logistic")
HISTORY = [
    {"epoch": "0", "train_accuracy": "", "val_accuracy": "0.8"},
    {"epoch": "1", "train_accuracy": "0.7", "val_accuracy": "0.85"},
    {"epoch": "2", "train_accuracy": "0.9", "val_accuracy": "0.84"},
]


def verdict(difference: float, low: float, high: float) -> dict:
    counts = {"n": 100, "only_this": 9, "only_head": 3, "p": 0.04}
    recommend = "finetuned" if low > 0 else "head"
    figures = {"difference": difference, "difference_ci95": [low, high], "recommend": recommend}
    return {**counts, **figures, "sentence": f"differs by {difference}"}


def head(name: str, accuracy: float, trained: Trained | None = None, **options) -> Head:
    figures = {"accuracy": accuracy, "accuracy_ci95": [accuracy - 0.05, accuracy + 0.05], "n": 100}
    return Head(
        backbone="small", name=name, kind="", choice={"alpha": 0.5} if trained else {},
        chosen_by="accuracy", trace=[], at_edge=False, converged=True, rows={}, sha256="",
        control=False, val=figures, test=figures, trained=trained, **options,
    )  # fmt: skip


def trained(init: str = "head", said: dict | None = None) -> Trained:
    return Trained("logistic", init, said or verdict(0.06, 0.01, 0.12), HISTORY, 1, 2, 0.998)


def described(*heads: Head):
    backbone = Backbone("small", "", "", 8, "", "", "", {})
    found = finetuning.describe(Run([backbone], list(heads), heads[0], {"classes": []}))
    return found["finetunes"]


def test_describe__no_entry__says_nothing():
    assert described(head("logistic", 0.8), head("knn", 0.7)) == []


def test_describe__shows_the_head_it_started_from_the_model_and_scratch_last():
    scratch = head("scratch", 0.4, trained("random", verdict(-0.4, -0.5, -0.3)))
    (one,) = described(
        scratch, head("mine", 0.86, trained()), head("logistic", 0.8), head("knn", 0.7)
    )
    assert [row.name for row in one.rows] == ["logistic", "mine", "scratch"]
    assert [row.what for row in one.rows] == [
        "frozen backbone and head",
        "fine-tuned",
        "trained from scratch",
    ]
    assert [dot.name for dot in one.plot.dots] == ["logistic", "mine", "scratch"]
    assert [mark for _, mark, _ in one.verdicts] == ["keep the model", "keep the head"]
    assert one.rows[1].against[0] == "+6.0 (1.0 to 12.0)"
    assert one.rows[0].against == ("", "")


def test_history__starts_at_epoch_0_and_marks_what_was_kept():
    (one,) = described(head("mine", 0.86, trained()), head("logistic", 0.8))
    (way,) = one.histories
    validation, training = way.lines
    assert len(validation.marks) == 3
    assert len(training.marks) == 2, "nothing was trained in epoch 0"
    assert way.kept == (validation.marks[1][0], "kept: epoch 1")
    heights = [float(y) for _, y, _ in validation.marks]
    assert heights[1] == min(heights), "the best epoch is drawn highest"
    assert [text for _, text in way.x_ticks] == ["0", "1", "2"]
    assert "99.8" in way.text
    assert "0.5 of the way" in way.text


def test_history__of_one_value__has_an_axis():
    flat = [{"epoch": "0", "val_accuracy": "1.0"}]
    model = head("mine", 0.9, Trained("logistic", "fresh", {}, flat, 0, 0, None))
    (one,) = described(model)
    assert len(one.histories[0].y_ticks) >= 2
    assert "random numbers" in one.histories[0].text


@pytest.fixture
def case(tmp_path):
    """The reporting case of heads, with one model fine-tuned of the first."""
    made = Case(tmp_path).build()
    folder = made.artifacts / "finetuned" / "mine"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "history.csv").write_text("epoch,train_accuracy,val_accuracy\n0,,0.5\n1,0.6,0.75\n")
    record = {
        "images": {"train": 8, "val": 8, "test": 8},
        "sha256": {"model.safetensors": files.sha256_of(folder / "model.safetensors")},
        "epoch": 1, "epochs": 1, "alpha": None, "layers": ["penultimate"],
        "started_from": {"agreement": 1.0, "note": "head knn is no chain of linear layers"},
    }  # fmt: skip
    files.write_json(folder / "record.json", record)
    path = made.artifacts / "evaluation" / "metrics.json"
    metrics = json.loads(path.read_bytes())
    figures = metrics["small"]["logistic"]
    metrics["small"]["mine"] = {**figures, "finetuned": verdict(0.0, -0.1, 0.1)}
    files.write_json(path, metrics)
    return made


def written(case, **finetune: FinetuneParams) -> str:
    path = case.artifacts / "report.html"
    options = {"backbones": list(case.backbones), "heads": list(case.heads)}
    reporting.write(path, case.artifacts, case.photos, **options, finetune=finetune)
    return path.read_text(encoding="utf-8")


def test_report__with_an_entry__has_the_section_the_row_and_the_digest(case):
    page = written(case, mine=ENTRY)
    assert "Was fine-tuning worth it?" in page
    assert "keep the head" in page
    assert "as the best of 2 heads and fine-tuned models" in page
    assert "no chain of linear layers" in page
    assert "artifacts/finetuned/mine/model.safetensors" in page
    assert page == written(case, mine=ENTRY)


def test_report__without_the_entry__is_free_of_it(case):
    page = written(case)
    assert "finetun" not in page
    assert "Was fine-tuning" not in page


def test_report__weights_not_as_recorded__are_refused(case):
    (case.artifacts / "finetuned" / "mine" / "model.safetensors").write_bytes(b"others")
    with pytest.raises(IntegrityError, match="finetune@mine"):
        written(case, mine=ENTRY)


def test_timings__stand_side_by_side_and_name_how_many_times_as_long(tmp_path):
    notes = {
        "extract-small": {"seconds": 8.0, "computed": 24, "reused": 0},
        "train-small-logistic": {"seconds": 2.0},
        "finetune-mine": {"seconds": 50.0, "images": 8, "epochs": 3, "energy_kwh": 0.002},
    }
    for name, note in notes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(note))
    scratch = ENTRY.model_copy(update={"init": "random"})
    timings.write(tmp_path, ["small"], ["logistic", "knn"], {"mine": ENTRY, "scratch": scratch})
    page = (tmp_path / "timings.html").read_text(encoding="utf-8")
    assert "5.0 times" in page
    assert "<td>10.0</td>" in page
    assert "<td>2</td>" in page, "watt hours"
    assert "from scratch: scratch" in page
