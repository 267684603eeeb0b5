"""Score every head of the run: -> artifacts/evaluation/."""

from pipeline import evaluation
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    run = project.params.run
    results = evaluation.evaluate(project.artifacts, run.backbones, run.heads)
    summary = evaluation.write(project.artifacts / "evaluation", results)
    print(evaluation.describe(summary, evaluation.controls(results)))


if __name__ == "__main__":
    leave(exit_status(main))
