"""Locks of DVC: held by a run that goes on, or left by one that was killed."""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.cli.doctor import commands
from pipeline.cli.doctor.finding import Finding, error, warning


def locks(dvc: Path, *, hardlink: bool) -> Iterator[Finding]:
    """What stands in the way of the next `dvc` command; dvc: the folder `.dvc`.

    hardlink: whether core.hardlink_lock is set. Only such a lock outlives its process: the
    others are the kernel's.
    """
    held = dvc / "tmp" / "lock"
    if held.is_file():
        yield from _hard(held) if hardlink else _kernel(held)
    yield from _paths(dvc / "tmp" / "rwlock")


def _kernel(path: Path) -> Iterator[Finding]:
    import fcntl

    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        pid = path.read_text(errors="replace").strip()
        yield warning(f"DVC runs here (process {pid}), and others must wait", f"ps -fp {pid}")
    except OSError as refused:
        text = f"{path} cannot be locked ({refused.strerror}), as on some network disks"
        yield error(text, "dvc config core.hardlink_lock true")


def _hard(path: Path) -> Iterator[Finding]:
    """A lock that is a hard link: its text ends in the host and the process that made it."""
    owner = path.read_text(errors="replace").split("|")
    if len(owner) >= 4 and owner[-3] != socket.gethostname():
        yield warning(f"{path} is held by process {owner[-2]} of {owner[-3]}", _remove(path))
    elif len(owner) < 4 or not _runs_dvc(owner[-2]):
        yield error(f"{path} was left by a DVC that was killed", _remove(path))
    else:
        text = f"DVC runs here (process {owner[-2]}), and others must wait"
        yield warning(text, f"ps -fp {owner[-2]}")


def _paths(path: Path) -> Iterator[Finding]:
    """The list of paths in use. DVC itself drops processes that are gone, not reused numbers."""
    import psutil

    try:
        listed = json.loads(path.read_bytes())
        entries = [
            *listed.get("write", {}).values(),
            *(one for many in listed.get("read", {}).values() for one in many),
        ]
        owners = {int(entry["pid"]): str(entry["cmd"]) for entry in entries}
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError, AttributeError):
        yield error(f"{path} is damaged, and DVC stops at it", _remove(path))
        return
    for pid, command in owners.items():
        if not psutil.pid_exists(pid):
            continue
        if _runs_dvc(str(pid)):
            yield warning(f"'dvc {command}' runs here (process {pid})", f"ps -fp {pid}")
        else:
            text = f"{path} names process {pid}, another program by now; DVC stops at it"
            yield error(text, _remove(path))


def _runs_dvc(pid: str) -> bool:
    import psutil

    try:
        words = psutil.Process(int(pid)).cmdline()
    except (ValueError, psutil.Error):
        return False
    return any(os.path.basename(word) == "dvc" or "dvc" in word.split("/") for word in words)


def _remove(path: Path) -> str:
    return f"rm {commands.quoted(path)}"
