"""SIGKILL at any instant, again and again: nothing is lost, nothing is wrong, nobody is left behind."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline import dataset, files, shards, store
from tests.conftest import Project, make_project, use_pixels
from tests.faulty import KILL, NEVER, Fault, build
from tests.frozen_fixtures import lite0, pixels

__all__ = ["lite0", "pixels"]

PHOTOS = 96
OPERATIONS = (20, 60, 150)
"""A run with nothing to embed does less than the second, one with everything the last."""


def write_photos(folder: Path) -> None:
    """Pictures that take some milliseconds each, and one that cannot be embedded."""
    noise = np.random.default_rng(0)
    for number in range(PHOTOS):
        path = folder / f"{number % 2}/{number:03d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = noise.integers(0, 256, (70, 90, 3), dtype=np.uint8)
        Image.fromarray(small).resize((900, 700)).save(path)
    (folder / "0/cut.jpg").write_bytes((folder / "0/000.jpg").read_bytes()[:5000])


def prepared(folder: Path, backbone: Path, photos: Path) -> Project:
    """A project with those photos and that frozen backbone, and nothing embedded."""
    project = make_project(folder)

    def change(params):
        use_pixels(params)
        params["data"].update(path=str(photos), max_failed=0.1)
        params["backbones"][backbone.name] = {"source": "pixels"}

    project.edit(change)
    shutil.copytree(backbone, folder / "artifacts/backbones" / backbone.name)
    done = project.stage("prepare")
    assert done.code == 0, done.text
    return project


@dataclass
class Calm:
    """A project before its extraction, what an undisturbed one writes, and how long it takes."""

    project: Project
    name: str
    outs: dict[str, bytes]
    images: int
    seconds: float

    @classmethod
    def of(cls, project: Project, name: str, base: Path) -> "Calm":
        """Extract in a copy."""
        copy = Project(shutil.copytree(project.folder, base / "calm", symlinks=True))
        copy.stage("extract", name)
        shutil.rmtree(copy.folder / "artifacts/.store")
        begun = time.monotonic()
        done = copy.stage("extract", name)
        assert done.code == 0, done.text
        seconds = time.monotonic() - begun
        names = (f"embeddings/{name}.h5", f"embeddings/{name}.problems.csv")
        outs = {out: (copy.folder / "artifacts" / out).read_bytes() for out in names}
        return cls(project, name, outs, copy.json(f"runs/extract-{name}.json")["images"], seconds)


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def calm(pixels, tmp_path_factory) -> Calm:
    base = tmp_path_factory.mktemp("kills")
    write_photos(base / "photos")
    return Calm.of(prepared(base / "project", pixels, base / "photos"), "raw", base)


class Life:
    """Projects that share a store, from nothing to their last run."""

    def __init__(self, calm: Calm, base: Path, projects: int, library: Path, seed: int) -> None:
        self.calm, self.library, self.random = calm, library, random.Random(seed)
        self.store = base / "store"
        self.projects = [
            Project(shutil.copytree(calm.project.folder, base / str(number), symlinks=True))
            for number in range(projects)
        ]
        self.shards: set[Path] = set()
        self.killed = self.finished = 0

    def begin(self, project: Project, fault: Fault) -> subprocess.Popen:
        extra = {"HEADSTART_STORE": str(self.store)}
        if fault.nth < NEVER:
            extra |= fault.environment(self.library, self.store, project.folder / "artifacts")
        environment = {k: v for k, v in os.environ.items() if k != "DVC_ROOT"}
        return subprocess.Popen(
            [sys.executable, "-m", "stages.extract", self.calm.name],
            cwd=project.folder,
            env={**environment, "PYTHONPATH": str(project.folder), **extra},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill(self, runs: int) -> None:
        """Start as many runs at once, over the projects in turn, and kill each at its instant."""
        ways = [self.random.choice(["clock", "work", "file", "operation"]) for _ in range(runs)]
        nth = [self.random.randint(1, self.random.choice(OPERATIONS)) for _ in ways]
        faults = [
            Fault("any", KILL, number if way == "operation" else NEVER)
            for way, number in zip(ways, nth, strict=True)
        ]
        begun = time.monotonic()
        running = [
            self.begin(self.projects[number % len(self.projects)], fault)
            for number, fault in enumerate(faults)
        ]
        pending = sorted(zip(map(self.instant, ways), range(runs), strict=True))
        for instant, number in pending:
            if ways[number] == "file":
                self.wait_for_a_file(begun + 2 * self.calm.seconds)
            elif ways[number] != "operation":
                time.sleep(max(0.0, begun + instant - time.monotonic()))
            self.end(running[number], by_itself=ways[number] == "operation")
        self.check()

    def instant(self, way: str) -> float:
        """Seconds after the start: at any time, or once there is work to lose."""
        begin = 0.0 if way == "clock" else 0.5 * self.calm.seconds
        return self.random.uniform(begin, 1.1 * self.calm.seconds)

    def wait_for_a_file(self, until: float) -> None:
        """Until some more partial files have come than are there, and a moment longer."""
        seen, wanted = set(self.partial()), self.random.randint(1, 6)
        while time.monotonic() < until:
            now = set(self.partial())
            wanted -= len(now - seen)
            seen |= now
            if wanted <= 0:
                break
            time.sleep(0.0005)
        time.sleep(self.random.choice([0.0, 0.0, 0.001, 0.005]))

    def partial(self) -> list[Path]:
        folders = [self.store, *(project.folder / "artifacts" for project in self.projects)]
        return [path for folder in folders for path in folder.glob(f"*/.*{files.PARTIAL}")]

    def end(self, process: subprocess.Popen, *, by_itself: bool) -> None:
        if not by_itself:
            with suppress(ProcessLookupError):  # it had ended
                os.killpg(process.pid, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
        assert process.returncode in (0, -signal.SIGKILL), out
        self.killed += process.returncode != 0
        self.finished += process.returncode == 0

    def check(self) -> None:
        """What is there under a final name is whole, and no shard has gone."""
        self.check_nobody_left()
        there = set(self.store.glob("*/*.h5"))
        assert there >= self.shards
        for shard in there - self.shards:
            assert shards.digest(shard.parent.name, shard.read_bytes()) == shard.stem
        self.shards = there
        for project in self.projects:
            for name, expected in self.calm.outs.items():
                path = project.folder / "artifacts" / name
                assert not path.exists() or path.read_bytes() == expected, path
                if self.random.random() < 0.5:  # as DVC does before a stage
                    path.unlink(missing_ok=True)

    def check_nobody_left(self) -> None:
        """Decoders end when their parent does; they are given a moment."""
        until = time.monotonic() + 10
        while (left := self.running()) and time.monotonic() < until:
            time.sleep(0.02)
        assert left == []

    def running(self) -> list[str]:
        folders = {str(project.folder) for project in self.projects}
        found = []
        for process in psutil.process_iter():
            try:
                if process.cwd() in folders:
                    found.append(" ".join(process.cmdline()))
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                pass
        return found

    def held(self) -> int:
        """How many images the store has."""
        (folder,) = self.store.glob("*") if self.store.exists() else [self.store / "none"]
        opened = store.Store(self.store, folder.name)
        opened.refresh()
        images = dataset.read_images(self.projects[0].folder / "artifacts/dataset/images.parquet")
        return int((~opened.missing(images.sha256)).sum())

    def run_through(self) -> None:
        """An undisturbed run of each project: what was stored is used, the bytes are the calm ones."""
        for project in self.projects:
            held = self.held()
            out, _ = (process := self.begin(project, Fault("any", KILL, NEVER))).communicate()
            assert process.returncode == 0, out
            said = project.json(f"runs/extract-{self.calm.name}.json")
            assert said["reused"] == held
            assert said["computed"] + said["reused"] + said["failed"] == self.calm.images
            for name, expected in self.calm.outs.items():
                assert (project.folder / "artifacts" / name).read_bytes() == expected
            assert set(self.store.glob("*/*.h5")) >= self.shards
        assert self.partial() == []
        assert [*self.store.rglob(f"*{files.PARTIAL}")] == []


WAYS = {"one run": (1, 1), "two runs of a project": (1, 2), "two projects, one store": (2, 2)}
"""Projects, and runs at once."""


def live(calm: Calm, base: Path, library: Path, way: str, seed: int, kills: int) -> int:
    """From nothing, over so many kills, to the end; how many there were."""
    projects, runs = WAYS[way]
    base.mkdir()
    life = Life(calm, base, projects, library, seed)
    while life.killed < kills:
        life.kill(runs)
        assert life.finished <= 10 * kills, "it is always quicker than the kills"
    life.run_through()
    shutil.rmtree(base)
    return life.killed


@pytest.mark.parametrize("way", WAYS)
def test_extract__killed_7_times__loses_nothing_and_ends_in_the_bytes_of_a_calm_run(
    calm, library, tmp_path, way
):
    assert live(calm, tmp_path / "life", library, way, seed=len(way), kills=7) >= 7


@pytest.mark.slow
def test_extract__killed_500_times__loses_nothing_and_ends_in_the_bytes_of_a_calm_run(
    calm, library, tmp_path
):
    killed = seed = 0
    while killed < 500:
        way = list(WAYS)[seed % 3]
        killed += live(calm, tmp_path / str(seed), library, way, seed, kills=2 + seed % 9)
        seed += 1
    print(f"{killed} kills in {seed} lives")


@pytest.mark.slow
def test_extract__real_backbone_killed_25_times__ends_in_the_bytes_of_a_calm_run(
    lite0, library, shared_data, tmp_path
):
    for number, photo in enumerate(sorted((shared_data / "ants_bees").rglob("*.jpg"))[:120]):
        place = tmp_path / f"photos/{number % 2}" / photo.name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photo, place)
    project = prepared(tmp_path / "project", lite0, tmp_path / "photos")
    calm = Calm.of(project, "lite0", tmp_path)
    killed = 0
    for seed in range(3):
        killed += live(calm, tmp_path / str(seed), library, list(WAYS)[seed], seed, kills=9)
    assert killed >= 25


def test_extract__two_runs_of_a_project_at_once__both_end_well(calm, library, tmp_path):
    life = Life(calm, tmp_path, 1, library, 0)
    for _ in range(2):
        running = [life.begin(life.projects[0], Fault("any", KILL, NEVER)) for _ in range(3)]
        for process in running:
            out, _ = process.communicate()
            assert process.returncode == 0, out
        life.check()
    life.run_through()
