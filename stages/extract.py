"""Embed every image with one frozen backbone: -> artifacts/embeddings/<b>.h5."""

import argparse
import sys

from pipeline.errors import exit_status
from pipeline.extraction import Places, describe, extract
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.extract", description=__doc__)
    parser.add_argument("backbone", help="a name under backbones in params.yaml")
    name = parser.parse_args().backbone
    project = open_project()
    project.backbone(name)
    artifacts, data = project.artifacts, project.data
    places = Places(
        root=data if data.is_dir() else data.parent,
        backbone=artifacts / "backbones" / name,
        images=artifacts / "dataset" / "images.parquet",
        embeddings=artifacts / "embeddings" / f"{name}.h5",
        runs=artifacts / "runs",
        store=project.store,
    )
    summary = extract(places, project.params.execution, max_failed=project.params.data.max_failed)
    print(describe(name, summary, places))


if __name__ == "__main__":
    sys.exit(exit_status(main))
