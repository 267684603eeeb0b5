"""What the parts share: how much to measure, the photos, and a project that is ready to extract."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks import images
from tests.conftest import Outcome, Project, make_project

BACKBONE = "efficientnet_lite0"


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    images: photos; runs: of each thing; seconds: of each timing; forward: photos whose pixels
    are kept for the forward pass; more: photos added; rows: of the file that is read; memory,
    sizes: numbers of images; workers: how many are simulated; simulated: seconds that each works.
    """

    images: int = 4000
    runs: int = 5
    seconds: float = 3.0
    forward: int = 1000
    more: int = 40
    peer_seconds: float = 6.0
    rows: int = 50_000
    memory: tuple[int, ...] = (1000, 4000, 40_000)
    sizes: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    workers: tuple[int, ...] = (1, 8, 64)
    simulated: float = 120.0


FULL = Scale()
QUICK = Scale(
    images=400, runs=2, seconds=0.5, forward=100, more=4, peer_seconds=1.0, rows=5000,
    memory=(100, 400, 4000), sizes=(200, 1000, 4000), workers=(1, 4), simulated=6.0,
)  # fmt: skip


@dataclass
class Desk:
    """A folder to work in, which goes afterwards. source: of photos, None: generated ones."""

    folder: Path
    scale: Scale
    source: Path | None

    @cached_property
    def originals(self) -> list[bytes]:
        return images.originals(self.source)

    @cached_property
    def photos(self) -> Path:
        """`scale.images` distinct photos."""
        folder = self.folder / "photos"
        images.write(self.originals, folder, range(self.scale.images))
        return folder

    @cached_property
    def project(self) -> Project:
        """A project on the photos, backbone frozen, nothing extracted but once, to warm up."""
        project = make_project(self.folder / "project")
        project.edit(lambda params: params["data"].update(path=str(self.photos)))
        stage(project, "prepare")
        stage(project, "freeze", BACKBONE)
        with self.empty_store() as store:
            extract(project, store)
        return project

    @property
    def frozen(self) -> Path:
        """The folder of the frozen backbone."""
        return self.project.folder / "artifacts" / "backbones" / BACKBONE

    @contextmanager
    def empty_store(self) -> Iterator[Path]:
        """A store without a row, gone afterwards."""
        folder = Path(tempfile.mkdtemp(dir=self.folder, prefix="store-"))
        try:
            yield folder
        finally:
            shutil.rmtree(folder)


def stage(project: Project, name: str, *arguments: str, store: Path | None = None) -> Outcome:
    """Run a stage. Raises RuntimeError with what it said where it fails."""
    done = project.stage(name, *arguments, env={"HEADSTART_STORE": str(store)} if store else None)
    if done.code:
        raise RuntimeError(f"stages.{name} ended with {done.code}: {done.text}")
    return done


def extract(project: Project, store: Path, backbone: str = BACKBONE) -> dict[str, Any]:
    """Run `python -m stages.extract`; what it noted in artifacts/runs/."""
    stage(project, "extract", backbone, store=store)
    return noted(project, backbone)


def noted(project: Project, backbone: str = BACKBONE) -> dict[str, Any]:
    """What the last extraction noted of itself."""
    run: dict[str, Any] = project.json(f"runs/extract-{backbone}.json")
    return run


def command(backbone: str = BACKBONE) -> list[str]:
    """The command line of an extraction, for what `Project.run` cannot watch."""
    return [sys.executable, "-m", "stages.extract", backbone]


def environment(store: Path) -> dict[str, str]:
    """Its environment."""
    kept = {name: value for name, value in os.environ.items() if name != "DVC_ROOT"}
    return {**kept, "HEADSTART_STORE": str(store), "DVC_NO_ANALYTICS": "1"}
