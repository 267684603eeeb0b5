"""`headstart plan`, held against what then really runs."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import planning
from pipeline.cli import dvc
from pipeline.errors import ConfigurationError
from tests.conftest import Project, draw, make_photos, make_pixel_project
from tests.test_cli import Desk

EXACT = "run 'dvc repro freeze@raw' for an exact plan"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Project:
    """A project of 36 photos on raw pixels, nothing run."""
    return make_pixel_project(tmp_path_factory.mktemp("plan") / "fresh")


@pytest.fixture(scope="module")
def embedded(fresh, tmp_path_factory) -> Project:
    """The same, prepared, frozen and extracted stage by stage, so DVC has seen none of it."""
    project = copied(fresh, tmp_path_factory.mktemp("plan") / "embedded")
    for name, *arguments in (["prepare"], ["freeze", "raw"], ["extract", "raw"]):
        done = project.stage(name, *arguments)
        assert done.code == 0, done.text
    return project


def copied(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder, symlinks=True)
    return Project(folder)


def run_stages(*names: str) -> None:
    """Run stages in this process and folder, which is quicker than starting Python for each."""
    for name in names:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", [name, *(["raw"] if name != "prepare" else [])])
            importlib.import_module(f"stages.{name}").main()


@pytest.fixture
def desk(tmp_path, monkeypatch, capsys):
    """Sit down at a copy of a project."""
    for name in ("DVC_ROOT", "HEADSTART_STORE", "DASK_SCHEDULER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)

    def sit(project: Project) -> Desk:
        copy = copied(project, tmp_path / "copy")
        monkeypatch.chdir(copy.folder)
        return Desk(copy.folder, capsys)

    return sit


@pytest.fixture
def all_runs(monkeypatch) -> None:
    """DVC, which takes seconds and is asked in other tests, says that every stage runs."""
    stages = ("prepare", "freeze@raw", "extract@raw", "train@raw-logistic", "evaluate")
    answer = dvc.Outlook(run=stages, follow=(), edited=frozenset(), cache=Path("/"))
    monkeypatch.setattr(dvc, "outlook", lambda root, *, also=(): answer)


def planned(desk: Desk) -> dict:
    desk.capsys.readouterr()
    done = desk.headstart("plan", "--json")
    assert done.code == 0, done.text
    return json.loads(done.out)


def raw(desk: Desk) -> dict:
    return planned(desk)["backbones"]["raw"]


def note(desk: Desk) -> dict:
    return json.loads((desk.folder / "artifacts" / "runs" / "extract-raw.json").read_bytes())


def files_of(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def as_manifest(desk: Desk) -> None:
    names = sorted(path.relative_to(desk.folder) for path in desk.folder.rglob("photos/*/*.png"))
    rows = "".join(f"{name},{name.parent.name}\n" for name in names)
    (desk.folder / "list.csv").write_text(f"path,label\n{rows}")
    desk.edit(lambda params: params["data"].update(path="list.csv"))


# before anything ran


def test_plan__nothing_ran_yet__counts_the_images_and_says_what_is_unknown(desk, fresh):
    here = desk(fresh)
    done = here.headstart("plan")
    assert done.code == 0, done.text
    lines = done.out.splitlines()
    assert lines[0] == "data: 36 distinct images"
    assert lines[1].split() == ["backbone", "images", "new", "seconds", "store", "artifacts"]
    assert lines[2].split() == ["raw", "36", "36", "?", "?", "?"]
    assert lines[3:] == [
        "stages that will run, or come from DVC's cache: sample, prepare, freeze@raw, extract@raw, 2 heads, inspect@raw, evaluate, bundle, report",
        "heads: 2 may be fitted; seconds are not known before a first run",
        "note: 36 files were hashed for this plan; nothing was written",
        f"note: raw: not frozen yet: all images are new; {EXACT}",
    ]
    assert not (here.folder / "artifacts" / "dataset").exists()
    assert not (here.folder / "artifacts" / ".store").exists()


def test_plan__sample_not_made_yet__says_what_to_run_for_figures(desk, fresh):
    here = desk(fresh)
    here.edit(lambda params: params["data"].update(path="artifacts/sample"))
    said = planned(here)
    assert (said["images"], said["backbones"], said["disks"]) == (None, {}, [])
    assert said["stages"]["run"][:2] == ["sample", "prepare"]
    assert said["notes"] == [
        "the sample is not made yet; run 'dvc repro prepare' for a plan with figures"
    ]


def test_plan__data_that_prepare_would_refuse__is_refused_alike(desk, fresh):
    here = desk(fresh)
    for path in (here.folder / "photos").glob("*/*.png"):
        path.write_text("no image")
    assert "no usable image" in here.refused(3, "plan")


# against the truth


def test_plan__then_the_run__agree_on_images_disk_and_seconds(desk, fresh, all_runs):
    here = desk(fresh)
    make_photos(here.folder / "photos", each=60)
    run_stages("prepare", "freeze")
    said = planned(here)
    cost = said["backbones"]["raw"]
    assert (cost["images"], cost["new"], cost["speed"]) == (180, 180, "measured")
    run_stages("extract")
    ran = note(here)
    assert ran["computed"] == cost["new"]
    store = here.folder / "artifacts" / ".store"
    shards = [path.stat().st_size for path in store.rglob("*.h5")]
    assert 0 <= sum(shards) - cost["store"] <= 8192 * len(shards)  # HDF5's own part
    tracked = (here.folder / "artifacts" / "embeddings" / "raw.h5").stat().st_size
    assert 0 <= tracked - cost["artifacts"] <= 16384
    assert 1 / 30 < cost["seconds"] / (ran["seconds"] - ran["start_seconds"]) < 30
    after = raw(here)
    assert after == {
        "images": 180, "new": 0, "seconds": 0.0, "speed": None, "store": 0, "artifacts": 0,
    }  # fmt: skip


def test_plan__one_image_added_edited_relabelled_removed__says_1_1_0_0(desk, embedded, all_runs):
    here = desk(embedded)
    photos = here.folder / "photos"

    def truth() -> int:
        run_stages("prepare", "extract")
        return note(here)["computed"]

    assert raw(here)["new"] == 0
    draw(8001, 0).save(photos / "cat" / "new.png")
    assert raw(here)["new"] == 1 == truth()
    draw(8002, 0).save(photos / "cat" / "new.png")
    assert raw(here)["new"] == 1 == truth()
    (photos / "cat" / "new.png").rename(photos / "dog" / "new.png")
    assert raw(here)["new"] == 0 == truth()
    (photos / "dog" / "new.png").unlink()
    said = raw(here)
    assert (said["images"], said["new"]) == (36, 0)
    assert truth() == 0


def test_plan__writes_nothing(desk, embedded, all_runs):
    here = desk(embedded)
    draw(8003, 1).save(here.folder / "photos" / "cat" / "new.png")
    before = files_of(here.folder / "artifacts")
    assert raw(here)["new"] == 1
    assert files_of(here.folder / "artifacts") == before


def test_plan__files_known_from_prepare__are_not_hashed_again(desk, embedded, all_runs):
    here = desk(embedded)
    assert planned(here)["notes"] == [AGAIN]
    (here.folder / "photos" / "cat" / "notes.txt").write_text("no image")
    run_stages("prepare")
    assert planned(here)["notes"] == [AGAIN]
    draw(8004, 1).save(here.folder / "photos" / "cat" / "new.png")
    assert planned(here)["notes"][0] == "1 file was hashed for this plan; nothing was written"
    (here.folder / "artifacts" / "runs" / "prepare.parquet").unlink()  # as after a fresh clone
    assert planned(here)["notes"][0] == "38 files were hashed for this plan; nothing was written"


AGAIN = f"raw: will be frozen again; figures hold if that changes nothing; {EXACT}"


def test_plan__image_that_cannot_be_decoded__is_not_new_for_ever(desk, embedded, all_runs):
    here = desk(embedded)
    here.edit(lambda params: params["data"].update(max_failed=0.5))
    whole = (here.folder / "photos" / "cat" / "000.png").read_bytes()
    (here.folder / "photos" / "cat" / "broken.png").write_bytes(whole[:100])
    assert raw(here)["new"] == 1
    run_stages("prepare", "extract")
    assert note(here)["failed"] == 1
    said = raw(here)
    assert (said["images"], said["new"], said["artifacts"]) == (37, 0, 0)


def test_plan__store_is_gone__all_are_new_again(desk, embedded, all_runs):
    here = desk(embedded)
    shutil.rmtree(here.folder / "artifacts" / ".store")
    said = raw(here)
    assert (said["new"], said["artifacts"]) == (36, 0)
    assert said["store"] == 36 * (768 * 2 + 64)


def test_plan__store_of_a_team__counts_what_it_has(desk, embedded, all_runs, tmp_path, monkeypatch):
    here = desk(embedded)
    (here.folder / "artifacts" / ".store").rename(tmp_path / "team")
    monkeypatch.setenv("HEADSTART_STORE", str(tmp_path / "team"))
    assert raw(here)["new"] == 0


# manifests


def test_plan__file_changed_behind_a_manifest__is_counted_and_dvc_is_told(desk, embedded):
    here = desk(embedded)
    as_manifest(here)
    run_stages("prepare", "extract")
    draw(8005, 1).save(here.folder / "photos" / "cat" / "000.png")
    said = planned(here)
    assert said["backbones"]["raw"]["new"] == 1
    assert said["notes"][:2] == [
        "1 file was hashed for this plan; nothing was written",
        "1 file was changed, which DVC does not see; run 'dvc repro -f prepare', then 'dvc repro'",
    ]
    run_stages("prepare", "extract")
    assert note(here)["computed"] == 1


def test_plan__file_touched_behind_a_manifest__is_hashed_and_found_the_same(
    desk, embedded, all_runs
):
    here = desk(embedded)
    as_manifest(here)
    run_stages("prepare")
    path = here.folder / "photos" / "cat" / "000.png"
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    said = planned(here)
    assert said["backbones"]["raw"]["new"] == 0
    assert said["notes"] == [
        "1 file was hashed for this plan; nothing was written",
        AGAIN,
    ]


def test_plan__another_manifest__is_not_said_to_have_changed_behind_dvc(desk, embedded, all_runs):
    here = desk(embedded)
    as_manifest(here)
    run_stages("prepare")
    draw(8006, 1).save(here.folder / "photos" / "cat" / "000.png")
    assert any("DVC does not see" in note for note in planned(here)["notes"])
    (here.folder / "list.csv").rename(here.folder / "other.csv")
    here.edit(lambda params: params["data"].update(path="other.csv"))
    said = planned(here)
    assert said["backbones"]["raw"]["new"] == 1
    assert said["notes"] == ["1 file was hashed for this plan; nothing was written", AGAIN]


# seconds


def write_note(desk: Desk, **values) -> Path:
    path = desk.folder / "artifacts" / "runs" / "extract-raw.json"
    path.write_text(json.dumps({**json.loads(path.read_bytes()), **values}))
    return path


def test_plan__last_run_was_long_enough__its_speed_counts(desk, embedded, all_runs):
    here = desk(embedded)
    write_note(here, computed=planning.ENOUGH, images_per_second=4.0)
    shutil.rmtree(here.folder / "artifacts" / ".store")
    said = raw(here)
    assert (said["speed"], said["seconds"]) == ("last run", 9.0)
    assert "9.0 (last run)" in here.headstart("plan").out


@pytest.mark.parametrize(
    "change",
    [
        lambda here: write_note(here, computed=planning.ENOUGH - 1, images_per_second=1e-6),
        lambda here: os.utime(write_note(here, computed=1000, images_per_second=1e-6), (0, 0)),
        lambda here: write_note(here, computed=1000, images_per_second="quick"),
        lambda here: (here.folder / "artifacts/runs/extract-raw.json").write_text("{"),
    ],
    ids=["too few", "older than the backbone", "no number", "no JSON"],
)
def test_plan__last_run_says_nothing__speed_is_measured(desk, embedded, all_runs, change):
    here = desk(embedded)
    change(here)
    shutil.rmtree(here.folder / "artifacts" / ".store")
    said = raw(here)
    assert said["speed"] == "measured"
    assert 0 < said["seconds"] < 60


def test_plan__on_a_scheduler__seconds_are_not_known(desk, embedded, all_runs, monkeypatch):
    here = desk(embedded)
    shutil.rmtree(here.folder / "artifacts" / ".store")
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    said = planned(here)
    cost = said["backbones"]["raw"]
    assert (cost["new"], cost["seconds"], cost["speed"]) == (36, None, None)
    words = "raw: seconds are not known: no run on these workers yet, or no image decodes"
    assert words in said["notes"]


def test_plan__no_image_decodes__seconds_are_not_known(desk, embedded, all_runs):
    here = desk(embedded)
    for path in (here.folder / "photos").glob("*/*.png"):
        path.write_bytes(path.read_bytes()[:100])
    cost = raw(here)
    assert (cost["new"], cost["seconds"]) == (36, None)


# heads, curves, fine-tuning


def test_plan__heads_curves_and_fine_tuning__are_counted__with_seconds_of_the_last_run_alone(
    desk, embedded, monkeypatch
):
    here = desk(embedded)

    def change(params) -> None:
        params["curve"] = {"few": {"shots": [1, 2, "all"], "seeds": 4}, "one": {"shots": [1]}}
        params["finetune"] = {"mine": {"backbone": "raw", "head": "logistic", "epochs": 7}}

    here.edit(change)
    heads = ("train@raw-logistic", "train@raw-dummy")
    stages = (*heads, "curve@few", "curve@one", "finetune@mine", "report")
    answer = dvc.Outlook(run=stages[:1], follow=stages[1:], edited=frozenset(), cache=Path("/"))
    monkeypatch.setattr(dvc, "outlook", lambda root, *, also=(): answer)
    runs = here.folder / "artifacts" / "runs"
    for name, text in {
        "train-raw-logistic": '{"seconds": 12.25}',
        "train-raw-dummy": '{"seconds": 0.5}',
        "curve-few": '{"seconds": 3}',
        "curve-one": '{"seconds": "quick"}',
        "finetune-mine": "{",
    }.items():
        (runs / f"{name}.json").write_text(text)
    assert planned(here)["work"] == {
        "train": {"stages": 2, "steps": 2, "measured": 2, "seconds": 12.75},
        "curve": {"stages": 2, "steps": 9 + 5, "measured": 1, "seconds": 3.0},
        "finetune": {"stages": 1, "steps": 7, "measured": 0, "seconds": None},
    }
    assert here.headstart("plan").out.splitlines()[-3:] == [
        "heads: 2 may be fitted; the last time 13 s",
        "curves: 2 may be measured, 14 draws at most; the last time 3.0 s for 1 of them",
        "fine-tuning: 1 may run, 7 epochs at most; seconds are not known before a first run",
    ]
    nothing = dvc.Outlook(run=(), follow=(), edited=frozenset(), cache=Path("/"))
    monkeypatch.setattr(dvc, "outlook", lambda root, *, also=(): nothing)
    assert planned(here)["work"] == {}


# disk


def test_plan__it_does_not_fit__is_exit_5_after_the_table(desk, embedded, all_runs, monkeypatch):
    here = desk(embedded)
    shutil.rmtree(here.folder / "artifacts" / ".store")
    usage = SimpleNamespace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    done = here.headstart("plan")
    assert done.code == 5
    assert done.out.splitlines()[2].split()[:3] == ["raw", "36", "36"]
    store = here.folder / "artifacts" / ".store"
    assert done.err == (
        f"headstart: error: the run needs 57.6 kB on the disk of {store}, where 1 kB are free; "
        "free some space there, or set execution.store to a folder on a larger disk\n"
    )
    done = here.headstart("plan", "--json")
    assert done.code == 5
    (disk,) = json.loads(done.out)["disks"]
    assert (disk["needed"], disk["free"], disk["fits"]) == (57600, 1000, False)


def test_disks__one_file_system__is_asked_once_for_the_sum(tmp_path):
    (disk,) = planning.disks([(tmp_path / "not" / "there", 3), (tmp_path, 4)])
    assert (disk.path, disk.needed) == (tmp_path / "not" / "there", 7)
    assert disk.fits


def test_disks__two_file_systems__are_two():
    if not Path("/dev/shm").is_dir() or os.stat("/dev/shm").st_dev == os.stat("/").st_dev:
        pytest.skip("no second file system here")
    assert [disk.needed for disk in planning.disks([(Path("/"), 1), (Path("/dev/shm"), 2)])] == [
        1,
        2,
    ]


# with DVC


def test_plan__dvc_cannot_say__the_figures_stand_all_the_same(desk, embedded):
    here = desk(embedded)
    shutil.rmtree(here.folder / ".dvc")
    said = planned(here)
    assert (said["stages"], said["work"]) == (None, None)
    assert said["backbones"]["raw"]["new"] == 0
    assert said["notes"][0].startswith("DVC cannot say what would run: you are not inside")
    assert here.headstart("plan").code == 0


def test_dvc__no_repository__is_a_line_in_its_own_words(tmp_path):
    with pytest.raises(ConfigurationError, match="not inside of a DVC repository"):
        dvc.changed_stages(tmp_path)


@pytest.mark.slow
def test_plan__after_dvc_repro__names_the_stages_that_then_run(desk, fresh):
    here = desk(fresh)
    project = Project(here.folder)
    ran = project.repro()
    assert {"prepare", "freeze@raw", "extract@raw"} < set(ran)
    done = here.headstart("plan")
    assert done.out.splitlines()[-1] == "stages: none, all is up to date"
    assert raw(here)["new"] == 0
    assert "old" not in here.headstart("results").out

    here.edit(lambda params: params["heads"]["logistic"].update(C=0.7))
    said = planned(here)["stages"]
    assert said == {"run": ["train@raw-logistic"], "follow": ["bundle", "evaluate", "report"]}
    lines = here.headstart("results").out.splitlines()
    assert "old: stage train@raw-logistic changed since; run 'dvc repro'" in lines
    assert set(project.repro()) <= {*said["run"], *said["follow"]}
    assert "old" not in here.headstart("results").out

    draw(8006, 0).save(here.folder / "photos" / "cat" / "new.png")
    said = planned(here)
    assert said["backbones"]["raw"]["new"] == 1
    assert said["stages"]["run"] == ["prepare"]
    assert (
        "and where what they read changes: extract@raw, 2 heads, inspect@raw, evaluate, bundle, report"
        in (here.headstart("plan").out)
    )
    ran = project.repro()
    assert (
        set(said["stages"]["run"])
        <= set(ran)
        <= {*said["stages"]["run"], *said["stages"]["follow"]}
    )
    assert note(here)["computed"] == 1

    here.edit(lambda params: params["backbones"]["raw"].update(storage="float32"))
    said = planned(here)
    assert said["stages"]["run"] == ["freeze@raw"]
    assert said["backbones"]["raw"]["new"] == 37
    assert said["notes"] == [
        f"raw: params.yaml changed since it was frozen: all images count as new; {EXACT}"
    ]
    project.repro("extract@raw")
    assert note(here)["computed"] == 37
