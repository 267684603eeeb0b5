"""Whether machines share images and store: tried with folders that stand for theirs."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import sharing
from pipeline.admission import Terms
from pipeline.sharing import Part, take_part, trial, troubles
from tests import dask_desk
from tests.doctor_desk import desk

__all__ = ["desk"]


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "photos").mkdir()
    return tmp_path / "photos"


def test_trial__several_workers_of_one_store__find_no_trouble(tmp_path, root):
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        parts = {name: take_part(given) for name in "abc"}
        assert troubles(given, parts) == {"a": "", "b": "", "c": ""}
    assert not (tmp_path / "store").exists()


def test_trial__store_that_was_there__stays_as_it_was(tmp_path, root):
    (tmp_path / "store").mkdir()
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        take_part(given)
    assert list((tmp_path / "store").iterdir()) == []


def elsewhere(given, tmp_path: Path, *, copied: bool):
    """The trial as a worker sees it whose store is another folder."""
    folder = tmp_path / "theirs" / Path(given.folder).name
    if copied:
        shutil.copytree(given.folder, folder)
    return replace(given, folder=str(folder))


def test_trial__worker_with_another_store__is_told(tmp_path, root):
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        parts = {"a": take_part(given), "b": take_part(elsewhere(given, tmp_path, copied=False))}
        found = troubles(given, parts)
    assert found["a"] == ""
    assert found["b"] == f"the store {tmp_path / 'theirs'} is not there, or another one"


def test_trial__what_a_worker_writes_does_not_arrive__is_told(tmp_path, root):
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        found = troubles(given, {"b": take_part(elsewhere(given, tmp_path, copied=True))})
        assert found["b"] == f"what it wrote to {tmp_path / 'store'} did not arrive here"


def test_trial__file_that_reads_otherwise_there__is_told(tmp_path, root):
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        other = take_part(replace(given, word="another"))
    assert "reads otherwise there" in other.trouble


def test_trial__folder_where_first_does_not_hold__is_told(tmp_path, root):
    with trial(Terms("{}"), root, tmp_path / "store") as given:
        parts = {"a": take_part(given)}
        Path(given.folder, sharing.RACE).write_text("neither of them")
        found = troubles(given, parts)
    assert "made one file in" in found["a"]


def test_trial__worker_without_the_images__is_told(tmp_path, root):
    with trial(Terms("{}"), root / "none", tmp_path / "store") as given:
        part = take_part(given)
    assert isinstance(part, Part)
    assert "none is not there on" in part.trouble


def test_doctor__cluster_of_two_workers__names_each_and_what_is_wrong(desk, tmp_path):
    other = tmp_path / "other.py"
    other.write_text("from pipeline import admission\nadmission._code = lambda: 'code 0'\n")
    with dask_desk.desk(tmp_path / "dask") as cluster:
        cluster.start_scheduler()
        cluster.start_worker("--name", "good")
        cluster.start_worker("--name", "stale", "--preload", str(other))
        log = tmp_path / "dask" / "scheduler.log"
        dask_desk.wait_for(lambda: log.read_text().count("Register worker") == 2)
        desk.project.edit(lambda params: params["execution"].update(scheduler=str(cluster.file)))
        said = desk.doctor("cluster")
        desk.project.edit(
            lambda params: [each.update(runtime="torch") for each in params["backbones"].values()]
        )
        by_torch, _ = desk.doctor("cluster").of("cluster")
    assert by_torch.text.endswith(": same versions for torch, same images, same store")
    good, stale = said.of("cluster")
    assert good.text.startswith("worker good (tcp://127.0.0.1:")
    assert good.text.endswith(": same versions for onnx, same images, same store")
    assert (stale.level, stale.code, said.code) == ("error", 6, 6)
    assert "headstart code 0 there" in stale.text


def test_doctor__scheduler_that_does_not_answer__is_an_error_with_what_to_type(desk):
    desk.project.edit(lambda params: params["execution"].update(scheduler="tcp://127.0.0.1:1"))
    said = desk.doctor("cluster")
    assert said.code == 6
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in said.bad.text


def test_doctor__no_cluster__says_where_extraction_runs(desk):
    desk.doctor("cluster").all_right()
    desk.project.edit(lambda params: params["execution"].update(workers=3))
    assert "3 processes of this machine" in desk.doctor("cluster").of("cluster")[0].text
