"""Where pretrained weights come from. One module and one line in SOURCES a source."""

from pipeline.backbones import pixels, timm, torchvision
from pipeline.backbones.source import Source
from pipeline.errors import ConfigurationError
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
