"""`headstart results`: the table of heads, what was left out, and where the report lies."""

import json
from collections.abc import Iterator

from pipeline import evaluation, heads
from pipeline.cli import dvc
from pipeline.dataset import problem_table, read_problems
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.params import CONTROL_KINDS, CONTROL_SOURCES
from pipeline.project import Project, open_project


def run() -> int:
    """Print artifacts/evaluation/metrics.json as a table."""
    project = open_project()
    artifacts = project.artifacts
    path = artifacts / "evaluation" / "metrics.json"
    try:
        table = evaluation.describe(json.loads(path.read_bytes()), _controls(project))
    except FileNotFoundError:
        raise InputError(f"{path} is not there yet; run 'dvc repro'") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro evaluate'") from None
    print(table)
    if seen := list(_seen(project)):
        print("", *seen, sep="\n")
    if old := _old(project):
        print(f"\n{old}")
    for lines in _left_out(project):
        print("", *lines, sep="\n")
    report = artifacts / "report.html"
    if report.exists():
        print(f"\nreport: {report}")
    return 0


def _seen(project: Project) -> Iterator[str]:
    """What heads see of a backbone, a line each where it is not its first layer's clean view alone."""
    for backbone in project.params.run.backbones:
        folder = project.artifacts / "heads" / backbone
        for name in project.params.run.heads:
            if not (folder / f"{name}.json").exists():
                continue
            record = heads.load_record(folder, name)
            said = [seen] if (seen := heads.seen(record)) else []
            yield from (f"{backbone} / {name}: {text}" for text in (*said, *record.notes))


def _controls(project: Project) -> set[tuple[str, str]]:
    """(backbone, head) of the run's controls, which are never the best."""
    params = project.params
    plain = {name for name, one in params.backbones.items() if one.source in CONTROL_SOURCES}
    dull = {name for name, one in params.heads.items() if one.kind in CONTROL_KINDS}
    return {
        (backbone, head)
        for backbone in params.run.backbones
        for head in params.run.heads
        if backbone in plain or head in dull
    }


def _left_out(project: Project) -> Iterator[list[str]]:
    """The table of problems of prepare, and of each backbone of the run."""
    lists = [f"embeddings/{name}.problems.csv" for name in project.params.run.backbones]
    for name in ("dataset/problems.csv", *lists):
        path = project.artifacts / name
        if path.exists() and (problems := read_problems(path)):
            yield problem_table(problems, f"artifacts/{name}")


def _old(project: Project) -> str:
    """A line where the table is old, or DVC cannot say; none outside a repository."""
    try:
        changed = dvc.changed_stages(project.root)
    except ConfigurationError as error:
        return f"old or not: {error}" if (project.root / ".dvc").is_dir() else ""
    stages = "stage" if len(changed) == 1 else "stages"
    return f"old: {stages} {', '.join(changed)} changed since; run 'dvc repro'" if changed else ""
