"""Measure one learning curve: -> artifacts/curve/<name>/."""

import argparse

from pipeline import curves, durations
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.curve", description=__doc__)
    parser.add_argument("name", help="a name under curve in params.yaml")
    name = parser.parse_args().name
    project = open_project()
    entry, run = project.curve(name), project.params.run
    with durations.noted(project.artifacts / "runs" / f"curve-{name}.json"):
        measured = curves.measure(project.artifacts, name, entry, run.backbones)
    curves.write(project.artifacts / "curve" / name, measured)
    print(curves.describe(measured))


if __name__ == "__main__":
    leave(exit_status(main))
