"""Score every head and every fine-tuned model of the run: -> artifacts/evaluation/."""

from pipeline import evaluation
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    params, artifacts = project.params, project.artifacts
    results = evaluation.evaluate(artifacts, params.run.backbones, params.run.heads)
    results += evaluation.answered(artifacts, params.finetune, params.backbones)
    summary = evaluation.write(artifacts / "evaluation", results)
    print(evaluation.headline(summary))


if __name__ == "__main__":
    leave(exit_status(main))
