"""What a library knows of its own architecture, `torchvision/resnet18`, beside any weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.architectures import is_detector
from pipeline.backbones import detection, timm, torchvision
from pipeline.backbones.source import preprocessing_or
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.names import unknown
from pipeline.params import BackboneParams

if TYPE_CHECKING:
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
    library, _, model = str(entry.model).partition("/")
    plain = entry.model_copy(update={"model": model, "weights": None, "sha256": None})
    transform = None
    if library == "timm":
        own, package = lambda: timm.preprocessing(parts.config, at), timm.package()
        transform = None if entry.preprocessing else timm.transform(parts.config)
    elif is_detector(model):
        own, package = lambda: detection.preprocessing(parts.config), torchvision.package()
    else:
        own, package = lambda: torchvision.preprocessing(plain, at), torchvision.package()
        transform = None if entry.preprocessing else torchvision.recipe(plain, at)
    return Named(parts, preprocessing_or(entry, own, at), package, transform)
