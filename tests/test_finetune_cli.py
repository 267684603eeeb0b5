"""`headstart finetune` and the stage: explained while empty, measured beforehand, done, watched."""

import json
import shutil
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

import stages.finetune
from pipeline import dataset, durations, files, frozen, heads
from pipeline.cli import main
from pipeline.finetuning import energy, live
from pipeline.finetuning.course import Told
from pipeline.taps import Tap
from tests.conftest import edit_yaml, make_pixel_project
from tests.finetuning_desk import QUICK, make

ROW = {"epoch": 1, "rate": 0.1, "train_loss": 0.5, "train_accuracy": 0.7, "val_loss": 0.4}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The small world of fine-tuning."""
    desk = make(tmp_path_factory.mktemp("world"))
    desk.material("logistic")
    return desk


@pytest.fixture
def project(world, tmp_path, monkeypatch):
    """A project's folder where everything before fine-tuning has run."""
    artifacts = tmp_path / "artifacts"
    shutil.copytree(world.folder / "backbones", artifacts / "backbones")
    shutil.copytree(world.folder / "heads", artifacts / "heads")
    (artifacts / "embeddings").mkdir()
    shutil.copy(world.folder / "tiny.h5", artifacts / "embeddings" / "tiny.h5")
    dataset.write_labels(artifacts / "dataset" / "labels.parquet", world.labels)
    shutil.copytree(world.folder / "photos", tmp_path / "photos")
    params = {
        "data": {"path": "photos"},
        "backbones": {"tiny": world.origin.model_dump(exclude_none=True)},
        "heads": {"logistic": {"kind": "logistic"}},
        "run": {"backbones": ["tiny"], "heads": ["logistic"]},
        "finetune": {},
        "execution": {"device": "cpu"},
    }
    files.write_json(tmp_path / "params.yaml", params)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def enter(project, **entries) -> None:
    edit_yaml(project / "params.yaml", lambda params: params["finetune"].update(entries))


