"""Errors of the disk at every operation: no short file that opens, no success that is none."""

import errno
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline import files, shards
from tests.conftest import Project, make_photos, make_project, use_pixels
from tests.faulty import FAULTS, KILL, NEVER, Fault, Server, Tried, build, serving
from tests.frozen_fixtures import pixels

__all__ = ["pixels"]

STAGES = [
    "sample",
    "prepare",
    "freeze raw",
    "extract raw",
    "train raw logistic",
    "evaluate",
    "bundle",
    "report",
]
VOLATILE = {"runs/extract-raw.json"}
"""Written with the seconds of the run."""

VOLATILE_NOTES = r"\.store/\w+/(speed-\w+|uses/\w+)\.json"
"""Those of the store: what is fastest here, and when it was used."""


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


def calm_project(folder: Path, stages: list[str]) -> Project:
    """A project in which these ran undisturbed; `before/<stage>` is what each found."""
    project = make_project(folder)
    make_photos(project.folder / "photos", each=4)

    def change(params):
        use_pixels(params)
        params["run"]["heads"] = ["logistic"]
        params["heads"]["logistic"]["C"] = 0.1
        params["data"]["path"] = "photos"
        params["bundle"] = {"backbone": "raw", "head": "logistic"}
        params["execution"]["threads"] = 1

    project.edit(change)
    return run_calmly(project, stages)


def run_calmly(project: Project, stages: list[str]) -> Project:
    artifacts, before = project.folder / "artifacts", project.folder / "before"
    for stage in stages:
        shutil.copytree(artifacts, before / stage)
        if stage != "sample":  # forty of its files are enough, see tests.faulty
            done = project.stage(*stage.split())
            assert done.code == 0, done.text
        if stage == "extract raw":
            shutil.copytree(artifacts, before / "extract raw again")  # all is in the store
            shutil.rmtree(before / "extract raw again" / "embeddings")
    return project


@pytest.fixture(scope="module")
def calm(tmp_path_factory) -> Project:
    """A project in which every stage ran."""
    return calm_project(tmp_path_factory.mktemp("calm") / "project", STAGES)


@pytest.fixture(scope="module")
def embedded(pixels, tmp_path_factory) -> Project:
    """A project with a backbone frozen elsewhere, as far as its embeddings."""
    project = calm_project(tmp_path_factory.mktemp("embedded") / "project", ["prepare"])
    shutil.rmtree(project.folder / "before")
    shutil.copytree(pixels, project.folder / "artifacts/backbones/raw")
    return run_calmly(project, ["extract raw"])


def content(artifacts: Path) -> dict[str, bytes]:
    """Every file under its final name."""
    paths = [path for path in artifacts.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(artifacts)): path.read_bytes()
        for path in paths
        if files.PARTIAL not in str(path)
    }


class Firing:
    """A project, a stage of it, and what that writes when nothing fails."""

    def __init__(self, project: Project, server: Server, stage: str) -> None:
        self.artifacts = project.folder / "artifacts"
        self.before = project.folder / "before" / stage
        self.server, self.stage = server, stage.removesuffix(" again")
        self.reset()
        self.run(Fault("any", errno.EIO, NEVER))
        self.expected = content(self.artifacts)
        assert self.expected.keys() > content(self.before).keys()

    def reset(self) -> None:
        shutil.rmtree(self.artifacts, ignore_errors=True)
        shutil.copytree(self.before, self.artifacts)

    def run(self, fault: Fault) -> Tried:
        tried = self.server.run(self.stage, fault)
        assert fault.nth < NEVER or tried.code == 0, tried.err
        return tried

    def check_whole(self, fault: Fault) -> set[str]:
        """Each file there is that of an undisturbed run; the names of those that are not there."""
        found = content(self.artifacts)
        for name, there in found.items():
            if name in VOLATILE or re.fullmatch(VOLATILE_NOTES, name):
                json.loads(there)
            elif named := re.fullmatch(r"\.store/(\w+)/(\w+)\.(h5|index)", name):  # by the pace
                assert shards.digest(named[1], there) == named[2], f"{name} after {fault}"
            else:
                assert there == self.expected.get(name), f"{name} after {fault}"
        absent = self.expected.keys() - found.keys()
        return {name for name in absent if not name.startswith(".store/")}

    def fire(self, fault: Fault) -> bool:
        """Run with the fault, then without; whether it fired."""
        self.reset()
        tried = self.run(fault)
        if tried.code == 0:
            assert self.check_whole(fault) == set(), fault
            return tried.seen >= fault.nth
        absent = self.check_whole(fault)
        if fault.error != KILL:
            self.check_told(fault, tried)
        self.check_rerun(fault, absent)
        return True

    def check_told(self, fault: Fault, tried: Tried) -> None:
        assert tried.seen >= fault.nth, tried.err
        assert tried.code == 5, (fault, tried)
        assert tried.err.startswith("headstart: error: "), (fault, tried)
        assert tried.err.count("\n") == 1, (fault, tried)
        assert str(self.artifacts) in tried.err, (fault, tried)
        assert list(self.artifacts.rglob(f"*{files.PARTIAL}")) == [], fault

    def check_rerun(self, fault: Fault, absent: set[str]) -> None:
        """Run again, nothing in the way: the same files as ever, and nothing else."""
        again = self.run(Fault("any", errno.EIO, NEVER))
        assert again.code == 0, again.err
        assert self.check_whole(fault) == set(), (fault, absent)
        assert list(self.artifacts.rglob(f"*{files.PARTIAL}")) == [], fault


