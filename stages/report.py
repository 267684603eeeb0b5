"""Show what the run found: -> artifacts/report.html, one file that opens offline."""

from pipeline import reporting
from pipeline.errors import exit_status, leave
from pipeline.project import open_project
from pipeline.reporting import timings


def main() -> None:
    project = open_project()
    run, path = project.params.run, project.artifacts / "report.html"
    finetune = project.params.finetune
    reporting.write(
        path,
        project.artifacts,
        project.data_root,
        backbones=run.backbones,
        heads=run.heads,
        curves=project.params.curve,
        finetune=finetune,
    )
    timings.write(project.artifacts / "runs", run.backbones, run.heads, finetune)
    print(f"open {path.relative_to(project.root)}")


if __name__ == "__main__":
    leave(exit_status(main))
