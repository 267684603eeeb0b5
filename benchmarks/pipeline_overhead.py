"""What a head swap and an idle `dvc repro` cost, on the digits, beside a pipeline of `true`."""

import statistics
import time
from pathlib import Path
from typing import Any

from tests.conftest import Project, make_project

RUNS = 5
SIX_STAGES = "stages:\n" + "".join(
    f"  s{number}:\n    cmd: 'true'\n    deps: [in.txt]\n" for number in range(6)
)


def measure(folder: Path) -> list[dict[str, Any]]:
    """Rows of the results table; `folder` is empty and big enough for one run."""
    project = make_project(folder / "digits")
    project.repro()
    return [_idle(project, folder / "true"), *_swaps(project)]


def _idle(project: Project, folder: Path) -> dict[str, Any]:
    bare = _bare(folder)
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(_seconds(project))
        theirs.append(_seconds(bare))
    stages = len((project.folder / "dvc.lock").read_text().split("cmd:")) - 1
    return {
        "what": f"`dvc repro` with nothing to do, {stages} stages",
        "expected": "<= 2x",
        **_side("median", ours),
        "beside": "six stages of `true`",
        "median beside": round(statistics.median(theirs), 2),
        "ratio": round(statistics.median(ours) / statistics.median(theirs), 2),
    }


def _bare(folder: Path) -> Project:
    folder.mkdir()
    (folder / "dvc.yaml").write_text(SIX_STAGES)
    (folder / "in.txt").write_text("in\n")
    bare = Project(folder)
    for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
        done = bare.run(*command)
        if done.code:
            raise RuntimeError(done.text)
    bare.repro()
    return bare


def _swaps(project: Project) -> list[dict[str, Any]]:
    rows = []
    for head in project.json("evaluation/metrics.json")["efficientnet_lite0"]:
        key = "k" if head == "knn" else "C"
        given = [7, 8, 9, 11, 12] if key == "k" else [0.011, 0.012, 0.013, 0.014, 0.015]
        rows.append(_swap(project, head, f"{key} given", [{key: value} for value in given]))
        if key == "C":
            weights = ["balanced", None, "balanced", None, "balanced"]
            changes = [{"C": None, "class_weight": weight} for weight in weights]
            rows.append(_swap(project, head, "C searched", changes))
    return rows


def _swap(project: Project, head: str, what: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = []
    for change in changes:
        project.edit(lambda params, change=change: params["heads"][head].update(change))
        seconds.append(_seconds(project, "--no-run-cache"))
    return {
        "what": f"head swap on the digits: {head}, {what}",
        "expected": "< 8 s",
        **_side("median", seconds),
    }


def _side(name: str, seconds: list[float]) -> dict[str, Any]:
    return {
        name: round(statistics.median(seconds), 2),
        "runs": " ".join(f"{value:.2f}" for value in seconds),
    }


def _seconds(project: Project, *arguments: str) -> float:
    begun = time.perf_counter()
    project.repro(*arguments)
    return time.perf_counter() - begun
