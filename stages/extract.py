"""Embed every image with one frozen backbone: -> artifacts/embeddings/<b>.h5."""

import argparse

from pipeline.errors import exit_status, leave
from pipeline.extraction import Places, extract
from pipeline.project import open_project
from pipeline.summary import describe


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.extract", description=__doc__)
    parser.add_argument("backbone", help="a name under backbones in params.yaml")
    name = parser.parse_args().backbone
    project = open_project()
    project.backbone(name)
    places = Places.of(
        name, artifacts=project.artifacts, root=project.data_root, store=project.store
    )
    summary = extract(places, project.execution, max_failed=project.params.data.max_failed)
    print(describe(name, summary, places.problems))


if __name__ == "__main__":
    leave(exit_status(main))
