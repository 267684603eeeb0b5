"""`headstart check`: everything that can be wrong before a run, without decoding an image."""

import json

from pydantic import BaseModel

from pipeline import backbones, heads
from pipeline.errors import ConfigurationError
from pipeline.formats import FORMATS, Listing, list_data
from pipeline.params import Params
from pipeline.project import SAMPLE, Project, open_project

TRACKED = ("data.format", "data.split", "data.max_failed", "run", "finetune")
"""Keys that stages of dvc.yaml track: DVC stops where one is missing, default or not."""


def run(*, images: bool = False) -> int:
    """Check params.yaml, its names against the registries, and data.path.

    images: look at each file of the data as well; see `pipeline.cli.images`.
    """
    project = open_project()
    for name, backbone in project.params.backbones.items():
        backbones.check(name, backbone)
    for name, head in project.params.heads.items():
        heads.recipe(name, head)
    for key in TRACKED:
        _check_written(project.params, key)
    listing = list_images(project)
    print(_counts(listing) if listing else f"data: {SAMPLE}, made by the stage sample")
    chosen = project.params.run
    print(f"params.yaml is right: runs {', '.join(chosen.heads)} on {', '.join(chosen.backbones)}")
    if images and listing:
        from pipeline.cli import images as look

        look.run(project, listing)
    return 0


def _check_written(params: Params, key: str) -> None:
    block, _, inner = key.partition(".")
    holder: BaseModel = getattr(params, block) if inner else params
    name = inner or block
    if name not in holder.model_fields_set:
        value = holder.model_dump(mode="json")[name]
        raise ConfigurationError(
            f"params.yaml: the key {key} is missing, and DVC tracks it; "
            f"add '{name}: {json.dumps(value)}'" + (f" under {block}" if inner else "")
        )


def list_images(project: Project) -> Listing | None:
    """What data.path holds, None for the sample before it is made."""
    data = project.params.data
    to_be_made = project.data == project.root / SAMPLE and not project.data.exists()
    if to_be_made and data.format in (None, *FORMATS):
        return None
    return list_data(project.data, format=data.format, group=data.split.group)


def _counts(listing: Listing) -> str:
    classes = {entry.label for entry in listing.entries}
    left = f", {len(listing.problems)} left out" if listing.problems else ""
    return f"data: {len(listing.entries)} files in {len(classes)} classes{left}"
