"""Fixtures: a project in a folder of its own, images made on the spot, the shared images."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image
from ruamel.yaml import YAML

settings.register_profile("tests", deadline=None)  # a slow machine is no failure
settings.load_profile("tests")

ROOT = Path(__file__).parents[1]
COPIED = ("pipeline", "stages", "dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", ".dvc")


def edit_yaml(path: Path, change) -> None:
    """Change a YAML file: `change` is given its mapping."""
    yaml = YAML()
    content = yaml.load(path.read_text())
    change(content)
    with path.open("w") as file:
        yaml.dump(content, file)


def environment(**more: str) -> dict[str, str]:
    """The variables of a command of the environment that runs the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    clean = {k: v for k, v in os.environ.items() if k not in ("DVC_ROOT", "HEADSTART_STORE")}
    return {**clean, "PATH": path, "DVC_NO_ANALYTICS": "1", **more}


@dataclass(frozen=True)
class Outcome:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def text(self) -> str:
        return self.out + self.err


@dataclass(frozen=True)
class Project:
    """A copy of the repository's pipeline in a folder, with its own params.yaml."""

    folder: Path

    def run(self, *command: str, env: dict[str, str] | None = None, cwd: Path | None = None):
        """Run a command of the environment that runs the tests."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=environment(**(env or {})),
            capture_output=True,
            text=True,
            check=False,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def stage(self, name: str, *arguments: str, env: dict[str, str] | None = None) -> Outcome:
        return self.run("python", "-m", f"stages.{name}", *arguments, env=env)

    def headstart(self, *arguments: str) -> Outcome:
        return self.run("python", "-c", "from pipeline.cli import main; main()", *arguments)

    def repro(self, *arguments: str, env: dict[str, str] | None = None) -> list[str]:
        """`dvc repro`; the names of the stages that ran."""
        done = self.run("dvc", "repro", *arguments, env=env)
        assert done.code == 0, done.text
        lines = done.out.splitlines()
        return [line.split("'")[1] for line in lines if line.startswith("Running stage ")]

    def edit(self, change) -> None:
        """Change params.yaml: `change` is given its mapping."""
        edit_yaml(self.folder / "params.yaml", change)

    def json(self, path: str):
        import json

        return json.loads((self.folder / "artifacts" / path).read_bytes())


def make_project(folder: Path) -> Project:
    """Copy the pipeline to `folder` and make it a git and DVC repository."""
    folder.mkdir(parents=True, exist_ok=True)
    skip = shutil.ignore_patterns("__pycache__", "cache", "tmp", "*.partial")
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=skip)
        else:
            shutil.copy(source, folder / name)
    for optional in ("curve", "finetuned"):
        kept = folder / "artifacts" / optional / ".gitkeep"
        kept.parent.mkdir(parents=True)
        kept.touch()
    project = Project(folder)
    for command in (
        ["git", "init", "-q"],
        ["git", "config", "user.email", "tests@example.com"],
        ["git", "config", "user.name", "tests"],
        ["git", "add", "-A"],
        ["git", "commit", "-qm", "start"],
    ):
        done = project.run(*command)
        assert done.code == 0, done.text
    return project


def use_pixels(params) -> None:
    """A run that needs no weights: raw pixels, logistic and dummy heads."""
    params["backbones"]["raw"] = {"source": "pixels"}
    params["run"]["backbones"] = ["raw"]
    params["run"]["heads"] = ["logistic", "dummy"]


def draw(seed: int, kind: int, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A small picture: noise with a bright half that tells its kind (0 to 3)."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 160, (size[1], size[0], 3), dtype=np.uint8)
    half = [np.s_[: size[1] // 2], np.s_[size[1] // 2 :]][kind % 2]
    pixels[half, :, kind // 2] += 95
    return Image.fromarray(pixels)


def make_photos(folder: Path, classes=("cat", "dog", "owl"), each: int = 12) -> Path:
    """Class folders of small PNG files."""
    for kind, name in enumerate(classes):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(each):
            draw(1000 * kind + number, kind).save(folder / name / f"{number:03d}.png")
    return folder


def make_pixel_project(folder: Path) -> Project:
    """A project of 36 photos on raw pixels, with two heads; nothing run."""
    project = make_project(folder)
    make_photos(project.folder / "photos")

    def change(params):
        use_pixels(params)
        params["data"]["path"] = "photos"
        params["heads"]["logistic"]["C"] = 0.1

    project.edit(change)
    return project


LONGEST_FIRST = ("test_pipeline.py", "test_docs.py", "test_doctor.py", "test_interrupts.py")


def pytest_collection_modifyitems(items) -> None:
    """Files that take long begin first, so that no core is idle at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST_FIRST)


def real_images() -> Path:
    """Where real images may be."""
    return Path(os.environ.get("HEADSTART_TEST_DATA") or ROOT.parent / "shared" / "data")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images, where they are at hand."""
    path = real_images()
    if not path.is_dir():
        pytest.skip(f"no real images at {path}; set HEADSTART_TEST_DATA")
    return path.resolve()
