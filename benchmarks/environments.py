"""Environments of the peers: made when asked for, kept beside this file, out of git."""

import hashlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).parent / ".environments"
FREE_GIB = 8
MINUTES = 20


class InstallError(Exception):
    """An environment that cannot be made; the message says why, in a few words."""


def python(name: str, packages: Sequence[str]) -> Path:
    """The Python of environment `name` with these packages installed. Raises InstallError.

    Several peers may share an environment; each names what it needs.
    """
    folder = FOLDER / name
    python = folder / "bin" / "python"
    digest = hashlib.sha256("\n".join(packages).encode()).hexdigest()[:16]
    stamp = folder / f".installed-{digest}"
    if stamp.exists():
        return python
    FOLDER.mkdir(exist_ok=True)
    free = shutil.disk_usage(FOLDER).free / 2**30
    if free < FREE_GIB:
        raise InstallError(f"{free:.0f} GiB of disk are free, {FREE_GIB} may be needed")
    if not python.exists():
        _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *packages])
    stamp.touch()
    return python


def _run(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60 * MINUTES
        )
    except subprocess.TimeoutExpired:
        raise InstallError(f"not done after {MINUTES} minutes") from None
    if done.returncode:
        raise InstallError(reason(done.stderr))


def reason(text: str) -> str:
    """The line of an error's text that says most, without this machine's paths and addresses."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if line.startswith("ERROR:")] or lines[-1:] or ["no word"]
    short = re.sub(r"(\w+://|(?<![\w.])/)\S+", "...", told[-1].removeprefix("ERROR:"))
    return " ".join(short.split())[:160]
