"""Look for duplicates, outliers and wrong labels with one backbone: -> artifacts/inspect/<b>/."""

import argparse

from pipeline import dataset, embeddings, inspection
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.inspect", description=__doc__)
    parser.add_argument("backbone", help="a name under run.backbones in params.yaml")
    name = parser.parse_args().backbone
    project = open_project()
    project.backbone(name)
    artifacts = project.artifacts
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    problems = dataset.read_problems(artifacts / "dataset" / "problems.csv")
    cached = embeddings.open(artifacts / "embeddings" / f"{name}.h5")
    found = inspection.inspect(labels, cached, problems, root=project.data_root)
    inspection.write(artifacts / "inspect" / name, found)
    print(inspection.describe(found))


if __name__ == "__main__":
    leave(exit_status(main))
