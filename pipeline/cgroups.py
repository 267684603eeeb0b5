"""What a container may take: memory and processor limits of control groups, version 1 and 2."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

MOUNT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


def memory_left(mount: Path = MOUNT, own: Path = OWN) -> int | None:
    """Bytes that every group of this process leaves it; None without a limit.

    Pages of files that the kernel can drop count as free.
    """
    left = []
    for folder, new in _groups("memory", mount, own):
        names = ("max", "current") if new else ("limit_in_bytes", "usage_in_bytes")
        limit, used = (_number(folder / f"memory.{name}") for name in names)
        if limit is not None and used is not None:
            droppable = _stat(
                folder / "memory.stat", "inactive_file" if new else "total_inactive_file"
            )
            left.append(max(0, limit - used + droppable))
    return min(left, default=None)


def cores_allowed(mount: Path = MOUNT, own: Path = OWN) -> float | None:
    """Processor cores that every group of this process allows; None without a limit."""
    allowed = []
    for folder, new in _groups("cpu", mount, own):
        words = _words(folder / "cpu.max") if new else _quota(folder)
        if len(words) == 2 and all(word.isdigit() for word in words) and int(words[1]):
            allowed.append(int(words[0]) / int(words[1]))
    return min(allowed, default=None)


def cores() -> int:
    """How many CPU cores this process may use, by its affinity and its container's quota."""
    there = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    allowed = cores_allowed()
    return there if allowed is None else max(1, min(there, math.ceil(allowed)))


def _groups(controller: str, mount: Path, own: Path) -> Iterator[tuple[Path, bool]]:
    """The folders of the groups that hold this process, and whether they are of version 2."""
    for line in _lines(own):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        new = controllers == ""
        if not new and controller not in controllers.split(","):
            continue
        top = mount if new else mount / controller
        inner = top / path.lstrip("/")
        for folder in (inner, *inner.parents):
            if folder.is_relative_to(top) and folder.is_dir():
                yield folder, new


def _quota(folder: Path) -> list[str]:
    return _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")


def _number(path: Path) -> int | None:
    words = _words(path)
    return int(words[0]) if words and words[0].isdigit() else None


def _stat(path: Path, key: str) -> int:
    values = [line.split()[1] for line in _lines(path) if line.startswith(f"{key} ")]
    return int(values[0]) if values else 0


def _words(path: Path) -> list[str]:
    return [word for line in _lines(path) for word in line.split()]


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
