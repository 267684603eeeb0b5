"""`headstart results`: the table of heads, and where the report lies."""

import json

from pipeline import evaluation
from pipeline.cli import dvc
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.project import Project, open_project


def run() -> int:
    """Print artifacts/evaluation/metrics.json as a table."""
    project = open_project()
    artifacts = project.artifacts
    path = artifacts / "evaluation" / "metrics.json"
    try:
        table = evaluation.describe(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise InputError(f"{path} is not there yet; run 'dvc repro'") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); run 'dvc repro evaluate'") from None
    print(table)
    report = artifacts / "report.html"
    if report.exists():
        print(f"\nreport: {report}")
    if changed := _changed_since(project):
        stages = "stage" if len(changed) == 1 else "stages"
        print(f"\nold: {stages} {', '.join(changed)} changed since; run 'dvc repro'")
    return 0


def _changed_since(project: Project) -> list[str]:
    """Stages that would run; none where DVC cannot say, for a table needs no DVC."""
    try:
        return dvc.changed_stages(project.root)
    except ConfigurationError:
        return []
