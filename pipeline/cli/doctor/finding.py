"""What the doctor says: a level, one line, and what to type to mend it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cli.doctor import commands
from pipeline.errors import ConfigurationError, HeadstartError

if TYPE_CHECKING:
    from pipeline.project import Project


class Level(StrEnum):
    """How bad it is: an error stops a run, a warning may."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One line. fix: what to type or edit, none where all is well; code: an error's exit code.

    topic: the name of the check, which the caller fills in.
    """

    level: Level
    text: str
    fix: str = ""
    code: int = 0
    topic: str = ""


@dataclass(frozen=True)
class Place:
    """Where the doctor looks.

    folder: the project's root, or the current folder where there is no project.
    project: None where there is none or its params.yaml is wrong; trouble: why.
    """

    folder: Path
    project: "Project | None" = None
    trouble: Exception | None = None


Check = Callable[[Place], Iterable[Finding]]
"""Looks at one thing. What it raises becomes a finding, so it need not catch what it can't mend."""


def ok(text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, text)


def warning(text: str, fix: str) -> Finding:
    """What may go wrong, or costs speed."""
    return Finding(Level.WARNING, text, fix)


def error(text: str, fix: str, code: int = ConfigurationError.exit_code) -> Finding:
    """What stops a run with this exit code."""
    return Finding(Level.ERROR, text, fix, code)


def of_error(raised: HeadstartError) -> Finding:
    """An error of ours: its text ends in `; ` and what to type."""
    text, _, fix = str(raised).rpartition("; ")
    if not text:
        text, fix = fix, "correct it, then run 'headstart check'"
    return error(text, commands.command_in(fix), raised.exit_code)


def of_exception(raised: Exception, place: Place) -> Finding:
    """An error of another's library, or of the machine."""
    reason = " ".join(str(raised).split())[:200]
    text = f"cannot be looked at: {type(raised).__name__}: {reason}"
    if isinstance(raised, ImportError):
        return error(text, commands.install(place.folder))
    return error(text, "mend that, then run 'headstart doctor' again")
