"""Train one head on one backbone's embeddings: -> artifacts/heads/<b>/<h>.joblib, .json."""

import argparse

from pipeline import dataset, durations, embeddings, heads, selection
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.train", description=__doc__)
    parser.add_argument("backbone", help="a name under run.backbones in params.yaml")
    parser.add_argument("head", help="a name under heads in params.yaml")
    arguments = parser.parse_args()
    project = open_project()
    project.backbone(arguments.backbone)
    entry = project.head(arguments.head)
    artifacts = project.artifacts
    labels = dataset.read_labels(artifacts / "dataset" / "labels.parquet")
    cached = embeddings.open(artifacts / "embeddings" / f"{arguments.backbone}.h5")
    note = artifacts / "runs" / f"train-{arguments.backbone}-{arguments.head}.json"
    with durations.noted(note):
        fitted, record = selection.train(arguments.head, entry, labels, cached)
    heads.save(artifacts / "heads" / arguments.backbone, fitted, record)
    print(selection.describe(record))


if __name__ == "__main__":
    leave(exit_status(main))
