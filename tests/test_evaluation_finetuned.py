"""Fine-tuned models among the heads: what is read, what becomes the best, what is recommended."""

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline import evaluation, files, finetuned, heads
from pipeline.dataset import Split
from pipeline.errors import IntegrityError
from pipeline.evaluation import Result, tables
from pipeline.metrics import Scored
from pipeline.params import BackboneParams, FinetuneParams
from tests.contracts_heads import toy_labels
from tests.test_evaluation import Run

ORIGINS = {"toy": BackboneParams(source="timm", model="toy")}
ENTRY = FinetuneParams(backbone="toy", head="first")
CLASSES = ("a", "b", "c")


class Desk(Run):
    """Artifacts with a head that errs, and fine-tuned models of any accuracy."""

    def tune(
        self, name: str, *, val: float, test: float, entry: FinetuneParams = ENTRY, **changed
    ) -> Path:
        """A folder as fine-tuning leaves it, of a model that is right on so many images."""
        folder = self.artifacts / "finetuned" / name
        folder.mkdir(parents=True)
        results = [self._answers(name, split, share) for split, share in
                   ((Split.VAL, val), (Split.TEST, test))]  # fmt: skip
        tables.write_predictions(folder / finetuned.PREDICTIONS, results)
        known = np.concatenate([one.scored.known for one in results])
        np.save(folder / finetuned.PROBABILITIES, known)
        for file in (finetuned.WEIGHTS, finetuned.ONNX):
            (folder / file).write_bytes(name.encode())
        epochs = [dict.fromkeys(finetuned.COLUMNS, 0.5) | {"epoch": at} for at in range(3)]
        files.write_csv(folder / finetuned.HISTORY, finetuned.COLUMNS, epochs)
        head = heads.load_record(self.artifacts / "heads" / "toy", entry.head)
        started = {"head_sha256": head.sha256, "agreement": 1.0, "note": ""}
        record = {
            "name": name, "backbone": "toy", "head": entry.head, "classes": list(CLASSES),
            "entry": entry.model_dump(), "started_from": started, "epoch": 1, "epochs": 2,
            "alpha": None, "layers": ["penultimate"], "images": {"train": 36, "val": 12, "test": 12},
        }  # fmt: skip
        finetuned.seal(folder, {**record, **changed})
        return folder

    def _answers(self, name: str, split: Split, share: float) -> Result:
        labels = self.labels.where(self.labels.split == str(split))
        y = np.searchsorted(CLASSES, labels.label.astype(str))
        wrong = np.arange(len(y)) >= round(share * len(y))
        predicted = np.where(wrong, (y + 1) % 3, y)
        known = np.full((len(y), 3), 0.05)
        known[np.arange(len(y)), predicted] = 0.9
        return Result("toy", name, split, labels, Scored(y, predicted, known, 3), CLASSES, False)

    def answered(self, **entries: FinetuneParams) -> list[Result]:
        return evaluation.answered(self.artifacts, entries, ORIGINS)

    def summary(self, **entries: FinetuneParams) -> dict:
        results = self.evaluate("first") + self.answered(**entries)
        return evaluation.write(self.artifacts / "evaluation", results)


@pytest.fixture
def desk(tmp_path) -> Desk:
    """A head that says `a` of everything: right on a third of 100 val and 100 test images."""
    made = Desk(tmp_path, toy_labels(600, 3))
    made.embed()
    made.constant("first", train=0, train_val=0)
    return made


def test_entry__joins_the_heads_under_its_name(desk):
    desk.tune("mine", val=0.9, test=0.8)
    figures = desk.summary(mine=ENTRY)["toy"]["mine"]
    assert figures["val"]["accuracy"] == pytest.approx(0.9, abs=0.005)
    assert figures["test"]["accuracy"] == pytest.approx(0.8, abs=0.005)
    assert "ece" in figures["test"]
    rows = [row for row in desk.predictions() if row["head"] == "mine"]
    assert len(rows) == figures["val"]["n"] + figures["test"]["n"]


