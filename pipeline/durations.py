"""How long something took, kept where nothing tracks it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import files


@contextmanager
def noted(path: Path) -> Iterator[None]:
    """What is within is timed, and where it ends well `{"seconds": …}` is written to the path."""
    started = time.monotonic()
    yield
    files.write_json(path, {"seconds": round(time.monotonic() - started, 3)})
