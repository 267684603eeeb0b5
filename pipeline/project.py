"""Where a run lies: the folder of params.yaml, the data, the artifacts and the store."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline import params as parameters
from pipeline.errors import ConfigurationError
from pipeline.names import unknown
from pipeline.params import (
    BackboneParams,
    CurveParams,
    ExecutionParams,
    FinetuneParams,
    HeadParams,
    Params,
)
from pipeline.root import find_root

__all__ = ["Project", "find_root", "open_project"]

Entry = TypeVar("Entry")

SAMPLE = "artifacts/sample"
"""The data.path whose images the pipeline makes itself (stage `sample`)."""


@dataclass(frozen=True)
class Project:
    """A folder with params.yaml, and what its relative paths mean.

    root: absolute folder of params.yaml, where stages read and write.
    """

    root: Path
    params: Params

    @property
    def artifacts(self) -> Path:
        """Where the stages write."""
        return self.root / "artifacts"

    @property
    def data(self) -> Path:
        """data.path, absolute; may not exist. As DVC reads it: `~` is a name like others."""
        return self._locate(Path(self.params.data.path))

    @property
    def data_root(self) -> Path:
        """The folder that paths of images are relative to: data.path, or the manifest's."""
        return self.data if self.data.is_dir() else self.data.parent

    @property
    def store(self) -> Path:
        """The embedding store: HEADSTART_STORE, or execution.store, shared by experiments."""
        store = os.environ.get("HEADSTART_STORE") or self.params.execution.store
        root = Path(os.environ.get("DVC_ROOT") or self.root)
        return (root / os.path.expanduser(store)).resolve()

    @property
    def execution(self) -> ExecutionParams:
        """The `execution:` block; a scheduler file's path absolute."""
        execution = self.params.execution
        if not execution.scheduler or not execution.scheduler.endswith(".json"):
            return execution
        return execution.model_copy(update={"scheduler": str(self.locate(execution.scheduler))})

    def backbone(self, name: str) -> BackboneParams:
        """The entry of that name. Raises ConfigurationError."""
        return _entry("backbone", name, self.params.backbones)

    def head(self, name: str) -> HeadParams:
        """The entry of that name. Raises ConfigurationError."""
        return _entry("head", name, self.params.heads)

    def curve(self, name: str) -> CurveParams:
        """The entry of that name. Raises ConfigurationError."""
        return _entry("curve", name, self.params.curve, block="curve")

    def finetune(self, name: str) -> FinetuneParams:
        """The entry of that name. Raises ConfigurationError."""
        return _entry("entry", name, self.params.finetune, block="finetune")

    def locate(self, path: str) -> Path:
        """An absolute path for one of params.yaml.

        A queued experiment runs in a folder of its own; what is neither in git nor an output
        of a stage is not there, and is looked up in the repository that queued it.
        """
        return self._locate(Path(os.path.expanduser(path)))  # ~x that is no user's stays as it is

    def _locate(self, path: Path) -> Path:
        here = self.root / path
        there = Path(os.environ.get("DVC_ROOT") or self.root) / path
        chosen = there if not os.path.exists(here) and os.path.exists(there) else here
        return Path(os.path.abspath(chosen))


def open_project(start: Path | None = None) -> Project:
    """The project of `start` (the current folder), or of its nearest parent with a dvc.yaml.

    Raises ConfigurationError where there is none or its params.yaml is wrong.
    """
    root = find_root(start or Path.cwd())
    return Project(root=root, params=parameters.load(root / "params.yaml"))


def _entry(what: str, name: str, entries: Mapping[str, Entry], *, block: str = "") -> Entry:
    if name not in entries:
        at = block or f"{what}s"
        raise ConfigurationError(f"params.yaml: {at}: {unknown(what, name, entries)}")
    return entries[name]