def every_place(firing: Firing, kind: str, error: int, step: int = 1) -> int:
    """Fire at each nth operation, until none fires; how many there were."""
    nth = 1
    while firing.fire(Fault(kind, error, nth)):
        nth += step
    assert nth > 1
    return nth - step


@pytest.mark.parametrize(("stage", "step"), [("extract raw", 11), ("extract raw again", 5)])
def test_extract__disk_fails_or_it_is_killed_here_and_there__leaves_nothing_torn(
    embedded, library, stage, step
):
    with serving(library, embedded.folder, ["extract"]) as server:
        firing = Firing(embedded, server, stage)
        for kind, error in FAULTS:
            every_place(firing, kind, error, step)
        every_place(firing, "any", KILL, 2 * step)


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(command, check=False).returncode:
        pytest.skip("this user may not mount a small disk; ENOSPC is injected by other tests")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("free", [0, 8, 32])
def test_extract__full_disk__is_exit_5_and_one_line_and_goes_on_when_there_is_room(
    embedded, small_disk, tmp_path, free
):
    """free: KiB that are left for the store and the embeddings, too few by some way or little."""
    expected = content(embedded.folder / "artifacts")["embeddings/raw.h5"]
    skip = shutil.ignore_patterns("artifacts", "before")
    project = Project(shutil.copytree(embedded.folder, tmp_path / "project", ignore=skip))
    shutil.copytree(embedded.folder / "before/extract raw", small_disk / "artifacts")
    (project.folder / "artifacts").symlink_to(small_disk / "artifacts")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 1024 * free))
    done = project.stage("extract", "raw")
    assert done.code == 5, done.text
    assert done.err.startswith("headstart: error: the disk is full at ")
    assert done.err.count("\n") == 1
    assert not (small_disk / "artifacts/embeddings/raw.h5").exists()
    assert [*small_disk.rglob(f"*{files.PARTIAL}")] == []
    ballast.unlink()
    done = project.stage("extract", "raw")
    assert done.code == 0, done.text
    assert (small_disk / "artifacts/embeddings/raw.h5").read_bytes() == expected


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "extract raw again"])
def test_stage__disk_fails_at_any_operation__leaves_nothing_torn_and_is_one_line(
    calm, library, stage
):
    with serving(library, calm.folder, [stage.split()[0]]) as server:
        firing = Firing(calm, server, stage)
        for kind, error in FAULTS:
            fired = every_place(firing, kind, error)
            print(f"{stage}: {kind} {os.strerror(error)}: {fired}")


@pytest.mark.slow
@pytest.mark.parametrize("stage", [*STAGES, "extract raw again"])
def test_stage__killed_at_any_operation__leaves_nothing_torn(calm, library, stage):
    with serving(library, calm.folder, [stage.split()[0]]) as server:
        fired = every_place(Firing(calm, server, stage), "any", KILL)
        print(f"{stage}: killed at {fired}")
        assert fired >= 10
