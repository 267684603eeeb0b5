"""Freeze one backbone: params, weights -> artifacts/backbones/<b>/."""

import argparse

from pipeline import backbones, files
from pipeline.backbones import freezing
from pipeline.errors import exit_status, leave
from pipeline.project import open_project


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m stages.freeze", description=__doc__)
    parser.add_argument("backbone", help="a name under backbones in params.yaml")
    name = parser.parse_args().backbone
    project = open_project()
    folder = project.artifacts / "backbones" / name
    entry = project.backbone(name)
    drift = freezing.freeze(name, entry, folder, locate=project.locate)
    used = backbones.weights_used(name, entry, locate=project.locate)
    note = project.artifacts / "runs" / f"freeze-{name}.json"
    files.write_json(note, {**freezing.measured(drift), **used})
    print(f"froze {name}: cosine {drift.cosine:.8f}, max |d| / RMS {drift.relative:.1e}")


if __name__ == "__main__":
    leave(exit_status(main))
