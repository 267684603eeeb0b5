"""Fine-tune one entry's backbone from its head on: -> artifacts/finetuned/<name>/."""

import argparse

from pipeline import finetuning
from pipeline.errors import exit_status, leave
from pipeline.finetuning import Place
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.finetune", description=__doc__)
    parser.add_argument("name", help="a name under finetune in params.yaml")
    name = parser.parse_args().name
    project = open_project()
    entry, artifacts, runs = project.finetune(name), project.artifacts, project.artifacts / "runs"
    origin = project.backbone(entry.backbone)
    given = finetuning.read(artifacts, project.data_root, entry, origin)
    device = project.execution.device
    place = Place(artifacts / "finetuned" / name, runs, project.locate, device=device)
    with finetuning.watching(name, entry.epochs, runs) as watch:
        print(finetuning.describe(finetuning.run(name, entry, given, place, watch)))


if __name__ == "__main__":
    leave(exit_status(main))
