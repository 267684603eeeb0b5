"""What DVC says of this project, asked through its own command line."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigurationError

STATUS = ("status", "--json")

PATIENCE = 120
"""Seconds after which DVC is taken to hang, as it does on a pipe among the data."""


@dataclass(frozen=True)
class Outlook:
    """What `dvc repro` would do. Stages as DVC names them, in the order of dvc.yaml.

    run: will run, for something they read or write changed; follow: stages below these, which
    run where what they read changes; edited: of `run`, those whose params changed; cache: the
    folder where DVC keeps its copies.
    """

    run: tuple[str, ...]
    follow: tuple[str, ...]
    edited: frozenset[str]
    cache: Path

    @property
    def all(self) -> tuple[str, ...]:
        """Every stage that may run."""
        return self.run + self.follow


def changed_stages(root: Path) -> list[str]:
    """Stages for which something they read or wrote changed; see `outlook`."""
    return sorted(_status(_ask(root, STATUS)[0]))


def outlook(root: Path, *, also: tuple[str, ...] = ()) -> Outlook:
    """Ask DVC, about a second. also: stages that will run though DVC does not know it.

    Raises ConfigurationError with DVC's own words where it cannot say.
    """
    status, dag, cache = _ask(root, STATUS, ("dag", "--dot"), ("cache", "dir"))
    changed = _status(status)
    edges = re.findall(r'^"(.+?)" -> "(.+?)";$', dag, re.MULTILINE)
    stages = re.findall(r'^"([^"]+)";$', dag, re.MULTILINE)
    run = [name for name in stages if name in changed or name in also]
    below = set(run)
    for _ in stages:  # a path is no longer than there are stages
        below |= {child for parent, child in edges if parent in below}
    return Outlook(
        run=tuple(run),
        follow=tuple(name for name in stages if name in below and name not in run),
        edited=frozenset(name for name in run if _params_changed(changed.get(name, []))),
        cache=Path(cache.strip()),
    )


def _status(answer: str) -> dict[str, list[Any]]:
    """By stage, why it will run: each a mapping, or a word."""
    return dict(json.loads(answer))


def _params_changed(reasons: list[Any]) -> bool:
    """Whether one has another value than in dvc.lock; without a dvc.lock each is merely new."""
    deps = [reason.get("changed deps", {}) for reason in reasons if isinstance(reason, dict)]
    params = [changes.get("params.yaml") for changes in deps]
    return any(isinstance(found, dict) and "modified" in found.values() for found in params)


def _ask(root: Path, *commands: tuple[str, ...]) -> list[str]:
    """What DVC prints for each command; they run at once."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "dvc", *words],
            cwd=root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for words in commands
    ]
    try:
        answers = [process.communicate(timeout=PATIENCE) for process in started]
    except subprocess.TimeoutExpired:
        raise ConfigurationError(
            f"DVC cannot say what would run: it has not answered in {PATIENCE} s; run 'dvc status'"
        ) from None
    finally:
        for process in started:
            process.kill()
    for process, (_, err) in zip(started, answers, strict=True):
        if process.returncode != 0:
            errors = [line for line in err.splitlines() if line.startswith("ERROR: ")] or [err]
            reason = errors[0].removeprefix("ERROR: ")
            raise ConfigurationError(f"DVC cannot say what would run: {reason}")
    return [out for out, _ in answers]
