"""The whole pipeline under DVC: what a change costs, counted in forward passes and stages run."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from ruamel.yaml import YAML

from tests.conftest import Project, draw, make_photos, make_pixel_project, make_project

EVERYTHING = ["sample", "prepare", "freeze@raw", "extract@raw"]
AFTER_HEADS = ["evaluate", "bundle", "report"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Project:
    """A project whose first `dvc repro` is done: raw pixels of 36 photos, two heads."""
    project = make_pixel_project(tmp_path_factory.mktemp("pipeline") / "first")
    ran = project.repro()
    heads = ["train@raw-logistic", "train@raw-dummy"]
    assert sorted(ran) == sorted([*EVERYTHING, *heads, "inspect@raw", *AFTER_HEADS])
    return project


@pytest.fixture
def project(finished, tmp_path) -> Project:
    """A copy of the finished project, to change."""
    shutil.copytree(finished.folder, tmp_path / "copy", symlinks=True)
    return Project(tmp_path / "copy")


def passes(project: Project, *arguments: str) -> tuple[int, list[str]]:
    """Run `dvc repro`; forward passes it cost and stages it ran."""
    note = project.folder / "artifacts" / "runs" / "extract-raw.json"
    note.unlink(missing_ok=True)
    ran = project.repro(*arguments)
    return (json.loads(note.read_bytes())["computed"] if note.exists() else 0), ran


def embeddings(project: Project) -> bytes:
    return (project.folder / "artifacts" / "embeddings" / "raw.h5").read_bytes()


def clean_embeddings(project: Project, tmp_path: Path) -> bytes:
    """The tracked file as a run with an empty store writes it."""
    done = project.stage("extract", "raw", env={"HEADSTART_STORE": str(tmp_path / "empty")})
    assert done.code == 0, done.text
    return embeddings(project)


def test_repro__nothing_changed__runs_no_stage(project):
    assert passes(project) == (0, [])


def test_repro__one_heads_c_changed__runs_its_train_and_what_follows(project):
    project.edit(lambda params: params["heads"]["logistic"].update(C=0.02))
    assert passes(project) == (0, ["train@raw-logistic", *AFTER_HEADS])


def test_repro__code_of_heads_or_of_inspection_edited__runs_the_one_and_not_the_other(project):
    for name in ("selection.py", "heads/linear.py"):
        with (project.folder / "pipeline" / name).open("a") as file:
            file.write("\n# edited\n")
    assert "inspect@raw" not in passes(project)[1]
    with (project.folder / "pipeline" / "inspection" / "suspects.py").open("a") as file:
        file.write("\n# edited\n")
    computed, ran = passes(project)
    assert (computed, ran[0]) == (0, "inspect@raw")
    assert not [stage for stage in ran if stage.startswith("train")]


def test_repro__a_head_added_and_removed__costs_its_train_alone(project):
    project.edit(lambda params: params["run"]["heads"].append("knn"))
    assert passes(project) == (0, ["train@raw-knn", *AFTER_HEADS])
    project.edit(lambda params: params["run"]["heads"].remove("dummy"))
    assert passes(project) == (0, AFTER_HEADS)
    stale = project.folder / "artifacts" / "heads" / "raw" / "dummy.joblib"
    assert stale.exists()
    assert set(project.json("evaluation/metrics.json")["raw"]) == {"logistic", "knn"}
    predictions = pq.read_table(project.folder / "artifacts/evaluation/predictions.parquet")
    assert set(predictions["head"].to_pylist()) == {"logistic", "knn"}


def test_repro__relabelled_renamed_resplit__costs_no_forward_pass(project):
    photos, before = project.folder / "photos", embeddings(project)
    (photos / "cat").rename(photos / "tiger")
    assert passes(project, "extract@raw") == (0, ["prepare", "extract@raw"])
    (photos / "dog" / "003.png").rename(photos / "dog" / "renamed.png")
    assert passes(project, "extract@raw")[0] == 0
    (photos / "dog" / "004.png").rename(photos / "owl" / "was a dog.png")
    assert passes(project, "extract@raw")[0] == 0
    project.edit(lambda params: params["data"]["split"].update(seed=1, val=0.3))
    computed, ran = passes(project)
    assert computed == 0
    assert "train@raw-logistic" in ran and "extract@raw" not in ran
    assert embeddings(project) == before
    labels = pq.read_table(project.folder / "artifacts/dataset/labels.parquet").to_pylist()
    assert {row["label"] for row in labels} == {"tiger", "dog", "owl"}


def test_repro__image_added_changed_removed__costs_1_1_0_passes(project, tmp_path):
    new = project.folder / "photos" / "cat" / "new.png"
    draw(7001, 0).save(new)
    assert passes(project, "extract@raw")[0] == 1
    assert embeddings(project) == clean_embeddings(project, tmp_path / "a")
    draw(7002, 0).save(new)
    assert passes(project, "extract@raw")[0] == 1
    assert embeddings(project) == clean_embeddings(project, tmp_path / "b")
    new.unlink()
    assert passes(project, "extract@raw")[0] == 0
    assert embeddings(project) == clean_embeddings(project, tmp_path / "c")


def test_repro__execution_changed__runs_no_stage(project):
    def change(params):
        params["execution"].update(workers=1, threads=1, batch_size=3, device="cpu")

    project.edit(change)
    assert passes(project) == (0, [])


def test_repro__heads_py_edited__extracts_nothing(project):
    with (project.folder / "pipeline" / "heads" / "__init__.py").open("a") as file:
        file.write("\n# edited\n")
    computed, ran = passes(project)
    assert computed == 0
    # a comment changes no head's bytes, so what follows does not run either
    assert sorted(ran) == ["bundle", "evaluate", "train@raw-dummy", "train@raw-logistic"]


def test_repro__params_package_edited__costs_no_forward_pass(project):
    with (project.folder / "pipeline" / "params" / "loading.py").open("a") as file:
        file.write("\n# edited\n")
    computed, ran = passes(project)
    assert computed == 0
    assert "extract@raw" in ran


def test_repro__data_folder_moved__costs_no_forward_pass(project):
    (project.folder / "photos").rename(project.folder / "pictures")
    project.edit(lambda params: params["data"].update(path="pictures"))
    assert passes(project) == (0, ["prepare"])


def test_repro__embeddings_tampered_with__mends_itself(project):
    path, whole = project.folder / "artifacts" / "embeddings" / "raw.h5", embeddings(project)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2] ^= 1  # within the rows, which are most of the file
    path.unlink()
    path.write_bytes(damaged)
    direct = project.stage("train", "raw", "logistic")
    assert direct.code == 4
    assert "sha256" in direct.err and "Traceback" not in direct.err
    assert passes(project) == (0, [])  # DVC sees the change and restores the file from its cache
    assert embeddings(project) == whole


def test_stage__tampered_joblib__is_one_line_and_exit_4(project):
    path = project.folder / "artifacts" / "heads" / "raw" / "logistic.joblib"
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    path.unlink()
    path.write_bytes(damaged)
    done = project.stage("evaluate")
    assert done.code == 4
    assert len(done.err.strip().splitlines()) == 1
    assert "logistic.joblib" in done.err and "dvc repro" in done.err


def loaded(project: Project, *arguments: str, env: dict[str, str] | None = None) -> set[str]:
    """What a stage imports while it really runs."""
    done = project.run("python", "-X", "importtime", "-m", *arguments, env=env)
    assert done.code == 0, done.text
    return {line.rsplit("|", 1)[-1].strip() for line in done.err.splitlines()}


def test_extract__when_it_runs__loads_no_torch(project, tmp_path):
    names = loaded(
        project, "stages.extract", "raw", env={"HEADSTART_STORE": str(tmp_path / "empty")}
    )
    assert "onnxruntime" in names
    assert not names & {"torch", "dask", "distributed", "sklearn"}


def test_train__when_it_runs__loads_no_torch_onnxruntime_or_dask(project):
    names = loaded(project, "stages.train", "raw", "logistic")
    assert "sklearn" in names
    assert not names & {"torch", "onnxruntime", "dask", "distributed"}


@pytest.mark.slow
def test_experiments__swept_and_queued__share_the_store(project):
    shards = sorted((project.folder / "artifacts" / ".store").rglob("*.h5"))
    assert shards
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "run"]):
        assert project.run(*command).code == 0
    done = project.run("dvc", "exp", "run", "-S", "heads.logistic.C=0.5")
    assert done.code == 0, done.text
    assert project.json("heads/raw/logistic.json")["choice"] == {"C": 0.5}
    changed = project.run("dvc", "metrics", "diff", "--md")
    assert changed.code == 0, changed.text
    assert "raw.logistic.test.log_loss" in changed.out
    sweep = ["-S", "heads.logistic.C=0.25", "-S", "data.max_failed=0.5"]
    assert project.run("dvc", "exp", "run", "--queue", *sweep).code == 0
    done = project.run("dvc", "exp", "run", "--run-all")
    assert done.code == 0, done.text
    assert "36 images, 0 computed, 36 reused" in done.text
    assert sorted((project.folder / "artifacts" / ".store").rglob("*.h5")) == shards


def test_metrics_and_plots__are_shown_by_dvc(project):
    shown = project.run("dvc", "metrics", "show", "--json")
    assert shown.code == 0, shown.text
    values = json.loads(shown.out)[""]["data"]["artifacts/evaluation/metrics.json"]["data"]
    assert values["raw"]["logistic"]["test"]["n"] == 6
    test = project.json("evaluation/metrics.json")["raw"]["logistic"]["test"]
    assert values["raw"]["logistic"]["test"]["accuracy"] == test["accuracy"]
    assert test["accuracy_ci95"][0] <= test["accuracy"] <= test["accuracy_ci95"][1]
    plots = project.run("dvc", "plots", "show", "--json")
    assert plots.code == 0, plots.text
    for name in ("accuracy.csv", "confusion.csv", "layers.csv"):
        assert name in plots.out


def test_repro__a_curve_added_changed_and_removed__costs_itself_and_the_report(project):
    project.edit(lambda params: params["curve"].update(few={"shots": [1, 2, 4], "seeds": 2}))
    assert project.headstart("check").code == 0
    assert passes(project) == (0, ["curve@few", "report"])
    assert passes(project) == (0, [])
    points = project.json("curve/few/summary.json")["backbones"]["raw"]["points"]
    assert [point["shots"] for point in points] == [1, 2, 4]
    assert 'id="curve"' in (project.folder / "artifacts" / "report.html").read_text()
    plots = project.run("dvc", "plots", "show", "--json")
    assert "artifacts/curve/few/plot.csv" in plots.out, plots.text
    project.edit(lambda params: params["curve"]["few"].update(seeds=3))
    assert passes(project) == (0, ["curve@few", "report"])
    project.edit(lambda params: params["curve"].clear())
    assert passes(project) == (0, ["report"])
    assert (project.folder / "artifacts" / "curve" / "few" / "summary.json").exists()
    assert 'id="curve"' not in (project.folder / "artifacts" / "report.html").read_text()


def test_dag__is_free_of_optional_stages(project):
    dag = project.run("dvc", "stage", "list", "--name-only")
    assert not {"finetune", "curve"} & {line.split("@")[0] for line in dag.out.split()}


def tracked(project: Project) -> dict[str, str]:
    """sha256 of every file under a DVC output, by path."""
    lock = YAML(typ="safe").load((project.folder / "dvc.lock").read_text())
    outs = [out["path"] for stage in lock["stages"].values() for out in stage.get("outs", [])]
    files = [
        path
        for out in outs
        for path in ([project.folder / out] if (project.folder / out).is_file() else
                     sorted((project.folder / out).rglob("*")))
        if path.is_file()
    ]  # fmt: skip
    return {
        str(path.relative_to(project.folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


@pytest.mark.slow
def test_two_clean_runs__other_workers_threads_and_batch__are_byte_identical(tmp_path):
    """The default backbone, its real weights, in two folders."""
    results = []
    for name, execution in (
        ("one", {"workers": 0, "threads": 1, "batch_size": 5, "device": "cpu"}),
        ("two", {"workers": 2, "threads": 2, "batch_size": 2, "device": "cpu"}),
    ):
        project = make_project(tmp_path / name)
        make_photos(project.folder / "photos", each=8)

        def change(params, execution=execution):
            params["data"]["path"] = "photos"
            params["run"]["heads"] = ["logistic", "knn"]
            params["execution"].update(execution)

        project.edit(change)
        project.repro()
        results.append((tracked(project), (project.folder / "dvc.lock").read_bytes()))
    (first, first_lock), (second, second_lock) = results
    assert len(first) > 1800
    assert first == second
    assert first_lock == second_lock


def test_artifacts__hold_no_absolute_path_or_host_name(finished):
    host = re.compile(rb"\b" + re.escape(os.uname().nodename.encode()) + rb"\b")
    for path in tracked(finished):
        content = (finished.folder / path).read_bytes()
        assert str(finished.folder).encode() not in content, path
        if path.endswith((".json", ".csv", ".html")):
            assert not host.search(content), path