def test_folder_that_no_entry_names__is_not_read(desk):
    alone = desk.summary()
    desk.tune("stray", val=1.0, test=1.0)
    (desk.artifacts / "finetuned" / "broken").mkdir()
    assert desk.summary() == alone


def test_entry_added_and_removed__leaves_every_file_as_it_was(desk):
    desk.summary()
    folder = desk.artifacts / "evaluation"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    desk.tune("mine", val=0.9, test=0.8)
    desk.summary(mine=ENTRY)
    assert (folder / "metrics.json").read_bytes() != before["metrics.json"]
    desk.summary()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_best__is_a_model_that_is_better_on_validation__the_head_where_they_are_equal(desk):
    head = desk.summary()["toy"]["first"]["val"]["accuracy"]
    desk.tune("better", val=head + 0.1, test=0.3)
    desk.tune("equal", val=head, test=1.0)
    assert desk.summary(equal=ENTRY)["best"]["head"] == "first"
    assert desk.summary(equal=ENTRY, better=ENTRY)["best"]["head"] == "better"


def test_best__is_never_one_from_scratch(desk):
    entry = ENTRY.model_copy(update={"init": "random", "unfreeze": "all"})
    desk.tune("scratch", val=1.0, test=1.0, entry=entry)
    summary = desk.summary(scratch=entry)
    assert summary["best"]["head"] == "first"
    assert summary["toy"]["scratch"]["finetuned"]["scratch"]


@pytest.mark.parametrize(
    ("test", "recommend", "said"),
    [
        (0.9, "finetuned", "the fine-tuned model is recommended"),
        (0.35, "head", "no difference is shown, so first is recommended, which is cheaper"),
        (0.0, "head", "first is better, and cheaper"),
    ],
)
def test_recommended__is_the_model_only_where_the_interval_is_above_0(desk, test, recommend, said):
    desk.tune("mine", val=0.9, test=test)
    verdict = desk.summary(mine=ENTRY)["toy"]["mine"]["finetuned"]
    assert verdict["recommend"] == recommend
    assert said in verdict["sentence"]
    assert (verdict["difference_ci95"][0] > 0) == (recommend == "finetuned")
    assert verdict["only_this"] - verdict["only_head"] == round(
        verdict["difference"] * verdict["n"]
    )


def test_terminal__marks_the_model_and_prints_the_sentence(desk):
    desk.tune("mine", val=0.9, test=0.9)
    summary = desk.summary(mine=ENTRY)
    text = evaluation.describe(summary)
    assert "best, fine-tuned" in text
    assert summary["toy"]["mine"]["finetuned"]["sentence"] in text


def test_transfer__is_judged_by_heads_alone(desk):
    desk.tune("mine", val=1.0, test=1.0)
    desk.summary(mine=ENTRY)
    (judged,) = json.loads((desk.artifacts / "evaluation" / "transfer.json").read_bytes())
    assert "mine" not in json.dumps(judged)


@pytest.mark.parametrize("file", [finetuned.PREDICTIONS, finetuned.PROBABILITIES])
def test_file_not_as_recorded__is_refused(desk, file):
    path = desk.tune("mine", val=0.9, test=0.8) / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"sha256 is .*dvc repro -f finetune@mine"):
        desk.summary(mine=ENTRY)


def test_folder_missing__says_which_stage_makes_it(desk):
    with pytest.raises(IntegrityError, match="finetune@mine"):
        desk.summary(mine=ENTRY)


def test_folder_of_other_settings__is_refused(desk):
    desk.tune("mine", val=0.9, test=0.8)
    with pytest.raises(IntegrityError, match="other settings"):
        desk.summary(mine=ENTRY.model_copy(update={"epochs": 9}))


def test_head_fitted_again__is_refused(desk):
    desk.tune("mine", val=0.9, test=0.8)
    desk.constant("first", train=1, train_val=1)
    with pytest.raises(IntegrityError, match="another fit of first"):
        desk.summary(mine=ENTRY)


def test_class_that_is_not_among_its_own__is_refused(desk):
    desk.tune("mine", val=0.9, test=0.8, classes=["a", "b"])
    with pytest.raises(IntegrityError, match="does not know the class 'c'"):
        desk.summary(mine=ENTRY)
