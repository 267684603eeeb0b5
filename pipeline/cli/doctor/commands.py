"""Commands as they are typed in the shell that the doctor was called from."""

import os
import re
import shlex
import shutil
import sys
import tomllib
from pathlib import Path


def python() -> str:
    """The Python of this environment: `python` where that is what the shell finds."""
    found = shutil.which("python")
    return "python" if found and of_this_environment(found) else shlex.quote(sys.executable)


def of_this_environment(program: str) -> bool:
    """Whether a program lies where this Python does; a linked .venv is the same place."""
    return os.path.realpath(os.path.dirname(program)) == os.path.realpath(
        os.path.dirname(sys.executable)
    )


def pip(*words: str) -> str:
    """`python -m pip …` with this environment's Python."""
    return f"{python()} -m pip {shlex.join(words)}"


def install(folder: Path, *requirements: str) -> str:
    """What brings the installed packages to what Headstart asks for.

    folder: the project's; where Headstart's own pyproject.toml lies there, that is installed.
    """
    if _is_headstart(folder):
        constraints = str(shown(folder / "constraints.txt"))
        return pip("install", "-c", constraints, "-e", str(shown(folder)))
    return pip("install", "--upgrade", *(requirements or ("headstart",)))


def _is_headstart(folder: Path) -> bool:
    try:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    except (OSError, ValueError, KeyError):
        return False
    return bool(project.get("name") == "headstart") and (folder / "constraints.txt").is_file()


def activate(folder: Path) -> str:
    """What puts this environment's programs first on the PATH."""
    script = Path(sys.prefix, "bin", "activate")
    if (folder / ".venv").exists() and os.path.samefile(folder / ".venv", sys.prefix):
        script = folder / ".venv" / "bin" / "activate"
    if script.is_file():
        return f"source {quoted(script)}"
    return f'export PATH={shlex.quote(os.path.dirname(sys.executable))}:"$PATH"'


def shown(path: Path) -> Path:
    """The path relative to the current folder where it lies below, else absolute."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def quoted(path: Path) -> str:
    """The path as a word of a command."""
    return shlex.quote(str(shown(path)))


def command_in(advice: str) -> str:
    """The command alone, where that is all an error advises: `run '…'`."""
    found = re.fullmatch(r"run '([^']+)'", advice)
    command = found[1] if found else advice
    return pip(*shlex.split(command)[1:]) if found and command.startswith("pip ") else command
