"""Where a project lies: the folder of its params.yaml, which is not read."""

import os
from pathlib import Path

from pipeline.errors import ConfigurationError


def find_root(start: Path) -> Path:
    """The folder whose params.yaml is meant: `start`, or its nearest parent with a dvc.yaml.

    Raises ConfigurationError where there is none.
    """
    start = Path(os.path.abspath(start))
    if (start / "params.yaml").is_file():
        return start
    for folder in (start, *start.parents):
        if (folder / "dvc.yaml").is_file():
            return folder
    raise ConfigurationError(
        f"no params.yaml in {start} and no dvc.yaml above it; change to your project's folder"
    )
