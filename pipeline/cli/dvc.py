"""What DVC says of this project, asked through its own command line."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import ConfigurationError


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


def outlook(root: Path, *, also: tuple[str, ...] = ()) -> Outlook:
    """Ask DVC, about a second. also: stages that will run though DVC does not know it.

    Raises ConfigurationError with DVC's own words where it cannot say.
    """
    calls = [
        _start(root, *words) for words in (("status", "--json"), ("dag", "--dot"), ("cache", "dir"))
    ]
    status, dag, cache = [_answer(call) for call in calls]
    changed: dict[str, list[object]] = json.loads(status)
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


def _params_changed(reasons: list[object]) -> bool:
    return any(
        "params.yaml" in reason.get("changed deps", {})
        for reason in reasons
        if isinstance(reason, dict)
    )


def _start(root: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "dvc", *words],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _answer(call: subprocess.Popen[str]) -> str:
    out, err = call.communicate()
    if call.returncode != 0:
        line = next((line for line in err.splitlines() if line.startswith("ERROR: ")), err)
        raise ConfigurationError(f"DVC cannot say what would run: {line.removeprefix('ERROR: ')}")
    return out
