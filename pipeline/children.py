"""What a child process needs to import this library, wherever it lies."""

import os
from pathlib import Path

_LIBRARY = str(Path(__file__).parents[1])


def environment() -> dict[str, str]:
    """The environment of this process, its library first where a Python looks for modules."""
    path = os.pathsep.join(filter(None, (_LIBRARY, os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path}
