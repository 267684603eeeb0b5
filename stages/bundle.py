"""Write the best head, or the one that is named, as one ONNX file: -> artifacts/model/."""

from pipeline import bundle, files
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    params, run = project.params, project.params.run
    made = bundle.bundle(
        project.artifacts, run.backbones, run.heads, params.bundle.named, params.finetune
    )
    bundle.write(project.artifacts / "model", made)
    files.write_json(project.artifacts / "runs" / "bundle.json", made.figures)
    bundle.warn(made)
    print(bundle.describe(made))


if __name__ == "__main__":
    leave(exit_status(main))
