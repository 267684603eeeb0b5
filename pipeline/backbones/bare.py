"""Backbones described without their weights: counts, shapes and the recipe of an architecture."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from pipeline.backbones.source import Description, Pretrained, preprocessing_or
from pipeline.errors import ConfigurationError
from pipeline.images import Preprocessing
from pipeline.params import BackboneParams
from pipeline.taps import Layer

if TYPE_CHECKING:
    import torch

    from pipeline.architectures.named import Parts


def built(name: str, at: str) -> "Parts":
    """The architecture `LIBRARY/NAME`, without memory for its numbers."""
    from pipeline.architectures import named

    return made(lambda: named.parts(name), at)


def made(build: Callable[[], "Parts"], at: str) -> "Parts":
    """What `build` makes, without memory for its numbers. Raises ConfigurationError."""
    from pipeline.architectures import hollow

    try:
        return hollow.built(build)
    except (RuntimeError, ValueError, LookupError, AttributeError, TypeError, ImportError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigurationError(f"{at}.model cannot be built ({reason})") from None


def of_parts(
    parts: "Parts",
    entry: BackboneParams,
    at: str,
    *,
    own: Callable[[], Preprocessing],
    licence: str,
    package: str,
) -> Description:
    """An architecture's description. own: its preprocessing, asked for where the entry has none."""
    from pipeline.architectures import hollow

    recipe, doubt = _recipe(entry, own, at)
    crop = recipe.crop if recipe else int(parts.config["input_size"][-1])
    return Description(
        layers=_layers(parts.body, crop, at),
        parameters=hollow.parameters(parts.body),
        of_classifier=parts.of_classifier,
        recipe=recipe,
        crop=crop,
        licence=licence,
        package=package,
        doubt=doubt,
    )


def _recipe(
    entry: BackboneParams, own: Callable[[], Preprocessing], at: str
) -> tuple[Preprocessing | None, str]:
    try:
        return preprocessing_or(entry, own, at), ""
    except ConfigurationError as error:
        if entry.preprocessing is not None:
            raise
        return None, str(error)


def _layers(body: "torch.nn.Module", crop: int, at: str) -> tuple[Layer, ...]:
    from pipeline.architectures import hollow

    try:
        return tuple(hollow.layers(body, crop))
    except (RuntimeError, ValueError, LookupError, AssertionError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigurationError(f"{at}: it does not take {crop} pixels ({reason})") from None


def of_loaded(loaded: Pretrained, *, parameters: int, nested: bool) -> Description:
    """The description of what costs nothing to load, or says all of itself in its file."""
    recipe = loaded.preprocessing
    return Description(
        layers=tuple(loaded.network.layers(recipe)),
        parameters=parameters,
        of_classifier=None,
        recipe=recipe,
        crop=recipe.crop,
        licence=loaded.licence,
        package=loaded.package,
        nested=nested,
    )
