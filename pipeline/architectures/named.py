"""A model by library and name, as `torchvision/resnet18`: its body apart from its classifier."""

from dataclasses import dataclass, field
from typing import Any

import torch

from pipeline import architectures
from pipeline.architectures import detection
from pipeline.errors import ConfigurationError
from pipeline.names import unknown


@dataclass(frozen=True)
class Parts:
    """A model that nobody trained. body: all of it but the classifier, in eval mode.

    classifier: name of its last Linear in the whole model, empty where it has none; dim: what
    that takes in; of_classifier: how many parameters that has, None where it has none; others:
    first names of the tensors that are not the body's; config: timm's, of the model's weights; of a
    detector `mean` and `std`.
    """

    body: torch.nn.Module
    others: frozenset[str]
    classifier: str = ""
    dim: int = 0
    of_classifier: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


def parts(name: str) -> Parts:
    """The model `LIBRARY/NAME`. Raises ConfigurationError for a library that is none."""
    library, _, model = name.partition("/")
    if library not in _PARTS:
        raise ConfigurationError(unknown("library", library, _PARTS))
    return _PARTS[library](model)


def of_detector(whole: Any) -> Parts:
    """A detection model of torchvision, whole; the body is its trunk."""
    rest = (name for name in whole.state_dict() if not name.startswith("backbone."))
    config = {"mean": tuple(whole.transform.image_mean), "std": tuple(whole.transform.image_std)}
    return Parts(detection.Trunk(whole).eval(), _first(rest), config=config)


def _timm(name: str) -> Parts:
    whole = architectures.timm_model(name)
    tensors, modules = set(whole.state_dict()), dict(whole.named_modules())
    last, config = whole.get_classifier(), dict(whole.pretrained_cfg)
    body = architectures.timm_without_classifier(whole)
    return _apart(body, tensors, modules, last, config)


def of_torchvision(name: str, crop: int | None = None) -> Parts:
    """A model of torchvision. crop: of its images, where it is made for one size; None: its own."""
    if architectures.is_detector(name):
        return of_detector(detection.detector(name))
    whole = architectures.torchvision_model(name, crop)
    tensors, modules = set(whole.state_dict()), dict(whole.named_modules())
    body, last = architectures.torchvision_parts(whole, "model")
    return _apart(architectures.without_training_parts(body), tensors, modules, last, {})


def _apart(
    body: torch.nn.Module,
    tensors: set[str],
    modules: dict[str, torch.nn.Module],
    last: Any,
    config: dict[str, Any],
) -> Parts:
    """tensors, modules: of the whole model, by name; last: the classifier."""
    others = _first(tensors - set(body.state_dict()))
    called = next((name for name, module in modules.items() if module is last), "")
    if not called or not isinstance(last, torch.nn.Linear):
        return Parts(body.eval(), others, config=config)
    count = sum(one.numel() for one in last.parameters())
    return Parts(body.eval(), others, called, last.in_features, count, config)


def _first(names: Any) -> frozenset[str]:
    return frozenset(name.partition(".")[0] for name in names)


_PARTS = {"timm": _timm, "torchvision": of_torchvision}
