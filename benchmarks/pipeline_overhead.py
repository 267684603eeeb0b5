"""What a head swap and an idle `dvc repro` cost, on the digits, beside a pipeline of `true`."""

from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.desk import Desk
from benchmarks.measuring import interleaved, seconds_of
from benchmarks.table import Row, row
from tests.conftest import Project, make_project

SIX_STAGES = "stages:\n" + "".join(
    f"  s{number}:\n    cmd: 'true'\n    deps: [in.txt]\n" for number in range(6)
)


def measure(desk: Desk) -> list[Row]:
    """Rows of the results table."""
    project = make_project(desk.folder / "digits")
    project.repro()
    runs = desk.scale.runs
    return [_idle(project, desk.folder / "true", runs), *_swaps(project, runs)]


def _idle(project: Project, folder: Path, runs: int) -> Row:
    bare = _bare(folder)
    subjects = {
        "ours": partial(seconds_of, project.repro),
        "bare": partial(seconds_of, bare.repro),
    }
    measured = interleaved(subjects, runs)
    stages = len((project.folder / "dvc.lock").read_text().split("cmd:")) - 1
    return row(
        f"`dvc repro` with nothing to do, {stages} stages",
        measured["ours"],
        expected="ratio <= 2",
        beside="six stages of `true`",
        beside_runs=measured["bare"],
    )


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


def _swaps(project: Project, runs: int) -> list[Row]:
    rows = []
    for head in project.json("evaluation/metrics.json")["efficientnet_lite0"]:
        key = "k" if head == "knn" else "C"
        given = [7, 8, 9, 11, 12] if key == "k" else [0.011, 0.012, 0.013, 0.014, 0.015]
        changes: list[dict[str, Any]] = [{key: value} for value in given]
        rows.append(_swap(project, head, f"{key} given", changes[:runs]))
        if key == "C":
            weights = ["balanced", None, "balanced", None, "balanced"]
            changes = [{"C": None, "class_weight": weight} for weight in weights]
            rows.append(_swap(project, head, "C searched", changes[:runs]))
    return rows


def _swap(project: Project, head: str, what: str, changes: list[dict[str, Any]]) -> Row:
    seconds = []
    for change in changes:
        project.edit(lambda params, change=change: params["heads"][head].update(change))
        seconds.append(seconds_of(lambda: project.repro("--no-run-cache")))
    return row(f"head swap on the digits: {head}, {what}", seconds, expected="median < 8")
