"""The best head and its backbone as one ONNX file: -> artifacts/model/."""

from pipeline import bundle, files
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    made = bundle.bundle(project.artifacts, project.params)
    files.write_json(project.artifacts / "runs" / "bundle.json", made.measured)
    print(bundle.describe(made))


if __name__ == "__main__":
    leave(exit_status(main))
