"""`headstart check`: everything that can be wrong before a run, without decoding an image."""

from pipeline import backbones, heads
from pipeline.formats import FORMATS, list_data
from pipeline.project import SAMPLE, Project, open_project


def run() -> int:
    """Check params.yaml, its names against the registries, and data.path."""
    project = open_project()
    for name, backbone in project.params.backbones.items():
        backbones.check(name, backbone)
    for name, head in project.params.heads.items():
        heads.recipe(name, head)
    print(_data(project))
    chosen = project.params.run
    print(f"params.yaml is right: runs {', '.join(chosen.heads)} on {', '.join(chosen.backbones)}")
    return 0


def _data(project: Project) -> str:
    data = project.params.data
    to_be_made = project.data == project.root / SAMPLE and not project.data.exists()
    if to_be_made and data.format in (None, *FORMATS):
        return f"data: {SAMPLE}, made by the stage sample"
    listing = list_data(project.data, format=data.format, group=data.split.group)
    classes = {entry.label for entry in listing.entries}
    left = f", {len(listing.problems)} left out" if listing.problems else ""
    return f"data: {len(listing.entries)} files in {len(classes)} classes{left}"
