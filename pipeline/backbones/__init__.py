"""Where pretrained weights come from. One module and one line in SOURCES a source."""

from pathlib import Path

from pipeline import frozen
from pipeline.backbones import pixels, timm, torchvision, weights
from pipeline.backbones.source import Locate, Origin, Source
from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone
from pipeline.params import BackboneParams, unknown

SOURCES: dict[str, Source] = {
    "timm": timm.SOURCE,
    "torchvision": torchvision.SOURCE,
    "pixels": pixels.SOURCE,
}

RUNTIMES = ("onnx",)
"""Names of the runtimes a backbone can be frozen for."""


def check(name: str, entry: BackboneParams) -> Source:
    """The source of an entry of params.yaml, after it has checked the entry.

    Raises ConfigurationError with the near miss named.
    """
    at = f"params.yaml: backbones.{name}"
    if entry.source not in SOURCES:
        raise ConfigurationError(f"{at}.source: {unknown('source', entry.source, SOURCES)}")
    if entry.runtime not in RUNTIMES:
        raise ConfigurationError(f"{at}.runtime: {unknown('runtime', entry.runtime, RUNTIMES)}")
    source = SOURCES[entry.source]
    source.check(entry, at)
    return source


def find(name: str, entry: BackboneParams, *, locate: Locate) -> Origin:
    """Where an entry's weights are, looked up without the network; see `Origin`.

    Raises ConfigurationError, and InputError where a file or package is missing or another.
    """
    return check(name, entry).find(entry, f"params.yaml: backbones.{name}", locate)


def already_frozen(entry: BackboneParams, folder: Path) -> FrozenBackbone | None:
    """The frozen backbone in `folder`, if it is there and made from this entry.

    It then needs no weights. Raises IntegrityError where it is there and damaged.
    """
    if not (folder / frozen.RECORD).exists():
        return None
    backbone = frozen.load(folder)
    fields = backbone.fields
    made = (backbone.weights, fields["source"], fields["architecture"], fields["storage"])
    asked = (weights.stated(entry), entry.source, entry.model or entry.source, entry.storage)
    recipe = entry.preprocessing
    same = recipe is None or recipe.model_dump() == fields["preprocessing"]
    return backbone if same and made == asked else None
