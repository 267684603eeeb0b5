import os
from pathlib import Path

import pytest

from pipeline.errors import ConfigurationError
from pipeline.project import find_root, open_project

PARAMS = """
data: {path: photos}
backbones: {lite: {source: timm}}
heads: {knn: {kind: knn}}
run: {backbones: [lite], heads: [knn]}
execution: {store: some/store}
"""


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.delenv("HEADSTART_STORE", raising=False)
    folder = tmp_path / "project"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "dvc.yaml").touch()
    (folder / "params.yaml").write_text(PARAMS)
    return folder


@pytest.fixture
def elsewhere(tmp_path, monkeypatch) -> Path:
    """The repository that queued this run."""
    folder = tmp_path / "repository"
    folder.mkdir()
    monkeypatch.setenv("DVC_ROOT", str(folder))
    return folder


@pytest.mark.parametrize("below", [".", "deep", "deep/er"])
def test_find_root__folder_below_a_dvc_yaml__is_the_folder_of_that(root, below):
    assert find_root(root / below) == root


def test_find_root__relative_start__is_absolute(root, monkeypatch):
    monkeypatch.chdir(root / "deep")
    assert find_root(Path()) == root
    assert find_root(Path("er")) == root


def test_find_root__own_params_without_dvc_yaml__is_the_folder_itself(root):
    (root / "deep" / "params.yaml").write_text(PARAMS)
    assert find_root(root / "deep") == root / "deep"
    assert find_root(root / "deep" / "er") == root


def test_find_root__nothing_above__says_where_it_looked(tmp_path):
    with pytest.raises(ConfigurationError, match=f"no params.yaml in {tmp_path}.*change to"):
        find_root(tmp_path)


def test_open_project__from_a_subfolder__reads_the_params_above(root, monkeypatch):
    monkeypatch.chdir(root / "deep")
    project = open_project()
    assert project.root == root
    assert project.params.data.path == "photos"
    assert project.artifacts == root / "artifacts"


def test_open_project__dvc_yaml_without_params__names_the_missing_file(root):
    (root / "params.yaml").unlink()
    with pytest.raises(ConfigurationError, match=r"params\.yaml does not exist"):
        open_project(root)


def test_store__relative__lies_in_the_project(root):
    assert open_project(root).store == (root / "some/store").resolve()


def test_store__relative_in_a_queued_experiment__is_the_repositorys(root, elsewhere):
    assert open_project(root).store == (elsewhere / "some/store").resolve()


@pytest.mark.parametrize("value", ["/team/store", "~/store"])
def test_store__headstart_store__wins_over_params(root, elsewhere, monkeypatch, value):
    monkeypatch.setenv("HEADSTART_STORE", value)
    assert open_project(root).store == Path(os.path.expanduser(value)).resolve()


def test_store__empty_headstart_store__counts_as_unset(root, monkeypatch):
    monkeypatch.setenv("HEADSTART_STORE", "")
    assert open_project(root).store == (root / "some/store").resolve()


def test_locate__path_that_is_here__stays_here(root, elsewhere):
    (root / "photos").mkdir()
    (elsewhere / "photos").mkdir()
    assert open_project(root).data == root / "photos"


def test_locate__path_only_in_the_repository_that_queued_it__is_found_there(root, elsewhere):
    (elsewhere / "photos").mkdir()
    assert open_project(root).data == elsewhere / "photos"


def test_locate__path_that_is_nowhere__is_named_here(root, elsewhere):
    assert open_project(root).data == root / "photos"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/data/x", "/data/x"), ("../sibling", "{parent}/sibling"), ("~/x", "{home}/x")],
)
def test_locate__absolute_above_or_home__is_one_absolute_path(root, path, expected):
    known = {"parent": root.parent, "home": os.path.expanduser("~")}
    assert str(open_project(root).locate(path)) == expected.format(**known)


@pytest.mark.parametrize("path", ["~no_such_user_here/x", "x" * 300])
def test_locate__odd_name__is_a_path_and_no_crash(root, path):
    assert open_project(root).locate(path) == root / path


def test_entry__unknown_name__names_the_near_miss(root):
    project = open_project(root)
    assert project.backbone("lite").source == "timm"
    assert project.head("knn").kind == "knn"
    with pytest.raises(ConfigurationError, match="backbones: unknown backbone 'lit'.*'lite'"):
        project.backbone("lit")
    with pytest.raises(ConfigurationError, match="heads: unknown head 'x'; choose one of: knn"):
        project.head("x")