def headstart(capsys, *words: str, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    said = capsys.readouterr()
    assert stopped.value.code == code, said
    return said.out + said.err


def test_finetune__empty__explains_and_its_entry_can_be_pasted(project, capsys):
    said = headstart(capsys, "finetune")
    assert "the stage does not exist" in said
    assert "Do not type 'dvc repro finetune'" in said
    (line,) = [line.strip() for line in said.splitlines() if line.startswith("  finetune:")]
    params = project / "params.yaml"
    kept = json.loads(params.read_text())
    kept.pop("finetune")
    params.write_text(files.json_text(kept)[:-2].rstrip() + f', "finetune": {line[9:]}}}\n')
    assert "layer4.0" in headstart(capsys, "finetune", "groups", "finetuned")


def test_finetune__an_entry__is_measured_and_leaves_nothing(project, capsys):
    figures = {"accuracy": 0.75, "accuracy_ci95": [0.5, 0.9], "n": 24}
    metrics = {"tiny": {"logistic": {"val": figures, "test": figures}}}
    files.write_json(project / "artifacts" / "evaluation" / "metrics.json", metrics)
    enter(project, mine=QUICK)
    before = sorted(path for path in project.rglob("*"))
    said = headstart(capsys, "finetune")
    assert "test 0.7500 (95 % interval 0.5000 to 0.9000): 6 of 24 test images wrong" in said
    assert "s a step of 12 images" in said
    assert "dvc repro finetune@mine" in said
    assert sorted(path for path in project.rglob("*")) == before


def test_finetune__head_not_fitted_yet__says_what_to_run(project, capsys):
    shutil.rmtree(project / "artifacts" / "heads")
    enter(project, mine=QUICK)
    assert "run 'dvc repro train@tiny-logistic'" in headstart(capsys, "finetune")


def test_groups__are_in_forward_order_and_the_head_last(project, capsys):
    enter(project, mine=QUICK | {"unfreeze": "last:1"})
    lines = headstart(capsys, "finetune", "groups", "mine").splitlines()
    assert lines[1].split()[0] == "conv1"
    assert [line.split()[-1] for line in lines[-3:-1]] == ["trained", "trained"]
    assert all(line.endswith("frozen") for line in lines[1:-3])
    assert lines[-2].startswith("fitted head")


def test_groups__head_of_an_inner_layer__says_that_later_blocks_are_left_out(
    project, monkeypatch, capsys
):
    enter(project, mine=QUICK | {"unfreeze": "last:2"})
    assert "leaves out" not in headstart(capsys, "finetune", "groups", "mine")
    found = heads.load_record(project / "artifacts/heads/tiny", "logistic")
    inner = replace(found, layers=("layer3",))
    monkeypatch.setattr(heads, "load_record", lambda *_: inner)
    known = frozen.load(project / "artifacts/backbones/tiny")
    monkeypatch.setattr(
        frozen,
        "load",
        lambda _: SimpleNamespace(taps=[Tap("layer3", "layer3", "avg")], dims=known.dims),
    )
    said = headstart(capsys, "finetune", "groups", "mine").splitlines()[-1]
    assert said == "of these a run leaves out blocks that the head does not see, which sees layer3"


def test_live__dvclive_has_the_epochs_of_one_run(tmp_path):
    pytest.importorskip("dvclive")
    for figure, epochs in ((0.1, (1, 2, 3)), (0.2, (4, 5)), (0.9, (1, 2))):  # run, resumed, anew
        with live.watching("mine", 5, tmp_path) as watch:
            for epoch in epochs:
                watch(Told(epoch, 0, 2, 0.5, {**ROW, "epoch": epoch, "val_accuracy": figure}))
        found = (tmp_path / "finetune-mine-live/plots/metrics/val_accuracy.tsv").read_text()
        rows = [line.split() for line in found.splitlines()[1:]]
        wanted = range(1, epochs[-1] + 1)
        assert [int(step) for step, _ in rows] == list(wanted)
        assert float(rows[-1][1]) == figure


def test_groups__block_that_is_none__lists_those_there_are_then_the_near_miss(project, capsys):
    enter(project, mine=QUICK | {"unfreeze": ["layer9"]})
    said = headstart(capsys, "finetune", "groups", "mine", code=2)
    assert "layer4.0" in said
    assert "unknown block 'layer9'" in said.splitlines()[-1]
    assert "unknown block 'layer9'" in headstart(capsys, "finetune", code=2)


def test_groups__unknown_entry__names_the_near_miss(project, capsys):
    enter(project, mine=QUICK)
    assert "did you mean 'mine'?" in headstart(capsys, "finetune", "groups", "mini", code=2)


def test_stage__writes_the_folder_and_what_it_took(project, monkeypatch, capsys):
    enter(project, mine=QUICK)
    monkeypatch.setattr("sys.argv", ["stages.finetune", "mine"])
    stages.finetune.main()
    assert "started from logistic" in capsys.readouterr().out
    made = sorted(path.name for path in (project / "artifacts" / "finetuned" / "mine").iterdir())
    assert made == sorted(
        ["history.csv", "model.onnx", "model.safetensors", "predictions.parquet",
         "probabilities.npy", "record.json"]
    )  # fmt: skip
    runs = project / "artifacts" / "runs"
    assert json.loads((runs / "finetune-mine.json").read_bytes())["epochs"] == QUICK["epochs"]
    assert len(files.read_csv(runs / "finetune-mine.csv")) == QUICK["epochs"]


def test_live__a_resumed_run__goes_on_in_the_file_without_a_row_twice(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)  # plain files alone
    for epochs in ((1, 2, 3), (3, 4)):
        with live.watching("mine", 4, tmp_path) as watch:
            for epoch in epochs:
                watch(Told(epoch - 1, 1, 2, 0.5))
                watch(Told(epoch, 0, 2, 0.5, {**ROW, "epoch": epoch, "val_accuracy": 0.9}))
    rows = files.read_csv(tmp_path / "finetune-mine.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]


def test_live__dvclive__has_the_figures_of_each_epoch(tmp_path):
    pytest.importorskip("dvclive")
    with live.watching("mine", 1, tmp_path) as watch:
        watch(Told(1, 0, 2, 0.5, {**ROW, "val_accuracy": 0.875}))
    summary = json.loads((tmp_path / "finetune-mine-live" / "metrics.json").read_bytes())
    assert summary["val_accuracy"] == 0.875
    assert not (tmp_path / "finetune-mine-live" / "dvc.yaml").exists()


def test_energy__without_codecarbon__is_not_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with energy.measured() as used:
        pass
    assert used == {}


def test_energy__where_codecarbon_is__is_estimated():
    pytest.importorskip("codecarbon")
    with energy.measured() as used:
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            sum(range(10_000))
    assert 0 < used["energy_kwh"] < 1e-3  # a second at less than 3.6 kW


def test_durations__of_what_ended_well__are_noted(tmp_path):
    path = tmp_path / "runs" / "note.json"
    with pytest.raises(ValueError), durations.noted(path):
        raise ValueError
    assert not path.exists()
    with durations.noted(path):
        pass
    assert 0 <= json.loads(path.read_bytes())["seconds"] < 60


@pytest.mark.slow
def test_repro__entries_added_and_removed__cost_themselves_and_leave_metrics_as_before(tmp_path):
    project = make_pixel_project(tmp_path / "p")
    recipe = {"resize": 36, "crop": 32, "mean": [0.5] * 3, "std": [0.5] * 3}
    tiny = {"source": "random", "model": "timm/test_resnet", "preprocessing": recipe}

    def start(params) -> None:
        params["backbones"]["tiny"] = tiny
        params["run"]["backbones"] = ["tiny"]
        params["run"]["heads"] = ["logistic"]

    project.edit(start)
    project.repro()
    before = (project.folder / "artifacts" / "evaluation" / "metrics.json").read_bytes()
    dag = project.run("dvc", "dag")
    assert "finetune" not in dag.out
    entry = {"backbone": "tiny", "head": "logistic", "epochs": 2}  # other keys are left out
    project.edit(lambda params: params["finetune"].update(mine=entry))
    assert project.headstart("check").code == 0
    assert project.repro() == ["finetune@mine", "evaluate", "bundle", "report"]
    assert project.repro() == []
    assert "finetuned" in project.json("evaluation/metrics.json")["tiny"]["mine"]
    assert 'id="finetuning"' in (project.folder / "artifacts" / "report.html").read_text()
    plots = project.run("dvc", "plots", "show", "--json")
    assert "artifacts/finetuned/mine/history.csv" in plots.out, plots.text
    project.edit(lambda params: params["finetune"].clear())
    project.repro()
    assert (project.folder / "artifacts" / "evaluation" / "metrics.json").read_bytes() == before
