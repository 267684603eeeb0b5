"""Show what the run found: -> artifacts/report.html, one file that opens offline."""

import sys

from pipeline import reporting
from pipeline.errors import exit_status
from pipeline.project import open_project


def main() -> None:
    project = open_project()
    run, data = project.params.run, project.data
    path = project.artifacts / "report.html"
    root = data if data.is_dir() else data.parent
    reporting.write(path, project.artifacts, root, backbones=run.backbones, heads=run.heads)
    print(f"open {path.relative_to(project.root)}")


if __name__ == "__main__":
    sys.exit(exit_status(main))
