"""On which machine, and with which packages, something was measured."""

import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def about() -> dict[str, Any]:
    """Date (ISO 8601, UTC), processor, and cores that this process may use."""
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return {"date": today, "cpu": _cpu(), "cores": len(os.sched_getaffinity(0))}


def versions(names: Iterable[str]) -> dict[str, str]:
    """Of those of the packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return names[0] if names else platform.processor()
