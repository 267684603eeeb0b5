"""Whether the backbones of the run are frozen, or their weights are at hand."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pipeline.cli.doctor.finding import Finding, Place, error, of_error, ok, warning
from pipeline.errors import HeadstartError, InputError

if TYPE_CHECKING:
    from pipeline.project import Project

TRUE = {"1", "ON", "YES", "TRUE"}
"""What huggingface_hub takes for true, in capitals."""


def weights(place: Place) -> Iterator[Finding]:
    """Each backbone of the run, then the entries that are not run."""
    if place.project is None:
        return
    from pipeline import backbones

    run = place.project.params.run.backbones
    for name in run:
        try:
            yield _of(name, place.project)
        except HeadstartError as raised:
            yield of_error(raised)
    for name, entry in place.project.params.backbones.items():
        if name not in run:
            backbones.check(name, entry)


def _of(name: str, project: "Project") -> Finding:
    from pipeline import backbones

    entry = project.backbone(name)
    frozen = backbones.already_frozen(entry, project.artifacts / "backbones" / name)
    if frozen is not None:
        return ok(f"{name}: frozen, {frozen.dim} values an image, needs no weights any more")
    origin = backbones.find(name, entry, locate=project.locate)
    if origin.file is not None:
        return ok(f"{name}: {origin.file.name} is at hand, to be frozen")
    if not origin.download:
        return ok(f"{name}: needs no weights")
    text = f"{name}: {origin.download} is not on this machine; freezing downloads it"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in TRUE and "://" not in origin.download:
        return error(
            f"{text}, which HF_HUB_OFFLINE forbids",
            f"env -u HF_HUB_OFFLINE dvc repro freeze@{name}",
            InputError.exit_code,
        )
    return warning(text, f"dvc repro freeze@{name}")
