"""`headstart doctor`: what this machine, this environment and this project are fit for.

Each check looks at one thing and yields findings; what it raises becomes one, so the others go
on in a place where much is broken. Only the standard library is imported here: any other may be
what is missing.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

from pipeline.cli.doctor import (
    cluster,
    disk,
    environment,
    memory,
    project,
    providers,
    repository,
    store,
    versions,
    weights,
)
from pipeline.cli.doctor.finding import Check, Finding, Level, Place, of_error, of_exception
from pipeline.errors import HeadstartError

CHECKS: dict[str, Check] = {
    "project": project.look,
    "settings": environment.settings,
    "versions": versions.versions,
    "libraries": versions.libraries,
    "providers": providers.onnxruntime,
    "torch": providers.torch,
    "params": project.params,
    "data": project.data,
    "weights": weights.weights,
    "store": store.store,
    "cluster": cluster.cluster,
    "disk": disk.disk,
    "memory": memory.memory,
    "cores": memory.cores,
    "files": memory.open_files,
    "path": environment.path,
    "dvc": repository.repository,
}
"""What is looked at, in the order in which it is told."""


def run(*, as_json: bool = False) -> int:
    """Print the findings as they come; returns the highest exit code among the errors, or 0.

    as_json: a JSON object a line instead, with level, topic, text, fix and code.
    """
    found: list[Finding] = []
    for finding in examine(find_place(Path.cwd())):
        print(json.dumps(asdict(finding)) if as_json else describe(finding), flush=True)
        found.append(finding)
    if not as_json:
        print(_count(found))
    return max(finding.code for finding in found)


def examine(place: Place) -> Iterator[Finding]:
    """What every check finds."""
    for topic, check in CHECKS.items():
        try:
            for finding in check(place):
                yield replace(finding, topic=topic)
        except HeadstartError as raised:
            yield replace(of_error(raised), topic=topic)
        except Exception as raised:  # noqa: BLE001 - what is broken is what is looked for
            yield replace(of_exception(raised, place), topic=topic)


def find_place(start: Path) -> Place:
    """The project of a folder, or why there is none; raises nothing."""
    folder = start
    try:
        from pipeline.project import find_root, open_project

        folder = find_root(start)
        return Place(folder, open_project(folder))
    except Exception as raised:  # noqa: BLE001 - pydantic itself may be missing
        return Place(folder, trouble=raised)


def describe(finding: Finding) -> str:
    """A line, and `-> what to type` below it where there is something to mend."""
    head = f"{finding.level:<8}{finding.topic:<11}"
    line = head + " ".join(finding.text.split())
    return f"{line}\n{'':{len(head)}}-> {finding.fix}" if finding.fix else line


def _count(found: list[Finding]) -> str:
    counts = Counter(finding.level for finding in found)
    names = {Level.OK: "ok", Level.WARNING: "warnings", Level.ERROR: "errors"}
    said = (f"{counts[level]} {_singular(names[level], counts[level])}" for level in Level)
    return ", ".join(said)


def _singular(name: str, count: int) -> str:
    return name.removesuffix("s") if count == 1 else name
