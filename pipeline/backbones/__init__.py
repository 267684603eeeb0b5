"""Where pretrained weights come from. One module and one line in SOURCES a source."""

from pathlib import Path
from typing import Any

from pipeline import files, frozen
from pipeline.backbones import checkpoint, onnx, pixels, random, timm, torchvision, weights
from pipeline.backbones.source import Locate, Origin, Source
from pipeline.errors import ConfigurationError
from pipeline.frozen import FrozenBackbone
from pipeline.names import unknown
from pipeline.params import BackboneParams

SOURCES: dict[str, Source] = {
    "timm": timm.SOURCE,
    "torchvision": torchvision.SOURCE,
    "checkpoint": checkpoint.SOURCE,
    "random": random.SOURCE,
    "onnx": onnx.SOURCE,
    "pixels": pixels.SOURCE,
}

RUNTIMES = ("onnx", "torch")
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
    if entry.runtime == "onnx" and entry.precision != "float32":
        raise ConfigurationError(
            f"{at}.precision: runtime onnx computes in float32 alone; "
            f"write runtime: torch for {entry.precision}, or precision: float32"
        )
    source = SOURCES[entry.source]
    source.check(entry, at)
    return source


def find(name: str, entry: BackboneParams, *, locate: Locate) -> Origin:
    """Where an entry's weights are, looked up without the network; see `Origin`.

    Raises ConfigurationError, and InputError where a file or package is missing or another.
    """
    return check(name, entry).find(entry, f"params.yaml: backbones.{name}", locate)


def weights_used(name: str, entry: BackboneParams, *, locate: Locate) -> dict[str, str]:
    """File name and sha256 of the weights on this machine; empty where a source has none.

    For a note that is not tracked: the same tensors may lie in another file elsewhere.
    """
    path = find(name, entry, locate=locate).file
    if path is None:
        return {}
    return {"weights_file": path.name, "weights_file_sha256": files.sha256_of(path)}


def already_frozen(entry: BackboneParams, folder: Path) -> FrozenBackbone | None:
    """The frozen backbone in `folder`, if it is there and made from this entry.

    It then needs no weights. Raises IntegrityError where it is there and damaged.
    """
    if not (folder / frozen.RECORD).exists():
        return None
    backbone = frozen.load(folder)
    fields = backbone.fields
    asked: dict[str, Any] = {
        "source": entry.source,
        "architecture": entry.model or entry.source,
        "runtime": entry.runtime,
        "precision": entry.precision,
        "storage": entry.storage,
    }
    if entry.preprocessing is not None:
        asked["preprocessing"] = entry.preprocessing.model_dump()
    same = all(fields[name] == value for name, value in asked.items())
    same = same and backbone.weights == weights.stated(entry)
    return backbone if same and _same_outputs(entry, backbone) else None


def _same_outputs(entry: BackboneParams, backbone: FrozenBackbone) -> bool:
    """Whether it has the entry's layers, pooled likewise, and its views."""
    views = [(view["view"]["number"], view["view"]["seed"]) for view in backbone.views]
    return (
        [tap.name for tap in backbone.taps] == entry.layers
        and backbone.pooling == entry.pooling
        and backbone.fields.get("tta") == entry.tta
        and views == [(number + 1, entry.seed) for number in range(entry.views)]
    )
