"""What a library knows of its own architecture, `torchvision/resnet18`, beside any weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.architectures import is_detector
from pipeline.backbones import detection, timm, torchvision
from pipeline.backbones.source import Description, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams

if TYPE_CHECKING:
    import torch

    from pipeline.architectures.named import Parts

_MODELS: dict[str, Callable[[], list[str]]] = {
    "timm": timm.models,
    "torchvision": torchvision.models,
}


@dataclass(frozen=True)
class Named:
    """An architecture. package: `name version` of its library; the rest: see `Pretrained`."""

    parts: "Parts"
    preprocessing: Preprocessing
    package: str
    transform: Callable[[Any], Any] | None


def check(entry: BackboneParams, at: str) -> None:
    """Refuse a `model` that is no `LIBRARY/NAME`. Raises ConfigurationError with near misses."""
    name = entry.model
    if name is None:
        raise ConfigurationError(f"{at}.model is missing; add one such as torchvision/resnet18")
    library, _, model = name.partition("/")
    if library not in _MODELS:
        both = " or ".join(f"{one}/{model or name}" for one in _MODELS)
        raise ConfigurationError(
            f"{at}.model: {name!r} does not say whose architecture it is; write {both}"
        )
    known = _MODELS[library]()
    if model not in known:
        full = [f"{library}/{one}" for one in known]
        raise ConfigurationError(f"{at}.model: {unknown('model', name, full)}")


def build(entry: BackboneParams, at: str) -> Named:
    """The architecture of a checked entry, in its library's own preprocessing or the entry's."""
    from pipeline.architectures import named

    parts = named.parts(str(entry.model))
    own, package = _own(parts, entry, at)
    transform = None if entry.preprocessing else _transform(parts, entry, at)
    return Named(parts, preprocessing_or(entry, own, at), package, transform)


def pretrained(
    made: Named, entry: BackboneParams, *, licence: str, classifier: "torch.nn.Module | None" = None
) -> Pretrained:
    """The architecture with the weights that its body has by now; licence: theirs."""
    from pipeline.backbones.network import TorchNetwork

    return Pretrained(
        network=TorchNetwork(made.parts.body),
        preprocessing=made.preprocessing,
        architecture=str(entry.model),
        package=made.package,
        licence=licence,
        classifier=classifier,
        transform=made.transform,
    )


def describe(entry: BackboneParams, at: str, *, licence: str) -> Description:
    """The same without its numbers; licence: of the weights that it will have."""
    from pipeline.backbones import bare

    parts = bare.built(str(entry.model), at)
    own, package = _own(parts, entry, at)
    return bare.of_parts(parts, entry, at, own=own, licence=licence, package=package)


def _own(parts: "Parts", entry: BackboneParams, at: str) -> tuple[Callable[[], Preprocessing], str]:
    """Its library's preprocessing, and `name version` of that."""
    library, _, model = str(entry.model).partition("/")
    if library == "timm":
        return lambda: timm.preprocessing(parts.config, at), timm.package()
    if is_detector(model):
        return lambda: detection.preprocessing(parts.config), torchvision.package()
    return lambda: torchvision.preprocessing(_plain(entry), at), torchvision.package()


def _transform(parts: "Parts", entry: BackboneParams, at: str) -> Callable[[Any], Any] | None:
    library, _, model = str(entry.model).partition("/")
    if library == "timm":
        return timm.transform(parts.config)
    return None if is_detector(model) else torchvision.recipe(_plain(entry), at)


def _plain(entry: BackboneParams) -> BackboneParams:
    """The library's own entry of the architecture, with its default tag."""
    model = str(entry.model).partition("/")[2]
    return entry.model_copy(update={"model": model, "weights": None, "sha256": None})
