"""`headstart check`: everything that can be wrong before a run, without decoding an image."""

import json
import os
import shlex
from pathlib import Path

from pydantic import BaseModel

from pipeline import backbones, curves, features, heads, taps
from pipeline.dataset import problem_table
from pipeline.errors import ConfigurationError, InputError, IntegrityError
from pipeline.features import Offer
from pipeline.formats import FORMATS, Listing, list_data
from pipeline.names import unknown
from pipeline.params import CONTROL_SOURCES, BackboneParams, Params
from pipeline.project import SAMPLE, Project, open_project
from pipeline.taps import PENULTIMATE

LISTED = "artifacts/dataset/problems.csv, once prepare ran"
SHOWN = 3
"""How many names a message has."""

TRACKED = (
    "data.format",
    "data.split",
    "data.max_failed",
    "run",
    "run.backbones",
    "curve",
    "finetune",
    "bundle",
)
"""Keys that stages of dvc.yaml track: DVC stops where one is missing, default or not."""


def run(*, images: bool = False) -> int:
    """Check params.yaml, its names against the registries, the weights at hand, and data.path.

    images: look at each file of the data as well; see `pipeline.cli.images`.
    """
    project = open_project()
    for name, backbone in project.params.backbones.items():
        backbones.check(name, backbone)
    check_heads(project)
    check_curves(project)
    check_written(project)
    for name in project.params.run.backbones:
        if not _is_frozen(project, name):
            backbones.find(name, project.backbone(name), locate=project.locate)
            check_layers(name, project.backbone(name), project)
    check_store(project)
    check_scheduler(project)
    listing = list_images(project)
    if listing:
        check_classes(project.params, {entry.label for entry in listing.entries})
    print(describe_data(listing))
    chosen = project.params.run
    print(f"params.yaml is right: runs {', '.join(chosen.heads)} on {', '.join(chosen.backbones)}")
    if images and listing:
        from pipeline.cli import images as look

        look.run(project, listing)
    return 0


def _is_frozen(project: Project, name: str) -> bool:
    folder = project.artifacts / "backbones" / name
    try:
        return backbones.already_frozen(project.backbone(name), folder) is not None
    except IntegrityError:
        return False  # DVC sees that too, and freezes it again


def check_layers(name: str, entry: BackboneParams, project: Project) -> None:
    """Raise ConfigurationError where an entry names a layer or pooling that its network has not.

    The network is built without its numbers. One that cannot be is left to freezing.
    """
    if entry.layers == [PENULTIMATE]:
        return
    at = f"params.yaml: backbones.{name}"
    try:
        known = backbones.check(name, entry).describe(entry, at, project.locate)
    except ConfigurationError:
        return
    taps.resolve(entry.layers, entry.pooling, known.layers, at)


def check_scheduler(project: Project) -> None:
    """Raise what a run would of the scheduler's address, without asking it."""
    from pipeline.cluster.addresses import address_of, asked_for

    if asked := asked_for(project.execution):
        address_of(asked, project.execution)


def check_heads(project: Project) -> None:
    """Raise ConfigurationError where an entry under heads is none that is known, or one of the run
    asks for a layer or views that a backbone of the run does not have.
    """
    for name, head in project.params.heads.items():
        heads.recipe(name, head)
    for backbone in project.params.run.backbones:
        given = _offer(backbone, project.backbone(backbone))
        for name in project.params.run.heads:
            features.sight(name, project.head(name), given)


def check_curves(project: Project) -> None:
    """Raise ConfigurationError where the head of an entry under curve is none that is known, or
    asks for what a curve does not do or a backbone does not have.
    """
    for name, entry in project.params.curve.items():
        chosen = entry.backbones or project.params.run.backbones
        curves.check(name, entry, [_offer(one, project.backbone(one)) for one in chosen])


def check_classes(params: Params, classes: set[str]) -> None:
    """Raise ConfigurationError where a head of the run or a curve weighs a class that is not there."""
    weighed = {f"heads.{name}": params.heads[name] for name in params.run.heads}
    weighed |= {f"curve.{name}.head": entry.head for name, entry in params.curve.items()}
    for at, head in weighed.items():
        weight = head.options.get("class_weight")
        for name in weight if isinstance(weight, dict) else ():
            if str(name) not in classes:
                told = unknown("class", str(name), sorted(classes))
                raise ConfigurationError(f"params.yaml: {at}.class_weight: {told}")


def _offer(name: str, entry: BackboneParams) -> Offer:
    return Offer(name, tuple(entry.layers), entry.views, entry.source in CONTROL_SOURCES)


def check_store(project: Project) -> None:
    """Raise ConfigurationError where something else stands in the place of the store's folder."""
    if project.store.exists() and not project.store.is_dir():
        raise ConfigurationError(
            f"{project.store} is no folder; set execution.store in params.yaml, or "
            "HEADSTART_STORE where that is set, to one"
        )


def check_written(project: Project) -> None:
    """Raise ConfigurationError where a key is left to its default that DVC wants to see."""
    for key in TRACKED:
        _check_written(project.params, key)


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
    """What data.path holds; None for the sample before it is made.

    Raises ConfigurationError or InputError.
    """
    data = project.params.data
    to_be_made = project.data == project.root / SAMPLE and not project.data.exists()
    if to_be_made and data.format in (None, *FORMATS):
        return None
    check_home(project)
    listing = list_data(project.data, format=data.format, group=data.split.group)
    if listing.stops_dvc:
        raise InputError(_stops_dvc(listing))
    return listing


def check_home(project: Project) -> None:
    """Raise ConfigurationError where data.path names a home as `~`, which DVC does not expand."""
    path = project.params.data.path
    home = os.path.expanduser(path)
    if home != path and not project.data.exists():  # a folder may have that name
        raise ConfigurationError(
            f"params.yaml: data.path: {path}: DVC, which tracks it, takes ~ for a folder's name; "
            f"write 'path: {home}'"
        )


def _stops_dvc(listing: Listing) -> str:
    names = listing.stops_dvc
    shown = [_in_shell(listing.root / name) for name in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (
        f"data.path: {len(names)} of its names are links to nothing, pipes or no UTF-8, at which "
        f"DVC stops or waits for ever; delete or rename each, such as: rm {' '.join(shown)}{more}"
    )


def _in_shell(path: Path) -> str:
    """A path as bash reads it, whatever bytes are in it."""
    text = str(path)
    if text.isprintable():
        return shlex.quote(text)
    plain = "".join(
        chr(byte) if 32 <= byte < 127 and byte not in b"'\\" else f"\\x{byte:02x}"
        for byte in os.fsencode(path)
    )
    return f"$'{plain}'"


def describe_data(listing: Listing | None) -> str:
    """What `list_images` found, in a line and its notes."""
    if listing is None:
        return f"data: {SAMPLE}, made by the stage sample"
    classes = {entry.label for entry in listing.entries}
    counts = f"data: {len(listing.entries)} files in {len(classes)} classes"
    left_out = problem_table(listing.problems, LISTED)
    return "\n".join([counts, *listing.notes, *left_out])
