"""What a command says of the time left: on a terminal of its own, read as it comes."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_DONE = re.compile(r"(\d[\d,]*) ?(?:/|of) ?(\d[\d,]*)")
_LEFT = (
    re.compile(r"((?:\d+:)?\d+:\d\d) left"),
    re.compile(r"(\d+) ?s(?:econds)? left"),
    re.compile(r"<((?:\d+:)?\d+:\d\d)"),  # tqdm's own
)
ROUNDING = 0.5
"""Seconds that a time shown in whole ones may be off."""


@dataclass(frozen=True)
class Shown:
    """A progress line: share done, and the seconds it says are left."""

    done: float
    left: float


@dataclass(frozen=True)
class Watched:
    """A finished command. lines: (seconds since its start, text); seconds: its wall time."""

    code: int
    seconds: float
    lines: list[tuple[float, str]]


def parse(line: str) -> Shown | None:
    """A progress line; None where it is none, or says nothing of the time left."""
    done = _DONE.search(line)
    left = next((found for pattern in _LEFT if (found := pattern.search(line))), None)
    if done is None or left is None:
        return None
    part, whole = (int(text.replace(",", "")) for text in done.groups())
    if not 0 <= part <= whole or whole == 0:
        return None
    seconds = 0
    for text in left.group(1).split(":"):
        seconds = 60 * seconds + int(text)
    return Shown(part / whole, float(seconds))


def errors(lines: Sequence[tuple[float, str]], end: float) -> list[float]:
    """How wrong the first line at or past each of 10 %, 20 %, ... 90 % was.

    In shares of what was really left then, rounding to whole seconds forgiven. A tenth that no
    line came in is left out.
    """
    shown = [(seconds, line) for seconds, text in lines if (line := parse(text))]
    found = []
    for tenth in range(1, 10):
        within = (pair for pair in shown if tenth <= 10 * pair[1].done < tenth + 1)
        for seconds, line in list(within)[:1]:
            real = end - seconds
            found.append(max(0.0, abs(line.left - real) - ROUNDING) / real)
    return found


def watch(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Watched:
    """Run a command in `folder` with a terminal for its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 140, 0, 0))
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    lines: list[tuple[float, str]] = []
    while chunk := _read(ours):
        now = time.perf_counter() - begun
        lines += [(now, text) for text in re.split(r"[\r\n]+", chunk) if text.strip()]
    code = process.wait()
    seconds = time.perf_counter() - begun
    os.close(ours)
    return Watched(code, seconds, lines)


def _read(descriptor: int) -> str:
    try:
        return os.read(descriptor, 65536).decode(errors="replace")
    except OSError:  # Linux says so that the other end is closed
        return ""
